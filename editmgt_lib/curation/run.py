"""`editmgt curate`: list, compute what is missing, decide, count."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .. import __version__
from ..checks import require_choice
from ..files import atomic_write_json
from .assembly import Curation
from .config import CurationConfig
from .decide import by_stage, decide
from .executor import Workers, due_rows, run_shard
from .images import ImageStage
from .rows import Found, Row, Stage
from .scoring import Scorer, ScoreStage
from .sources import STAGE as LISTING
from .store import claim, claim_stage, remove_leftovers
from .verdicts import StageTotals, decide_all, totals

REPORT = "report.json"
Report = Callable[[str], None]


@dataclass
class Progress:
    """Where a stage stands.

    Attributes:
        due: rows to do in this run. done: of them. verdicts: on those, so far.
        seconds: since the stage began.
    """

    stage: str
    due: int
    done: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Rows per second."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def left(self) -> float | None:
        """Seconds left; None until there is a rate."""
        return (self.due - self.done) / self.rate if self.rate else None


def curate(
    config: CurationConfig,
    out: Path,
    *,
    stages: Sequence[str] | None = None,
    show: Callable[[Progress], None] | None = None,
    report: Report | None = None,
) -> list[StageTotals]:
    """Run the stages of a curation into `out`; a second run does what is missing.

    Args:
        stages: names of those to run; None: all.
        show: told of the progress of each stage, row by row.
        report: takes lines about what was found and what is lacking.

    Raises:
        InputError: `out` is something else, or was computed with other settings.
        CheckpointError: a file in it is damaged. Unavailable: a back end does not answer.
    """
    tell = report or _silent
    plan = pipeline(config)
    names = tuple(stage.name for stage in plan)
    for name in stages or ():
        require_choice("stages", name, names)
    claim(out)
    remove_leftovers(out)
    curation = Curation(out, {source.name: source for source in config.sources}, names)
    rules = config.rules()
    new = curation.list_new(config.engine.shard_rows)
    tell(f"{new:,} new rows listed")
    for line in lacking(config, plan):
        tell(line)
    decide_all(curation, rules, config.duplicates)
    for stage in plan:
        if stages is None or stage.name in stages:
            claim_stage(out, stage.name, stage.settings)
            if _run_stage(curation, stage, config, show or _ignored):
                decide_all(curation, rules, config.duplicates)
    found = totals(curation, (LISTING, *names))
    summary = {
        "version": __version__,
        "rules": [str(rule) for rule in rules],
        "duplicates": asdict(config.duplicates),
        "stages": [asdict(stage) for stage in found],
    }
    atomic_write_json(out / REPORT, summary)
    return found


def pipeline(config: CurationConfig) -> tuple[Stage, ...]:
    """The stages of a configuration, in order. Raises InputError for a back end that lacks."""
    scorers = open_scorers(config)
    return (ImageStage(), ScoreStage(scorers)) if scorers else (ImageStage(),)


def open_scorers(config: CurationConfig) -> tuple[Scorer, ...]:
    """The back ends of `[scorers.NAME]`. Raises InputError for what one of them lacks."""
    if not config.scorers:
        return ()
    from .backends import read_backends

    backends = read_backends({"scorers": config.scorers})
    backends.check()
    return tuple(backends.scorers.values())


def lacking(config: CurationConfig, plan: Sequence[Stage]) -> list[str]:
    """What cannot be computed, a line each."""
    lines = [line for stage in plan for line in stage.missing]
    return lines if config.scorers else [*lines, *ScoreStage().missing]


def _run_stage(
    curation: Curation, stage: Stage, config: CurationConfig, show: Callable[[Progress], None]
) -> int:
    """Run a stage on all rows that are due; gives their number."""
    due = {shard: len(due_rows(curation, stage.name, shard)) for shard in curation.shards}
    progress, start = Progress(stage.name, sum(due.values())), time.monotonic()
    rules = by_stage(config.rules())

    def answered(row: Row, found: Found) -> None:
        progress.done += 1
        progress.verdicts.update(decide(new, rules).verdict for new in row.add(stage.name, found))
        progress.seconds = time.monotonic() - start
        show(progress)

    with Workers(stage, config.engine) as workers:
        for shard, rows in due.items():
            if rows:
                run_shard(curation, stage, shard, workers, answered)
    return progress.done


def _silent(_: str) -> None:
    pass


def _ignored(_: Progress) -> None:
    pass
