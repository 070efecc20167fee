"""Node "List of Values": what follows runs once per value."""

from comfy_api.latest import io

from ..editmgt_lib.errors import InputError
from .compat import CATEGORY, known
from .parsing import number_list


class ListOfValues(io.ComfyNode):
    """Numbers to try one after the other, and a label for each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="EditMGT_ListOfValues",
            display_name="List of Values",
            category=CATEGORY,
            description="Tries several values of a setting: every node after it runs once per "
            "value. Compare Pictures shows the results side by side.",
            inputs=[
                io.String.Input(
                    "values",
                    default="0, 0.1, 0.2",
                    tooltip="Numbers separated by commas: 0, 0.05, 0.1. Each costs a full run of "
                    "the nodes that follow.",
                ),
                io.String.Input(
                    "name",
                    default="threshold",
                    optional=True,
                    tooltip="Name of the setting, shown before each number in the labels. Empty: "
                    "numbers only.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="FLOAT",
                    is_output_list=True,
                    tooltip="The numbers, one at a time. Link it to threshold, strength, guidance "
                    "or any other float input.",
                ),
                io.String.Output(
                    display_name="STRING",
                    is_output_list=True,
                    tooltip="A label per number, such as 'threshold 0.05', for Compare Pictures.",
                ),
            ],
            **known(io.Schema, search_aliases=["editmgt", "sweep", "xy plot", "for each", "list"]),
        )

    @classmethod
    def validate_inputs(cls, values: str | None = None) -> bool | str:
        """Numbers that can be read."""
        try:
            number_list(values) if values is not None else None
        except InputError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, values: str, name: str = "threshold") -> io.NodeOutput:
        """Read, and label."""
        numbers = number_list(values)
        return io.NodeOutput(numbers, [f"{name} {number:g}".strip() for number in numbers])
