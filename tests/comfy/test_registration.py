"""What a server shows of the pack: nodes, pages, templates, languages, blueprint."""

import re
from urllib.parse import quote

import pytest

from tools.comfy import build

from . import prompts

NODES = {
    "EditMGT_Load", "EditMGT_LoadLora", "EditMGT_EncodeTokens", "EditMGT_EmptyTokens",
    "EditMGT_EncodeInstruction", "EditMGT_ConsolidateAttention", "EditMGT_RegionHoldSampler",
    "EditMGT_EditRegions", "EditMGT_Decode",
    "EditMGT_ToyPicture", "EditMGT_ListOfValues", "EditMGT_ComparePictures",
    "EditMGT_LoadFolder", "EditMGT_CompileModel",
}  # fmt: skip


def test_all_nodes_are_registered(client, folder):
    info = client.get("/object_info")
    ours = {name for name, entry in info.items() if entry["python_module"].endswith(folder)}
    assert ours == NODES and all(name.startswith("EditMGT_") for name in ours)
    assert {info[name]["category"].split("/")[0] for name in ours} == {"EditMGT"}


def test_the_toy_checkpoint_comes_first(client):
    entry = client.get("/object_info")["EditMGT_Load"]["input"]["required"]["checkpoint"]
    choices = entry[0] if isinstance(entry[0], list) else entry[1]["options"]
    assert choices[0] == "toyworld"


def test_the_saved_description_is_what_the_server_says(client, server):
    """Where it is not: python -m tools.comfy.build --url, with each of the saved versions."""
    file = build.SAVED / f"{server.version}.json"
    if not file.exists():
        pytest.skip(f"nothing saved of {server.version}")
    info, saved = client.get("/object_info"), build.saved_info(server.version)
    for name in NODES:
        assert build.portable(info[name]) == saved[name], name


def test_nothing_is_wrong_in_the_log(server, folder):
    start = server.log.split("To see the GUI")[0]  # what tests provoke comes later
    lines = [line for line in start.splitlines() if folder in line]
    assert not [line for line in lines if re.search(r"FAIL|Error|Cannot|Traceback", line)]


def test_templates_and_thumbnails_are_served(client, folder):
    listed = client.get("/workflow_templates")[folder]
    assert len(listed) >= 10 and "01_edit_by_instruction" in listed
    place = f"/api/workflow_templates/{quote(folder)}"
    for name in listed:
        assert client.get(f"{place}/{name}.json")["version"] == 0.4
        assert client.get_bytes(f"{place}/{name}.jpg")[:2] == b"\xff\xd8"


def test_help_pages_are_served(client, folder):
    place = f"/extensions/{quote(folder)}"
    for name in NODES:
        page = client.get_bytes(f"{place}/docs/{name}.md").decode()
        for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page):
            assert client.get_bytes(f"{place}/docs/{picture}")[:4] == b"\x89PNG"


def test_chinese_help_is_served_where_the_frontend_asks_for_it(client, folder):
    for name in NODES:
        page = client.get_bytes(f"/extensions/{quote(folder)}/docs/{name}/zh.md").decode()
        assert page.startswith("# ")


def test_languages_are_served(client):
    for language in ("en", "zh"):
        assert set(client.get("/i18n")[language]["nodeDefs"]) >= NODES


def test_the_blueprint_is_served_where_comfyui_can(client, server):
    if server.version_numbers < (0, 3, 67):
        pytest.skip("this ComfyUI serves no blueprints of packs")
    entries = client.get("/global_subgraphs")
    names = {entry["name"] for entry in entries.values() if entry["source"] == "custom_node"}
    assert names == {"EditMGT Edit"}


def test_every_input_of_the_loader_counts_for_every_checkpoint(client):
    """One that does not would load everything again when it is changed."""
    given = client.get("/object_info")["EditMGT_Load"]["input"]
    assert set(given["required"]) | set(given["optional"]) == {"checkpoint", "dtype"}


def test_a_size_that_cannot_be_drawn_is_refused_before_it_runs(client):
    prompt = {"toy": prompts.node("EditMGT_ToyPicture", scene=0, size=100),
              "show": prompts.node("PreviewImage", images=("toy", 0))}  # fmt: skip
    run = client.run(prompt)
    assert run.status == "rejected" and "multiple of 16" in run.message()
