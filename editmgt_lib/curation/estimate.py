"""What a curation would take, said before it starts: sources, rows, and measured cost."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from ..errors import counted
from .assembly import Curation
from .config import CurationConfig
from .decide import by_stage
from .executor import Workers
from .rows import Row, Stage
from .sources import STAGE as LISTING
from .sources import Listed, SourceConfig, list_source
from .spending import told
from .store import line_bytes, pieces, read_manifest

SAMPLE = 16  # rows measured, spread over the sources


@runtime_checkable
class Expecting(Protocol):
    """A stage that asks others for work which can be counted beforehand."""

    def expect(self, rows: int) -> tuple[str, int]:
        """The work on so many rows, and the rows it leaves, both at most."""


def plan_lines(config: CurationConfig, plan: Sequence[Stage], curation: Curation) -> Iterator[str]:
    """Describe a run in lines; reads listings and a few pictures, writes nothing."""
    rows, sample = 0, []
    for source in config.sources:
        listed = list(list_source(source))
        rows += len(listed)
        licences = Counter(one.cells.get("licence") or source.licence for one in listed)
        yield f"source {source.name}: {counted(len(listed), 'row')}; {_terms(source, licences)}"
        sample += [source.row(one) for one in _spread(listed)]
    shards = -(-rows // config.engine.shard_rows)
    done, _ = _written(curation, LISTING)
    yield f"{counted(rows, 'row')} in {counted(shards, 'shard')}, {done:,} listed already"
    for stage, rules in by_stage(config.rules()).items():
        yield f"keep after {stage}: {'; '.join(map(str, rules))}"
    for stage in plan:
        done, spent = _written(curation, stage.name)
        left = max(0, rows - done)
        if stage.name == "images":
            text = _measured(stage, _spread(sample), left, config)
        else:
            text = f"at most {counted(left, 'row')}, only those kept so far"
            text += f", {duration(left * spent / done)} at the rate so far" if done else ""
        if isinstance(stage, Expecting):
            text += f"; {stage.expect(left)[0]}"
            rows = stage.expect(rows)[1]
        yield f"stage {stage.name}: {text}"
    limits, spent = str(config.budget), told(curation.spent())
    if limits:
        yield f"budget: at most {limits}; spent so far: {spent or 'nothing'}"
    elif spent:
        yield f"spent so far: {spent}"


def _terms(source: SourceConfig, licences: Mapping[str, int]) -> str:
    parts = []
    for licence, number in licences.items():
        stated = {} if licence == source.licence else {"licence": licence}
        uses = source.row(Listed("", cells=stated)).origin.uses
        parts.append(f"{number:,} of licence {licence}, for {', '.join(uses) or 'no use'}")
    return "; ".join(parts)


def _spread(things: Sequence[Any]) -> Sequence[Any]:
    """At most SAMPLE of them, evenly."""
    if len(things) <= SAMPLE:
        return things
    return [things[k * len(things) // SAMPLE] for k in range(SAMPLE)]


def _written(curation: Curation, stage: str) -> tuple[int, float]:
    """Rows that a stage has looked at, and the seconds it took."""
    names = (name for shard in curation.shards for name in pieces(curation.folder, stage, shard))
    manifests = [read_manifest(curation.folder, name) for name in names]
    return sum(one.rows for one in manifests), sum(one.seconds for one in manifests)


def _measured(stage: Stage, sample: Sequence[Row], left: int, config: CurationConfig) -> str:
    if not left or not sample:
        return "nothing to do"
    start = time.monotonic()
    with Workers(stage, config.engine) as workers:
        found = [one for _, one in workers.map(sample)]
    seconds = time.monotonic() - start
    size = sum(len(line_bytes({"values": dict(one.values)})) for one in found) / len(found)
    return (
        f"{counted(left, 'row')} at {len(found) / seconds:.1f} a second ({len(found)} measured), "
        f"{duration(left * seconds / len(found))}, {left * size / 1e6:.1f} MB written"
    )


def duration(seconds: float) -> str:
    """Readable length of time."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return counted(round(seconds), "second")
