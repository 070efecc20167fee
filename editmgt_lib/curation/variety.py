"""Which instructions a picture is asked for: evenly over categories, verbs and themes.

Drawn from the row's id alone, so neither the order of work nor other rows matter.
"""

from collections.abc import Mapping
from itertools import accumulate
from math import floor

from ..data.draws import draws
from ..data.rows import key_of
from .backends.base import CATEGORIES

VERBS: Mapping[str, tuple[str, ...]] = {
    "add": ("add", "insert", "place", "put", "include"),
    "replace": ("replace", "swap", "exchange", "change", "turn"),
    "remove": ("remove", "erase", "delete", "take away", "get rid of"),
    "color": ("make", "paint", "recolor", "change the color of", "turn"),
    "background change": ("change", "replace", "set", "put", "turn"),
    "style": ("turn", "redraw", "render", "convert", "restyle"),
    "motion change": ("make", "have", "let", "change", "turn"),
}
_THINGS = (
    "an animal", "a plant", "food or drink", "furniture", "a vehicle", "a garment", "jewellery",
    "a tool", "a lamp", "a sign", "a toy", "a musical instrument", "a vessel", "a building",
    "a person", "something of the weather",
)  # fmt: skip
THEMES: Mapping[str, tuple[str, ...]] = {
    "add": _THINGS,
    "replace": _THINGS,
    "remove": ("a large object", "a small object", "a person or animal", "something far away"),
    "color": (
        "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
        "gray", "gold", "turquoise",
    ),
    "background change": (
        "beach", "forest", "desert", "mountains", "city street", "night sky", "snow", "garden",
        "library", "kitchen", "studio", "harbour", "meadow", "cave", "market", "underwater",
        "stage", "rooftop", "ruins", "outer space",
    ),
    "style": (
        "watercolour", "oil painting", "pencil sketch", "charcoal", "ink wash", "comic book",
        "anime", "pixel art", "low-poly 3D", "claymation", "paper cut-out", "stained glass",
        "mosaic", "woodcut", "embroidery", "pop art", "art nouveau", "cubism", "pointillism",
        "vintage photograph", "film noir", "neon", "blueprint", "graffiti",
    ),
    "motion change": ("pose", "gaze", "expression", "action", "place in the picture"),
}  # fmt: skip
"""Ours: no data set publishes its lists."""


def draw_counts(seed: int, row: str, total: int, balance: Mapping[str, float]) -> dict[str, int]:
    """Draw how many instructions of each category to ask for.

    A systematic sample: a category's share of the total is expected to be exactly its weight's, and
    no row is off by one or more. balance: weights, 1 where none is given.
    """
    rng = draws(seed, key_of(row), "categories")
    order = [CATEGORIES[int(place)] for place in rng.permutation(len(CATEGORIES))]
    weights = [float(balance.get(name, 1)) for name in order]
    start, sums = float(rng.random()), list(accumulate(weights, initial=0.0))
    edges = [floor(start + total * (one / sums[-1])) for one in sums]
    drawn = {name: edges[k + 1] - edges[k] for k, name in enumerate(order)}
    return {name: drawn[name] for name in CATEGORIES if drawn[name]}


def draw_wishes(seed: int, row: str, counts: Mapping[str, int]) -> dict[str, dict[str, str]]:
    """Draw a verb and a theme for each category that is asked for."""
    wishes = {}
    for name in counts:
        rng = draws(seed, key_of(row), f"wishes {name}")
        verb, theme = (many[name][int(rng.integers(len(many[name])))] for many in (VERBS, THEMES))
        wishes[name] = {"verb": verb, "theme": theme}
    return wishes
