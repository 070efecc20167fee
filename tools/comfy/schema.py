"""What a node looks like according to ComfyUI's /object_info: widgets, sockets and defaults."""

from dataclasses import dataclass, field
from typing import Any

_WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
_VIEWS = {"IMAGECOMPARE": {"__value__": ["", ""]}}
"""Widgets that only show something: what the canvas sends for them, and never saves."""


@dataclass(frozen=True)
class Input:
    """One input of a node; `type` is "COMBO" for every list of choices."""

    name: str
    type: str
    required: bool
    options: dict[str, Any] = field(default_factory=dict)
    choices: tuple[Any, ...] = ()

    @property
    def is_widget(self) -> bool:
        """Whether the canvas shows a value for it; it can be linked all the same."""
        return self.type in _WIDGETS and not self.options.get("forceInput") or self.is_view

    @property
    def is_view(self) -> bool:
        """Whether its widget holds no value of the user's."""
        return self.type in _VIEWS

    @property
    def default(self) -> Any:
        """The value of a widget nobody has touched."""
        if "default" in self.options:
            return self.options["default"]
        if self.type == "COMBO":
            return self.choices[0] if self.choices else ""
        return {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False, **_VIEWS}.get(self.type, "")

    @property
    def companions(self) -> list[Any]:
        """Values that the canvas stores after this widget's own: seed control, upload button."""
        if self.options.get("control_after_generate"):
            return ["fixed"]
        return ["image"] if self.options.get("image_upload") else []


@dataclass(frozen=True)
class NodeType:
    """A node: inputs in the order of the canvas, outputs as (name, type)."""

    id: str
    title: str
    inputs: tuple[Input, ...]
    outputs: tuple[tuple[str, str], ...]
    is_output: bool

    @classmethod
    def read(cls, name: str, entry: dict[str, Any]) -> "NodeType":
        """From one entry of /object_info."""
        inputs = []
        for kind in ("required", "optional"):
            given = entry["input"].get(kind, {})
            for key in entry.get("input_order", {}).get(kind, given):
                inputs.append(_input(key, given[key], kind == "required"))
        names = entry.get("output_name") or entry["output"]
        types = [kind if isinstance(kind, str) else "COMBO" for kind in entry["output"]]
        outputs = tuple(zip(names, types, strict=True))
        title = entry.get("display_name") or name
        return cls(name, title, tuple(inputs), outputs, bool(entry.get("output_node")))

    def input(self, name: str) -> Input:
        """The input of that name."""
        for item in self.inputs:
            if item.name == name:
                return item
        raise KeyError(f"{self.id} has no input {name}; it has {[i.name for i in self.inputs]}")

    def output(self, key: str | int) -> int:
        """Index of an output, by index, name or type (the first that fits)."""
        if isinstance(key, int):
            return key
        for part in (0, 1):
            for index, output in enumerate(self.outputs):
                if output[part] == key:
                    return index
        raise KeyError(f"{self.id} has no output {key}; it has {self.outputs}")


def _input(name: str, spec: list[Any], required: bool) -> Input:
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    if isinstance(kind, list):  # older definitions put the choices in place of the type
        return Input(name, "COMBO", required, options, tuple(kind))
    return Input(name, kind, required, options, tuple(options.get("options") or ()))
