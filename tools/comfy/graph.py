"""A workflow under construction, and its two forms: for the canvas (format 0.4) and for the API."""

import uuid
from dataclasses import dataclass, field
from typing import Any

from .schema import Input, NodeType

NAMESPACE = uuid.UUID("6f1d2f0e-7c6b-4f53-9f2b-0d3f6a1b8e55")
PACK = "editmgt"


@dataclass(frozen=True)
class Link:
    """One output of one node."""

    node: "Node"
    slot: int

    @property
    def type(self) -> str:
        """Socket type."""
        return self.node.type.outputs[self.slot][1]


@dataclass(eq=False)
class Node:
    """A node on the canvas; `values` hold widget values, `links` what comes from other nodes."""

    id: int
    type: NodeType
    title: str
    values: dict[str, Any]
    links: dict[str, Link]
    extra_height: int = 0
    width: int = 300
    pos: tuple[int, int] = (0, 0)
    models: list[dict[str, str]] = field(default_factory=list)
    ours: bool = False

    def __getitem__(self, output: str | int) -> Link:
        return Link(self, self.type.output(output))

    @property
    def sockets(self) -> list[Input]:
        """Inputs without a widget."""
        return [item for item in self.type.inputs if not item.is_widget]

    @property
    def widgets(self) -> list[Input]:
        """Inputs with a widget, linked or not."""
        return [item for item in self.type.inputs if item.is_widget]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height below the title bar, as the canvas would compute them."""
        rows = max(len(self.sockets), len(self.type.outputs))
        height = 20 * rows + 12
        for item in self.widgets:
            height += 96 if item.options.get("multiline") else 24
            height += 24 * (1 if item.options.get("control_after_generate") else 0)
        return self.width, height + self.extra_height

    def widen(self, width: int) -> None:
        """Fill a column of that width."""
        self.width = width


@dataclass
class Note:
    """Text on the canvas, in Markdown."""

    id: int
    title: str
    text: str
    pos: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (320, 200)

    def widen(self, width: int) -> None:
        """Fill a column of that width."""
        self.size = (width, self.size[1])


@dataclass
class Group:
    """A titled frame around columns of nodes and notes."""

    title: str
    color: str
    columns: list[list[Node | Note]] = field(default_factory=lambda: [[]])
    box: tuple[int, int, int, int] = (0, 0, 0, 0)


class Graph:
    """Nodes in titled groups: rows of stacks of groups of columns; `layout` finds their places."""

    def __init__(self, name: str, info: dict[str, Any]) -> None:
        self.name, self.info = name, info
        self.nodes: list[Node] = []
        self.notes: list[Note] = []
        self.rows: list[list[list[Group]]] = [[]]
        self._app: dict[str, Any] = {}
        self._last = 0

    def row(self) -> None:
        """Go on below everything so far."""
        self.rows.append([])

    def group(self, title: str, color: str = "#3f789e", *, below: bool = False) -> None:
        """Start a group to the right of the last one, or below it."""
        stack = [Group(title, color)]
        if below:
            self.rows[-1][-1] += stack
        else:
            self.rows[-1].append(stack)

    @property
    def groups(self) -> list[Group]:
        """All groups, in the order they were started."""
        return [group for row in self.rows for stack in row for group in stack]

    def column(self) -> None:
        """Start another column inside the group."""
        self.groups[-1].columns.append([])

    def note(self, title: str, text: str, size: tuple[int, int] = (320, 200)) -> None:
        """Add a note below what the column holds."""
        note = Note(self._next(), title, text.strip(), size=size)
        self.notes.append(note)
        self.groups[-1].columns[-1].append(note)

    def app(self, widgets: list[tuple[Node, str]], shown: list[Node]) -> None:
        """Choose what App mode asks for and what it shows."""
        inputs = [[str(node.id), widget] for node, widget in widgets]
        outputs = [str(node.id) for node in shown]
        self._app = {"linearData": {"inputs": inputs, "outputs": outputs}, "linearMode": False}

    def add(self, kind: str, title: str = "", *, tall: int = 0, wide: int = 300, **inputs: Any):
        """Add a node below what the column holds; keywords are values or links by input name."""
        entry = self.info[kind]
        node_type = NodeType.read(kind, entry)
        links = {name: value for name, value in inputs.items() if isinstance(value, Link)}
        values = {name: value for name, value in inputs.items() if name not in links}
        for name in inputs:
            node_type.input(name)
        ours = str(entry.get("python_module", "")).startswith("custom_nodes.")
        node = Node(self._next(), node_type, title or node_type.title, values, links,
                    tall, wide, ours=ours)  # fmt: skip
        self.nodes.append(node)
        self.groups[-1].columns[-1].append(node)
        return node

    def _next(self) -> int:
        self._last += 1
        return self._last

    def api(self) -> dict[str, Any]:
        """What POST /prompt takes."""
        return {
            str(node.id): {
                "inputs": {
                    item.name: _api_value(node, item)
                    for item in node.type.inputs
                    if item.is_widget or item.name in node.links
                },
                "class_type": node.type.id,
                "_meta": {"title": node.title},
            }
            for node in self.nodes
        }

    def canvas(self, version: str) -> dict[str, Any]:
        """What the canvas loads: workflow format 0.4, array links."""
        links = _number_links(self.nodes)
        nodes = [_canvas_node(node, order, links, version) for order, node in enumerate(self.nodes)]
        nodes += [_canvas_note(note, len(nodes) + k) for k, note in enumerate(self.notes)]
        return {
            "id": str(uuid.uuid5(NAMESPACE, self.name)),
            "revision": 0,
            "last_node_id": self._last,
            "last_link_id": len(links),
            "nodes": nodes,
            "links": [
                [number, link.node.id, link.slot, node.id, _slot(node, name), link.type]
                for (node, name, link), number in links.items()
            ],
            "groups": [
                {
                    "id": k + 1,
                    "title": g.title,
                    "bounding": list(g.box),
                    "color": g.color,
                    "font_size": 22,
                    "flags": {},
                }
                for k, g in enumerate(self.groups)
            ],  # fmt: skip
            "config": {},
            "extra": {"ds": {"scale": 0.8, "offset": [60, 90]}, **self._app},
            "version": 0.4,
        }


def _api_value(node: Node, item: Input) -> Any:
    if item.name in node.links:
        link = node.links[item.name]
        return [str(link.node.id), link.slot]
    return node.values.get(item.name, item.default)


def _slot(node: Node, name: str) -> int:
    """Index among the sockets: those without a widget first, then the widgets'."""
    return [item.name for item in [*node.sockets, *node.widgets]].index(name)


