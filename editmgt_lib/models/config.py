"""The transformer's hyper-parameters, as the published `editmgt/config.json` stores them."""

from dataclasses import asdict, dataclass, fields

from ..errors import CheckpointError

CONNECTORS = ("none", "linear")
MICRO_CONDITIONS = 5  # width, height, crop x, crop y, aesthetic score
MICRO_WIDTH = 256  # sinusoid width of each micro-condition


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of one masked generative transformer; no silent defaults for what a checkpoint decides.

    `patch_size`, `in_channels` and `guidance_embeds` are stored by the published config but unused.
    """

    num_layers: int
    num_single_layers: int
    num_attention_heads: int
    attention_head_dim: int
    joint_attention_dim: int
    pooled_projection_dim: int
    axes_dims_rope: tuple[int, ...]
    vocab_size: int
    codebook_size: int
    downsample: bool
    upsample: bool
    connector_type: str
    text_encoder_architecture: str = "CLIP_Gemma2"
    patch_size: int = 1
    in_channels: int = 64
    guidance_embeds: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes_dims_rope", tuple(self.axes_dims_rope))
        problem = self._problem()
        if problem:
            raise CheckpointError(f"transformer config: {problem}")

    def _problem(self) -> str | None:
        if self.connector_type not in CONNECTORS:
            return f"connector_type is {self.connector_type!r}; use one of {', '.join(CONNECTORS)}"
        if sum(self.axes_dims_rope) != self.attention_head_dim:
            return (
                f"axes_dims_rope {self.axes_dims_rope} sums to {sum(self.axes_dims_rope)}; "
                f"it must equal attention_head_dim {self.attention_head_dim}"
            )
        if any(axis % 2 for axis in self.axes_dims_rope):
            return f"axes_dims_rope {self.axes_dims_rope} must be even numbers"
        if self.codebook_size >= self.vocab_size:
            return (
                f"vocab_size {self.vocab_size} must exceed codebook_size {self.codebook_size} "
                "(its last row is the mask token)"
            )
        if self.downsample != self.upsample:
            return f"downsample is {self.downsample} but upsample is {self.upsample}"
        if self.guidance_embeds:
            return "guidance_embeds is true; no EditMGT checkpoint uses guidance embeddings"
        return None

    @property
    def width(self) -> int:
        """Channels of every hidden state."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def mask_token_id(self) -> int:
        """The id that marks a token still to be predicted: the last row of the embedding."""
        return self.vocab_size - 1

    @property
    def stride(self) -> int:
        """Tokens per position inside the transformer, along each side."""
        return 2 if self.downsample else 1

    @property
    def num_blocks(self) -> int:
        """Double-stream plus single-stream blocks."""
        return self.num_layers + self.num_single_layers

    @classmethod
    def from_dict(cls, values: dict) -> "TransformerConfig":
        """Read a `config.json`; keys starting with `_` are library bookkeeping and ignored.

        Raises:
            CheckpointError: unknown or missing keys (listed), or values that cannot be.
        """
        values = {k: v for k, v in values.items() if not k.startswith("_")}
        known = {f.name for f in fields(cls)}
        surplus = sorted(set(values) - known)
        if surplus:
            raise CheckpointError(f"transformer config: unknown keys {', '.join(surplus)}")
        try:
            return cls(**values)
        except TypeError as error:
            raise CheckpointError(f"transformer config: {error}") from None

    def to_dict(self) -> dict:
        """The same, as `config.json` stores it."""
        return asdict(self) | {"axes_dims_rope": list(self.axes_dims_rope)}
