"""Square crops, the same part of source and target whatever their sizes.

Half of CrispEdit's pairs differ in resolution, so a crop is a rectangle in fractions of a picture's
sides. (The published code draws one for each picture, which moves them apart by 5 to 11 tokens.)
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..pictures.canvas import Placement
from ..sampling.predictor import AESTHETIC_SCORE

VERSION = 1  # of this file and of how pictures are decoded: raise it where ids would change


@dataclass(frozen=True)
class Crop:
    """A square of the target in whole pixels, as far as its size allows.

    height, width: of the target. top, left, side: of the square.
    """

    height: int
    width: int
    top: int
    left: int
    side: int

    @property
    def relative(self) -> tuple[float, float, float, float]:
        """Top, left, bottom and right in fractions of height and width."""
        bottom, right = self.top + self.side, self.left + self.side
        return (self.top / self.height, self.left / self.width,
                bottom / self.height, right / self.width)  # fmt: skip

    def micro_conditions(self, size: int) -> list[float]:
        """Width, height, top, left after scaling to `size`, aesthetic score; as published."""
        top, left = (round(at * size / self.side) for at in (self.top, self.left))
        return [float(self.width), float(self.height), float(top), float(left), AESTHETIC_SCORE]

    def take(self, picture: Tensor, size: int) -> Tensor:
        """This part of a picture [H, W, 3] of any size, scaled: [3, size, size]."""
        height, width = picture.shape[:2]
        top, left, bottom, right = (
            round(at * side) for at, side in zip(self.relative, (height, width) * 2, strict=True)
        )
        box = (
            min(top, height - 1),
            min(left, width - 1),
            max(bottom, top + 1),
            max(right, left + 1),
        )
        return Placement(box, (size, size), (0, 0)).place(picture[..., :3], (size, size))[0]


def draw_crop(height: int, width: int, rng: np.random.Generator) -> Crop:
    """Draw a square as large as fits, anywhere along the longer side."""
    side = min(height, width)
    top, left = (int(rng.integers(length - side + 1)) for length in (height, width))
    return Crop(height, width, top, left, side)


def aspect_difference(first: Tensor, second: Tensor) -> float:
    """Relative difference of the aspects of two pictures [H, W, C]; 0 if equal."""
    (h, w), (height, width) = first.shape[:2], second.shape[:2]
    ratio = (w * height) / (h * width)
    return max(ratio, 1 / ratio) - 1
