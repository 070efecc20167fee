"""Pictures as the encoders take them, equal to the transforms of openai/CLIP and of DINO.

Both go through Pillow's bicubic filter on 8-bit pictures, as those transforms do on PIL images;
the arithmetic afterwards is float32 in the same order. transformers' own image processors are not
used: the fast ones resize tensors, where a pixel may be one of 255 off, and DINO's files on the
hub squash to 224 instead of cropping 256 to 224.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .samples import Pixels

SIDE = 224
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def clip_input(picture: Pixels) -> Tensor:
    """Short side to 224 (bicubic), centre crop of 224, CLIP's mean and std: [3, 224, 224]."""
    return _standardized(_cropped(_short_side(_image(picture), SIDE)), CLIP_MEAN, CLIP_STD)


def dino_input(picture: Pixels) -> Tensor:
    """Short side to 256 (bicubic), centre crop of 224, ImageNet's mean and std: [3, 224, 224]."""
    return _standardized(_cropped(_short_side(_image(picture), 256)), IMAGENET_MEAN, IMAGENET_STD)


def clip_squashed(picture: Pixels) -> Tensor:
    """The whole picture at 224x224, so that nothing is outside a crop; else as `clip_input`."""
    return _standardized(_squashed(picture), CLIP_MEAN, CLIP_STD)


def dino_squashed(picture: Pixels) -> Tensor:
    """The whole picture at 224x224, so that nothing is outside a crop; else as `dino_input`."""
    return _standardized(_squashed(picture), IMAGENET_MEAN, IMAGENET_STD)


def short_side_size(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) with the short one at `side` and the long one rounded down."""
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def structure_input(picture: Pixels, antialias: bool, scale: float) -> Tensor:
    """Short side to 224, long side at most 480 (bilinear), ImageNet's mean and std: [3, H, W].

    scale: what 255 becomes before mean and std: 1, or 255 for PIE-Bench's.
    """
    width, height = short_side_size(picture.shape[1], picture.shape[0], SIDE)
    if max(width, height) > 480:
        short = int(480 * SIDE / max(width, height))
        width, height = (480, short) if width > height else (short, 480)
    pixels = torch.from_numpy(picture.astype(np.float32)).movedim(-1, 0)[None]
    small = torch.nn.functional.interpolate(
        pixels, (height, width), mode="bilinear", align_corners=False, antialias=antialias
    )
    mean, std = _planes(IMAGENET_MEAN), _planes(IMAGENET_STD)
    return (small[0] * (scale / 255) - mean) / std


def _image(picture: Pixels) -> Image.Image:
    return Image.fromarray(picture)


def _short_side(image: Image.Image, side: int) -> Image.Image:
    size = short_side_size(*image.size, side)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def _squashed(picture: Pixels) -> Image.Image:
    return _image(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _cropped(image: Image.Image) -> Image.Image:
    left, top = (round((length - SIDE) / 2) for length in image.size)
    return image.crop((left, top, left + SIDE, top + SIDE))


def _standardized(image: Image.Image, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)).movedim(-1, 0) / 255
    return (pixels - _planes(mean)) / _planes(std)


def _planes(values: tuple[float, ...]) -> Tensor:
    """One value per channel [C, 1, 1]."""
    return torch.tensor(values, dtype=torch.float32, device="cpu")[:, None, None]
