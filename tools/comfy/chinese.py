"""Chinese summaries below the notes: the canvas shows one text, whatever its language."""

import re
from functools import cache
from math import ceil
from pathlib import Path

from .graph import Graph

GLYPH, LINE, FRAME = 10, 16, 50
"""Pixels: a character's width, a line's height, and what a note's frame takes of its width."""


@cache
def summaries() -> dict[str, str]:
    """Markdown by the title of the note."""
    text = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    _, *parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return {title: body.strip() for title, body in zip(parts[::2], parts[1::2], strict=True)}


def add_chinese(graph: Graph) -> None:
    """End each note of a workflow with its summary, and make room for it."""
    for note in graph.notes:
        summary = summaries()[note.title]
        note.text += f"\n\n---\n\n{summary}"
        width, height = note.size
        note.size = (width, height + _height(summary, width))


def _height(summary: str, width: int) -> int:
    lines = [ceil(len(line) * GLYPH / (width - FRAME)) for line in summary.splitlines()]
    return LINE * (sum(lines) + 1)  # and the rule
