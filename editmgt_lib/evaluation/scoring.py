"""Stage score: items and pictures -> a line per item and metric in scores-RANK.jsonl."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice, product
from pathlib import Path

from ..errors import InputError
from ..loader import choose_device
from . import metrics
from .items import Item, Score
from .manifest import versions
from .metrics.base import Networks
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
    Raises InputError if the run was scored with other versions.
    """
    before = run.manifest.get("score", {}).get("metrics", [])
    every = list(dict.fromkeys([*before, *names]))
    run.claim("score", {"metrics": every, "versions": versions()}, free=("metrics",))
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
    """The scorer that looks metrics up by name.

    networks: folder of the encoders that some metrics need; device: where they run. They are
    loaded at the first call, but what is missing is said at once, before hours of work.
    """

    def __init__(self, names: Sequence[str], networks: Path | None, device: str = "cpu") -> None:
        """Raises InputError for unknown names and missing networks."""
        self._needed = metrics.needed_networks(metrics.find(names))
        self._folder, self._device = networks, device
        if self._needed and networks is None:
            raise InputError(
                f"the metrics need the networks {', '.join(self._needed)}; give their folder with "
                "--networks, or choose others with --metrics"
            )
        if missing := [name for name in self._needed if not (networks / name).is_dir()]:
            metrics.load_networks(networks, missing)  # raises, with where to get them

    @cached_property
    def networks(self) -> Networks:
        """All that the metrics need."""
        if not self._needed:
            return {}
        return metrics.load_networks(self._folder, self._needed, choose_device(self._device))

    def __call__(
        self, run: RunFolder, items: Sequence[Item], names: Sequence[str]
    ) -> Iterator[Score]:
        chosen, samples = metrics.find(names), []
        for item in items:
            try:
                samples.append(
                    metrics.read_sample(item, run.picture(item), run.locate, run.map(item))
                )
            except InputError as error:  # a picture of the data
                for name in names:
                    yield Score(item.id, name, None, "failed", str(error))
        try:
            yield from list(metrics.score(samples, chosen, self.networks))
        except Exception:  # one sample or metric may be at fault, or all together be too large
            for sample, metric in product(samples, chosen):
                yield self._alone(sample, metric)

    def _alone(self, sample: metrics.Sample, metric: metrics.Metric) -> Score:
        try:
            return next(metrics.score([sample], [metric], self.networks))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            return Score(sample.id, metric.name, None, "failed", reason)
