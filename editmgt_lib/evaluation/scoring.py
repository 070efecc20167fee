"""Stage score: items and pictures -> a line per item and metric in scores-RANK.jsonl."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from .items import Item, Score
from .manifest import versions
from .pacing import Pace, Progress
from .runs import RunFolder

Scorer = Callable[[RunFolder, Sequence[Item], Sequence[str]], Iterator[Score]]
"""Gives the scores of some items by some metrics, of which it need not know all."""
_TOGETHER = 16  # items encoded in one batch


def score(
    run: RunFolder,
    names: Sequence[str],
    scorer: Scorer,
    *,
    progress: Progress | None = None,
    label: str = "score",
) -> None:
    """Score the items of this process by the metrics that they have no score of yet.

    What failed before is scored again. Turns inside a chain are "n/a": only its end counts.
    Raises InputError as `scorer` does, such as for an unknown metric, and if the run began with
    other metrics or versions.
    """
    run.claim("score", {"metrics": list(names), "versions": versions()})
    known = {key for key, value in run.scores().items() if value.status != "failed"}
    ends = {item.id for item in run.final_items()}
    pending = [
        (item, missing)
        for item in run.mine()
        if (missing := tuple(name for name in names if (item.id, name) not in known))
    ]
    pace = Pace(label, len(pending), max_failed=1, progress=progress)
    for group, missing in _groups(pending):
        scored = [item for item in group if item.id in ends]
        inner = [item for item in group if item.id not in ends]
        rows = [
            Score(item.id, name, None, "n/a", "not the last turn")
            for item in inner
            for name in missing
        ]
        if scored:
            rows += scorer(run, scored, missing)
        run.append("scores", rows)
        failed = {row.item for row in rows if row.status == "failed"}
        for item in group:
            pace.step(item.id in failed)


def _groups(
    pending: Sequence[tuple[Item, tuple[str, ...]]],
) -> Iterator[tuple[list[Item], tuple[str, ...]]]:
    """Items in a row that lack the same metrics, a batch at a time."""
    rest = iter(pending)
    batch = list(islice(rest, _TOGETHER))
    while batch:
        missing = batch[0][1]
        same = [item for item, names in batch if names == missing]
        yield same, missing
        batch = [pair for pair in batch if pair[1] != missing]
        batch += islice(rest, _TOGETHER - len(batch))


class Metrics:
    """The scorer of a run: the metrics of `metrics`, and ToyWorld's own.

    networks: folder of the encoders that some metrics need, and device to run them on; they are
    loaded once, when first needed.
    """

    def __init__(self, networks: str | None = None, device: str = "cpu") -> None:
        self._folder, self._device = networks, device
        self._networks: dict = {}

    def __call__(
        self, run: RunFolder, items: Sequence[Item], names: Sequence[str]
    ) -> Iterator[Score]:
        own = [name for name in names if name.startswith("toyworld/")]
        if own:
            from .datasets.toyworld import measure

            for item in items:
                yield from measure(run, item, own)
        if others := [name for name in names if name not in own]:
            yield from self._measured(run, items, others)

    def _measured(
        self, run: RunFolder, items: Sequence[Item], names: Sequence[str]
    ) -> Iterator[Score]:
        from . import metrics

        chosen = metrics.find(names)
        needed = metrics.needed_networks(chosen)
        if missing := [name for name in needed if name not in self._networks]:
            loaded = metrics.load_networks(self._folder or ".", missing, self._device)
            self._networks |= loaded
        samples = [metrics.read_sample(item, run.picture(item), run.locate) for item in items]
        yield from metrics.score(samples, chosen, self._networks)
