"""Stage two: the picture tokenizer, its codebook learnt by moving averages."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.saving import save_module
from ..data.draws import draws
from ..models.vq import VQConfig, VQModel
from ..toyworld.batches import crowded_scene, save_grid, to_pixels
from .stage import Prepared

COMMITMENT = 0.25  # weight of the commitment loss, as published
DECAY = 0.97  # of the moving averages
IDLE_STEPS = 60  # a code unused for this long restarts on a latent of the batch
PICTURES = 10  # on a sheet


def reconstruction_error(
    model: VQModel, codes: Tensor, pixels: Tensor, precision: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Error of decoding codes [B, width, rows, cols]: (training loss, squared, absolute)."""
    # The decoder is the costly part, and bfloat16 products are fast.
    enabled = precision != torch.float32
    with torch.autocast(pixels.device.type, precision, enabled=enabled):
        out = model.decoder(model.post_quant_conv(codes))
    out = F.pixel_shuffle(out, model.config.patch_size).float()
    squared, absolute = F.mse_loss(out, pixels), F.l1_loss(out, pixels)
    return 4 * squared + absolute, squared, absolute


class TokenizerStage:
    """Reconstruction of ToyWorld pictures.

    The codebook has no gradient: each code is the moving average of the latents assigned to it, and
    unused codes restart on latents of the current batch. The first `continuous` steps skip the
    quantizer, so that the codebook starts from useful latents.

    The codebook is learnt from the whole batch at once, so this stage runs on one process and
    without micro-batches.

    Args:
        size: picture side in pixels. seed: of the initial weights and of pictures.
        precision: of the decoder's products.
    """

    whole_batch = True

    def __init__(
        self,
        config: VQConfig,
        size: int,
        seed: int,
        continuous: int = 0,
        device: torch.device | str = "cpu",
        precision: torch.dtype = torch.bfloat16,
    ) -> None:
        self.config, self.size, self.continuous = config, size, continuous
        self.seed, self.device, self.precision = seed, torch.device(device), precision
        self.fingerprint = f"crowded toyworld pictures of {size} pixels, seed {seed}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = VQModel(config)
        codes, width = config.num_vq_embeddings, config.vq_embed_dim or config.latent_channels
        model.quantize.embedding.weight.requires_grad_(False)
        self.modules = nn.ModuleDict({"vqvae": model})
        self.modules.register_buffer("counts", torch.ones(codes))
        self.modules.register_buffer("sums", torch.zeros(codes, width))
        self.modules.register_buffer("idle", torch.full((codes,), IDLE_STEPS))
        self.modules.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.modules.to(self.device)
        # Not trained by gradients, yet part of the state: a buffer that shares its memory.
        self.modules.register_buffer("codes", model.quantize.embedding.weight.data)
        self._latents = self._ids = None

    @property
    def model(self) -> VQModel:
        """The tokenizer being trained."""
        return self.modules["vqvae"]

    @property
    def codes(self) -> Tensor:
        """The codebook [codes, width]."""
        return self.modules.codes

    @property
    def quantizing(self) -> bool:
        """Whether this step uses the codebook."""
        return int(self.modules.step) >= self.continuous

    def prepare(self, numbers: Sequence[int]) -> Prepared:
        """Draw crowded pictures."""
        scenes = [crowded_scene(draws(self.seed, n, "scene")) for n in numbers]
        pixels = to_pixels(scenes, self.size, self.device)
        restarts = int(draws(self.seed, numbers[0], "restarts").integers(2**62))
        generator = torch.Generator().manual_seed(restarts)
        return Prepared((pixels, generator), torch.tensor([len(scenes)], dtype=torch.float64))

    def loss(self, prepared: Prepared, counts: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Absolute and squared pixel error, and the commitment loss."""
        pixels, generator = prepared.data
        model, patch = self.model, self.config.patch_size
        latents = model.quant_conv(model.encoder(F.pixel_unshuffle(pixels, patch)))
        codes = self._quantize(latents, generator) if self.quantizing else latents
        through = latents + (codes - latents).detach()
        error, squared, _ = reconstruction_error(model, through, pixels, self.precision)
        commitment = F.mse_loss(latents, codes.detach())
        used = self._ids.unique().numel() if self.quantizing else 0
        figures = {"mse": squared.detach(), "commit": commitment.detach()}
        figures["codes"] = torch.tensor(float(used), device=self.device)
        return error + COMMITMENT * commitment, figures

    def _quantize(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        flat = latents.detach().movedim(1, -1).flatten(0, -2)
        self._revive(flat, generator)
        ids = self.model.quantize_ids(latents.detach())
        self._latents, self._ids = flat, ids.flatten()
        return self.model.quantize(ids)

    @torch.no_grad()
    def _revive(self, latents: Tensor, generator: torch.Generator) -> None:
        """Restart idle codes on latents [N, width] of the batch."""
        idle = (self.modules.idle >= IDLE_STEPS).nonzero()[:, 0]
        if not len(idle):
            return
        # The codebook lacks latents that are far from every code.
        weights = self._distance(latents).clamp(min=1e-12).cpu()
        chosen = torch.multinomial(weights, min(len(idle), len(weights)), generator=generator)
        idle, chosen = idle[: len(chosen)], chosen.to(self.device)
        self.codes[idle] = latents[chosen]
        self.modules.sums[idle], self.modules.counts[idle] = latents[chosen], 1.0
        self.modules.idle[idle] = 0

    def _distance(self, latents: Tensor) -> Tensor:
        """Squared distance of each latent [N, width] to its nearest code."""
        nearest = self.model.quantize.nearest(latents.T[None, :, :, None]).flatten()
        return (latents - self.codes[nearest]).square().sum(dim=1)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move every code towards the mean of its latents."""
        quantized = self.quantizing
        self.modules.step.add_(1)
        if not quantized:
            return
        counts, sums, idle = self.modules.counts, self.modules.sums, self.modules.idle
        ones = torch.ones(len(self._ids), device=self.device)
        new = torch.zeros_like(counts).index_add_(0, self._ids, ones)
        total = torch.zeros_like(sums).index_add_(0, self._ids, self._latents)
        counts.mul_(DECAY).add_(new, alpha=1 - DECAY)
        sums.mul_(DECAY).add_(total, alpha=1 - DECAY)
        used = counts > 1e-3
        self.codes[used] = sums[used] / counts[used, None]
        idle.add_(1)
        idle[new > 0] = 0

    @torch.no_grad()
    def sheet(self, path: Path) -> None:
        """Draw pictures above their reconstructions."""
        model = self.model
        scenes = [crowded_scene(draws(1, n, "sheet")) for n in range(PICTURES)]
        pixels = to_pixels(scenes, self.size, self.device)
        if self.quantizing:
            again = model.decode(model.encode(pixels))
        else:
            latents = model.post_quant_conv(model.latents(pixels))
            again = F.pixel_shuffle(model.decoder(latents), self.config.patch_size)
        save_grid([pixels, again], path)

    def export(self, folder: Path) -> None:
        """Write `vqvae/`."""
        save_module(folder / "vqvae", self.model, self.config.to_dict())
