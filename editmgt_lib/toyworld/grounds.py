"""ToyWorld's textured grounds: variants of one token each, which fit together in any order."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from .noise import keyed, lattice_noise
from .objects import RGB
from .outlines import Figure, circle, ellipse, line, union

VARIANTS = 6
"""Variants of each ground; the last two have something lying on them and are rarer."""
VARIANT_OF = np.array((*(0, 1, 2, 3) * 14, *(4, 5) * 4))
"""Variant of each of 64 equally likely draws."""
_SUPERSAMPLE = 4
_SHARPNESS = 40  # an edge is 1/40 of a cell wide: continuous, so no sample is on either side of it
_THING_AT = {4: ((0.36, 0.4),), 5: ((0.64, 0.62),)}  # where something lies, of the variants with it

Texture = Callable[[int, np.ndarray, np.ndarray], np.ndarray]


@lru_cache(maxsize=64)
def ground_cells(background: str, edge: int) -> np.ndarray:
    """Draw all variants of a ground: float64 [VARIANTS, edge, edge, 3], 0..255, read-only."""
    n = edge * _SUPERSAMPLE
    axis = (np.arange(n) + 0.5) / n
    y, x = np.meshgrid(axis, axis, indexing="ij")
    fold = (VARIANTS, edge, _SUPERSAMPLE, edge, _SUPERSAMPLE, 3)
    cells = np.stack([GROUNDS[background](variant, x, y) for variant in range(VARIANTS)])
    cells = np.clip(cells.reshape(fold).mean((2, 4)), 0, 255)
    cells.flags.writeable = False
    return cells


def _tone(color: RGB, light: np.ndarray) -> np.ndarray:
    """A colour, lighter or darker by so many levels."""
    return np.array(color, float) + light[..., None]


def _put(
    picture: np.ndarray, figure: Figure, color: RGB, x: np.ndarray, y: np.ndarray, share: float = 1
) -> np.ndarray:
    """Paint a figure, given in cells, over a texture."""
    cover = share * np.clip(0.5 - figure(x, y) * _SHARPNESS, 0, 1)[..., None]
    return picture * (1 - cover) + np.array(color, float) * cover


def _spots(variant: int, count: int, margin: float, key: int) -> list[tuple[float, float]]:
    """Random places at least `margin` from the border."""
    at = keyed(np.arange(count)[:, None], np.arange(2), variant, key)
    return [tuple(spot) for spot in margin + (1 - 2 * margin) * at]


def _grass(variant: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    light = 12 * lattice_noise(x, y, 4, 4, 1, variant) + 8 * lattice_noise(x, y, 8, 8, 2, variant)
    picture = _tone((146, 186, 104), light)
    for k, (u, v) in enumerate(_spots(variant, 7, 0.16, 3)):
        lean = (keyed(k, variant, 4) - 0.5) * 0.2
        color = ((112, 158, 78), (178, 212, 130))[k % 2]
        picture = _put(picture, line(0.028, (u, v + 0.11), (u + lean, v - 0.11)), color, x, y, 0.8)
    for u, v in _THING_AT.get(variant, ()):
        petals = [
            circle(u + a, v + b, 0.1) for a, b in ((0.12, 0), (0, 0.12), (-0.12, 0), (0, -0.12))
        ]
        picture = _put(picture, union(*petals), (252, 250, 240), x, y)
        picture = _put(picture, circle(u, v, 0.08), (240, 190, 50), x, y)
    return picture


def _sand(variant: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    light = 11 * lattice_noise(x, y, 4, 4, 11, variant)
    picture = _tone((230, 208, 164), light + 13 * lattice_noise(x, y, 8, 8, 12, variant))
    for k, (u, v) in enumerate(_spots(variant, 6, 0.12, 13)):
        color = ((202, 174, 126), (248, 234, 202))[k % 2]
        picture = _put(picture, circle(u, v, 0.035), color, x, y)
    for u, v in _THING_AT.get(variant, ()):
        picture = _put(picture, ellipse(u + 0.03, v + 0.06, 0.22, 0.16), (186, 160, 118), x, y, 0.8)
        picture = _put(picture, ellipse(u, v, 0.22, 0.16), (168, 160, 152), x, y)
        picture = _put(picture, ellipse(u - 0.05, v - 0.05, 0.11, 0.06), (200, 194, 186), x, y)
    return picture


def _water(variant: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    swell = np.sin(2 * np.pi * x)
    light = np.zeros_like(x)
    for level, height in ((0.27, 0.06), (0.77, -0.06)):
        gap = (y - level - height * swell - 0.03 * lattice_noise(x, y, 2, 4, 21, variant)) / 0.13
        light = light + 12 * np.maximum(1 - gap * gap, 0)
    light = light + 5 * lattice_noise(x, y, 6, 3, 22, variant)
    picture = _tone((122, 186, 206), light)
    for u, v in _spots(variant, 2, 0.25, 23):
        glint = line(0.03, (u - 0.12, v), (u + 0.12, v))
        picture = _put(picture, glint, (214, 238, 244), x, y, 0.85)
    for u, v in _THING_AT.get(variant, ()):
        picture = _put(picture, ellipse(u, v, 0.25, 0.18), (92, 158, 104), x, y)
        picture = _put(picture, ellipse(u - 0.05, v - 0.04, 0.13, 0.08), (130, 188, 132), x, y)
    return picture


def _wood(variant: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    light = 22 * lattice_noise(x, y, 9, 3, 31, variant)
    picture = _tone((206, 164, 116), light + 10 * lattice_noise(x, y, 16, 4, 32, variant))
    if variant == 4:
        for radius, color in (
            (0.2, (184, 138, 92)),
            (0.13, (200, 156, 108)),
            (0.08, (140, 96, 60)),
        ):
            picture = _put(picture, ellipse(0.48, 0.52, 1.3 * radius, radius), color, x, y, 0.9)
    if variant == 5:
        picture = _put(picture, line(0.03, (0.5, -1), (0.5, 2)), (128, 90, 58), x, y)
        for u in (0.36, 0.64):
            picture = _put(picture, circle(u, 0.5, 0.045), (110, 80, 56), x, y)
    return _put(picture, line(0.04, (-1, 0), (2, 0)), (138, 98, 64), x, y)


def _brick(variant: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    upper = np.where(y < 0.5, 1.0, 0.0)
    tone = (4, 24, -18, -4, -36, 16)[variant]
    light = 14 * lattice_noise(x, y, 8, 8, 41, variant) + tone * upper
    picture = _tone((206, 154, 132), light)
    joints = [line(0.045, (-1, level), (2, level)) for level in (0.0, 0.5, 1.0)]
    joints += [line(0.045, (u, 0), (u, 0.5)) for u in (0.0, 1.0)] + [
        line(0.045, (0.5, 0.5), (0.5, 1))
    ]
    if variant == 5:
        picture = _put(
            picture,
            line(0.02, (0.3, 0.1), (0.45, 0.25), (0.6, 0.22), (0.7, 0.4)),
            (120, 72, 60),
            x,
            y,
        )
    return _put(picture, union(*joints), (230, 220, 208), x, y)


def _snow(variant: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    light = 18 * lattice_noise(x, y, 4, 4, 51, variant) + 8 * lattice_noise(x, y, 8, 8, 52, variant)
    picture = _tone((228, 235, 245), light) + np.array([-0.4, -0.15, 0]) * light[..., None]
    for u, v in _spots(variant, 3, 0.15, 53):
        picture = _put(picture, circle(u, v, 0.045), (204, 216, 234), x, y)
    for u, v in _THING_AT.get(variant, ()):
        lean = 0.1 if variant == 4 else -0.1
        twig = union(
            line(0.028, (u - 0.22, v + lean), (u + 0.22, v - lean)),
            line(0.022, (u, v), (u + 0.08, v - 0.2)),
        )
        picture = _put(picture, twig, (150, 128, 112), x, y)
    return picture


GROUNDS: dict[str, Texture] = {
    "grass": _grass, "sand": _sand, "water": _water,
    "wood": _wood, "brick": _brick, "snow": _snow,
}  # fmt: skip
