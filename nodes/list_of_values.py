"""Node "List of Values": what follows runs once per value."""

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..editmgt_lib.errors import InputError
from .compat import CATEGORY, known
from .errors import blocked, verdict
from .parsing import number, value_list, whole_number


class ListOfValues(io.ComfyNode):
    """Values to try one after the other, and a label for each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="EditMGT_ListOfValues",
            display_name="EditMGT List of Values",
            category=CATEGORY,
            description="Tries several values of a setting: every node after it runs once per "
            "value. EditMGT Compare Pictures shows the results side by side.",
            inputs=[
                io.String.Input(
                    "values",
                    multiline=True,
                    default="0, 0.1, 0.2",
                    tooltip="Numbers or texts separated by commas: 0, 0.05, 0.1. Texts with "
                    "commas of their own go on one line each. Each value costs a full run of the "
                    "nodes that follow.",
                ),
                io.String.Input(
                    "name",
                    default="threshold",
                    optional=True,
                    tooltip="Name of the setting, shown before each value in the labels. Empty: "
                    "values only.",
                ),
            ],
            outputs=_outputs(),
            **known(io.Schema, search_aliases=["editmgt", "sweep", "xy plot", "for each", "list"]),
        )

    @classmethod
    def validate_inputs(cls, values: str | None = None) -> bool | str:
        """Values of one kind, at least one."""
        return verdict(value_list, values)

    @classmethod
    def execute(cls, values: str, name: str = "threshold") -> io.NodeOutput:
        """Read each value in every way, and label it."""
        words = value_list(values)
        return io.NodeOutput(
            [_read(number, word) for word in words],
            [f"{name} {word}".strip() for word in words],
            [_read(whole_number, word) for word in words],
            words,
        )


def _outputs() -> list:
    """Each value in every way a node may take it."""
    return [
        io.Float.Output(
            display_name="FLOAT",
            is_output_list=True,
            tooltip="The numbers, one at a time. Link it to threshold, strength, guidance "
            "or any other float input.",
        ),
        io.String.Output(
            display_name="STRING",
            is_output_list=True,
            tooltip="A label per value, such as 'threshold 0.05', for EditMGT Compare Pictures.",
        ),
        io.Int.Output(
            display_name="INT",
            is_output_list=True,
            tooltip="The same as whole numbers. Link it to seed, steps or any other integer input.",
        ),
        io.String.Output(
            display_name="TEXT",
            is_output_list=True,
            tooltip="The values as written. Link it to the text of EditMGT Encode "
            "Instruction or any other text input.",
        ),
    ]


def _read(kind: Callable[[str], Any], word: str) -> Any:
    """The value, or what stops a node that uses it."""
    try:
        return kind(word)
    except InputError as error:
        return blocked(str(error))
