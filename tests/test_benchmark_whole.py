"""Every benchmark from its data to its report, whole and killed at random.

The shipped checkpoint edits, tiny random networks measure, and a judge on this machine answers in
every mood. All pictures are drawn here.
"""

import json
import random
import re

import pytest

import editmgt_lib
from editmgt_lib.data.processes import Process
from editmgt_lib.evaluation.benchmark import Plan, run_benchmark
from editmgt_lib.evaluation.datasets.toyworld import ToyWorld
from editmgt_lib.evaluation.editors import Made, Setup
from editmgt_lib.evaluation.judging import scale
from editmgt_lib.evaluation.runs import RunFolder

from .fake_judge import FakeJudge, completion, failure, good
from .lookalikes import DRAWN
from .networks import write_networks

ITEMS = 5
REFUSED, OUT_OF_TIME, NONSENSE, TWICE, BUSY = range(5)  # moods; the rest of ten is good


class Killed(BaseException):
    """What no stage may catch, as none can catch a kill."""


def answer(asked):
    """Half of all questions meet a bad mood, the same whoever asks when."""
    mood = int(asked.chance * 1000) % 10
    if mood == REFUSED:
        return completion("I'm sorry, but I can't rate this picture.")
    if mood == OUT_OF_TIME:
        return failure(504, "upstream took too long")
    if mood == NONSENSE:
        return completion("I would say quite good.")
    if mood == TWICE and not asked.is_again:
        return completion('{"score": [11, -1]}')
    if mood == BUSY and asked.nth == 1:
        return failure(429, "slow down", **{"Retry-After": "0"})
    return good(asked)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def model():
    return editmgt_lib.load("toyworld", device="cpu")


@pytest.fixture(params=[*DRAWN, "toyworld"])
def drawn(request, tmp_path, model):
    """A benchmark of a few items, and where its data is."""
    if request.param == "toyworld":
        return ToyWorld(1, size=model.settings.resolution), tmp_path
    return DRAWN[request.param](tmp_path / "data", small=True), tmp_path / "data"


def whole_run(folder, drawn, model, networks, judge, process=None):
    dataset, data = drawn
    plan = Plan(
        seed=5, limit=ITEMS, setup=Setup({"steps": 1}), networks=networks,
        judge={"url": judge.url, "model": "m", "backoff": 0.0, "retries": 1, "max_failed": 1.0,
               "threads": 2},
        report={"draws": 100},
    )  # fmt: skip
    run = RunFolder(folder, data, process or Process(0, 1, None))
    return run, run_benchmark(run, dataset, data, plan, lambda: model)


def reports(run):
    """All three forms, without how long edits took."""
    found = json.loads((run.path / "report.json").read_text("utf-8"))
    found["items"].pop("seconds_per_edit")
    texts = [(run.path / f"report.{kind}").read_text("utf-8") for kind in ("md", "html")]
    times = r"(, )?[\d.]+ s per edit \(median\)|\"seconds_per_edit\":(\{[^}]*\}|null)"
    return found, *(re.sub(times, "", text) for text in texts)


def tear(folder, rank, chance):
    """Lose ends of lines of the process killed, as a kill may."""
    for path in folder.rglob(f"*-{rank}.jsonl"):
        if chance.random() < 0.3:
            path.write_bytes(path.read_bytes()[: -chance.randrange(2, 20)])


def require_whole(run, dataset, asked):
    """All default metrics and the judge's, of the model and of both baselines."""
    report = json.loads((run.path / "report.json").read_text("utf-8"))
    judged = {name for name in report["metrics"] if scale(name) is not None}
    assert judged and set(report["metrics"]) - judged == set(dataset.metrics)
    rows = {row["name"]: row["figures"] for row in report["rows"]}
    assert set(rows) == {"this run", "copy-input", "tokenizer round trip"}
    assert all(row[name]["micro"]["n"] == ITEMS for row in rows.values() for name in judged)
    statuses = {s.status for (_, name), s in run.scores().items() if name in judged}
    assert statuses <= {"ok", "failed"} and len(asked) >= 3 * ITEMS


def test_killed_at_random_the_report_is_the_same(tmp_path, drawn, model, networks, monkeypatch):
    with FakeJudge(answer) as judge:
        run, _ = whole_run(tmp_path / "whole" / "run", drawn, model, networks, judge)
        require_whole(run, drawn[0], judge.asked)
    chance, kills, place = random.Random(drawn[0].name), 0, tmp_path / "killed" / "run"

    def maybe_killed(call):
        def wrapped(*given):
            result = call(*given)
            if chance.random() < 0.06:
                raise Killed
            return result

        return wrapped

    prepare_alone(place, drawn)
    monkeypatch.setattr(Made, "write", maybe_killed(Made.write))
    monkeypatch.setattr(RunFolder, "append", maybe_killed(RunFolder.append))
    with FakeJudge(answer) as judge:
        for process in (Process(1, 2, None), Process(0, 2, None)):  # the last one reports
            done = None
            while done is None:
                try:
                    killed, done = whole_run(place, drawn, model, networks, judge, process)
                except Killed:
                    kills += 1
                    tear(place, process.rank, chance)
    assert kills and done
    for name, part in {"": run, **run.parts("baselines")}.items():
        again = killed.parts("baselines")[name] if name else killed
        assert again.scores() == part.scores()
    for one, other in zip(reports(killed), reports(run), strict=True):
        assert one == other


def prepare_alone(folder, drawn):
    """Process 0 prepares; the others wait for it."""
    dataset, data = drawn
    plan = Plan(stages=("prepare",), limit=ITEMS)
    run_benchmark(RunFolder(folder, data, Process(0, 2, None)), dataset, data, plan, lambda: None)