def _number_links(nodes: list[Node]) -> dict[tuple[Node, str, Link], int]:
    ends = [(node, name, link) for node in nodes for name, link in node.links.items()]
    return {end: number for number, end in enumerate(ends, 1)}


def _canvas_node(node: Node, order: int, links: dict, version: str) -> dict[str, Any]:
    into = {name: number for (at, name, _), number in links.items() if at is node}
    out: dict[int, list[int]] = {}
    for (_, _, link), number in links.items():
        if link.node is node:
            out.setdefault(link.slot, []).append(number)
    values = []
    for item in (item for item in node.widgets if not item.is_view):
        values += [node.values.get(item.name, item.default), *item.companions]
    pack = {"cnr_id": PACK, "ver": version} if node.ours else {"cnr_id": "comfy-core"}
    properties = {"Node name for S&R": node.type.id, **pack}
    if node.models:
        properties["models"] = node.models
    entry = {
        "id": node.id, "type": node.type.id, "pos": list(node.pos), "size": list(node.size),
        "flags": {}, "order": order, "mode": 0,
        "inputs": [canvas_input(item, into.get(item.name)) for item in
                   [*node.sockets, *node.widgets]],
        "outputs": [{"name": name, "type": kind, "links": out.get(slot)}
                    for slot, (name, kind) in enumerate(node.type.outputs)],
        "properties": properties, "widgets_values": values,
    }  # fmt: skip
    return entry if node.title == node.type.title else {**entry, "title": node.title}


def canvas_input(item: Input, link: int | None) -> dict[str, Any]:
    """An input as the canvas stores it."""
    entry: dict[str, Any] = {"name": item.name, "type": item.type, "link": link}
    if item.is_widget:
        entry["widget"] = {"name": item.name}
    elif not item.required:
        entry["shape"] = 7  # the frontend's mark of an optional input
    return entry


def _canvas_note(note: Note, order: int) -> dict[str, Any]:
    return {
        "id": note.id, "type": "MarkdownNote", "pos": list(note.pos), "size": list(note.size),
        "flags": {}, "order": order, "mode": 0, "inputs": [], "outputs": [], "title": note.title,
        "properties": {}, "widgets_values": [note.text], "color": "#432", "bgcolor": "#653",
    }  # fmt: skip
