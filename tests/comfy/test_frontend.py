"""The blueprint in a real browser; COMFY_FRONTEND gives another version of the frontend."""

import copy
import json
import os
import shutil
import uuid

import pytest

from tools.comfy.build import NAME, ROOT, saved_info
from tools.comfy.graph import Graph

CHOICES = (("make the background snow", "toyworld", "pad", 0.25, 7),
           ("turn this into a sketch", "toyworld", "native", 0.0, 8))  # fmt: skip


@pytest.fixture
def page(server, request):
    """A page of this server's frontend; a parameter holds settings."""
    pytest.importorskip("playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    if not os.environ.get("CHROMIUM") and not any(map(shutil.which, names)):
        pytest.skip("no Chromium: set CHROMIUM")
    from tools.comfy.browser import frontend

    with frontend(server.url, settings=getattr(request, "param", None)) as opened:
        yield opened


def two_boxes(shared):
    """One picture into two boxes, each with values of its own, the second with a mask.

    shared: both are of one definition, as copies on the canvas are; else each has its own, as
    when both come from the library.
    """
    g = Graph("two boxes", saved_info())
    g.group("")
    toy = g.add("EditMGT_ToyPicture")
    shown = [g.add("PreviewImage", images=toy["IMAGE"]) for _ in CHOICES]
    workflow = g.canvas("0.0.0")
    blueprint = json.loads((ROOT / "subgraphs" / f"{NAME}.json").read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in workflow["nodes"]}
    (first,) = blueprint["definitions"]["subgraphs"]
    second = first if shared else {**copy.deepcopy(first), "id": str(uuid.uuid4())}
    links = workflow["links"] = [[9, toy.id, 1, 0, 1, "MASK"]]
    nodes[toy.id]["outputs"][0]["links"] = [1, 2]
    nodes[toy.id]["outputs"][1]["links"] = [9]
    for k, values in enumerate(CHOICES, 1):
        box = copy.deepcopy(blueprint["nodes"][0])
        box |= {
            "type": (first if k == 1 else second)["id"],
            "id": 100 + k,
            "widgets_values": list(values),
            "pos": [400, 450 * k],
        }
        box["inputs"][0]["link"], box["outputs"][0]["links"] = k, [10 + k]
        nodes[shown[k - 1].id]["inputs"][0]["link"] = 10 + k
        links += [[k, toy.id, 0, box["id"], 0, "IMAGE"],
                  [10 + k, box["id"], 0, shown[k - 1].id, 0, "IMAGE"]]  # fmt: skip
        workflow["nodes"].append(box)
    box["inputs"][1]["link"], links[0][3] = 9, box["id"]
    definitions = {"subgraphs": [first] if shared else [first, second]}
    return workflow | {"definitions": definitions, "last_link_id": 12, "last_node_id": 102}


def inside(prompt, box, kind):
    """What a node of that kind inside a box gets."""
    (entry,) = (e for key, e in prompt.items()
                if key.startswith(f"{box}:") and e["class_type"] == f"EditMGT_{kind}")  # fmt: skip
    return entry["inputs"]


@pytest.mark.parametrize("shared", [True, False])
def test_two_boxes_send_their_own_values_and_run(page, server, shared):
    old = server.version_numbers < (0, 3, 67)
    if shared and old:
        pytest.skip("copies of one box share their values in this frontend")
    found = page.load(two_boxes(shared))
    assert not found["unknown"] and not found["faulty"], found
    prompt = page.prompt()
    for box, (text, checkpoint, fit, threshold, seed) in zip((101, 102), CHOICES, strict=True):
        sampler = inside(prompt, box, "RegionHoldSampler")
        assert inside(prompt, box, "EncodeInstruction")["text"] == text
        assert inside(prompt, box, "Load")["checkpoint"] == checkpoint
        assert inside(prompt, box, "EncodeTokens")["fit"] == fit
        assert (sampler["threshold"], sampler["seed"]) == (threshold, seed)
        assert ("region" in sampler) == (box == 102)
    assert page.queue(120)["kind"] == "execution_success"
    assert not page.errors or old  # it stumbles over its first run, of any workflow
    again = page.page.evaluate("() => JSON.parse(JSON.stringify(window.app.graph.serialize()))")
    page.load(again)
    assert page.prompt() == prompt


SHOWN = """() => Object.fromEntries(window.app.graph._nodes.map((n) => [n.type, {
  title: n.title,
  labels: [...n.inputs, ...(n.widgets ?? [])].map((i) => i.label ?? i.localized_name ?? i.name),
  outputs: n.outputs.map((o) => o.label ?? o.localized_name ?? o.name),
}]))"""


@pytest.mark.parametrize("page", [{"Comfy.Locale": "zh"}], indirect=True)
def test_a_chinese_canvas_is_chinese(page):
    """The pack's nodes of a workflow, and the help page of one."""
    texts = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    page.load(json.loads((ROOT / "workflows" / "02_see_where_it_acts.json").read_text("utf-8")))
    nodes = {k: v for k, v in page.page.evaluate(SHOWN).items() if k in texts}
    assert len(nodes) == 7
    for kind, shown in nodes.items():
        assert shown["title"] == texts[kind]["display_name"]
        assert {item["name"] for item in texts[kind]["inputs"].values()} <= set(shown["labels"])
        assert shown["outputs"] == [item["name"] for item in texts[kind]["outputs"].values()]
    # Only asked for: the frontend cuts the name of this server's folder at the dot.
    with page.page.expect_request("**/docs/EditMGT_Decode/zh.md"):
        page.help_of("EditMGT_Decode")
