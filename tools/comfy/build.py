"""Write `workflows/`, `subgraphs/` and `locales/en`: python -m tools.comfy.build

All of it follows from `/object_info` as saved beside the tests. With --url, that is fetched anew
from a running server first: python -m tools.comfy.build --url http://127.0.0.1:8188
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from editmgt_lib.checkpoints.names import TOY_LORA

from .blueprint import NAME, blueprint
from .chinese import add_chinese
from .client import Client
from .editing import EDITING
from .graph import Graph
from .layout import layout
from .locales import english
from .parts import point_to
from .pipelines import PIPELINES
from .regions import REGIONS

ROOT = Path(__file__).resolve().parents[2]
SAVED = ROOT / "tests" / "comfy" / "object_info"
FLOOR = "0.3.64"
"""The version whose description the workflows are written from."""
LATER, NEED_LATER = "0.33.0", {"15_before_after": "ImageCompare"}
"""A version that describes core nodes the floor lacks, and the workflows that need one."""


def version() -> str:
    """The pack's own version."""
    text = (ROOT / "editmgt_lib" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'__version__ = "([^"]+)"', text)[1]


def saved_info(comfyui: str = FLOOR) -> dict[str, Any]:
    """`/object_info` of a ComfyUI version, cut down to the nodes used here."""
    return json.loads((SAVED / f"{comfyui}.json").read_text(encoding="utf-8"))


def graphs(info: dict[str, Any]) -> list[Graph]:
    """All workflows, laid out."""
    info = {**saved_info(LATER), **info}
    first, *others = (make(info) for make in (*EDITING, *PIPELINES, *REGIONS))
    for graph in others:
        point_to(first.name, graph)
    for graph in (first, *others):
        add_chinese(graph)
    return [layout(graph) for graph in (first, *others)]


def contents(info: dict[str, Any]) -> dict[str, Any]:
    """What the generated files hold, by path below the checkout."""
    files: dict[str, Any] = {}
    for graph in graphs(info):
        files[f"workflows/{graph.name}.json"] = graph.canvas(version())
        files[f"workflows/api/{graph.name}.json"] = graph.api()
    files[f"subgraphs/{NAME}.json"] = blueprint(info, version())
    files["locales/en/nodeDefs.json"] = english(info)
    return files


def save_info(url: str) -> str:
    """Fetch and save `/object_info` of a running server; its version."""
    comfyui = Client.get_json(f"{url}/system_stats")["system"]["comfyui_version"]
    info = Client.get_json(f"{url}/object_info")
    used = {node.type.id for graph in graphs(info) for node in graph.nodes} | {"LoadImage"}
    ours = {name for name, entry in info.items() if name.startswith("EditMGT_")}
    kept = {name: portable(info[name]) for name in sorted(used | ours) if name in info}
    write(SAVED / f"{comfyui}.json", kept)
    return comfyui


def portable(entry: dict[str, Any]) -> dict[str, Any]:
    """Without what depends on one installation: its folder name and its files."""
    entry = json.loads(json.dumps(entry))
    if entry["python_module"].startswith("custom_nodes."):
        entry["python_module"] = "custom_nodes.EditMGT"
    wanted = entry["input"].get("required", {})
    if entry["name"] == "LoadImage":
        wanted["image"][0] = []
    if entry["name"] == "EditMGT_LoadFolder":
        wanted["folder"][1]["options"] = ["."]
    if entry["name"] == "EditMGT_LoadLora":
        wanted["lora"][1] |= {"options": [TOY_LORA.stem], "default": TOY_LORA.stem}
    return entry


def write(path: Path, value: Any) -> None:
    """As JSON with a final line end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="save this server's /object_info first")
    given = parser.parse_args()
    if given.url:
        save_info(given.url)
    for path, value in contents(saved_info()).items():
        write(ROOT / path, value)


if __name__ == "__main__":
    main()
