"""Tensors of the text encoders' files that are never loaded.

Buffers that older versions of transformers wrote, the pictures' half of a whole CLIP, and the end
of the language model, whose second-to-last states are used. Name patterns as `load_module` takes.
"""

UNUSED_CLIP = (
    "text_model.embeddings.position_ids",
    *("vision_model.*", "visual_projection.*", "logit_scale"),  # of a CLIP saved whole
)
GEMMA_PREFIX = "model."  # of all names but the head's


def unused_gemma(layers: int) -> tuple[str, ...]:
    """Of a Gemma with this number of layers, for names without `GEMMA_PREFIX`."""
    ends = ("lm_head.weight", "norm.weight", f"layers.{layers - 1}.*")
    return (*ends, "rotary_emb.inv_freq", "*.rotary_emb.inv_freq")
