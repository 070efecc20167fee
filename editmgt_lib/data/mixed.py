"""Several sources as one, in exact proportions."""

from collections.abc import Sequence

import torch

from ..errors import InputError
from .fingerprints import digest
from .orders import Mixture
from .source import TokenBatch, TokenSource


class Mixed:
    """A TokenSource that interleaves others by weight.

    Args:
        group: consecutive numbers that come from one source. Give the global batch size where the
            sources differ in kind (edits, text to image) or grid, since a batch holds one of each;
            1 mixes sample by sample.

    Raises:
        InputError: weights that cannot be used.
    """

    def __init__(
        self, sources: Sequence[TokenSource], weights: Sequence[float], seed: int, group: int = 1
    ) -> None:
        if len(sources) != len(weights):
            raise InputError(f"{len(weights)} weights for {len(sources)} sources; give one each")
        self.sources = tuple(sources)
        self.mixture = Mixture(weights, seed, group)
        parts = [source.fingerprint for source in sources]
        self.fingerprint = digest("mixed", parts, self.mixture.shares, seed, group)

    def batch(self, numbers: Sequence[int]) -> TokenBatch:
        """Samples with these numbers; InputError if they are not all of one kind and grid."""
        located = [self.mixture.locate(number) for number in numbers]
        order: list[int] = []
        parts: list[TokenBatch] = []
        for k, source in enumerate(self.sources):
            places = [i for i, (which, _) in enumerate(located) if which == k]
            if places:
                parts.append(source.batch([located[i][1] for i in places]))
                order += places
        if len(parts) == 1:
            return parts[0]
        return _reordered(joined(parts), order)


def joined(parts: Sequence[TokenBatch]) -> TokenBatch:
    """Concatenate batches; InputError if they differ in kind or grid."""
    kinds = {(p.target.shape[1:], None if p.source is None else p.source.shape[1:]) for p in parts}
    if len(kinds) > 1:
        raise InputError(
            "a batch mixes edits with text to image, or grids of different size; set `group` of "
            "the mixture to the global batch size"
        )
    pooled = [p.pooled for p in parts]
    return TokenBatch(
        torch.cat([p.target for p in parts]),
        None if parts[0].source is None else torch.cat([p.source for p in parts]),
        [prompt for p in parts for prompt in p.prompts],
        torch.cat([p.micro_conditions for p in parts]),
        None if any(p is None for p in pooled) else torch.cat(pooled),
    )


def _reordered(batch: TokenBatch, places: Sequence[int]) -> TokenBatch:
    """Move item i of a batch to place places[i]."""
    take = torch.tensor(places, dtype=torch.int64, device="cpu").argsort()
    rows = [None if t is None else t[take.to(t.device)] for t in
            (batch.target, batch.source, batch.micro_conditions, batch.pooled)]  # fmt: skip
    prompts = [batch.prompts[i] for i in take.tolist()]
    return TokenBatch(rows[0], rows[1], prompts, rows[2], rows[3])
