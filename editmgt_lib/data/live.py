"""Training samples encoded as they are needed."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..errors import InputError
from .cached import rows_of_split, to_batch
from .encoding import Cropped, Encoder, crop_all
from .fingerprints import digest
from .orders import Permutation
from .rows import Reader, RowCounts, Skipped
from .source import TokenBatch


class LiveSource:
    """A TokenSource that encodes rows as they are needed; its batches equal those of a cache.

    Opening it reads every picture once, to know which rows can be used. For some thousand rows:
    beyond, a cache is faster from the first epoch on.

    Args:
        most_skipped: fraction of rows that may be skipped.
        progress: called with the number of rows read so far, and of all where it is known.

    Raises:
        InputError: too many rows skipped, or none left.
    """

    def __init__(
        self, reader: Reader, encoder: Encoder, seed: int, split: str = "train",
        held_out: float = 0.0, most_skipped: float = 0.05, workers: int = 2,
        progress: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        self.reader, self.encoder, self.edits = reader, encoder, reader.edits
        self.counts = RowCounts()
        self._places: list[tuple[int, int]] = []  # part, row within it
        keys, digests = [], []
        for part, row, item in self._cropped(workers):
            if progress is not None:
                progress(self.counts.read + 1)
            if isinstance(item, Skipped):
                self.counts.skip(item)
                continue
            self.counts.use()
            self._places.append((part, row))
            keys.append(item.row.key)
            digests.append(item.digest.hex())
        self.counts.check(most_skipped, final=True)
        self._rows = rows_of_split(np.array(keys, np.uint64), split, held_out, "the data set")
        self.order = Permutation(len(self._rows), seed)
        self.fingerprint = digest("live", encoder.settings, keys, digests, seed, split, held_out)

    def __len__(self) -> int:
        """Rows of an epoch."""
        return len(self._rows)

    def _cropped(self, workers: int) -> Iterator[tuple[int, int, Cropped | Skipped]]:
        for number, part in enumerate(self.reader.parts):
            for row, item in enumerate(crop_all(self.encoder, self.reader.rows(part), workers)):
                yield number, row, item

    def batch(self, numbers: Sequence[int]) -> TokenBatch:
        """Samples with these numbers, on the CPU. InputError if a row changed meanwhile."""
        located = [self.order.locate(number) for number in numbers]
        items = [self._read(int(self._rows[row])) for row, _ in located]
        records = [self.encoder.encode(item) for item in items]
        crops = [epoch % self.encoder.options.crops for _, epoch in located]
        return to_batch(records, crops, [item.row.prompt for item in items])

    def _read(self, row: int) -> Cropped:
        number, place = self._places[row]
        part = self.reader.parts[number]
        item = next(iter(self.reader.rows(part, place, place + 1)))
        cropped = item if isinstance(item, Skipped) else self.encoder.crop(item)
        if isinstance(cropped, Skipped):
            raise InputError(
                f"{cropped.id} cannot be read any more ({cropped.reason}: {cropped.detail}); "
                "leave the data alone while it is trained on"
            )
        return cropped
