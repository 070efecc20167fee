"""Sizes of the picture tokenizer, as its config.json states them."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from ..errors import CheckpointError, InputError
from .config import known_keys

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


def require_whole(name: str, value: Any, low: int = 1) -> None:
    """Raise InputError unless `value` is an int of at least `low`."""
    if type(value) is not int or value < low:
        raise InputError(f"{name} is {value!r}; use a whole number from {low} up")


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
            require_whole(name, getattr(self, name))
        if self.vq_embed_dim is not None:
            require_whole("vq_embed_dim", self.vq_embed_dim)
        require_whole("norm_num_groups", self.norm_num_groups, 0)
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
            require_whole("block_out_channels", width)
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
    def cellwise(self) -> bool:
        """Whether a token depends on the pixels of its own cell alone."""
        levels = len(self.block_out_channels)
        return self.encoder_kernel_size == levels == 1 and self.norm_num_groups == 0

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
    def from_dict(cls, values: Mapping[str, Any], where: str = "tokenizer config") -> "VQConfig":
        """Read a published `config.json`; keys it does not know are ignored with a warning.

        where: what messages call the source, normally the file.

        Raises CheckpointError for missing keys and for values that are not supported.
        """
        given = known_keys(cls, values, where)
        required = {f.name for f in fields(cls) if f.default is MISSING}
        if missing := sorted(required - given.keys()):
            raise CheckpointError(f"{where}: add the missing {', '.join(missing)}")
        try:
            return cls(**given)
        except InputError as error:
            raise CheckpointError(f"{where}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """All fields, tuples as lists, ready for JSON; `from_dict` reads it back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
