"""The columns of an export: CrispEdit-2M's four first, with its names and types, then ours."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE, TEXT, NUMBER, WHOLE, FLAG, TEXTS = "image", "text", "number", "whole", "flag", "texts"
INPUT, OUTPUT, REJECTED, MASK = "input_img", "output_img", "rejected_img", "mask"
PAIRS, NEGATIVES, PREFERENCES = "pairs", "negatives", "preferences"


class Column(NamedTuple):
    """kind: IMAGE, TEXT, ... value: "stage.name" it is taken from; "" if computed."""

    name: str
    kind: str
    meaning: str
    value: str = ""


COLUMNS = (
    Column(INPUT, IMAGE, "before the edit, upright 8-bit RGB without metadata"),
    Column("instruction", TEXT, "what is asked for; see `original_instruction`"),
    Column(OUTPUT, IMAGE, "after the edit, of the same size"),
    Column("type", TEXT, "CrispEdit-2M's name of the kind of edit"),
    Column("id", TEXT, "the same in every run; unique"),
    Column("reversed_of", TEXT, "id of the row whose pictures are swapped here"),
    Column("negative", FLAG, "the edit failed: never a target"),
    Column("reason", TEXT, "why it failed"),
    Column("original_instruction", TEXT, "what the editor was told", "instructions.instruction"),
    Column("object", TEXT, "what the edit is about", "instructions.object"),
    Column("caption", TEXT, "of the picture before"),
    Column("target_caption", TEXT, "of the picture after"),
    Column("spatial", TEXT, "words of place against the picture: confirmed, refuted or unchecked",
           "instructions.spatial"),
    Column("writer", TEXT, "who wrote the instruction", "instructions.writer"),
    Column("editor", TEXT, "who made the edit", "edits.editor"),
    Column("editor_revision", TEXT, "of model and code", "edits.revision"),
    Column("seed", WHOLE, "of the edit", "edits.seed"),
    Column("candidates", TEXT, "all tries, as JSON", "edits.candidates"),
    Column("chosen_by", TEXT, "how one of them was chosen", "edits.chosen_by"),
    Column("agreed", FLAG, "the judge chose the same in both orders", "edits.agreed"),
    Column("judge", TEXT, "who chose", "edits.judge"),
    Column("width", WHOLE, "of both pictures, in pixels"),
    Column("height", WHOLE, "of both pictures"),
    Column("source_width", WHOLE, "of the source's picture", "images.width"),
    Column("source_height", WHOLE, "of the source's picture", "images.height"),
    Column("sent_width", WHOLE, "of what the editor was given", "edits.sent_width"),
    Column("sent_height", WHOLE, "of what the editor was given", "edits.sent_height"),
    Column(MASK, IMAGE, "white where pixels changed"),
    Column("changed", NUMBER, "fraction of pixels that changed", "quality.changed"),
    Column("outside", NUMBER, "change outside the intended place", "quality.outside"),
    Column("shift_x", NUMBER, "of the output against the input, in pixels", "quality.shift_x"),
    Column("shift_y", NUMBER, "likewise, downwards", "quality.shift_y"),
    Column("zoom", NUMBER, "of the output against the input", "quality.zoom"),
    Column("residual", NUMBER, "difference left once aligned", "quality.residual"),
    Column("clip_direction", NUMBER, "CLIP: change of picture along change of caption",
           "quality.clip_direction"),
    Column("clip_image", NUMBER, "CLIP similarity of the pictures", "quality.clip_image"),
    Column("dino", NUMBER, "DINO similarity of the pictures", "quality.dino"),
    Column("judged_instruction", NUMBER, "the judge: was it done, 0..10", "quality.instruction"),
    Column("judged_preservation", NUMBER, "the judge: and nothing else, 0..10",
           "quality.preservation"),
    Column("judged_quality", NUMBER, "the judge: does it look right, 0..10", "quality.quality"),
    Column("scores", TEXT, "all numbers that any stage found, as JSON"),
    Column("flags", TEXTS, "conditions that only flag"),
    Column("unscored", TEXTS, "values with a condition that nobody computed"),
    Column("source", TEXT, "name of the source"),
    Column("source_id", TEXT, "of the picture within it"),
    Column("source_sha256", TEXT, "of the picture's file as it was found", "images.sha256"),
    Column("source_licence", TEXT, "of the picture"),
    Column("editor_licence", TEXT, "of the editor's outputs", "edits.editor_licence"),
    Column("uses", TEXTS, "what both licences allow"),
    Column("author", TEXT, "of the picture, where stated"),
    Column("url", TEXT, "of the picture, where stated"),
)  # fmt: skip
"""In order. Negatives have `rejected_img` in place of `output_img`, so that no reader of pairs
takes them for targets; preferences have it beside the four, and `LOSER` at the end."""
LOSER = (
    Column("rejected_editor", TEXT, "who made the edit that the judge liked less"),
    Column("rejected_revision", TEXT, "of its model and code"),
    Column("rejected_seed", WHOLE, "of that edit"),
    Column("rejected_licence", TEXT, "of that editor's outputs"),
)

DIRECTED = ("clip_direction", "judged_instruction", "judged_preservation", "judged_quality",
            "spatial", "residual")  # fmt: skip
"""What was found of one direction only, and is empty in reversed pairs."""

_FEATURES: Mapping[str, Any] = {
    IMAGE: {"_type": "Image"},
    TEXT: {"dtype": "string", "_type": "Value"},
    NUMBER: {"dtype": "float64", "_type": "Value"},
    WHOLE: {"dtype": "int64", "_type": "Value"},
    FLAG: {"dtype": "bool", "_type": "Value"},
    TEXTS: {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"},
}


def columns(kind: str) -> tuple[Column, ...]:
    """The columns of PAIRS, NEGATIVES or PREFERENCES."""
    if kind == NEGATIVES:
        failed = Column(REJECTED, IMAGE, "a failed edit, of the same size")
        return tuple(failed if column.name == OUTPUT else column for column in COLUMNS)
    if kind == PREFERENCES:
        lost = Column(REJECTED, IMAGE, "the edit that the judge liked less, in both orders")
        return (*COLUMNS[:4], lost, *COLUMNS[4:], *LOSER)
    return COLUMNS


def schema(kind: str) -> "pa.Schema":
    """As pyarrow has it, with what Hugging Face's loaders and viewer ask for."""
    import pyarrow as pa

    types = {
        IMAGE: pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        TEXT: pa.string(),
        NUMBER: pa.float64(),
        WHOLE: pa.int64(),
        FLAG: pa.bool_(),
        TEXTS: pa.list_(pa.string()),
    }
    mine = columns(kind)
    features = {column.name: _FEATURES[column.kind] for column in mine}
    said = json.dumps({"info": {"features": features}})
    return pa.schema([(c.name, types[c.kind]) for c in mine], {"huggingface": said})
