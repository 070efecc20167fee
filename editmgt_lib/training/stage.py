"""A stage of training, as the loop sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True, repr=False)
class Prepared:
    """Samples ready for the network.

    Attributes:
        data: whatever the stage needs.
        counts: float64 [T], one for each term of the loss: what the sum of that term is divided by.
            The loop adds them up over micro-batches and processes before any loss is computed.
    """

    data: Any
    counts: Tensor


class Stage(Protocol):
    """One network being trained on one kind of sample.

    The loss of a global batch does not depend on how it is split: a stage returns sums divided by
    the *global* counts, and the loop adds up what micro-batches and processes return.
    """

    modules: nn.ModuleDict  # what trains, and buffers that change; frozen weights are not saved
    fingerprint: str  # of what decides which sample a number means

    def prepare(self, numbers: Sequence[int]) -> Prepared:
        """Draw and mask the samples with these global numbers."""

    def loss(self, prepared: Prepared, counts: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """This part's share of the global loss, and of the figures to show, left on the device.

        counts: `Prepared.counts`, summed over the global batch.
        """

    def after_step(self) -> None:
        """Run after each optimizer step."""

    def sheet(self, path: Path) -> None:
        """Draw what the stage can do now."""

    def export(self, folder: Path) -> None:
        """Write the trained parts in the published layout."""
