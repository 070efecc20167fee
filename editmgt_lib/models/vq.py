"""The picture tokenizer: pictures to token ids and back.

Architecture and parameter names are those of the published VQModel (aMUSEd family). Pixels are
[B, 3, H, W] in 0..1 without normalisation; ids are int64 [B, H / factor, W / factor].

Precision: encoding in bfloat16 assigns other tokens, in float16 it overflows to NaN. Hence
`force_upcast` in the published config: encode and decode compute in float32. Weights in a lower
precision are upcast for every call, so keep this module in float32.
"""

from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from .vq_blocks import Bands, Codebook, Decoder, Encoder
from .vq_config import VQConfig, require_whole


class VQModel(nn.Module):
    """Picture tokenizer; `operations` supplies the layer classes (torch.nn by default)."""

    def __init__(self, config: VQConfig, operations: Any = nn):
        super().__init__()
        self.config = config
        patch, latent = config.patch_size**2, config.latent_channels
        width = config.vq_embed_dim or latent
        widths, layers = config.block_out_channels, config.layers_per_block
        shared = (widths, layers, config.norm_num_groups, operations)
        kernel = config.encoder_kernel_size
        self.encoder = Encoder(config.in_channels * patch, latent, *shared, kernel)
        self.quant_conv = operations.Conv2d(latent, width, 1)
        self.quantize = Codebook(config.num_vq_embeddings, width, operations)
        self.post_quant_conv = operations.Conv2d(width, latent, 1)
        self.decoder = Decoder(latent, config.out_channels * patch, *shared)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Encode pixels [B, 3, H, W] in 0..1 to ids int64 [B, H / factor, W / factor].

        Raises InputError for a wrong shape, sides that are not multiples of the factor, or latents
        that are not finite.
        """
        return self.quantize_ids(self.latents(pixels))

    def latents(self, pixels: Tensor) -> Tensor:
        """Encode pixels [B, 3, H, W] in 0..1 to latents [B, width, rows, cols]."""
        self._check_pixels(pixels)
        with self._exact(pixels):
            x = F.pixel_unshuffle(pixels, self.config.patch_size)
            return self._call(self.quant_conv, self._call(self.encoder, x))

    def quantize_ids(self, latents: Tensor) -> Tensor:
        """Quantize latents [B, width, rows, cols] to ids int64 [B, rows, cols]."""
        if not bool(torch.isfinite(latents).all()):
            raise InputError(
                "the picture's latents hold NaN or infinity: give finite pixels and keep the "
                "tokenizer in float32"
            )
        return self.quantize.nearest(latents)

    def lookup(self, ids: Tensor) -> Tensor:
        """Look up the code vectors [B, width, rows, cols] of ids int64 [B, rows, cols]."""
        self._check_ids(ids)
        return self.quantize(ids)

    def decode(self, ids: Tensor) -> Tensor:
        """Decode ids int64 [B, rows, cols] to pixels float32 [B, 3, H, W], not clipped to 0..1."""
        codes = self.lookup(ids)
        with self._exact(codes):
            x = self._call(self.decoder, self._call(self.post_quant_conv, codes))
            return F.pixel_shuffle(x, self.config.patch_size).float()

    @torch.no_grad()
    def decode_tiled(
        self, ids: Tensor, tile: int = 8, storage: torch.device | str | None = None
    ) -> Tensor:
        """Decode in little memory: item by item, `tile` token rows at a time.

        Equal to `decode` up to rounding (relative 1e-5); see `vq_blocks`. Whole feature maps are
        kept on `storage`, by default the device of the ids. For the published model at 1024x1024
        and tile 8 this takes 2.2 GiB where `decode` takes 2.5, with storage="cpu" 0.4 GiB of the
        device (tile 2: 0.1).
        """
        require_whole("tile", tile)
        device = ids.device
        bands = Bands(tile, device, torch.device(storage) if storage is not None else device)
        pixels = []
        for codes in self.lookup(ids).split(1):
            with self._exact(codes):
                x = self._call(self.post_quant_conv, codes)
                x = self._call(self.decoder, x, bands).to(device)
                pixels.append(F.pixel_shuffle(x, self.config.patch_size).float())
        return torch.cat(pixels)

    def _call(self, module: nn.Module, x: Tensor, *more: Any) -> Tensor:
        """Call in float32 under `force_upcast`, else in the precision of the weights."""
        if not self.config.force_upcast:
            return module(x.to(next(module.parameters()).dtype), *more)
        if any(p.dtype != torch.float32 for p in module.parameters()):
            module = deepcopy(module).float()  # a copy: other threads use the module
        return module(x.float(), *more)

    def _exact(self, x: Tensor) -> AbstractContextManager:
        """Suspend a surrounding autocast under `force_upcast`."""
        if not self.config.force_upcast:
            return nullcontext()
        return torch.autocast(x.device.type, enabled=False)

    def _check_pixels(self, pixels: Tensor) -> None:
        channels, factor = self.config.in_channels, self.config.factor
        if pixels.ndim != 4 or pixels.shape[1] != channels or not pixels.is_floating_point():
            raise InputError(
                f"pixels of shape {tuple(pixels.shape)} and type {pixels.dtype}: "
                f"give floating point [B, {channels}, H, W] in 0..1"
            )
        height, width = pixels.shape[2:]
        if not pixels.numel() or height % factor or width % factor:
            raise InputError(
                f"picture of {width}x{height} pixels: both sides must be multiples of {factor}"
            )

    def _check_ids(self, ids: Tensor) -> None:
        codes = self.config.num_vq_embeddings
        if ids.ndim != 3 or ids.dtype not in (torch.int64, torch.int32) or not ids.numel():
            raise InputError(
                f"ids of shape {tuple(ids.shape)} and type {ids.dtype}: give int64 [B, rows, cols]"
            )
        low, high = ids.min().item(), ids.max().item()
        if low < 0 or high >= codes:
            raise InputError(
                f"ids {low}..{high}: the codebook has 0..{codes - 1}; mask tokens have no code"
            )
