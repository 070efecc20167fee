"""A ComfyUI workflow in API format, and the inputs of it that an edit sets."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError

LOADER = "editmgt-picture"
"""Id of the LoadImage node that is put before an input which other nodes fed."""
Nodes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Input:
    """node: its id. name: of the input."""

    node: str
    name: str


def read_workflow(path: str) -> Nodes:
    """Read the file that ComfyUI's "Export (API)" writes. Raises InputError."""
    try:
        nodes = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"workflow {path} cannot be read: {error}; export it again") from error
    if isinstance(nodes, dict) and isinstance(nodes.get("nodes"), list):
        raise InputError(f'workflow {path} is for the canvas; save it with "Export (API)" instead')
    good = isinstance(nodes, dict) and all(
        isinstance(node, dict)
        and isinstance(node.get("class_type"), str)
        and isinstance(node.get("inputs"), dict)
        for node in nodes.values()
    )
    if not good or not nodes:
        raise InputError(f'workflow {path} is no API workflow; save it with "Export (API)"')
    return nodes


def find_node(nodes: Nodes, name: str) -> str:
    """The id of a node, by id or by its title. Raises InputError."""
    if name in nodes:
        return name
    titles = {id: node.get("_meta", {}).get("title", "") for id, node in nodes.items()}
    found = [id for id, title in titles.items() if title == name]
    if len(found) != 1:
        known = ", ".join(f"{id} ({title})" for id, title in titles.items())
        count = f"{len(found)} nodes" if found else "no node"
        raise InputError(f"the workflow has {count} {name!r}; name one of {known}")
    return found[0]


def find_input(nodes: Nodes, name: str) -> Input:
    """The input that "NODE.INPUT" names. Raises InputError."""
    node, dot, key = str(name).rpartition(".")
    if not dot:
        raise InputError(f"{name!r} names no input; write NODE.INPUT, as in '5.text'")
    id = find_node(nodes, node)
    inputs = nodes[id]["inputs"]
    if key not in inputs:
        raise InputError(
            f"node {node!r} of the workflow has no input {key!r}; it has {', '.join(inputs)}"
        )
    return Input(id, key)


def filled(nodes: Nodes, values: Mapping[Input, Any], picture: Input, file: str) -> dict[str, Any]:
    """The workflow with these values, and `file` of the server's input folder as the picture.

    The picture's input is LoadImage's own "image", or any that takes pictures from another node.
    """
    prompt = copy.deepcopy({id: dict(node) for id, node in nodes.items()})
    for where, value in values.items():
        prompt[where.node]["inputs"][where.name] = value
    inputs = prompt[picture.node]["inputs"]
    if is_link(inputs[picture.name]):
        prompt[LOADER] = {"class_type": "LoadImage", "inputs": {"image": file}}
        inputs[picture.name] = [LOADER, 0]
    else:
        inputs[picture.name] = file
    return prompt


def is_link(value: Any) -> bool:
    """Whether an input's value comes from another node."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
