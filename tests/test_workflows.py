"""Workflows, blueprint, help pages and locales against saved `/object_info` of real servers."""

import json
import re
from pathlib import Path

import pytest
import torch

import editmgt_lib
from editmgt_lib.toyworld import world
from tools.comfy import build
from tools.comfy.blueprint import INPUT, OUTPUT
from tools.comfy.parts import TOY
from tools.comfy.schema import NodeType

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = sorted(path.stem for path in build.SAVED.glob("*.json"))
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
NOTES = {"MarkdownNote"}  # known to the canvas alone
THUMBNAIL = 60_000


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(params=VERSIONS)
def info(request):
    """What one ComfyUI version says of its nodes."""
    return build.saved_info(request.param)


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request):
    return read(request.param)


def api_copy(path):
    return read(path.parent / "api" / path.name)


def ours(info):
    return {name: entry for name, entry in info.items() if name.startswith("EditMGT_")}


# ---- what is there


def test_both_versions_are_saved_and_agree_on_our_nodes():
    assert {"0.3.64", "0.33.0"} <= set(VERSIONS)
    shapes = [
        {
            name: (node.outputs, [(i.name, i.type, i.required, i.default) for i in node.inputs])
            for name, node in (
                (name, NodeType.read(name, entry))
                for name, entry in ours(build.saved_info(version)).items()
            )
        }
        for version in VERSIONS
    ]
    assert all(shape == shapes[0] for shape in shapes)


def test_the_generated_files_are_up_to_date():
    stale = [
        path
        for path, value in build.contents(build.saved_info()).items()
        if not (ROOT / path).exists() or read(ROOT / path) != json.loads(json.dumps(value))
    ]
    assert not stale, f"{stale}: run python -m tools.comfy.build"


def test_each_workflow_has_an_api_copy_and_a_thumbnail():
    assert len(WORKFLOWS) >= 10
    for path in WORKFLOWS:
        assert (path.parent / "api" / path.name).exists(), path.name
        picture = path.with_suffix(".jpg").read_bytes()
        assert picture[:3] == b"\xff\xd8\xff" and len(picture) < THUMBNAIL, path.name
    extra = {p.name for p in (ROOT / "workflows").iterdir()}
    extra -= {p.name for w in WORKFLOWS for p in (w, w.with_suffix(".jpg"))}
    assert extra == {"api"}


# ---- shape of format 0.4

TOP = {"last_node_id": int, "last_link_id": int, "nodes": list, "links": list, "groups": list,
       "version": float}  # fmt: skip
NODE = {"id": int, "type": str, "pos": list, "size": list, "flags": dict, "order": int,
        "mode": int, "properties": dict, "inputs": list, "outputs": list,
        "widgets_values": list}  # fmt: skip


def check_fields(value, fields, where):
    for name, kind in fields.items():
        assert isinstance(value.get(name), kind), f"{where}: {name} is {value.get(name)!r}"


def check_nodes(nodes):
    for node in nodes:
        check_fields(node, NODE, node.get("id"))
        assert all(isinstance(n, int | float) for n in (*node["pos"], *node["size"]))
        assert re.fullmatch(r"\d+\.\d+\.\d+", node["properties"].get("ver", "0.0.0"))
    assert len({node["id"] for node in nodes}) == len(nodes)


def test_shape_of_the_format(workflow):
    check_fields(workflow, TOP, "top")
    assert workflow["version"] == 0.4
    check_nodes(workflow["nodes"])
    assert max(n["id"] for n in workflow["nodes"]) == workflow["last_node_id"]
    for link in workflow["links"]:
        assert len(link) == 6 and all(isinstance(n, int) for n in link[:5])
        assert isinstance(link[5], str)
    assert max((link[0] for link in workflow["links"]), default=0) == workflow["last_link_id"]


