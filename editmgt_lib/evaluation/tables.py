"""Markdown tables that read well as plain text."""

from collections.abc import Sequence


def markdown(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Format a table with padded columns, the first left-aligned, the others right-aligned."""
    widths = [max(2, *(len(line[k]) for line in (heading, *lines))) for k in range(len(heading))]

    def row(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        others = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join([first, *others])} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([row(heading), f"| {' | '.join(rule)} |", *map(row, lines)])


def number(value: float | None, digits: int) -> str:
    """Format a number with that many decimals, None as a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """Format a fraction as a percentage, None as a dash."""
    return "-" if value is None else f"{100 * value:.1f} %".replace(".0 %", " %")
