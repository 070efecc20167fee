"""The transformer's hyperparameters, as `editmgt/config.json` states and tensors confirm."""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import CheckpointError

Shapes = Mapping[str, Sequence[int]]

CONNECTORS = ("none", "linear")
# The projection onto the codebook is float32 always: logits are then half as far from those of a
# float32 model, for one weight in a hundred.
FLOAT32_WEIGHTS = ("mlm_layer.conv2.weight",)
MICRO_CONDITIONS = 5  # width, height, crop x, crop y, aesthetic score
MICRO_WIDTH = 256  # sinusoid width of each micro-condition
CONNECTOR_WEIGHT = "connector.projector.weight"
# No tensor tells how the head dimension splits over rotary axes. This is the published class's own
# default, which it takes when the key is absent.
PUBLISHED_AXES = (16, 56, 56)


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a masked generative transformer, without defaults for what a checkpoint decides.

    `patch_size`, `in_channels` and `guidance_embeds` are in the published config, but unused.
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
        if isinstance(self.axes_dims_rope, (tuple, list)):
            object.__setattr__(self, "axes_dims_rope", tuple(self.axes_dims_rope))
        problem = self._problem()
        if problem:
            raise CheckpointError(f"transformer config: {problem}")

    def _problem(self) -> str | None:
        if self.connector_type not in CONNECTORS:
            return f"connector_type is {self.connector_type!r}; use one of {', '.join(CONNECTORS)}"
        axes = self.axes_dims_rope
        if not isinstance(axes, tuple) or not all(type(n) is int and n % 2 == 0 for n in axes):
            return f"axes_dims_rope is {axes!r}; use three even numbers"
        if len(axes) != 3 or min(axes) < 2 or sum(axes) != self.attention_head_dim:
            return (
                f"axes_dims_rope is {axes} (sum {sum(axes)}); use three even numbers that sum to "
                f"attention_head_dim, {self.attention_head_dim}"
            )
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
        """Channels of hidden states."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def mask_token_id(self) -> int:
        """Id of a masked token: the last row of the embedding."""
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
    def from_dict(
        cls, values: Mapping[str, Any], where: str = "transformer config"
    ) -> "TransformerConfig":
        """Read a `config.json`; unknown keys are ignored with a warning.

        where: name of the source in messages, normally the file.

        Raises CheckpointError for missing keys and unsupported values.
        """
        try:
            return cls(**known_keys(cls, values, where))
        except TypeError as error:
            raise CheckpointError(f"{where}: {error}") from None

    def to_dict(self) -> dict:
        """The content of `config.json`."""
        return asdict(self) | {"axes_dims_rope": list(self.axes_dims_rope)}


def known_keys(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Select the values that are fields of a config class.

    Training tools leave keys of their own in a config (`decay`, `optimization_step`, ...). One that
    changed a shape would make tensors contradict the config, so a warning is enough. Keys starting
    with "_" are diffusers' bookkeeping and get none.
    """
    known = {f.name for f in fields(kind)}
    surplus = sorted(k for k in values if k not in known and not k.startswith("_"))
    if surplus:
        warnings.warn(f"{where}: ignored unknown keys {', '.join(surplus)}", stacklevel=3)
    return {k: v for k, v in values.items() if k in known}


def infer_connector(names: Iterable[str]) -> str:
    """Infer the connector from tensor names: `"linear"` or `"none"`.

    Raises CheckpointError for a connector of another kind; no EditMGT checkpoint has one.
    """
    tensors = sorted(name for name in names if name.startswith("connector."))
    if not tensors:
        return "none"
    if CONNECTOR_WEIGHT not in tensors:
        raise CheckpointError(
            f"the connector is not linear ({', '.join(tensors[:6])}); only those are supported"
        )
    return "linear"


