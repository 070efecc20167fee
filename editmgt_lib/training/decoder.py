"""Last stage: the tokenizer's decoder alone, on pictures like those of edits.

Encoder and codebook are frozen, so tokens keep their meaning. A codebook is learnt best on crowded
pictures, but from those the decoder does not learn large, even backgrounds.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoints.saving import save_module
from ..models.vq import VQModel
from ..toyworld.batches import crowded_scene, save_grid, to_pixels, training_scene
from .loop import StepRandom
from .tokenizer import PICTURES, reconstruction_error


class DecoderStage:
    """Reconstruction from fixed tokens.

    Args:
        vq: the trained tokenizer. size: picture side in pixels.
    """

    def __init__(self, vq: VQModel, size: int, device: torch.device | str = "cpu") -> None:
        self.size, self.device = size, torch.device(device)
        vq.requires_grad_(False)
        for part in (vq.decoder, vq.post_quant_conv):
            part.requires_grad_(True)
        self.modules = nn.ModuleDict({"vqvae": vq}).to(self.device)

    @property
    def model(self) -> VQModel:
        """The tokenizer being trained."""
        return self.modules["vqvae"]

    def loss(self, random: StepRandom, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Absolute and squared pixel error; every fourth picture is crowded."""
        rng = random.data
        scenes = [(crowded_scene if i % 4 == 0 else training_scene)(rng) for i in range(batch)]
        pixels = to_pixels(scenes, self.size, self.device)
        with torch.no_grad():
            codes = self.model.lookup(self.model.encode(pixels))
        error, squared, absolute = reconstruction_error(self.model, codes, pixels)
        return error, {"mse": squared.detach(), "l1": absolute.detach()}

    def after_step(self) -> None:
        """Nothing to do."""

    @torch.no_grad()
    def sheet(self, path: Path) -> None:
        """Draw pictures above their reconstructions."""
        rng = StepRandom.of(1, 0).data
        pixels = to_pixels([training_scene(rng) for _ in range(PICTURES)], self.size, self.device)
        save_grid([pixels, self.model.decode(self.model.encode(pixels))], path)

    def export(self, folder: Path) -> None:
        """Write `vqvae/`."""
        save_module(folder / "vqvae", self.model, self.model.config.to_dict())