def test_links_agree_with_sockets_and_types(workflow, info):
    info = {**build.saved_info(build.LATER), **info}
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for number, origin, slot, target, place, kind in workflow["links"]:
        output, given = nodes[origin]["outputs"][slot], nodes[target]["inputs"][place]
        assert number in output["links"] and given["link"] == number
        assert output["type"] == kind
        wanted = NodeType.read(nodes[target]["type"], info[nodes[target]["type"]])
        assert {kind, "*"} & set(wanted.input(given["name"]).type.split(",")), given
    linked = [i["link"] for n in workflow["nodes"] for i in n["inputs"] if i["link"] is not None]
    assert sorted(linked) == sorted(link[0] for link in workflow["links"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_node_is_known_and_every_value_allowed(path, info):
    workflow, later = read(path), {build.NEED_LATER.get(path.stem)} - set(info)
    for node in workflow["nodes"]:
        if node["type"] in NOTES | later:
            continue
        kind = NodeType.read(node["type"], info[node["type"]])
        missing = {i.name for i in kind.inputs if i.required and not i.is_widget} - {
            i["name"] for i in node["inputs"] if i["link"] is not None
        }
        assert not missing, f"{node['type']}: {missing} not linked"
        files = {model["name"] for model in node["properties"].get("models", [])}
        for item, value in widget_values(node, kind):
            check_value(item, value, files)


def widget_values(node, kind):
    values = iter(node["widgets_values"])
    for item in (i for i in kind.inputs if i.is_widget):
        yield item, item.default if item.is_view else next(values)
        for _ in item.companions:
            next(values)
    assert next(values, None) is None, f"{node['type']}: surplus widget values"


def check_value(item, value, files):
    if item.options.get("image_upload"):
        assert value == "example.png", "the one file that comes with ComfyUI"
    elif item.type == "COMBO":
        assert value in item.choices or value in files, f"{item.name}: {value!r}"
    elif item.type in ("INT", "FLOAT"):
        assert isinstance(value, int | float) and not isinstance(value, bool), item.name
        low, high = item.options.get("min", value), item.options.get("max", value)
        assert low <= value <= high, f"{item.name}: {value} outside {low}..{high}"
    elif not item.is_view:
        assert isinstance(value, {"STRING": str, "BOOLEAN": bool}[item.type]), item.name


# ---- agreement of both forms


def to_api(workflow, info):
    """API form, as the canvas would make it."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in nodes.values():
        if node["type"] in NOTES:
            continue
        kind = NodeType.read(node["type"], info[node["type"]])
        inputs = {item.name: value for item, value in widget_values(node, kind)}
        inputs |= {i["name"]: links[i["link"]] for i in node["inputs"] if i["link"] is not None}
        title = node.get("title", kind.title)
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs, "title": title}
    return prompt


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_both_forms_agree(path):
    stated = api_copy(path)
    for entry in stated.values():
        entry["title"] = entry.pop("_meta")["title"]
    info = {**build.saved_info(build.LATER), **build.saved_info()}
    assert to_api(read(path), info) == stated


def test_notes_say_which_workflows_need_a_later_comfyui():
    """What the floor lacks is named, and another way around it."""
    floor, later = build.saved_info(), build.saved_info(build.LATER)
    for name, kind in build.NEED_LATER.items():
        assert kind not in floor
        text = "\n".join(notes(read(ROOT / "workflows" / f"{name}.json")))
        assert f"**{later[kind]['display_name']}**" in text and "older versions" in text
        (instead,) = set(re.findall(r"\*\*(\d\d_\w+)\*\*", text)) - {WORKFLOWS[0].stem}
        assert instead in {path.stem for path in WORKFLOWS} - set(build.NEED_LATER)


# ---- coverage and looks


def test_every_node_and_every_output_is_used_somewhere():
    info = build.saved_info()
    used = {
        (entry["class_type"], value[1])
        for path in WORKFLOWS
        for prompt in [api_copy(path)]
        for origin in prompt.values()
        for value in origin["inputs"].values()
        if isinstance(value, list)
        for entry in [prompt[value[0]]]
    }
    wanted = {(name, k) for name, e in ours(info).items() for k in range(len(e["output"]))}
    wanted -= {("EditMGT_LoadFolder", k) for k in (0, 1)}  # a template comes without pictures
    wanted -= {("EditMGT_ListOfValues", k) for k in (2, 3)}  # its first two in other types
    wanted -= {("EditMGT_CompileModel", 0)}  # not every machine has a compiler
    assert wanted <= used, wanted - used


def test_samplers_carry_the_numbers_of_the_checkpoint_they_are_for():
    info, used = build.saved_info(), {}
    for path in WORKFLOWS:
        for entry in api_copy(path).values():
            if entry["class_type"] in ("EditMGT_RegionHoldSampler", "EditMGT_EditRegions"):
                found = tuple(entry["inputs"][name] for name in ("steps", "guidance", "strength"))
                used.setdefault(found, set()).add(path.stem)
    kind = NodeType.read("EditMGT_RegionHoldSampler", info["EditMGT_RegionHoldSampler"])
    default = tuple(kind.input(name).default for name in ("steps", "guidance", "strength"))
    assert default == (36, 6.0, 1.1)
    toy = tuple(TOY.values())
    photographs = {"07_generate_then_edit", "10_own_picture_painted_mask"}
    assert set(used) == {default, toy} and used[default] == photographs


def test_what_few_people_change_is_advanced_where_comfyui_knows_that(info):
    inputs = NodeType.read("", info["EditMGT_RegionHoldSampler"]).inputs
    jargon = {item.name for item in inputs if item.options.get("advanced")}
    knows = any(
        item.options.get("advanced") for item in NodeType.read("", info["EditMGT_Decode"]).inputs
    )
    assert jargon == ({"hold_rule", "combine", "speed", "batched"} if knows else set())


def test_generic_names_carry_the_packs_own(info):
    plain = {"ToyWorld Picture", "Consolidate Attention", "Region-Hold Sampler"}
    names = {entry["display_name"] for entry in ours(info).values()}
    assert {name for name in names if "EditMGT" not in name} == plain


def test_notes_groups_and_no_overlap(workflow):
    assert workflow["groups"] and any(n["type"] in NOTES for n in workflow["nodes"])
    boxes = [(n["pos"][0], n["pos"][1] - 30, n["size"][0], n["size"][1] + 30)
             for n in workflow["nodes"]]  # fmt: skip
    frames = [tuple(g["bounding"]) for g in workflow["groups"]]
    for many in (boxes, frames):
        for k, one in enumerate(many):
            assert not any(overlap(one, other) for other in many[k + 1 :])
    for box in boxes:
        assert any(inside(box, frame) for frame in frames), box


def overlap(a, b):
    return (a[0] < b[0] + b[2] and b[0] < a[0] + a[2]
            and a[1] < b[1] + b[3] and b[1] < a[1] + a[3])  # fmt: skip


def inside(box, frame):
    return (box[0] >= frame[0] and box[1] >= frame[1]
            and box[0] + box[2] <= frame[0] + frame[2]
            and box[1] + box[3] <= frame[1] + frame[3])  # fmt: skip


# ---- the blueprint


def test_the_blueprint(info):
    file = read(ROOT / "subgraphs" / f"{build.NAME}.json")
    box, (inner,) = file["nodes"][0], file["definitions"]["subgraphs"]
    assert box["type"] == inner["id"] and inner["name"] == "EditMGT Edit"
    check_nodes(inner["nodes"])
    nodes = {node["id"]: node for node in inner["nodes"]}
    for link in inner["links"]:
        if link["origin_id"] == INPUT:
            assert link["id"] in inner["inputs"][link["origin_slot"]]["linkIds"]
        else:
            output = nodes[link["origin_id"]]["outputs"][link["origin_slot"]]
            assert link["id"] in output["links"] and output["type"] == link["type"]
        if link["target_id"] == OUTPUT:
            assert link["id"] in inner["outputs"][link["target_slot"]]["linkIds"]
        else:
            assert nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] == link["id"]
    for node in inner["nodes"]:
        kind = NodeType.read(node["type"], info[node["type"]])
        for item, value in widget_values(node, kind):
            check_value(item, value, set())


def test_the_inputs_of_the_blueprint_reach_widgets_inside():
    """Newer frontends drop ids that an inner node shares with the box, and `proxyWidgets`."""
    file = read(ROOT / "subgraphs" / f"{build.NAME}.json")
    box, (inner,) = file["nodes"][0], file["definitions"]["subgraphs"]
    nodes = {node["id"]: node for node in inner["nodes"]}
    assert box["id"] not in nodes and "proxyWidgets" not in box["properties"]
    assert file["last_node_id"] == box["id"]
    assert [i["name"] for i in box["inputs"]] == [i["name"] for i in inner["inputs"]]
    reached = {}
    for given, edge in zip(box["inputs"], inner["inputs"], strict=True):
        links = [link for link in inner["links"] if link["id"] in edge["linkIds"]]
        ends = [nodes[link["target_id"]]["inputs"][link["target_slot"]] for link in links]
        assert links and {end["type"] for end in ends} == {given["type"]} == {edge["type"]}
        assert all(("widget" in end) == ("widget" in given) for end in ends)
        reached[given["name"]] = [(nodes[k["target_id"]]["type"], e["name"])
                                  for k, e in zip(links, ends, strict=True)]  # fmt: skip
    assert {n for n, i in zip(reached, box["inputs"], strict=True) if "widget" in i} == {
        "text", "checkpoint", "fit", "threshold", "seed"
    }  # fmt: skip
    assert reached["mask"] == [("EditMGT_EncodeTokens", "mask"), ("EditMGT_RegionHoldSampler",
                                "region")]  # fmt: skip
    sampler = next(n for n in inner["nodes"] if n["type"] == "EditMGT_RegionHoldSampler")
    assert sampler["widgets_values"][:3] == [0, 0, 0]  # the numbers of any checkpoint chosen


# ---- the first ten minutes


def notes(workflow):
    return [n["widgets_values"][0] for n in workflow["nodes"] if n["type"] in NOTES]


def test_readme_and_notes_name_the_first_template():
    """ComfyUI lists templates as its file system does."""
    first, *others = WORKFLOWS
    assert first.stem in (ROOT / "README.md").read_text(encoding="utf-8")
    for path in others:
        assert any(f"**{first.stem}**" in text for text in notes(read(path))), path.stem


def test_notes_do_not_say_where_a_node_lies(workflow):
    """Layouts change."""
    for text in notes(workflow):
        assert not re.search(r"\b(above|below|on the (left|right))\b", text), text


def test_notes_call_nodes_by_their_whole_name(workflow, info):
    names = {entry["display_name"] for entry in ours(info).values()}
    cut = {name.removeprefix("EditMGT ") for name in names} - names
    for text in notes(workflow):
        assert not cut & set(re.findall(r"\*([^*]+)\*", text)), text


def test_every_widget_of_the_first_picture_has_an_effect():
    """`edit` decides over the mask and the instruction alone."""
    prompt = api_copy(WORKFLOWS[0])
    (toy,) = (key for key, e in prompt.items() if e["class_type"] == "EditMGT_ToyPicture")
    used = [value[1] for e in prompt.values() for value in e["inputs"].values()
            if isinstance(value, list) and value[0] == toy]  # fmt: skip
    assert 2 in used, "nothing takes STRING"


@pytest.mark.parametrize("name", ["01_edit_by_instruction", "03_edit_inside_a_mask"])
def test_app_mode_asks_for_widgets_and_shows_results(name, info):
    workflow = read(ROOT / "workflows" / f"{name}.json")
    nodes = {str(node["id"]): node for node in workflow["nodes"]}
    app = workflow["extra"]["linearData"]
    assert app["inputs"] and app["outputs"] and workflow["extra"]["linearMode"] is False
    for number, widget in app["inputs"]:
        (given,) = (i for i in nodes[number]["inputs"] if i["name"] == widget)
        assert "widget" in given and given["link"] is None
    for number in app["outputs"]:
        assert NodeType.read("", info[nodes[number]["type"]]).is_output


def test_every_choice_states_its_default(info):
    """The canvas shows "undefined" for one that does not."""
    for name, entry in ours(info).items():
        for item in NodeType.read(name, entry).inputs:
            if item.type == "COMBO" and item.choices:  # else a list of the user's files
                assert item.options.get("default") in item.choices, f"{name}.{item.name}"


def test_a_step_that_must_be_kept_is_said(info):
    size = NodeType.read("", info["EditMGT_ToyPicture"]).input("size").options
    assert size["step"] == 16 and "multiple of 16" in size["tooltip"]


def test_the_download_has_one_size():
    pages = [*(ROOT / "web" / "docs").glob("*.md"), *(ROOT / "locales").rglob("*.json"),
             ROOT / "README.md"]  # fmt: skip
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    said = r"(?:about|约)\s+([\d.]+)\s?GB(?!\s+in\s+bf16)"  # what `convert` makes of it is smaller
    sizes = re.findall(said, text, re.IGNORECASE)
    assert len(sizes) >= 4 and set(sizes) == {"16"}


def test_every_example_changes_the_first_picture():
    """Those of the tooltip and of the first note, by the model that the workflows use."""
    entry = build.saved_info()["EditMGT_EncodeInstruction"]
    tooltip = NodeType.read("", entry).input("text").options["tooltip"]
    (note,) = notes(read(WORKFLOWS[0]))
    examples = re.findall(r"'([^']+)'", tooltip) + [
        " ".join(text.split())
        for text in re.findall(r"(?<!\*)\*([a-z][^*]+)\*(?!\*)", note)
        if " " in text
    ]
    assert len(examples) >= 7
    model = editmgt_lib.load("toyworld")
    picture = world.render(world.pair_at(0, 0, True, "color").source)
    for text in examples:
        assert model.edit(torch.from_numpy(picture)[None], text).changed.any(), text


# ---- help and languages


def test_every_node_has_a_help_page_with_a_picture():
    pages = ROOT / "web" / "docs"
    for name, entry in ours(build.saved_info()).items():
        text = (pages / f"{name}.md").read_text(encoding="utf-8")
        pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
        assert pictures, name
        for picture in pictures:
            assert (pages / picture).stat().st_size < 300_000
        kind = NodeType.read(name, entry)
        for item in kind.inputs:
            assert f"**{item.name}**" in text, f"{name}.md says nothing of {item.name}"
        for output, _ in kind.outputs:
            assert f"**{output}**" in text, f"{name}.md says nothing of the output {output}"
    assert not list((ROOT / "web").rglob("*.js"))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_locales_are_complete(language, info):
    texts = read(ROOT / "locales" / language / "nodeDefs.json")
    assert set(texts) == set(ours(info))
    for name, entry in ours(info).items():
        kind, text = NodeType.read(name, entry), texts[name]
        assert text["display_name"] and text["description"]
        assert list(text["inputs"]) == [item.name for item in kind.inputs], name
        assert list(text["outputs"]) == [str(k) for k in range(len(kind.outputs))]
        for item in text["inputs"].values():
            assert item["name"] and item["tooltip"], f"{name}: {item}"


def test_every_input_and_output_has_a_tooltip(info):
    for name, entry in ours(info).items():
        for item in NodeType.read(name, entry).inputs:
            assert len(item.options.get("tooltip", "")) > 20, f"{name}.{item.name}"
        assert all(entry.get("output_tooltips") or [None]), name
