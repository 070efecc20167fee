"""Text rows of the words alone: the padding before them is the same for every prompt.

Prompts are padded on the left, without an attention mask, and the language model is causal. So its
states of n padding rows are those of any prompt with n or more of them, and a prompt's words need
only the keys and values of the padding before them. A sentence takes 20 of 256 rows.

The rows equal those of `TextEncoders.encode_ids` up to the rounding of matrix products of another
shape: relative 1e-5 in float32 and often none. Hence a tool of training, not of inference, whose
states are to be the same in the last bit.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..offload import execution_device, onloaded


class PaddingPrefix:
    """Keys, values and states of L padding rows, computed once for weights that do not change.

    Args:
        gemma: as `loading.second_last_gemma` builds it; frozen from now on.
        padding: id of the padding token. length: text rows L.

    Raises:
        InputError: a sliding window shorter than L, which would cut the prefix.
    """

    def __init__(self, gemma: nn.Module, padding: int, length: int) -> None:
        window = getattr(gemma.config, "sliding_window", None)
        if window is not None and window < length:
            raise InputError(
                f"the language model looks back {window} rows of {length}; encode all rows"
            )
        self.gemma, self.padding = gemma, padding
        ids = torch.full((1, length), padding, dtype=torch.int64, device="cpu")
        self._states, cache = self._run(ids, None)
        self._cached = _keys_and_values(cache, gemma.config.num_hidden_layers)

    @torch.no_grad()
    def states(self, ids: Tensor) -> Tensor:
        """States [B, L, D] of tokenized prompts [B, L]; only their last rows are computed.

        The longest prompt of the batch decides how many.
        """
        batch, length = ids.shape
        pads = int((ids == self.padding).all(dim=0).long().cumprod(0).sum())
        pads = min(pads, length - 1)
        words, _ = self._run(ids[:, pads:], pads)
        before = self._states[:, :pads].to(words.device).expand(batch, -1, -1)
        return torch.cat([before, words], dim=1)

    @torch.no_grad()
    def _run(self, ids: Tensor, pads: int | None) -> tuple[Tensor, Any]:
        """States of the rows after `pads` rows of padding, and the cache they leave."""
        from transformers import DynamicCache

        gemma, (batch, rows) = self.gemma, ids.shape
        device, start = execution_device(gemma), pads or 0
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self._cached if pads else ()):
            keys, values = (t[:, :, :pads].to(device).expand(batch, -1, -1, -1)
                            for t in (keys, values))  # fmt: skip
            cache.update(keys, values, layer)
        at = torch.arange(start, start + rows, device=device)
        options = {
            _cache_name(gemma): cache,
            "use_cache": True,
            "position_ids": at[None].expand(batch, -1),
            # Older versions of transformers take the length of the mask from it.
            "attention_mask": torch.ones(batch, start + rows, dtype=torch.long, device=device),
        }
        if "cache_position" in inspect.signature(type(gemma).forward).parameters:
            options["cache_position"] = at
        with onloaded(gemma):
            # Looked up where the embedding table is, as in `TextEncoders`.
            words = gemma.embed_tokens(ids.to(gemma.embed_tokens.weight.device)).to(device)
            return gemma(inputs_embeds=words, **options).last_hidden_state, cache


def _cache_name(gemma: nn.Module) -> str:
    names = inspect.signature(type(gemma).forward).parameters
    return "cache" if "cache" in names else "past_key_values"


def _keys_and_values(cache: Any, layers: int) -> list[tuple[Tensor, Tensor]]:
    """Keys and values [1, heads, L, width] of each layer."""
    if hasattr(cache, "layers"):
        return [(layer.keys, layer.values) for layer in cache.layers[:layers]]
    return list(zip(cache.key_cache, cache.value_cache, strict=True))[:layers]
