"""A ComfyUI API workflow on a running server as an editor."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ...checks import require_number
from ...endpoints.pictures import encoded, fingerprint
from ...endpoints.transport import completed
from ...errors import InputError
from ..rows import Unavailable
from ..terms import Terms
from .base import Edited, NoAnswer, Pixels, Size, lacks
from .comfyui_client import ComfyServer
from .comfyui_graph import Input, Nodes, filled, find_input, find_node, is_link, read_workflow
from .results import edited, opened
from .sizes import Sizing, place


@dataclass(frozen=True)
class ComfyUIOptions:
    """A server, a workflow, and what is set in it; inputs are NODE.INPUT. Raises InputError.

    Attributes:
        url: as in "http://127.0.0.1:8188". workflow: file of "Export (API)".
        picture: the input for the picture: LoadImage's "image", or any fed by another node.
        text, seed: inputs for instruction and seed; seed may be None, for a workflow without one.
        width, height: inputs for the sizes sent, where the workflow wants them.
        result: the node whose pictures are taken, by id or title; the first is used.
        values: other inputs, the same for every row.
        sizing: what the workflow gives back as it got it. revision: recorded.
        timeout: seconds a run may take. poll: seconds between looks.
    """

    url: str
    workflow: str
    picture: str
    text: str
    result: str
    seed: str | None = None
    width: str | None = None
    height: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    sizing: Sizing = Sizing()
    revision: str = ""
    timeout: float = 600.0
    poll: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.values, Mapping):
            raise InputError(f"values is {self.values!r}; give inputs and their values")
        require_number("timeout", self.timeout, 0.01, 86400)
        require_number("poll", self.poll, 0.001, 60)


class ComfyUIEditor:
    """Uploads the picture, queues the workflow, waits, and downloads the result."""

    def __init__(self, name: str, options: ComfyUIOptions, terms: Terms | None = None) -> None:
        self.name, self.options = name, options
        self.terms, self.sizing = terms or Terms(), options.sizing
        self.who = f"editor {name!r}"

    @property
    def revision(self) -> str:
        """As stated, or a fingerprint of the workflow."""
        told = json.dumps(self._nodes, sort_keys=True).encode()
        return self.options.revision or hashlib.sha256(told).hexdigest()[:16]

    def check(self) -> None:
        """Raise InputError for a bad workflow, an absent server, or nodes it does not have."""
        completed(self.options.url, "", self.who)
        self._inputs(self._nodes)
        try:
            known = self._server.get("/object_info")
        except (Unavailable, NoAnswer) as error:
            raise InputError(str(error)) from error
        wanted = {node["class_type"] for node in self._nodes.values()} | {"LoadImage"}
        if missing := sorted(wanted - set(known)):
            fix = "install the node packs they are from"
            raise lacks(f"{self.who}'s server", f"the nodes {', '.join(missing)}", fix)

    def describe(self) -> dict[str, Any]:
        """Workflow and values."""
        return {
            "kind": "comfyui", "revision": self.revision, "values": dict(self.options.values),
            "workflow": self._nodes,
        }  # fmt: skip

    def edit(self, pixels: Pixels, instruction: str, seed: int, size: Size | None = None) -> Edited:
        """See `Editor`."""
        nodes, options = self._nodes, self.options
        placed = place((pixels.shape[1], pixels.shape[0]), self.sizing)
        sent = placed.put(pixels)
        width, height = placed.canvas
        given = {"text": instruction, "seed": seed, "width": width, "height": height}
        inputs = self._inputs(nodes)
        values = {find_input(nodes, name): value for name, value in options.values.items()}
        values |= {inputs[name]: value for name, value in given.items() if name in inputs}
        file = self._server.upload(f"{fingerprint(sent)[:32]}.png", encoded(sent))
        outputs = self._server.run(filled(nodes, values, inputs["picture"], file))
        pictures = (outputs.get(find_node(nodes, options.result)) or {}).get("images") or ()
        if not pictures:
            raise NoAnswer("no_picture", f"{self.who}: node {options.result} gave no picture")
        result = opened(self._server.fetch(pictures[0]), self.who)
        facts = {"seed": seed, "seeded": "seed" in inputs, "pictures": len(pictures)}
        return edited(placed, result, size, self.who, **facts)

    @cached_property
    def _nodes(self) -> Nodes:
        return read_workflow(self.options.workflow)

    @cached_property
    def _server(self) -> ComfyServer:
        options = self.options
        return ComfyServer(options.url, self.who, options.timeout, options.poll)

    def _inputs(self, nodes: Nodes) -> dict[str, Input]:
        """Where to put what; checks all names."""
        try:
            names = ("picture", "text", "seed", "width", "height")
            given = {name: getattr(self.options, name) for name in names}
            found = {name: find_input(nodes, at) for name, at in given.items() if at is not None}
            for at in self.options.values:
                find_input(nodes, at)
            find_node(nodes, self.options.result)
        except InputError as error:
            raise InputError(f"{self.who}: {error}") from error
        picture = found["picture"]
        value = nodes[picture.node]["inputs"][picture.name]
        if nodes[picture.node]["class_type"] != "LoadImage" and not is_link(value):
            raise InputError(
                f"{self.who}: picture is {self.options.picture!r}, which takes no pictures; name "
                "LoadImage's 'image', or an input that another node feeds"
            )
        return found
