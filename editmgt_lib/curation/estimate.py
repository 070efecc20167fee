"""What a curation would take, said before it starts: sources, rows, and measured cost."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .assembly import Curation
from .config import CurationConfig
from .decide import by_stage
from .executor import Workers
from .rows import Row, Stage
from .sources import STAGE as LISTING
from .sources import Listed, SourceConfig, list_source
from .store import line_bytes, pieces, read_manifest

SAMPLE = 16  # rows measured, spread over the sources


def plan_lines(config: CurationConfig, plan: Sequence[Stage], curation: Curation) -> Iterator[str]:
    """Describe a run in lines; reads listings and a few pictures, writes nothing."""
    rows, sample = 0, []
    for source in config.sources:
        listed = list(list_source(source))
        rows += len(listed)
        licences = Counter(one.cells.get("licence") or source.licence for one in listed)
        yield f"source {source.name}: {len(listed):,} rows; {_terms(source, licences)}"
        sample += [source.row(one) for one in _spread(listed)]
    shards = -(-rows // config.engine.shard_rows)
    done = _written(curation, LISTING)
    yield f"{rows:,} rows in {shards:,} shards, {done:,} listed already"
    for stage, rules in by_stage(config.rules()).items():
        yield f"keep after {stage}: {'; '.join(map(str, rules))}"
    for stage in plan:
        left = max(0, rows - _written(curation, stage.name))
        yield f"stage {stage.name}: {_cost(stage, _spread(sample), left, config)}"


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


def _written(curation: Curation, stage: str) -> int:
    """Rows that a stage has looked at."""
    names = (name for shard in curation.shards for name in pieces(curation.folder, stage, shard))
    return sum(read_manifest(curation.folder, name).rows for name in names)


def _cost(stage: Stage, sample: Sequence[Row], left: int, config: CurationConfig) -> str:
    if stage.name != "images":
        return f"at most {left:,} rows, only those kept so far; cost not measured"
    if not left or not sample:
        return "nothing to do"
    start = time.monotonic()
    with Workers(stage, config.engine) as workers:
        found = [one for _, one in workers.map(sample)]
    seconds = time.monotonic() - start
    size = sum(len(line_bytes({"values": dict(one.values)})) for one in found) / len(found)
    return (
        f"{left:,} rows at {len(found) / seconds:.1f} a second ({len(found)} measured), "
        f"{duration(left * seconds / len(found))}, {left * size / 1e6:.1f} MB written"
    )


def duration(seconds: float) -> str:
    """Readable length of time."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
