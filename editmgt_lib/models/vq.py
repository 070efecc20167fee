"""The picture tokenizer: pictures to token ids and back.

Numbers and parameter names are those of the published VQModel (aMUSEd family). Pixels are
[B, 3, H, W] in 0..1 without normalisation; ids are int64 [B, H / factor, W / factor].

Precision: low-precision encoding assigns other tokens (bf16) or overflows to NaN (fp16), which is
why the published config sets `force_upcast`. With it every encode and decode computes in float32;
weights stored in a lower precision are widened for the call, which copies them each time: a loader
does best to keep this module in float32.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..errors import CheckpointError, InputError
from .vq_blocks import Bands, Codebook, Decoder, Encoder, nearest_codes

__all__ = ["VQConfig", "VQModel", "nearest_codes"]

CODEBOOK_WEIGHT = 0.25  # of the codebook term beside the commitment term, as published

_POSITIVE = (
    "in_channels",
    "out_channels",
    "layers_per_block",
    "latent_channels",
    "sample_size",
    "num_vq_embeddings",
    "patch_size",
)
_ONLY = {
    "act_fn": "silu",
    "norm_type": "group",
    "mid_block_add_attention": False,
    "lookup_from_codebook": True,
}


@dataclass(frozen=True, kw_only=True)
class VQConfig:
    """Fields of the published VQModel configuration, and two of ours.

    patch_size: the picture is pixel-unshuffled by it before the first convolution and
        pixel-shuffled after the last one (1: the published model).
    encoder_kernel_size: 3 as published, or 1: with one level, every token then depends on the
        pixels of its own cell alone, so a token outside an edit can't move.
    norm_num_groups: groups of every GroupNorm, or 0 for no norms (ours): their statistics run over
        the whole picture, so that every token depends on all of it.
    down_block_types, up_block_types: left empty, they are filled in, one per level.
    sample_size, scaling_factor: carried for round trips; tokens do not use them.
    Raises InputError naming the field, its value and what is supported.
    """

    block_out_channels: tuple[int, ...]
    layers_per_block: int
    latent_channels: int
    num_vq_embeddings: int
    norm_num_groups: int
    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ()
    up_block_types: tuple[str, ...] = ()
    act_fn: str = "silu"
    sample_size: int = 32
    vq_embed_dim: int | None = None
    scaling_factor: float = 0.18215
    norm_type: str = "group"
    mid_block_add_attention: bool = False
    lookup_from_codebook: bool = True
    force_upcast: bool = True
    patch_size: int = 1
    encoder_kernel_size: int = 3

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            _require_positive(name, getattr(self, name))
        if self.vq_embed_dim is not None:
            _require_positive("vq_embed_dim", self.vq_embed_dim)
        if self.norm_num_groups != 0:
            _require_positive("norm_num_groups", self.norm_num_groups)
        if self.encoder_kernel_size not in (1, 3):
            raise InputError(f"encoder_kernel_size={self.encoder_kernel_size!r} must be 1 or 3")
        for name, supported in _ONLY.items():
            if (value := getattr(self, name)) != supported:
                raise InputError(f"{name}={value!r} is not supported: only {supported!r} is")
        if not isinstance(self.force_upcast, bool):
            raise InputError(f"force_upcast={self.force_upcast!r} must be true or false")
        self._check_widths()
        self._fill_blocks("down_block_types", "DownEncoderBlock2D")
        self._fill_blocks("up_block_types", "UpDecoderBlock2D")

    def _check_widths(self) -> None:
        widths, groups = self.block_out_channels, self.norm_num_groups
        if not isinstance(widths, (tuple, list)) or not widths:
            raise InputError(f"block_out_channels={widths!r} must list one width per level")
        for width in widths:
            _require_positive("block_out_channels", width)
            if groups and width % groups:
                raise InputError(
                    f"block_out_channels={widths!r}: {width} is not a multiple of "
                    f"norm_num_groups={groups}"
                )
        object.__setattr__(self, "block_out_channels", tuple(widths))

    def _fill_blocks(self, name: str, supported: str) -> None:
        blocks, levels = getattr(self, name), len(self.block_out_channels)
        if not isinstance(blocks, (tuple, list)) or any(block != supported for block in blocks):
            raise InputError(f"{name}={blocks!r} is not supported: only {supported!r} is")
        if blocks and len(blocks) != levels:
            raise InputError(
                f"{name} has {len(blocks)} entries, block_out_channels {levels}: give as many"
            )
        object.__setattr__(self, name, (supported,) * levels)

    @property
    def factor(self) -> int:
        """Pixels per token, along each side."""
        return self.patch_size * 2 ** (len(self.block_out_channels) - 1)

    @property
    def decoder_reach(self) -> int:
        """How many tokens around a changed one the decoder's convolutions can influence.

        Each 3x3 convolution reaches one cell of its level; the sum is rounded up to tokens. Not
        counted: GroupNorm statistics, which reach the whole picture. Published model: 18.
        """
        last = len(self.block_out_channels) - 1
        cells = 0  # of the finest level, 2^last to a token
        for level in range(last + 1):
            convs = 2 * (self.layers_per_block + 1)
            convs += 1 + 4 if level == 0 else 1  # conv_in and mid block, or the upsampler
            convs += level == last  # conv_out
            cells += convs * 2 ** (last - level)
        return -(-cells // 2**last)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "VQConfig":
        """Read a published config.json; keys beginning with "_" are ignored.

        Raises CheckpointError for unknown or missing keys and for unsupported values.
        """
        given = {k: v for k, v in values.items() if not k.startswith("_")}
        known = {f.name for f in fields(cls)}
        required = {f.name for f in fields(cls) if f.default is MISSING}
        if unknown := [f"{k}={given[k]!r}" for k in sorted(given.keys() - known)]:
            raise CheckpointError(
                f"tokenizer config: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}"
            )
        if missing := sorted(required - given.keys()):
            raise CheckpointError(f"tokenizer config: add the missing {', '.join(missing)}")
        try:
            return cls(**given)
        except InputError as error:
            raise CheckpointError(f"tokenizer config: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """All fields, tuples as lists, ready for JSON; `from_dict` reads it back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def _require_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name}={value!r} must be an integer of at least 1")


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

    @property
    def decoder_reach(self) -> int:
        """See `VQConfig.decoder_reach`."""
        return self.config.decoder_reach

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, H, W] in 0..1 -> ids int64 [B, H / factor, W / factor].

        Raises InputError for a wrong shape, sides that are no multiples of the factor, and latents
        that are not finite.
        """
        return self.quantize_ids(self.latents(pixels))

    def latents(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, H, W] in 0..1 -> latents [B, width, rows, cols] before quantisation."""
        self._check_pixels(pixels)
        with self._exact(pixels):
            x = F.pixel_unshuffle(pixels, self.config.patch_size)
            return self._call(self.quant_conv, self._call(self.encoder, x))

    def quantize_ids(self, latents: Tensor) -> Tensor:
        """latents [B, width, rows, cols] -> ids int64 [B, rows, cols] of the nearest codes."""
        if not bool(torch.isfinite(latents).all()):
            raise InputError(
                "the picture's latents hold NaN or infinity: give finite pixels and keep the "
                "tokenizer in float32"
            )
        return self.quantize.nearest(latents)

    def lookup(self, ids: Tensor) -> Tensor:
        """ids int64 [B, rows, cols] -> code vectors [B, width, rows, cols]."""
        self._check_ids(ids)
        return self.quantize(ids)

    def decode(self, ids: Tensor) -> Tensor:
        """ids int64 [B, rows, cols] -> pixels float32 [B, 3, H, W], not clipped to 0..1."""
        codes = self.lookup(ids)
        with self._exact(codes):
            x = self._call(self.decoder, self._call(self.post_quant_conv, codes))
            return F.pixel_shuffle(x, self.config.patch_size).float()

    @torch.no_grad()
    def decode_tiled(
        self, ids: Tensor, tile: int = 8, rest: torch.device | str | None = None
    ) -> Tensor:
        """`decode` in short memory: item by item, `tile` token rows at a time.

        Equal to `decode` but for rounding (relative 1e-5): see `vq_blocks`. Whole feature maps wait
        on `rest`, by default the device of the ids. Published model at 1024x1024, tile 8: 2.2 GiB
        where `decode` needs 2.5; with rest="cpu" 0.4 GiB stay on the device (tile 2: 0.1).
        """
        _require_positive("tile", tile)
        device = ids.device
        bands = Bands(tile, device, torch.device(rest) if rest is not None else device)
        pixels = []
        for codes in self.lookup(ids).split(1):
            with self._exact(codes):
                x = self._call(self.post_quant_conv, codes)
                x = self._call(self.decoder, x, bands).to(device)
                pixels.append(F.pixel_shuffle(x, self.config.patch_size).float())
        return torch.cat(pixels)

    def forward_train(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One training pass: (reconstruction [B, 3, H, W], loss of the quantiser, ids).

        Gradients pass the quantiser straight through. The loss is that of the published class,
        mean (sg[e] - z)^2 + 0.25 mean (e - sg[z])^2; with a frozen codebook (moving averages) only
        the first, the commitment, has a gradient.
        """
        self._check_pixels(pixels)
        x = F.pixel_unshuffle(pixels, self.config.patch_size)
        latents = self.quant_conv(self.encoder(x))
        ids = self.quantize_ids(latents.detach())
        codes = self.quantize(ids)
        loss = F.mse_loss(latents, codes.detach())
        loss = loss + CODEBOOK_WEIGHT * F.mse_loss(codes, latents.detach())
        x = self.decoder(self.post_quant_conv(latents + (codes - latents).detach()))
        return F.pixel_shuffle(x, self.config.patch_size), loss, ids

    def _call(self, module: nn.Module, x: Tensor, *more: Any) -> Tensor:
        """module(x) in float32 under `force_upcast`, else in the precision of its weights."""
        if not self.config.force_upcast:
            return module(x.to(next(module.parameters()).dtype), *more)
        low = {n: p.float() for n, p in module.named_parameters() if p.dtype != torch.float32}
        x = x.float()
        return functional_call(module, low, (x, *more)) if low else module(x, *more)

    def _exact(self, x: Tensor) -> AbstractContextManager:
        """Shut out a surrounding autocast where float32 is asked for."""
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
