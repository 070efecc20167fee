"""Stage judge: items and pictures -> raw answers in judge-RANK.jsonl, scores-judge-RANK.jsonl."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from threading import Event
from typing import Any

from ...errors import InputError
from ..items import Item, Score
from ..metrics.samples import Pixels, read_pixels
from ..pacing import Pace, Progress
from ..runs import RunFolder
from .asking import Asker, Judged
from .options import Column, JudgeOptions
from .pictures import shown
from .prompts import load_prompts
from .protocols import Protocol, Question, find_protocol
from .workers import in_threads

Job = tuple[Item, tuple[Question, ...]]
ROWS, SCORES = "judge", "scores-judge"


@dataclass
class Outcome:
    """What `judge_run` did in this process.

    Attributes:
        model: the judge, as the server names it; "" if nothing was to be asked.
        items: judged in this call. failed: of them without scores. asked: requests for answers.
        metrics: names of the scores.
    """

    model: str = ""
    items: int = 0
    failed: int = 0
    asked: int = 0
    metrics: tuple[str, ...] = ()

    def count(self, judged: Judged) -> None:
        """Count one more item."""
        self.items += 1
        self.asked += judged.asked
        self.failed += any(judged.reasons) or bool(judged.failure)


@dataclass
class _Writer:
    """Keeps rows at once, and scores as soon as the judge's own name is known."""

    run: RunFolder
    column: Column
    protocol: Protocol
    model: str
    held: list[Judged] = field(default_factory=list)

    def keep(self, judged: Judged) -> None:
        """Raises InputError if another model than before has answered."""
        if judged.rows:
            self.run.append(ROWS, judged.rows)
        for model in sorted(judged.models):
            if self.model and model != self.model:
                raise InputError(
                    f"the judge answers as {model!r} and did as {self.model!r} before; scores of "
                    "two judges do not mix: name a dated snapshot, or use another folder"
                )
            self.model = model
        self.held.append(judged)
        if self.model:
            held, self.held = self.held, []
            self.run.append(SCORES, [row for one in held for row in self._scores(one)])

    def name(self, criterion: str) -> str:
        return self.column.metric(criterion, self.model)

    def _scores(self, judged: Judged) -> Iterator[dict[str, Any]]:
        values = [self.protocol.values(answers) for answers in judged.answers]
        for criterion, needed in self.protocol.needs.items():
            item, name = judged.item.id, self.name(criterion)
            if values and all(criterion in found for found in values):
                repeats = [found[criterion] for found in values]
                score = Score(item, name, fmean(repeats)).to_dict()
                yield score | ({"repeats": repeats} if len(repeats) > 1 else {})
            else:
                yield Score(item, name, None, "failed", _reason(judged, needed)).to_dict()


def check_judge(options: JudgeOptions) -> None:
    """Raise InputError for what is wrong before any question: prompts, address, key, `reuse`."""
    load_prompts(options.protocol, options.prompts)
    options.endpoint()
    for place in options.reuse:
        if not place.is_dir():
            raise InputError(f"there is no run in {place} to reuse answers of; check the folder")


def judge_run(
    run: RunFolder,
    options: JudgeOptions,
    *,
    progress: Progress | None = None,
    label: str = "judge",
) -> Outcome:
    """Judge the results of this process's items that have no scores of this judge yet.

    What failed before is asked again; answers that were read are not. A missing or black picture
    is a failure of the editor and is not asked about. Turns inside a chain are left out.
    Raises InputError if more than `options.max_failed` of the items fail, if the judge cannot be
    used at all, or if another model than before answers. All answers until then are kept.
    """
    check_judge(options)
    column = Column(options, load_prompts(options.protocol, options.prompts))
    protocol, endpoint = find_protocol(options.protocol), options.endpoint()
    jobs = _jobs(run, column, protocol)
    run.claim(f"judge {column.id}", {**column.described(), "url": endpoint.url}, free=("url",))
    writer = _Writer(run, column, protocol, _model_before(run, column))
    done = _done(run, writer)
    pending = [job for job in jobs if job[0].id not in done]
    known = known_answers(run, options.reuse, writer.model)
    kept = {(row["item"], row["column"], row["key"]) for row in run.rows(ROWS)}
    work = partial(_judge, run, Asker(column, endpoint, known, kept))
    pace, outcome = Pace(label, len(pending), options.max_failed, progress), Outcome()
    with closing(in_threads(work, pending, min(options.threads, len(pending) or 1))) as results:
        for judged in results:
            writer.keep(judged)
            outcome.count(judged)
            failed = any(judged.reasons)  # a missing picture is not the judge's fault
            pace.step(failed, f"{judged.item.id}, {_reason(judged)}" if failed else "")
    if writer.held:
        raise InputError(
            f"none of {len(writer.held)} items could be judged; the first, "
            f"{writer.held[0].item.id}, {_reason(writer.held[0])}"
        )
    outcome.model = writer.model
    outcome.metrics = tuple(map(writer.name, protocol.needs)) if writer.model else ()
    return outcome


