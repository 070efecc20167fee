"""Light on solids: from outlines to layers that any colour and any ground can be put into."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .objects import OBJECTS, RGB, Part
from .outlines import Figure

SUPERSAMPLE = 4
BOX_PX = 64.0
"""Side of the box in the unit of `objects`."""
LIGHT = (-0.49, -0.6, 0.63)  # unit vector towards the light: upper left, in front
_SIZE, _CENTRE = 0.9, (-1.2, -2.2)  # leaves room for the shadow
_AMBIENT, _DIFFUSE = 0.5, 0.72
_RIM, _RIM_PX = 0.4, 2.2  # how much darker the rim is, and how wide
_SHADOW, _SHADOW_AT, _SHADOW_PX = 0.42, (2.4, 3.8), (4.5, 4.0)  # strength, offset, outwards/inwards
_LINE_PX = 3.8  # in styles that draw lines only; thinner ones get lost in a token


@dataclass(frozen=True, eq=False)
class Layers:
    """An object in any colour: ground * `under` + `fixed` + colour * `tinted`.

    under, tinted: float64 [box, box, 1]; fixed: [box, box, 3], 0..255.
    """

    under: np.ndarray
    tinted: np.ndarray
    fixed: np.ndarray

    def over(self, ground: np.ndarray, color: RGB) -> np.ndarray:
        """Put the object on a ground [box, box, 3]."""
        return ground * self.under + self.fixed + np.array(color, float) * self.tinted


@lru_cache(maxsize=64)
def solid(shape: str, box: int) -> Layers:
    """Draw an object, lit and with its shadow, in a box of so many pixels."""
    x, y = _grid(box)
    parts = OBJECTS[shape]
    outer = np.minimum.reduce(
        [_distance(part.outline, x - _SHADOW_AT[0], y - _SHADOW_AT[1]) for part in parts]
    )
    dark = np.clip((_SHADOW_PX[0] - outer) / sum(_SHADOW_PX), 0, 1)
    under = 1 - _SHADOW * dark * dark * (3 - 2 * dark)
    layers = np.concatenate([under[..., None], np.zeros((*under.shape, 4))], -1)
    for part in parts:
        distance = _distance(part.outline, x, y)
        cover = _cover(distance, box)[..., None]
        relief = _distance(part.surface, x, y) if part.surface else distance
        shade, shine = _light(part, distance, relief)
        layers = layers * (1 - cover)
        if part.paint is None:
            layers[..., 1:2] += cover * shade * (1 - shine)
        else:
            layers[..., 2:] += cover * shade * (1 - shine) * np.array(part.paint, float)
        layers[..., 2:] += 255 * cover * shine
    under, tinted, fixed = np.split(_shrink(layers, box), (1, 2), -1)
    return Layers(under, tinted, fixed)


@lru_cache(maxsize=64)
def drawn(shape: str, box: int, filled: bool) -> np.ndarray:
    """Share of each pixel [box, box, 1] that ink covers, in lines or filled."""
    x, y = _grid(box)
    ink = np.zeros(x.shape)
    for part in OBJECTS[shape]:
        distance = _distance(part.outline, x, y)
        cover = _cover(distance, box)
        lines = cover if filled else cover - _cover(distance + _LINE_PX * _SIZE, box)
        ink = ink * (1 - cover) + lines
    return _shrink(ink[..., None], box)


def _grid(box: int) -> tuple[np.ndarray, np.ndarray]:
    n = box * SUPERSAMPLE
    axis = ((np.arange(n) + 0.5) / n - 0.5) * BOX_PX
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return x, y


def _distance(figure: Figure, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return figure((x - _CENTRE[0]) / _SIZE, (y - _CENTRE[1]) / _SIZE) * _SIZE


def _cover(distance: np.ndarray, box: int) -> np.ndarray:
    """Soft edge one sample wide: continuous, so no sample can fall on either side of it."""
    return np.clip(0.5 - distance * (box * SUPERSAMPLE / BOX_PX), 0, 1)


def _light(part: Part, distance: np.ndarray, relief: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brightness of the paint and share of white highlight, [n, n, 1] each."""
    depth = part.depth * _SIZE
    rise = np.clip(-relief / depth, 0, 1)
    height = 0.8 * depth * np.sqrt(rise * (2 - rise) + 0.02)
    dy, dx = np.gradient(height, BOX_PX / len(distance))
    length = np.sqrt(dx * dx + dy * dy + 1)
    facing = np.maximum((LIGHT[2] - dx * LIGHT[0] - dy * LIGHT[1]) / length, 0)
    half = np.array([LIGHT[0], LIGHT[1], LIGHT[2] + 1])
    half = half / np.sqrt((half * half).sum())
    shine = np.maximum((half[2] - dx * half[0] - dy * half[1]) / length, 0)
    for _ in range(5):
        shine = shine * shine  # to the power of 32
    rim = np.clip(1 + distance / _RIM_PX, 0, 1)
    shade = part.tone * (_AMBIENT + _DIFFUSE * facing) * (1 - _RIM * rim)
    return np.minimum(shade, 1.15)[..., None], (part.gloss * shine)[..., None]


def _shrink(samples: np.ndarray, box: int) -> np.ndarray:
    """Average the samples of each pixel; read-only, since it is shared."""
    n = SUPERSAMPLE
    pixels = samples.reshape(box, n, box, n, -1).mean((1, 3))
    pixels.flags.writeable = False
    return pixels
