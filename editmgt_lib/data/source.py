"""What a trainer reads: samples by their global number, as token ids and text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, repr=False)
class TokenBatch:
    """Samples of one grid size, on the CPU or wherever they were encoded.

    Attributes:
        target: token ids [B, H, W], int64.
        source: ids [B, H', W'] of the picture to edit; None for text to image.
        prompts: instructions or captions.
        micro_conditions: float32 [B, 5] of the target picture: original width and height, crop top
            and left in pixels after scaling (as published), aesthetic score.
        pooled: cached CLIP vectors [B, P]; None where the text is to be encoded.
    """

    target: Tensor
    source: Tensor | None
    prompts: Sequence[str]
    micro_conditions: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompts)


class TokenSource(Protocol):
    """An endless sequence of samples; which row a number means is the source's business.

    A number always means the same sample, so that a position in training is one integer.
    """

    fingerprint: str  # of everything that decides what a number means

    def batch(self, numbers: Sequence[int]) -> TokenBatch:
        """Samples with these global numbers, 0 or more, in this order."""