def _judge(run: RunFolder, asker: Asker, job: Job, stop: Event) -> Judged:
    item, questions = job
    pictures, failure = _pictures(run, asker.column.resize, item)
    if failure:
        return Judged(item, failure=failure)
    return asker.judge(item, questions, pictures, stop)


def _jobs(run: RunFolder, column: Column, protocol: Protocol) -> list[Job]:
    """Items with their questions; made before anything is asked, so that bad prompts cost nothing.

    Raises InputError for items the protocol cannot judge.
    """
    ends = {item.id for item in run.final_items()}
    mine = [item for item in run.mine() if item.id in ends]
    if column.resize == "area-512-raw" and (lacking := [i for i in mine if "raw" not in i.extra]):
        raise InputError(
            f"item {lacking[0].id} has no full-size source for resize 'area-512-raw'; use "
            "'area-512'"
        )
    return [(item, protocol.questions(column.prompts, item)) for item in mine]


def known_answers(
    run: RunFolder, reuse: Iterable[Path] = (), model: str = ""
) -> dict[str, dict[str, Any]]:
    """Answers that need not be asked for, by key: of this run, its root, and the runs `reuse`.

    model: only answers of this judge, if its name is known.
    """
    places = dict.fromkeys([run.path, run.root.path, *reuse])
    rows = (row for place in places for row in RunFolder(place, process=run.process).rows(ROWS))
    good = (row for row in rows if row["outcome"] == "ok" and model in ("", row["returned"]))
    return {row["key"]: row for row in good}


def _model_before(run: RunFolder, column: Column) -> str:
    rows = (row for row in run.rows(ROWS) if row["column"] == column.id)
    return next((row["returned"] for row in rows if row["outcome"] == "ok"), "")


def _done(run: RunFolder, writer: _Writer) -> set[str]:
    """Items that have all scores of this judge."""
    if not writer.model:
        return set()
    names = {writer.name(criterion) for criterion in writer.protocol.needs}
    scored = (key for key, score in run.scores().items() if score.status == "ok")
    counts = Counter(item for item, name in scored if name in names)
    return {item for item, count in counts.items() if count == len(names)}


def _pictures(run: RunFolder, resize: str, item: Item) -> tuple[dict[str, Pixels], str]:
    """The pictures the judge sees, or why there are none."""
    path = run.picture(item)
    if not path.is_file():
        return {}, "there is no picture"
    raw = resize == "area-512-raw"
    try:
        output = read_pixels(path)
        source = read_pixels(run.locate(item.extra["raw"]) if raw else run.source(item))
    except InputError as error:
        return {}, str(error)
    if not output.any():
        return {}, "the picture is entirely black"
    return shown(resize, source, output), ""


def _reason(judged: Judged, needed: tuple[str, ...] = ()) -> str:
    """Why an item failed, or one metric of it that is made of the questions `needed`."""
    if judged.failure:
        return judged.failure
    for repeat, reasons in enumerate(judged.reasons, 1):
        for question, reason in reasons.items():
            if not needed or question in needed:
                again = f" (repeat {repeat})" if len(judged.reasons) > 1 else ""
                return f"{question}{again}: {reason}"
    return "it was not asked"
