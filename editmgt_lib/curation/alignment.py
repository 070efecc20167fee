"""How far the content of a picture moved and by how much it was zoomed, to parts of a pixel.

A search over zooms gives the start: a zoom alone leaves the peak of a correlation where it was and
only lowers it. Gauss-Newton steps, in which pixels that do not fit count little, then refine shift
and zoom of both axes, so that a part that was truly edited does not pull. Local brightness and
contrast are taken off first; colour is not looked at. Of phases alone (phase correlation) the
search would find another place as soon as a third of a smooth picture was edited.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

FINE, COARSE = 256, 128  # longest side looked at, in pixels
SMALLEST = 16  # px; smaller pictures show nothing to align
ZOOMS = np.exp(np.arange(-14, 15) * 0.02)  # 0.76 to 1.32 in steps of 2 %
NEAR = 0.6  # match at which nothing better is searched for
FARTHER = 0.1  # of a match; by so much a distant one must be better: patterns repeat
STRUCTURED = 0.02  # mean square of a block that is not flat
BLOCK, SAME = 16, 0.6  # px; blocks that correlate by more have the same structure
LEAST_MATCH = 0.2  # less may be one object that moved; unrelated photographs have 0.05
FAINT = 2.0  # levels; weaker structure counts less
FLOOR = 0.1  # of structure; a difference as small as this is always taken for noise
FURTHEST = 0.5  # of the logarithm of a zoom
STEPS, DONE = 12, 1e-3  # at most so many; done when no corner moves further, in pixels
LEAST_SURE = 0.25  # px; a standard error above it means that the picture does not tell


@dataclass(frozen=True)
class Alignment:
    """Where the content of the first picture lies in the second.

    Attributes:
        shift_x, shift_y: of the centre to the right and down, in pixels of the pictures.
        zoom_x, zoom_y: about the centre, above 1 for an enlargement.
        match: share of the picture where the two have the same structure, laid on each other.
        residual: median difference of luma that is left, in levels.
        shape: height and width of the pictures.
    """

    shift_x: float
    shift_y: float
    zoom_x: float
    zoom_y: float
    match: float
    residual: float
    shape: tuple[int, int]

    @property
    def moved(self) -> float:
        """How far the corner that moved most did, in pixels."""
        height, width = self.shape
        across = abs(self.shift_x) + abs(self.zoom_x - 1) * width / 2
        return math.hypot(across, abs(self.shift_y) + abs(self.zoom_y - 1) * height / 2)

    @property
    def zoom(self) -> float:
        """Of both axes, their geometric mean."""
        return math.sqrt(self.zoom_x * self.zoom_y)


def align(before: np.ndarray, after: np.ndarray) -> Alignment | None:
    """Align two pictures of one size, luma uint8 [H, W].

    None if it cannot be told: they are flat, too small, or have too little in common.
    """
    if min(before.shape) < SMALLEST:
        return None
    factor = -(-max(before.shape) // FINE)
    grounds = [reduced(luma, factor) for luma in (before, after)]
    first, second = (_structure(luma) for luma in grounds)
    match, warp = _refined(_Warp.identity(), first, second)
    if match < NEAR:
        other, found = _refined(_search(first, second), first, second)
        if other > match + FARTHER:
            match, warp = other, found
    if match < LEAST_MATCH:
        return None
    left = (grounds[1] - warp(grounds[0]))[warp.inside(first.shape)]
    residual = float(np.median(np.abs(left - np.median(left))))
    zoom_y, zoom_x = (1 / warp.scale).tolist()
    shift_y, shift_x = (-warp.offset / warp.scale * factor).tolist()
    return Alignment(shift_x, shift_y, zoom_x, zoom_y, match, residual, before.shape)


def reduced(luma: np.ndarray, factor: int) -> np.ndarray:
    """Means of squares of `factor` pixels: float32; what does not fill one is cut off."""
    height, width = (side // factor * factor for side in luma.shape)
    wide = luma[:height, :width].astype(np.float32)
    rows = sum(wide[k::factor] for k in range(factor))
    return sum(rows[:, k::factor] for k in range(factor)) / np.float32(factor * factor)


def _structure(luma: np.ndarray) -> np.ndarray:
    """Fine structure, everywhere of about the same strength, whatever brightness and contrast."""
    band = _smoothed(luma, 1.0) - _smoothed(luma, 4.0)
    strength = np.sqrt(_smoothed(band * band, 6.0))
    return band / (strength + np.float32(FAINT))


def _smoothed(x: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian of `sigma` pixels, the border repeated."""
    radius = int(3 * sigma)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    for weights in (taps / taps.sum(),) * 2:
        padded = np.pad(x, ((radius, radius), (0, 0)), "edge")
        x = sum(np.float32(w) * padded[k : k + len(x)] for k, w in enumerate(weights)).T
    return np.ascontiguousarray(x)


