"""Last stage: the tokenizer's decoder alone, on pictures like those of edits.

Encoder and codebook are frozen, so tokens keep their meaning. A codebook is learnt best on crowded
pictures, but from those the decoder does not learn large, even backgrounds.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoints.saving import save_module
from ..data.draws import draws
from ..models.vq import VQModel
from ..toyworld.batches import crowded_scene, save_grid, to_pixels, training_scene
from .stage import Prepared
from .tokenizer import PICTURES, reconstruction_error


class DecoderStage:
    """Reconstruction from fixed tokens.

    Args:
        vq: the trained tokenizer. size: picture side in pixels. seed: of pictures.
        precision: of the decoder's products.
    """

    def __init__(
        self,
        vq: VQModel,
        size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        precision: torch.dtype = torch.bfloat16,
    ) -> None:
        self.size, self.seed, self.device = size, seed, torch.device(device)
        self.precision = precision
        self.fingerprint = f"toyworld pictures of {size} pixels, seed {seed}"
        vq.requires_grad_(False)
        for part in (vq.decoder, vq.post_quant_conv):
            part.requires_grad_(True)
        self.modules = nn.ModuleDict({"vqvae": vq}).to(self.device)

    @property
    def model(self) -> VQModel:
        """The tokenizer being trained."""
        return self.modules["vqvae"]

    def prepare(self, numbers: Sequence[int]) -> Prepared:
        """Draw and tokenize pictures, every fourth of them crowded."""
        scenes = [
            (training_scene if n % 4 else crowded_scene)(draws(self.seed, n, "scene"))
            for n in numbers
        ]
        pixels = to_pixels(scenes, self.size, self.device)
        with torch.no_grad():
            codes = self.model.lookup(self.model.encode(pixels))
        return Prepared((pixels, codes), torch.tensor([len(scenes)], dtype=torch.float64))

    def loss(self, prepared: Prepared, counts: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Absolute and squared pixel error."""
        pixels, codes = prepared.data
        share = len(pixels) / float(counts[0])
        errors = reconstruction_error(self.model, codes, pixels, self.precision)
        error, squared, absolute = (share * e for e in errors)
        return error, {"mse": squared.detach(), "l1": absolute.detach()}

    def after_step(self) -> None:
        """Nothing to do."""

    @torch.no_grad()
    def sheet(self, path: Path) -> None:
        """Draw pictures above their reconstructions."""
        scenes = [training_scene(draws(1, n, "sheet")) for n in range(PICTURES)]
        pixels = to_pixels(scenes, self.size, self.device)
        save_grid([pixels, self.model.decode(self.model.encode(pixels))], path)

    def export(self, folder: Path) -> None:
        """Write `vqvae/`."""
        save_module(folder / "vqvae", self.model, self.model.config.to_dict())
