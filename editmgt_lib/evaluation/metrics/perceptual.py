"""LPIPS: distance of unit-length features of AlexNet or SqueezeNet, weighted per channel.

The weights of the channels come with torchmetrics. The backbones are torchvision's ImageNet
networks, of which only the convolutions are used; they are built here, so torchvision is not
needed, and their weights are a safetensors file that the user gives, with torchvision's names.
To make one of torchvision's own file, where you trust it:

    safetensors.torch.save_file(torch.load("alexnet-owt-7be5be79.pth", weights_only=True),
                                "networks/lpips-alex/model.safetensors")

("squeezenet1_1-b8a52dc0.pth" for SqueezeNet). Pictures go in at their own size, in 0..1.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError
from ...precision import no_autocast
from .base import NotApplicable
from .pixels import RANGE, Pixels

SMALLEST = 32
"""Sides below this leave nothing for the last layers."""


class Fire(nn.Module):
    """SqueezeNet's block: a narrow 1x1 convolution, then a 1x1 and a 3x3 side by side."""

    def __init__(self, channels: int, narrow: int, wide: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, wide, 1)
        self.expand3x3 = nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat((self.expand1x1(x), self.expand3x3(x)), 1).relu()


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def alexnet() -> nn.Sequential:
    """Convolutions of torchvision's AlexNet."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )


def squeezenet() -> nn.Sequential:
    """Convolutions of torchvision's SqueezeNet 1.1."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), _pool()),
        *(Fire(64, 16, 64), Fire(128, 16, 64), _pool()),
        *(Fire(128, 32, 128), Fire(256, 32, 128), _pool()),
        *(Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
    )


BACKBONES = {
    "alex": (alexnet, (1, 4, 7, 9, 11)),
    "squeeze": (squeezenet, (1, 4, 7, 9, 10, 11, 12)),
}
"""How to build each and after which of its modules features are taken."""


class Lpips(nn.Module):
    """LPIPS on a backbone of `BACKBONES`; `features` has torchvision's names."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        build, self.taps = BACKBONES[backbone]
        self.features = build()
        self.heads: list[Tensor] = []

    def distance(self, first: Pixels, second: Pixels, where: np.ndarray | None = None) -> float:
        """LPIPS of two pictures of one size; 0 if identical.

        where: bool [H, W]; every layer is then averaged over this region alone, resized to the
        layer by area. The features still see what lies around it.
        Raises NotApplicable for pictures with a side below 32 pixels.
        """
        if min(first.shape[:2]) < SMALLEST:
            raise NotApplicable(f"a side has fewer than {SMALLEST} pixels")
        device = self.features[0].weight.device
        with torch.inference_mode(), no_autocast(device):
            pair = torch.from_numpy(np.stack((first, second))).movedim(-1, 1).to(device)
            layers = [layer.cpu().double() for layer in self._layers(pair.float() / RANGE)]
        if where is None:
            return float(sum(layer.mean() for layer in layers))
        weight = torch.from_numpy(where).double()[None]
        return float(sum(_weighted_mean(layer, weight) for layer in layers))

    def _layers(self, pair: Tensor) -> list[Tensor]:
        """Distance maps [H, W], one per layer, of a pair [2, 3, H, W] in 0..1."""
        shift = pair.new_tensor((-0.030, -0.088, -0.188))[:, None, None]
        scale = pair.new_tensor((0.458, 0.448, 0.450))[:, None, None]
        x = (2 * pair - 1 - shift) / scale
        maps = []
        for place, module in enumerate(self.features):
            x = module(x)
            if place in self.taps:
                unit = x / torch.sqrt(1e-8 + (x**2).sum(1, keepdim=True))
                head = self.heads[len(maps)].to(x)
                maps.append(((unit[0] - unit[1]) ** 2 * head[:, None, None]).sum(0))
        return maps


def _weighted_mean(layer: Tensor, weight: Tensor) -> Tensor:
    small = nn.functional.adaptive_avg_pool2d(weight, layer.shape)[0]
    return (layer * small).sum() / small.sum()


def read_heads(backbone: str) -> list[Tensor]:
    """The channels' weights [C] per layer, from torchmetrics. Raises InputError without it."""
    found = find_spec("torchmetrics")
    if found is None or found.origin is None:
        raise InputError("LPIPS needs torchmetrics; pip install editmgt[eval]")
    file = Path(found.origin).parent / f"functional/image/lpips_models/{backbone}.pth"
    tensors = torch.load(file, weights_only=True, map_location="cpu")
    return [tensors[f"lin{layer}.model.1.weight"].flatten() for layer in range(len(tensors))]