def complete_config(
    config: Mapping[str, Any], shapes: Shapes, where: str = "the transformer"
) -> dict[str, Any]:
    """Check a config against the tensors and fill in what it leaves out.

    The published `config.json` may lack `connector_type`; the published class then silently drops
    the connector's weights. So keys that are absent or null are read off the tensors if shapes
    determine them. `joint_attention_dim` is not checked without a connector, which alone uses it.

    shapes: tensor name -> shape.

    Raises CheckpointError, naming a missing tensor that every EditMGT transformer has, or every key
    that the tensors contradict, with both values.
    """
    completed = {k: v for k, v in config.items() if v is not None}
    facts = _facts(shapes, where)
    width, head_dim = facts.pop("width"), facts["attention_head_dim"]
    problems = [
        f"{key}: config says {completed[key]!r}, the tensors say {value!r}"
        for key, value in facts.items()
        if key in completed and not _same(completed[key], value)
    ]
    heads = completed.setdefault("num_attention_heads", width // max(head_dim, 1))
    if not _same(heads, width / max(head_dim, 1)):
        problems.append(
            f"num_attention_heads: config says {heads!r}, the tensors say {width} channels in "
            f"heads of {head_dim}"
        )
    if problems:
        raise CheckpointError(
            f"{where}: config.json contradicts the weights; use the config saved with them\n  "
            + "\n  ".join(problems)
        )
    completed = facts | completed
    completed.setdefault("joint_attention_dim", width)
    if "axes_dims_rope" not in completed:
        completed["axes_dims_rope"] = _published_axes(head_dim, where)
    return completed


def _published_axes(head_dim: int, where: str) -> list[int]:
    if head_dim != sum(PUBLISHED_AXES):
        raise CheckpointError(
            f"{where}: config.json lacks axes_dims_rope, which no tensor tells; add the three even "
            f"numbers the checkpoint was trained with (they sum to the head dimension, {head_dim}; "
            f"only for {sum(PUBLISHED_AXES)} is there a published default, {list(PUBLISHED_AXES)})"
        )
    return list(PUBLISHED_AXES)


def _facts(shapes: Shapes, where: str) -> dict[str, Any]:
    """Config values determined by shapes, and `width`."""

    def size(pattern: str, axis: int) -> int:
        name = next((n for n in shapes if re.fullmatch(pattern, n)), None)
        if name is None or len(shapes[name]) <= axis:
            plain = pattern.replace(r"\d+", "0").replace("\\", "")
            raise CheckpointError(
                f"{where} has no tensor like {plain}; not the weights of an EditMGT transformer"
            )
        return int(shapes[name][axis])

    connector = infer_connector(shapes)
    micro = MICRO_CONDITIONS * MICRO_WIDTH
    facts = {
        "width": size(r"context_embedder\.weight", 0),
        "num_layers": _depth(shapes, "transformer_blocks"),
        "num_single_layers": _depth(shapes, "single_transformer_blocks"),
        "attention_head_dim": size(r"(single_)?transformer_blocks\.\d+\.attn\.norm_q\.weight", 0),
        "pooled_projection_dim": size(r"cond_embed\.linear_1\.weight", 1) - micro,
        "vocab_size": size(r"embed\.embeddings\.weight", 0),
        "codebook_size": size(r"mlm_layer\.conv2\.weight", 0),
        "downsample": any(n.startswith("down_block.") for n in shapes),
        "upsample": any(n.startswith("up_block.") for n in shapes),
        "guidance_embeds": any(".guidance_embedder." in n for n in shapes),
        "connector_type": connector,
    }
    if connector == "linear":
        facts["joint_attention_dim"] = size(re.escape(CONNECTOR_WEIGHT), 1)
    return facts


def _depth(shapes: Shapes, stack: str) -> int:
    """One more than the highest block number; the loader reports gaps."""
    numbers = [re.match(rf"{stack}\.(\d{{1,6}})\.", name) for name in shapes]
    return max((int(m[1]) + 1 for m in numbers if m), default=0)


def _same(stated: Any, value: Any) -> bool:
    # True == 1 in Python, so the kind counts too.
    return isinstance(stated, bool) == isinstance(value, bool) and stated == value
