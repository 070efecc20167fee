"""What a curation would take, said before it starts: sources, rows, and measured cost."""

import time
from collections.abc import Iterator, Sequence
from itertools import islice

from .assembly import Curation
from .config import CurationConfig
from .decide import by_stage
from .executor import Workers
from .rows import Row, Stage
from .sources import list_source
from .store import line_bytes

SAMPLE = 16  # rows measured, spread over the sources


def plan_lines(config: CurationConfig, plan: Sequence[Stage], curation: Curation) -> Iterator[str]:
    """Describe a run in lines; reads listings and a few pictures, writes nothing."""
    rows, sample = 0, []
    for source in config.sources:
        listed = list(list_source(source))
        rows += len(listed)
        uses = source.row(listed[0]).origin.uses if listed else ()
        yield (
            f"source {source.name}: {len(listed):,} rows, licence {source.licence}, "
            f"allows {', '.join(uses) or 'nothing'}"
        )
        step = max(1, len(listed) // SAMPLE)
        sample += [source.row(one) for one in islice(listed, None, None, step)][:SAMPLE]
    sample = sample[:: max(1, len(sample) // SAMPLE)][:SAMPLE]
    done = sum(len(curation.rows(shard)) for shard in curation.shards)
    shards = -(-rows // config.engine.shard_rows)
    yield f"{rows:,} rows in {shards:,} shards, {done:,} listed already"
    for stage, rules in by_stage(config.rules()).items():
        yield f"keep after {stage}: {'; '.join(map(str, rules))}"
    for stage in plan:
        yield f"stage {stage.name}: {_cost(stage, sample, rows, config)}"


def _cost(stage: Stage, sample: Sequence[Row], rows: int, config: CurationConfig) -> str:
    if stage.name != "images":
        return f"up to {rows:,} rows, of those kept so far; cost not measured"
    start = time.monotonic()
    with Workers(stage, config.engine) as workers:
        found = [one for _, one in workers.map(sample)]
    seconds = time.monotonic() - start
    if not found:
        return "no rows"
    size = sum(len(line_bytes({"values": dict(one.values)})) for one in found) / len(found)
    return (
        f"{rows:,} rows at {len(found) / seconds:.1f} a second ({len(found)} measured), "
        f"{duration(rows * seconds / len(found))}, {rows * size / 1e6:.1f} MB written"
    )


def duration(seconds: float) -> str:
    """Readable length of time."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
