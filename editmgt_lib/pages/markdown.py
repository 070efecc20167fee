"""Markdown tables that read well as plain text."""

from collections.abc import Collection, Sequence


def markdown(
    heading: Sequence[str], lines: Sequence[Sequence[str]], text: Collection[int] = (0,)
) -> str:
    """Format a table with padded columns; those numbered in `text` left-aligned, others right."""
    widths = [max(2, *(len(line[k]) for line in (heading, *lines))) for k in range(len(heading))]

    def row(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if k in text else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = (
        f":{'-' * (width - 1)}" if k in text else f"{'-' * (width - 1)}:"
        for k, width in enumerate(widths)
    )
    return "\n".join([row(heading), f"| {' | '.join(rule)} |", *map(row, lines)])


def number(value: float | None, digits: int) -> str:
    """Format a number with that many decimals, None as a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """Format a fraction as a percentage, None as a dash."""
    return "-" if value is None else f"{100 * value:.1f} %".replace(".0 %", " %")
