"""Draw all pictures of the ComfyUI side anew: python -m tools.comfy.redraw

Runs every workflow on a server it starts (COMFYUI_PATH, COMFY_PYTHON), or on a running one (--url):
thumbnails in `workflows/`, and with a browser also the pictures of the help pages in `web/docs/`
and two screenshots in `docs/images/`. --skip-browser leaves those out; --only NAME takes one
thumbnail; --check DIR writes a screenshot of every workflow there instead and reports what is
wrong.
"""

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path

from PIL import Image

from .build import NEED_LATER, ROOT, graphs, saved_info
from .client import Client, Run
from .graph import Graph
from .server import temporary
from .thumbnails import TILES, thumbnail

NEED_FILES = {"05b_edit_then_upscale_with_model", "07_generate_then_edit",
              "10_own_picture_painted_mask"}  # fmt: skip
SCREENSHOTS = {
    "01_edit_by_instruction": "comfyui-edit.png",
    "02_see_where_it_acts": "comfyui-where.png",
}
HELP = {
    "02_see_where_it_acts": (
        "EditMGT_Load", "EditMGT_EncodeTokens", "EditMGT_EncodeInstruction",
        "EditMGT_ConsolidateAttention", "EditMGT_RegionHoldSampler", "EditMGT_Decode",
        "EditMGT_ToyPicture",
    ),
    "08_batch": ("EditMGT_ComparePictures",),
    "09_threshold_sweep": ("EditMGT_ListOfValues",),
    "12_several_regions": ("EditMGT_EditRegions",),
    "14_text_to_image": ("EditMGT_EmptyTokens",),
}  # fmt: skip
ALONE = {  # in no workflow, with widgets as a user may have them
    "EditMGT_LoadFolder": {},
    "EditMGT_LoadLora": {"lora": "hats.safetensors"},
    "EditMGT_CompileModel": {},
}


def draw_thumbnails(client: Client, only: str | None = None) -> None:
    """Run each workflow, or one, and compose its picture."""
    for graph in graphs(saved_info()):
        name = graph.name
        if only not in (None, name):
            continue
        if name in NEED_FILES:
            _save(name, thumbnail(name, graph, {}))
            continue
        run = client.run(graph.api(), timeout=1800)
        if run.status != "success":
            raise SystemExit(f"{name}: {run.status}: {run.message()}")
        _save(name, thumbnail(name, graph, _pictures(client, run, graph)))
        print(name, run.seconds)


def _save(name: str, picture: Image.Image) -> None:
    picture.save(ROOT / "workflows" / f"{name}.jpg", quality=88, optimize=True)


def _pictures(client: Client, run: Run, graph: Graph) -> dict[str, list[Image.Image]]:
    """What each node showed, by its title."""
    wanted = {title for title in TILES[graph.name]}
    return {
        node.title: [
            Image.open(io.BytesIO(file)).convert("RGB") for file in client.files(run, str(node.id))
        ]
        for node in graph.nodes
        if node.title in wanted
    }


def draw_screens(url: str) -> None:
    """Screenshots for the README and the help pages."""
    from .browser import frontend

    with frontend(url) as page:
        for name in sorted({*SCREENSHOTS, *HELP}):
            page.load(_in_english(_workflow(name)))
            page.queue()
            if name in SCREENSHOTS:
                page.fit()
                path = ROOT / "docs" / "images" / SCREENSHOTS[name]
                page.shot(path)
                _shrink(path, 1500)
            for node in HELP.get(name, ()):
                _draw_node(page, node)
        for node, widgets in ALONE.items():
            page.add_node(node, widgets)
            _draw_node(page, node)


def _draw_node(page, node: str) -> None:
    path = ROOT / "web" / "docs" / f"{node}.png"
    page.shot_of_node(node, path)
    _shrink(path, 700)


def check(url: str, folder: Path) -> bool:
    """Load and queue every workflow in the browser; report, and say whether all is well."""
    from .browser import frontend

    well = True
    with frontend(url) as page:
        print("frontend", page.version)
        for path in sorted((ROOT / "workflows").glob("*.json")):
            found = page.load(_workflow(path.stem))
            if found["unknown"] and found["unknown"] == [NEED_LATER.get(path.stem)]:
                print(path.stem, "needs a later ComfyUI")
                continue
            stated = json.loads((path.parent / "api" / path.name).read_text(encoding="utf-8"))
            found["same as api copy"] = page.prompt() == stated
            page.fit()
            page.shot(folder / f"{path.stem}-loaded.png")
            if path.stem not in NEED_FILES:
                end = page.queue()
                found["end"] = end["kind"]
                page.fit()
                page.shot(folder / f"{path.stem}-done.png")
                well &= end["kind"] == "execution_success"
                well &= not found["faulty"]  # a loader whose file is missing is marked
            well &= found["same as api copy"] and not found["unknown"]
            found["page errors"] = [page.errors.pop() for _ in list(page.errors)]
            print(path.stem, json.dumps(found), flush=True)
    return well


def _workflow(name: str) -> dict:
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def _in_english(workflow: dict) -> dict:
    """Without the other half of its notes, for which a browser may have no letters."""
    for node in workflow["nodes"]:
        if node["type"] in ("Note", "MarkdownNote"):
            node["widgets_values"] = [node["widgets_values"][0].split("\n\n---\n")[0]]
    return workflow


def _shrink(path: Path, width: int) -> None:
    """At most that wide, in 256 colours: small and still sharp."""
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((width, 4000), Image.Resampling.LANCZOS)
    few = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running server; else one is started")
    parser.add_argument("--skip-browser", action="store_true", help="thumbnails only")
    parser.add_argument("--only", metavar="NAME", help="this workflow's thumbnail alone")
    parser.add_argument("--check", type=Path, help="screenshots of all workflows, and a report")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url = given.url or stack.enter_context(temporary(name="EditMGT")).url
        if given.check:
            sys.exit(0 if check(url, given.check) else 1)
        if not given.skip_browser and not given.only:
            draw_screens(url)  # first: nodes with these ids have had nothing to note yet
        with Client(url) as client:
            draw_thumbnails(client, given.only)


if __name__ == "__main__":
    main()
