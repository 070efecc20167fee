"""Every benchmark from its data to its report, whole and killed at random.

The shipped checkpoint edits, tiny random networks measure, and a judge on this machine answers in
every mood. All pictures are drawn here.
"""

import json
import random
import re

import numpy as np
import pytest
from PIL import Image

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

ITEMS = 3
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
            if chance.random() < 0.08:
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


def finished(folder, run, draw):
    """Pictures of another editor, one per item."""
    folder.mkdir()
    for number, item in enumerate(run.items()):
        with Image.open(run.source(item)) as source:
            pixels = np.asarray(source.convert("RGB"))
        Image.fromarray(draw(pixels, number)).save(folder / f"{item.id}.png")
    return folder


def test_random_noise_scores_at_the_floor(tmp_path):
    """Every picture is noise: nothing succeeds, and no metric ranks it with a copy of the input."""
    floor = {"toyworld/success": (0, 0), "psnr/source/fit-output": (0, 11),
             "toyworld/outside": (0.2, 1), "l1/target/fit-output": (0.2, 1),
             "l1-inside/target/fit-output": (0.15, 1), "changed-outside/t8/source/fit-output":
             (0.95, 1)}  # fmt: skip
    dataset, place = ToyWorld(1, size=64), tmp_path / "run"
    run = RunFolder(place, tmp_path, Process(0, 1, None))
    plan = Plan(stages=("prepare",), metrics=tuple(floor))
    run_benchmark(run, dataset, tmp_path, plan, lambda: None)
    rng = np.random.default_rng(0)
    folder = finished(tmp_path / "noise", run, lambda p, _: rng.integers(0, 256, p.shape, np.uint8))
    plan = Plan(stages=("generate", "score"), editor="pictures", pictures=folder,
                metrics=tuple(floor))  # fmt: skip
    run_benchmark(run, dataset, tmp_path, plan, lambda: None)
    scores = run.scores()
    copied = run.parts("baselines")["copy"].scores()
    for item in run.items():
        for name, (low, high) in floor.items():
            score = scores[item.id, name]
            if score.status == "ok":
                assert low <= score.value <= high, (item.id, name, score.value)
        psnr = (item.id, "psnr/source/fit-output")
        assert scores[psnr].value < copied[psnr].value == float("inf")


GOLDEN = {  # of this run, then of copy-input: macro, micro
    "l1/source": (0.578877005, 0.581325864, 0, 0),
    "gedit/sc": (3.727272727, 3.809523810, 2.818181818, 2.904761905),
    "gedit/pq": (3.727272727, 3.857142857, 2.590909091, 2.619047619),
    "gedit/o": (3.485421989, 3.584050962, 2.279838296, 2.321058521),
}


def test_a_golden_run_with_a_judge(tmp_path):
    """GEdit's look-alike, colours inverted, a judge that answers by what it sees: known figures."""
    data = tmp_path / "data"
    dataset = DRAWN["gedit-en"](data, small=True)
    run = RunFolder(tmp_path / "run", data, Process(0, 1, None))
    run_benchmark(run, dataset, data, Plan(stages=("prepare",), limit=21), lambda: None)
    folder = finished(tmp_path / "inverted", run, lambda pixels, _: 255 - pixels)
    with FakeJudge(good) as judge:
        plan = Plan(
            stages=("generate", "score", "judge", "report"), limit=21, editor="pictures",
            pictures=folder,
            metrics=("l1/source/fit-output",), judge={"url": judge.url, "model": "m"},
            report={"draws": 100, "pictures": "none"},
        )  # fmt: skip
        run_benchmark(run, dataset, data, plan, lambda: None)
    report = json.loads((run.path / "report.json").read_text("utf-8"))
    assert [row["name"] for row in report["rows"]] == ["this run", "copy-input"]
    found: dict[str, tuple[float, ...]] = {}
    for row in report["rows"]:
        for metric, figures in row["figures"].items():
            means = tuple(figures[mean]["mean"] for mean in ("macro", "micro"))
            name = "/".join(metric.split("/")[:2])
            found[name] = found.get(name, ()) + means
    assert found.keys() == GOLDEN.keys() and report["headline"] == "macro"
    for name, expected in GOLDEN.items():
        assert found[name] == pytest.approx(expected, abs=1e-6), name
