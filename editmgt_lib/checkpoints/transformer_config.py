"""What the transformer's tensors say about its config, and whether the config agrees.

The published `config.json` may lack `connector_type`, and the published class would then silently
drop the connector's weights; so it is read off the tensors. Pure functions on names and shapes.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import CheckpointError

MICRO_CONDITION_WIDTH = 1280  # five micro-conditions, a 256-wide sinusoid each
Shapes = Mapping[str, Sequence[int]]

CONNECTOR_WEIGHT = "connector.projector.weight"


def infer_connector(names: Iterable[str]) -> str:
    """The connector that tensors of these names belong to, `"linear"` or `"none"`.

    Raises CheckpointError for connector tensors of another kind; no EditMGT checkpoint has one.
    """
    found = sorted(name for name in names if name.startswith("connector."))
    if not found:
        return "none"
    if CONNECTOR_WEIGHT not in found:
        raise CheckpointError(
            f"the connector is not linear ({', '.join(found[:6])}); only linear ones are supported"
        )
    return "linear"


def check_transformer_config(
    config: Mapping[str, Any], shapes: Shapes, where: str = "the transformer"
) -> dict[str, Any]:
    """The config, completed by what only the tensors tell, after checking that both agree.

    shapes: tensor name -> shape, as read from the file.
    Absent (or null) keys that shapes determine are filled in, `connector_type` above all. With no
    connector, nothing depends on `joint_attention_dim`, and it is not checked.

    Raises CheckpointError naming a tensor that every EditMGT transformer has and this one lacks, or
    listing every key whose value the tensors contradict, with both values.
    """
    completed = {k: v for k, v in config.items() if v is not None}
    facts = _facts(shapes, where)
    width = facts.pop("width")
    problems = [
        f"{key}: config says {completed[key]!r}, the tensors say {value!r}"
        for key, value in facts.items()
        if key in completed and not _same(completed[key], value)
    ]
    completed = facts | completed
    completed.setdefault("num_attention_heads", width // facts["attention_head_dim"])
    completed.setdefault("joint_attention_dim", width)
    problems += _product_problems(completed, width)
    if problems:
        raise CheckpointError(
            f"{where}: config.json contradicts the weights; use the config saved with them\n  "
            + "\n  ".join(problems)
        )
    return completed


def _facts(shapes: Shapes, where: str) -> dict[str, Any]:
    """Config values that shapes determine, and `width`."""

    def size(pattern: str, axis: int) -> int:
        name = next((n for n in shapes if re.fullmatch(pattern, n)), None)
        if name is None or len(shapes[name]) <= axis:
            plain = pattern.replace(r"\d+", "0").replace("\\", "")
            raise CheckpointError(
                f"{where} has no tensor like {plain}; not the weights of an EditMGT transformer"
            )
        return int(shapes[name][axis])

    connector = infer_connector(shapes)
    facts = {
        "width": size(r"context_embedder\.weight", 0),
        "num_layers": _depth(shapes, "transformer_blocks"),
        "num_single_layers": _depth(shapes, "single_transformer_blocks"),
        "attention_head_dim": size(r"(single_)?transformer_blocks\.\d+\.attn\.norm_q\.weight", 0),
        "pooled_projection_dim": size(r"cond_embed\.linear_1\.weight", 1) - MICRO_CONDITION_WIDTH,
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
    """One more than the highest block number; a hole is left for the loader to report."""
    numbers = [re.match(rf"{stack}\.(\d+)\.", name) for name in shapes]
    return max((int(m[1]) + 1 for m in numbers if m), default=0)


def _same(stated: Any, value: Any) -> bool:
    # True == 1 in Python, so the kind counts too.
    return isinstance(stated, bool) == isinstance(value, bool) and stated == value


def _product_problems(config: Mapping[str, Any], width: int) -> list[str]:
    """Contradictions between several keys at once."""
    problems = []
    heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
    try:
        if heads * head_dim != width:
            problems.append(
                f"num_attention_heads x attention_head_dim: config says {heads} x {head_dim}, "
                f"the tensors say width {width}"
            )
        axes = config.get("axes_dims_rope")
        if axes is not None and sum(axes) != head_dim:
            problems.append(
                f"axes_dims_rope: config says {list(axes)} (sum {sum(axes)}), "
                f"the head dimension is {head_dim}"
            )
    except TypeError:
        problems.append("num_attention_heads, attention_head_dim or axes_dims_rope: not numbers")
    return problems
