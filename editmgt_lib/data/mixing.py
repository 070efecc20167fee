"""Two kinds of sample in one sequence, whole optimizer steps of either."""

from collections.abc import Sequence

from ..checks import require_number
from ..errors import InputError
from .draws import draws
from .source import TokenBatch, TokenSource


class MixedSource:
    """Take some steps from another source, such as text to image between edits.

    A step is `batch` consecutive numbers, all from one source, so that every process and
    micro-batch of a step agrees and a batch has one kind.

    Args:
        main, other: sources; both see the same numbers.
        share: fraction of steps that `other` serves, 0..1.
        batch: samples per optimizer step, over all processes.
        seed: of the choice.
    """

    def __init__(
        self, main: TokenSource, other: TokenSource, share: float, batch: int, seed: int = 0
    ) -> None:
        require_number("share", share, 0, 1)
        require_number("batch", batch, 1, whole=True)
        self._main, self._other = main, other
        self._share, self._batch, self._seed = share, batch, seed
        parts = (main.fingerprint, other.fingerprint, share, batch, seed)
        self.fingerprint = "mixed:" + ":".join(map(str, parts))

    def batch(self, numbers: Sequence[int]) -> TokenBatch:
        """Samples of one step; InputError if the numbers belong to several."""
        steps = {number // self._batch for number in numbers}
        if len(steps) != 1:
            raise InputError(
                f"samples {min(numbers)} to {max(numbers)} belong to {len(steps)} steps of "
                f"{self._batch}; ask for those of one step"
            )
        chance = draws(self._seed, steps.pop(), "source").random()
        return (self._other if chance < self._share else self._main).batch(numbers)
