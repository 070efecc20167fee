"""Where nodes come to lie: rows of stacks of groups, and columns inside each group."""

from .graph import Graph, Group

TITLE, GAP, BELOW, PAD, HEAD = 30, 30, 52, 20, 44
"""Pixels: a node's title bar, between columns and groups, below a node (the newer way of drawing
nodes makes them a little taller), inside a group, a group's own title."""


def layout(graph: Graph) -> Graph:
    """Give every node, note and group its place; what stands side by side gets one height."""
    top = 0
    for row in graph.rows:
        left, bottom = 0, 0
        for stack in row:
            right, low = _place_stack(stack, left, top)
            left, bottom = right + GAP, max(bottom, low)
        for stack in row:
            x, y, width, _ = stack[-1].box
            stack[-1].box = (x, y, width, bottom - y)
        top = bottom + GAP
    return graph


def _place_stack(stack: list[Group], left: int, top: int) -> tuple[int, int]:
    """Groups one below the other, equally wide; the stack's right and lower edge."""
    edges = []
    for group in stack:
        right, low = _place(group, left, top)
        group.box = (left, top, right - left, low - top)
        edges.append(right)
        top = low + GAP
    for group in stack:
        group.box = (left, group.box[1], max(edges) - left, group.box[3])
    return max(edges), top - GAP


def _place(group: Group, left: int, top: int) -> tuple[int, int]:
    """Stack the columns of a group; returns its right and lower edge."""
    x, low = left + PAD, top
    for column in group.columns:
        y = top + HEAD
        width = max((item.size[0] for item in column), default=200)
        for item in column:
            item.pos = (x, y + TITLE)
            item.widen(width)
            y += TITLE + item.size[1] + BELOW
        low = max(low, y - BELOW)
        x += width + GAP
    return x - GAP + PAD, low + PAD + GAP
