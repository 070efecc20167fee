"""`editmgt curate`: list, compute what is missing, decide, count."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path

from .. import __version__
from ..checks import require_choice
from ..files import atomic_write_json
from .assembly import Curation
from .backends.registry import KINDS, Backends, read_backends
from .config import CurationConfig
from .crowding import summarize_words
from .decide import Rule, by_stage, decide
from .edits import EditStage
from .engine import EngineOptions
from .executor import Mapper, Workers, due_rows, run_shard
from .images import ImageStage
from .instructions import InstructionStage
from .quality import QualityStage
from .rows import KEEP, Found, Row, Stage
from .saved import save_config
from .scoring import ScoreStage
from .sources import STAGE as LISTING
from .spending import Budget, told
from .store import claim, claim_stage, remove_leftovers
from .terms import allowed
from .verdicts import StageTotals, decide_all, read_decisions, totals

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
    for name in stages or ():
        require_choice("stages", name, tuple(stage.name for stage in plan))
    curation = _opened(out, config, plan, tell)
    rules, budget = config.rules(), Budget(config.budget, curation.spent())
    _judge(curation, config, rules)
    for stage in plan:
        if stages is None or stage.name in stages:
            claim_stage(out, stage.name, stage.settings)
            if run_stage(curation, stage, rules, config.engine, show or _ignored, budget=budget):
                _judge(curation, config, rules)
    for line in _left(curation, budget):
        tell(line)
    return _summarize(curation, config, rules)


def _opened(out: Path, config: CurationConfig, plan: Sequence[Stage], tell: Report) -> Curation:
    """Begin a curation or go on with one: list what is new, and say what is lacking."""
    names = tuple(stage.name for stage in plan)
    claim(out)
    remove_leftovers(out)
    save_config(out, config, names)
    curation = Curation(out, {source.name: source for source in config.sources}, names)
    tell(f"{curation.list_new(config.engine.shard_rows):,} new rows listed")
    for line in lacking(config, plan):
        tell(line)
    return curation


def _judge(curation: Curation, config: CurationConfig, rules: Sequence[Rule]) -> None:
    decide_all(curation, rules, config.duplicates, config.instructions.most_alike)


def _summarize(
    curation: Curation, config: CurationConfig, rules: Sequence[Rule]
) -> list[StageTotals]:
    """Write what became of all rows so far."""
    found = totals(curation, (LISTING, *curation.stages))
    summary = {
        "version": __version__,
        "rules": [str(rule) for rule in rules],
        "duplicates": asdict(config.duplicates),
        "stand_ins": list(dict.fromkeys(open_backends(config).stand_ins)),
        "stages": [asdict(stage) for stage in found],
        "words": summarize_words(_kept(curation)),
        "spent": dict(curation.spent()),
    }
    atomic_write_json(curation.folder / REPORT, summary)
    return found


def _left(curation: Curation, budget: Budget) -> Iterator[str]:
    """Say what a spent budget leaves undone."""
    if not (unit := budget.exhausted):
        return
    for stage in curation.stages:
        if due := sum(len(due_rows(curation, stage, shard)) for shard in curation.shards):
            yield (
                f"stopped, since the budget is spent: {told(budget.spent)} of {budget.options}; "
                f"{due:,} rows of {stage} are left; raise budget.{unit} and run again"
            )
            return


def pipeline(config: CurationConfig) -> tuple[Stage, ...]:
    """The stages of a configuration, in order. Raises InputError for a back end that lacks."""
    backends = open_backends(config)
    backends.check()
    stages: list[Stage] = [ImageStage()]
    if backends.scorers:
        stages.append(ScoreStage(tuple(backends.scorers.values())))
    if backends.writers:
        stages.append(InstructionStage(backends.writers, config.instructions))
    if backends.editors:
        stages.append(EditStage(backends.editors, backends.judges, config.edits))
        stages.append(QualityStage.of(config.quality, backends.judges, backends.writers))
    return tuple(stages)


def open_backends(config: CurationConfig) -> Backends:
    """All back ends of a configuration. Raises InputError for a table that is wrong."""
    return read_backends({role: getattr(config, role) for role in KINDS})


def lacking(config: CurationConfig, plan: Sequence[Stage]) -> list[str]:
    """What cannot be computed or should not be relied on, a line each."""
    lines = [line for stage in plan for line in stage.missing]
    if not config.scorers:
        lines += ScoreStage().missing
    if not config.writers:
        lines.append("no instructions are written; name who writes them, [writers.NAME]")
    elif not config.editors:
        lines.append("nothing is edited; name editors, [editors.NAME]")
    backends = open_backends(config)
    for name, editor in backends.editors.items():
        if not allowed(config.uses, editor.terms):
            lines.append(
                f"edits by {name} will be dropped: its terms, {editor.terms.licence}, do not allow "
                f"{', '.join(config.uses)}"
            )
    if stand_ins := dict.fromkeys(backends.stand_ins):
        lines.append(
            f"{', '.join(stand_ins)} only stand in: what comes of them is no curated data set"
        )
    return lines


def _kept(curation: Curation) -> Iterator[Row]:
    for shard in curation.shards:
        decisions = read_decisions(curation, shard)
        yield from (row for row in curation.rows(shard) if decisions[row.id].verdict == KEEP)


def run_stage(
    curation: Curation,
    stage: Stage,
    rules: Sequence[Rule],
    engine: EngineOptions,
    show: Callable[[Progress], None],
    written: Callable[[int], None] | None = None,
    budget: Budget | None = None,
) -> int:
    """Run a stage on all rows that are due, while the budget lasts; gives the number of those done.

    rules: to show verdicts by. written: told of each shard. Raises as `run_shard`.
    """
    counts = {shard: len(due_rows(curation, stage.name, shard)) for shard in curation.shards}
    due = {shard: count for shard, count in counts.items() if count}
    progress, start = Progress(stage.name, sum(due.values())), time.monotonic()
    grouped = by_stage(rules)

    def answered(row: Row, found: Found) -> None:
        if budget is not None:
            budget.add(stage.name, found)
        progress.done += 1
        progress.verdicts.update(decide(new, grouped).verdict for new in row.add(stage.name, found))
        progress.seconds = time.monotonic() - start
        show(progress)

    def go_on() -> bool:
        return budget is None or not budget.exhausted

    if due and go_on():
        with open_workers(curation, stage, due, engine) as workers:
            for shard in takewhile(lambda _: go_on(), due):
                run_shard(curation, stage, shard, workers, answered, go_on)
                if written is not None:
                    written(shard)
    return progress.done


def open_workers(
    curation: Curation, stage: Stage, due: Mapping[int, int], options: EngineOptions
) -> Mapper:
    """Workers for a stage. due: number of rows by shard, in the order they will be asked for.

    Raises InputError for an executor that is not installed or cannot be reached.
    """
    if options.executor == "local":
        return Workers(stage, options)
    from .executor_ray import RayWorkers

    return RayWorkers(curation, stage, due, options)


def _silent(_: str) -> None:
    pass


def _ignored(_: Progress) -> None:
    pass
