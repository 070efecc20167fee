"""The one-box blueprint: all five stages behind a single node of the canvas."""

import dataclasses
import uuid
from typing import Any

from .graph import NAMESPACE, PACK, Graph, Link, Node, canvas_input
from .layout import layout

NAME = "EditMGT Edit"
INPUT, OUTPUT = -10, -20
"""Ids the frontend gives to the two edges of a subgraph."""


def blueprint(info: dict[str, Any], version: str) -> dict[str, Any]:
    """The file in `subgraphs/`; ComfyUI serves it from 0.3.67 on."""
    graph, ends = _inside(info)
    inside = layout(graph).canvas(version)
    inner = _subgraph(graph, inside, ends)
    number = inner["state"]["lastNodeId"] + 1  # the frontend wants ids unlike those inside
    box = {
        "id": number, "type": inner["id"], "pos": [400, 300], "size": [320, 360], "flags": {},
        "order": 0, "mode": 0, "title": NAME,
        "inputs": [_socket(name, *targets[0]) for name, targets in ends["into"].items()],
        "outputs": [{"name": end["name"], "type": end["type"], "links": []}
                    for end in inner["outputs"]],
        "properties": {"cnr_id": PACK, "ver": version}, "widgets_values": [],
    }  # fmt: skip
    return {
        "id": str(uuid.uuid5(NAMESPACE, f"{NAME} file")), "revision": 0, "last_node_id": number,
        "last_link_id": 0, "nodes": [box], "links": [], "groups": [], "config": {},
        "definitions": {"subgraphs": [inner]}, "extra": {}, "version": 0.4,
    }  # fmt: skip


def _socket(name: str, node: Node, inner: str) -> dict[str, Any]:
    """An input of the box: a widget where what it is linked to inside is one."""
    item = node.type.input(inner)
    return canvas_input(dataclasses.replace(item, name=name), None)


def _inside(info: dict[str, Any]) -> tuple[Graph, dict]:
    """The graph, and what is linked to its edges; an input there becomes a widget of the box."""
    g = Graph(NAME, info)
    g.group("Model")
    load = g.add("EditMGT_Load")
    g.group("Encode")
    tokens = g.add("EditMGT_EncodeTokens", tall=200, model=load["MODEL"])
    words = g.add("EditMGT_EncodeInstruction", model=load["MODEL"])
    g.group("Edit")
    own = {"steps": 0, "guidance": 0.0, "strength": 0.0}  # those of the checkpoint chosen outside
    edit = g.add("EditMGT_RegionHoldSampler", tall=200, model=load["MODEL"],
                 tokens=tokens["TOKENS"], instruction=words["INSTRUCTION"], **own)  # fmt: skip
    g.group("Decode")
    decode = g.add("EditMGT_Decode", model=load["MODEL"], tokens=edit["TOKENS"])
    into = {
        "image": [(tokens, "image")], "mask": [(tokens, "mask"), (edit, "region")],
        "text": [(words, "text")], "checkpoint": [(load, "checkpoint")], "fit": [(tokens, "fit")],
        "threshold": [(edit, "threshold")], "seed": [(edit, "seed")],
    }  # fmt: skip
    return g, {"into": into, "out": {"image": decode["IMAGE"], "changed": decode["MASK"]}}


def _subgraph(graph: Graph, inside: dict[str, Any], ends: dict) -> dict[str, Any]:
    """A subgraph definition: nodes, object links, and the two edges."""
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(keys, link, strict=True)) for link in inside["links"]]
    by_id = {node["id"]: node for node in inside["nodes"]}
    edges: dict[str, list[dict[str, Any]]] = {"into": [], "out": []}
    for slot, (name, targets) in enumerate(ends["into"].items()):
        ids = [_enter(links, by_id[node.id], socket, slot) for node, socket in targets]
        kind = links[-1]["type"]
        edges["into"].append(_edge("in", name, kind, ids))
    for slot, (name, link) in enumerate(ends["out"].items()):
        edges["out"].append(_edge("out", name, link.type, [_leave(links, by_id, link, slot)]))
    right = max(group["bounding"][0] + group["bounding"][2] for group in inside["groups"])
    return {
        "id": inside["id"], "version": 1, "revision": 0, "config": {}, "name": NAME,
        "state": {"lastGroupId": len(inside["groups"]), "lastNodeId": inside["last_node_id"],
                  "lastLinkId": len(links), "lastRerouteId": 0},
        "inputNode": {"id": INPUT, "bounding": [-220, 100, 120, 180]},
        "outputNode": {"id": OUTPUT, "bounding": [right + 100, 100, 120, 80]},
        "inputs": edges["into"], "outputs": edges["out"], "widgets": [],
        "nodes": inside["nodes"], "groups": inside["groups"], "links": links, "extra": {},
        "category": "Image Tools",
        "description": "Edit a picture by instruction and keep the rest of it, bit for bit.",
    }  # fmt: skip


def _enter(links: list[dict], node: dict[str, Any], socket: str, slot: int) -> int:
    """Link an edge of the box to a socket inside; the link's number."""
    index = [item["name"] for item in node["inputs"]].index(socket)
    number = len(links) + 1
    links.append({
        "id": number, "origin_id": INPUT, "origin_slot": slot, "target_id": node["id"],
        "target_slot": index, "type": node["inputs"][index]["type"],
    })  # fmt: skip
    node["inputs"][index]["link"] = number
    return number


def _leave(links: list[dict], by_id: dict[int, dict], link: Link, slot: int) -> int:
    """Link a node's output to an edge of the box; the link's number."""
    number = len(links) + 1
    links.append({
        "id": number, "origin_id": link.node.id, "origin_slot": link.slot, "target_id": OUTPUT,
        "target_slot": slot, "type": link.type,
    })  # fmt: skip
    output = by_id[link.node.id]["outputs"][link.slot]
    output["links"] = [*(output["links"] or []), number]
    return number


def _edge(side: str, name: str, kind: str, ids: list[int]) -> dict[str, Any]:
    number = str(uuid.uuid5(NAMESPACE, f"{NAME} {side} {name}"))
    return {"id": number, "name": name, "type": kind, "linkIds": ids, "pos": [0, 0]}