def _agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Share of the blocks of a picture in which both have structure, and the same."""
    products = (first * second, first * first, second * second)
    both, one, other = (reduced(x, min(BLOCK, *first.shape)) for x in products)
    structured = np.minimum(one, other) > STRUCTURED
    return float((structured & (both > SAME * np.sqrt(one * other))).mean())


# --- warps ---


@dataclass(frozen=True)
class _Warp:
    """Reads a picture at scale * (y - centre) + centre + offset, and likewise x.

    scale, offset: float64 [2], of y and x.
    """

    scale: np.ndarray
    offset: np.ndarray

    @classmethod
    def identity(cls) -> "_Warp":
        return cls(np.ones(2), np.zeros(2))

    def places(self, axis: int, size: int) -> np.ndarray:
        """Where each row or column is read."""
        centre = (size - 1) / 2
        return self.scale[axis] * (np.arange(size) - centre) + centre + self.offset[axis]

    def inside(self, shape: tuple[int, int]) -> np.ndarray:
        """Mask of what is read within the picture: bool [H, W]."""
        rows, columns = (
            (self.places(axis, size) >= 0) & (self.places(axis, size) <= size - 1)
            for axis, size in enumerate(shape)
        )
        return np.outer(rows, columns)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Read [H, W] there by cubic interpolation (Catmull-Rom), the border repeated."""
        for axis in (0, 1):  # both times along the rows: each pass transposes
            x = _read(x, self.places(axis, len(x))).T
        return np.ascontiguousarray(x)


def _read(x: np.ndarray, places: np.ndarray) -> np.ndarray:
    floor = np.floor(places)
    t = (places - floor)[:, None]
    weights = (
        ((-0.5 * t + 1) * t - 0.5) * t, (1.5 * t - 2.5) * t * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t, (0.5 * t - 0.5) * t * t,
    )  # fmt: skip
    rows = [np.clip(floor.astype(int) + k, 0, len(x) - 1) for k in (-1, 0, 1, 2)]
    return sum(w.astype(np.float32) * x[r] for w, r in zip(weights, rows, strict=True))


def _search(first: np.ndarray, second: np.ndarray) -> _Warp:
    """The zoom, and the shift with it, at which the structures correlate best."""
    factor = -(-max(first.shape) // COARSE)
    small, other = reduced(first, factor), reduced(second, factor)
    target = np.fft.rfft2(other)
    found = []
    for zoom in ZOOMS:
        zoomed = replace(_Warp.identity(), scale=np.full(2, 1 / zoom))(small)
        surface = np.fft.irfft2(target * np.fft.rfft2(zoomed).conj(), small.shape)
        strength = np.linalg.norm(zoomed) + 1e-9
        found.append((float(surface.max() / strength), zoom, int(surface.argmax())))
    _, zoom, place = max(found)
    peak, sides = np.unravel_index(place, small.shape), np.array(small.shape)
    shift = (np.array(peak) + sides // 2) % sides - sides // 2  # the surface is cyclic
    return _Warp(np.full(2, 1 / zoom), -shift * factor / zoom)


def _refined(start: _Warp, first: np.ndarray, second: np.ndarray) -> tuple[float, _Warp]:
    """The nearest warp that fits, and at how much of the picture; 0 if it is not determined."""
    warp = _descended(start, first, second)
    if warp is None:
        return 0.0, start
    return _agreement(warp(first) * warp.inside(first.shape), second), warp


def _descended(warp: _Warp, first: np.ndarray, second: np.ndarray) -> _Warp | None:
    """Gauss-Newton with weights (Welsch); None if the pictures do not determine the warp."""
    height, width = first.shape
    half = np.array([height / 2, width / 2])
    rows = ((np.arange(height) - (height - 1) / 2) / half[0])[:, None].astype(np.float32)
    columns = ((np.arange(width) - (width - 1) / 2) / half[1])[None].astype(np.float32)
    for _ in range(STEPS):
        moved = warp(first)
        left = second - moved
        inside = warp.inside(first.shape)
        if inside.sum() < SMALLEST**2:
            return None
        noise = max(FLOOR, 1.4826 * float(np.median(np.abs(left[inside]))))
        weights = np.exp(-0.5 * (left / (2 * noise)) ** 2) * inside
        down, right = np.gradient(moved)
        down, right = down / warp.scale[0], right / warp.scale[1]
        slopes = np.stack([down, down * rows, right, right * columns]).reshape(4, -1)
        slopes = slopes.astype(np.float64)
        weighted = slopes * weights.ravel()
        normal = weighted @ slopes.T
        sure = _standard_error(normal, noise)
        if sure > LEAST_SURE:
            return None
        step = np.linalg.solve(normal, weighted @ left.ravel())
        warp = _Warp(warp.scale + step[[1, 3]] / half, warp.offset + step[[0, 2]])
        if (np.abs(np.log(warp.scale)) > FURTHEST).any():
            return None
        if np.abs(step).sum() < DONE:
            break
    return warp


def _standard_error(normal: np.ndarray, noise: float) -> float:
    """Of the place of a corner, in pixels; neighbours within the smoothing are not independent."""
    try:
        variances = np.linalg.inv(normal + 1e-9 * np.eye(4)).diagonal()
    except np.linalg.LinAlgError:
        return float("inf")
    return float(noise * 4 * np.sqrt(max(variances.sum(), 0)))
