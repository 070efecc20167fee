"""`locales/en/nodeDefs.json` from `/object_info`; other languages are written by hand."""

from typing import Any

from .schema import NodeType


def english(info: dict[str, Any]) -> dict[str, Any]:
    """Names and tooltips of all nodes of the pack, as the Python code states them."""
    return {
        _key(name): _node(name, entry)
        for name, entry in sorted(info.items())
        if entry["python_module"].startswith("custom_nodes.")
    }


def _key(name: str) -> str:
    """The frontend puts "_" for each dot of an id."""
    return name.replace(".", "_")


def _node(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    node = NodeType.read(name, entry)
    tips = entry.get("output_tooltips") or [None] * len(node.outputs)
    inputs = {item.name: _named(_title(item), item.options.get("tooltip")) for item in node.inputs}
    outputs = {
        str(index): _named(output[0], tip)
        for index, (output, tip) in enumerate(zip(node.outputs, tips, strict=True))
    }
    return {
        "display_name": node.title,
        "description": entry.get("description", ""),
        "inputs": inputs,
        "outputs": outputs,
    }


def _title(item: Any) -> str:
    return item.options.get("display_name") or item.name


def _named(name: str, tooltip: str | None) -> dict[str, str]:
    return {"name": name, **({"tooltip": tooltip} if tooltip else {})}
