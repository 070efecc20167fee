"""Runs of a benchmark: stages apart, resumed, shared by processes, with failures on the way."""

import errno
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread
from time import sleep
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from editmgt_lib.cli import main, parse
from editmgt_lib.commands import pace
from editmgt_lib.data.processes import Process
from editmgt_lib.errors import InputError
from editmgt_lib.evaluation import benchmark, manifest, metrics, sweeps
from editmgt_lib.evaluation.batches import pair_index
from editmgt_lib.evaluation.benchmark import Plan, run_benchmark
from editmgt_lib.evaluation.datasets.toyworld import ToyWorld
from editmgt_lib.evaluation.editors import Made, ModelEditor, Setup, read_rgb
from editmgt_lib.evaluation.generation import generate, seed_of
from editmgt_lib.evaluation.items import Item, Score
from editmgt_lib.evaluation.manifest import digest_of_files, exclusive
from editmgt_lib.evaluation.metrics import mask_cells, mean, outside_error, overlap
from editmgt_lib.evaluation.metrics.toyworld import IOU_THRESHOLD
from editmgt_lib.evaluation.options import FALLBACK_THRESHOLD
from editmgt_lib.evaluation.pacing import Pace
from editmgt_lib.evaluation.preparation import prepare
from editmgt_lib.evaluation.report import write_report
from editmgt_lib.evaluation.report.thumbnails import thumbnails
from editmgt_lib.evaluation.runs import RunFolder
from editmgt_lib.toyworld.drawing import GRID
from editmgt_lib.toyworld.success import judge
from editmgt_lib.toyworld.world import change_mask, pair_at, render

from .lookalikes import DRAWN, magicbrush
from .networks import write_clip

L1 = "l1/target/fit-output"
METRICS = (L1, "psnr/source/fit-output", "l1-outside/source/fit-output")
ROOT = Path(__file__).resolve().parents[1]


class Tint:
    """An editor whose result depends on its input, instruction and seed."""

    def __init__(self, settings=0, fails=()):
        self.settings, self.fails, self.edited = settings, fails, []

    def describe(self):
        return {"editor": "tint", "settings": self.settings}

    def edit(self, item, source, seed):
        self.edited.append(item.id)
        if item.id in self.fails:
            raise RuntimeError("no idea")
        color = torch.tensor([seed % 251, len(item.instruction), 9]) / 255
        return Made((read_rgb(source) + color) / 2, torch.full((1, 8, 8), 0.25), ("a note",))


class Killed(BaseException):
    """What no stage may catch, as none can catch a kill."""


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def dataset(data):
    return replace(magicbrush(data, small=True), name="magicbrush")


@pytest.fixture
def edited_by(monkeypatch):
    """Have runs use an editor of the test in place of finished pictures."""

    def use(editor):
        monkeypatch.setattr(benchmark, "Finished", lambda folder: editor)
        return editor

    return use


PLAN = Plan(
    stages=("prepare", "generate", "score"), editor="pictures", pictures=Path("none"), seed=5,
    metrics=METRICS,
)  # fmt: skip


def run_plan(path, dataset, data, plan=PLAN, process=None):
    run = RunFolder(path, data, process)
    run_benchmark(run, dataset, data, plan, lambda: None)
    return RunFolder(path)


def findings(run):
    """All that a report reads, without times."""
    attempts = {k: (a.status, a.seed, a.reason) for k, a in run.attempts().items()}
    pictures = {i.id: run.picture(i).read_bytes() for i in run.items() if run.picture(i).exists()}
    return run.items(), attempts, pictures, run.scores()


def report_of(run):
    """The report, without how long things took."""
    write_report(run, {"draws": 100})
    return re.sub(r"[\d.]+ s per edit|no times", "", (run.path / "report.md").read_text("utf-8"))


def lose(path):
    """Tear the last line of a file, as a kill may."""
    path.write_bytes(path.read_bytes()[: -random.randrange(2, 20)])


# ---- stages


def test_stages_apart_give_what_a_whole_run_gives(tmp_path, dataset, data, edited_by):
    edited_by(Tint())
    whole = run_plan(tmp_path / "whole", dataset, data)
    for stage in PLAN.stages:
        apart = run_plan(tmp_path / "apart", dataset, data, replace(PLAN, stages=(stage,)))
    assert findings(apart) == findings(whole)
    assert len(whole.items()) == 8 and len(whole.scores()) == 8 * len(METRICS)
    assert {s.status for s in whole.scores().values()} == {"ok"}
    values = [s.value for (_, name), s in whole.scores().items() if name == L1]
    assert len(set(values)) == 8 and all(0 < v < 1 for v in values)
    assert all(whole.map(item).exists() for item in whole.items())


@pytest.mark.parametrize("stage", ["generate", "score"])
def test_a_stage_without_the_one_before_says_so(tmp_path, dataset, data, edited_by, stage):
    edited_by(Tint())
    with pytest.raises(InputError, match="holds no prepared run"):
        run_plan(tmp_path / "run", dataset, data, replace(PLAN, stages=(stage,)))


def test_the_manifest_says_what_made_the_run(tmp_path, dataset, data, edited_by):
    edited_by(Tint(3))
    manifest = run_plan(tmp_path / "run", dataset, data).manifest
    assert manifest["prepare"]["dataset"] == "magicbrush" and manifest["prepare"]["items"] == 8
    assert manifest["prepare"]["tasks"] == {"edit": 8} and len(manifest["prepare"]["digest"]) == 16
    assert manifest["generate"]["settings"] == 3 and manifest["generate"]["seed"] == 5
    assert "torch" in manifest["generate"]["versions"]
    assert manifest["score"]["metrics"] == list(METRICS)


@pytest.mark.parametrize(
    ("change", "editor", "says"),
    [
        ({"seed": 6}, Tint(), "seed was 5 and is 6 now"),
        ({}, Tint(1), "settings was 0 and is 1 now"),
        ({"limit": 3}, Tint(), "limit was None and is 3 now"),
        ({"chains": True}, Tint(), "chains was False and is True now"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(
    tmp_path, dataset, data, edited_by, change, editor, says
):
    edited_by(Tint())
    before = findings(run_plan(tmp_path / "run", dataset, data))
    edited_by(editor)
    with pytest.raises(InputError, match=says):
        run_plan(tmp_path / "run", dataset, data, replace(PLAN, **change))
    assert findings(RunFolder(tmp_path / "run")) == before


def test_the_manifest_of_a_model_holds_all_that_decides_its_results(tmp_path, dataset, data, tiny):
    (data / "revisions.json").write_text('{"a/b": "0123abc"}', "utf-8")
    plan = replace(PLAN, editor="model", pictures=None, setup=Setup({"steps": 2}, name="tiny"),
                   limit=1, baselines=False)  # fmt: skip
    run = RunFolder(tmp_path / "run", data)
    run_benchmark(run, dataset, data, plan, lambda: tiny)
    manifest = run.manifest
    prepared, made = manifest["prepare"], manifest["generate"]
    assert prepared["revisions"] == {"a/b": "0123abc"} and prepared["items"] == 1
    assert prepared["digest"] and prepared["dataset"] == "magicbrush"
    assert made["model"] == "tiny" and len(made["weights"]) == 16 and made["lora"] == []
    assert made["sampling"]["steps"] == 2 and made["sampling"]["guidance"] == 2.0
    assert "seed" not in made["sampling"] and made["seed"] == 5 and "sha256" in made["seed_rule"]
    assert made["resolution"] == "pad 64" and made["localization"]["layers"]
    assert (made["dtype"], made["device"], made["negative"]) == ("float32", "cpu", "ugly")
    assert {"editmgt", "torch", "numpy", "pillow"} <= set(made["versions"])
    assert manifest["score"]["versions"] == made["versions"]


def test_metrics_can_be_added_later(tmp_path, dataset, data, edited_by):
    editor = edited_by(Tint())
    run = run_plan(tmp_path / "run", dataset, data, replace(PLAN, metrics=METRICS[:1]))
    lines = len(run.rows("scores"))
    more = replace(PLAN, stages=("score",), metrics=METRICS)
    assert run_plan(tmp_path / "run", dataset, data, more).manifest["score"]["metrics"] == [
        *METRICS
    ]
    assert len(run.rows("scores")) == 3 * lines and len(editor.edited) == 8
    assert {name for _, name in run.scores()} == set(METRICS)


def test_the_data_may_move(tmp_path, dataset, data, edited_by):
    edited_by(Tint())
    run_plan(tmp_path / "run", dataset, data, replace(PLAN, stages=("prepare",)))
    moved = data.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="FileNotFound|cannot read"):
        run_plan(tmp_path / "run", dataset, None, replace(PLAN, stages=("generate",)))
    run = run_plan(tmp_path / "run", dataset, moved)
    assert run.locate("x") == moved / "x" and len(run.scores()) == 8 * len(METRICS)


def test_one_process_at_a_time_states_what_made_the_run(tmp_path):
    run = RunFolder(tmp_path)
    run.claim("generate", {"steps": 3, "place": "a"}, free=("place",))
    run.claim("score", {})
    run.claim("generate", {"steps": 3, "place": "b"}, free=("place",))
    assert run.manifest == {"generate": {"steps": 3, "place": "b"}, "score": {}}
    with pytest.raises(InputError, match="steps was 3 and is None now; more was None and is 1"):
        run.claim("generate", {"more": 1}, free=("place",))


LOCKING = """
import os, sys
from pathlib import Path
from editmgt_lib.evaluation.manifest import exclusive

with exclusive(Path(sys.argv[1])):
    os._exit(3)
"""


def test_a_lock_holds_however_old_it_is_and_ends_with_its_process(tmp_path):
    lock, waiters = tmp_path / "run.lock", 4
    assert subprocess.run([sys.executable, "-c", LOCKING, str(lock)], cwd=ROOT).returncode == 3
    os.utime(lock, (1, 1))
    inside, most = [], []

    def enter():
        with exclusive(lock):
            inside.append(0)
            most.append(len(inside))
            os.utime(lock, (1, 1))
            sleep(0.05)
            inside.pop()

    threads = [Thread(target=enter) for _ in range(waiters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * waiters


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(manifest, "fcntl", SimpleNamespace(flock=refuse, LOCK_EX=2))
    with pytest.raises(InputError, match="cannot lock .*run.lock: No locks available; choose"):
        RunFolder(tmp_path).claim("score", {})


def test_loras_are_a_stack_and_older_runs_resume(tmp_path, tiny):
    """An older run.json has a table by digest, which a file stacked twice does not fit."""
    file = tmp_path / "hats.safetensors"
    file.write_bytes(b"hats")
    once, twice = (
        ModelEditor(tiny, Setup({}, lora=stack)).describe()
        for stack in (((file, 0.5),), ((file, 0.3), (file, 0.5)))
    )
    digest = digest_of_files(file)
    assert twice["lora"] == [[digest, 0.3], [digest, 0.5]]
    run = RunFolder(tmp_path / "run")
    run.claim("generate", once | {"lora": {digest: 0.5}})
    run.claim("generate", once)
    assert run.manifest["generate"]["lora"] == [[digest, 0.5]]
    run = RunFolder(tmp_path / "older")
    run.claim("generate", once | {"lora": {digest: 0.5}})
    with pytest.raises(InputError, match=r"lora was \[\['.*', 0.5\]\] and is .*0.3.* now; use"):
        run.claim("generate", twice)


def test_another_benchmark_and_changed_items_are_refused(tmp_path, dataset, data, edited_by):
    edited_by(Tint())
    run = run_plan(tmp_path / "run", dataset, data)
    with pytest.raises(InputError, match="is a run of magicbrush, not of other"):
        run_plan(run.path, replace(dataset, name="other"), data)
    lines = (run.path / "items.jsonl").read_text("utf-8").splitlines(keepends=True)
    (run.path / "items.jsonl").write_text("".join(lines[:-1]), "utf-8")
    with pytest.raises(InputError, match="items.jsonl was changed"):
        run_plan(run.path, dataset, data)


# ---- resuming


@pytest.mark.parametrize("draw", range(6))
def test_a_run_killed_at_random_ends_like_any_other(
    tmp_path, dataset, data, edited_by, monkeypatch, draw
):
    edited_by(Tint())
    whole = run_plan(tmp_path / "whole" / "run", dataset, data)
    chance, write, append = random.Random(draw), Made.write, RunFolder.append

    def maybe_killed(result):
        if chance.random() < 0.15:
            raise Killed
        return result

    monkeypatch.setattr(Made, "write", lambda *a: maybe_killed(write(*a)))
    monkeypatch.setattr(RunFolder, "append", lambda *a: maybe_killed(append(*a)))
    for kills in range(100):
        try:
            run = run_plan(tmp_path / "run", dataset, data)
            break
        except Killed:
            random.seed(draw + kills)
            for path in (tmp_path / "run").glob("*-0.jsonl"):
                lose(path)
    assert kills and findings(run) == findings(whole)
    assert report_of(run) == report_of(whole)


def test_a_resumed_run_edits_only_what_is_missing_or_broken(tmp_path, dataset, data, edited_by):
    edited_by(Tint())
    run = run_plan(tmp_path / "run", dataset, data)
    before = findings(run)
    ids = [item.id for item in run.items()]
    run.picture(ids[1]).unlink()
    run.picture(ids[4]).write_bytes(run.picture(ids[4]).read_bytes()[:60])
    editor = edited_by(Tint())
    again = run_plan(tmp_path / "run", dataset, data)
    assert editor.edited == [ids[1], ids[4]] and findings(again) == before


def test_a_kill_while_a_picture_is_written_leaves_none(tmp_path, dataset, data, edited_by):
    edited_by(Tint())

    def killed(*_):
        raise Killed

    prepared = run_plan(tmp_path / "run", dataset, data, replace(PLAN, stages=("prepare",)))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", killed)
        run_plan(tmp_path / "run", dataset, data, replace(PLAN, stages=("generate",)))
    assert not any(prepared.picture(item).exists() for item in prepared.items())
    whole = findings(run_plan(tmp_path / "whole", dataset, data))
    assert findings(run_plan(tmp_path / "run", dataset, data)) == whole


def test_a_torn_line_is_cut_before_the_next_one(tmp_path):
    run = RunFolder(tmp_path)
    run.append("scores", [Score("a", "m", 0.5), Score("b", "m", float("inf"))])
    with (tmp_path / "scores-0.jsonl").open("ab") as file:
        file.write(b'{"item": "c", "met')
    assert set(run.scores()) == {("a", "m"), ("b", "m")}
    run.append("scores", [Score("d", "m", None, "failed", "why")])
    assert set(run.scores()) == {("a", "m"), ("b", "m"), ("d", "m")}
    assert run.scores()["b", "m"].value == float("inf")
    with (tmp_path / "scores-0.jsonl").open("ab") as file:
        file.write(b"nonsense\n")
    with pytest.raises(InputError, match="line 4"):
        run.scores()


# ---- several processes


def test_two_processes_share_a_run(tmp_path, dataset, data, edited_by):
    edited_by(Tint())
    whole = findings(run_plan(tmp_path / "whole", dataset, data))
    for rank in (0, 1):
        run_plan(tmp_path / "two", dataset, data, process=Process(rank, 2, None))
    two = RunFolder(tmp_path / "two")
    assert findings(two) == whole
    counts = [
        len((two.path / f"generate-{rank}.jsonl").read_text().splitlines()) for rank in (0, 1)
    ]
    assert counts == [4, 4]


def test_the_last_process_reports(tmp_path, dataset, data, edited_by, monkeypatch):
    edited_by(Tint())
    reported = []
    monkeypatch.setattr(
        benchmark, "write_report", lambda run, options: reported.append((run.path, options))
    )
    plan = replace(PLAN, stages=(*PLAN.stages, "report"), report={"failures": "drop"})
    for rank in (0, 1):
        run = RunFolder(tmp_path / "run", data, Process(rank, 2, None))
        assert run_benchmark(run, dataset, data, plan, lambda: None) == bool(rank)
    assert reported == [(tmp_path / "run", {"failures": "drop"})]


SCRIPT = """
import os, signal, sys
from pathlib import Path
from tests.test_benchmark_runs import PLAN, Tint, benchmark, run_plan
from editmgt_lib.evaluation.datasets.magicbrush import MagicBrush

class Dying(Tint):
    def edit(self, item, source, seed):
        if len(self.edited) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().edit(item, source, seed)

benchmark.Finished = lambda folder: Dying()
run_plan(Path(sys.argv[1]), MagicBrush("magicbrush", 8, 4), Path(sys.argv[2]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_process_killed_by_the_system_loses_nothing(tmp_path, dataset, data, edited_by):
    edited_by(Tint())
    whole = findings(run_plan(tmp_path / "whole", dataset, data))
    places = (str(tmp_path / "run"), str(data))
    environment = {**os.environ, "RANK": "0", "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", SCRIPT, *places], cwd=ROOT, env=environment)
    assert done.returncode == -signal.SIGKILL
    assert len(RunFolder(tmp_path / "run").attempts()) == 2
    for rank in (1, 0):
        run_plan(tmp_path / "run", dataset, data, process=Process(rank, 2, None))
    assert findings(RunFolder(tmp_path / "run")) == whole


AT_ONCE = """
import sys
from pathlib import Path
from tests.test_benchmark_runs import PLAN, Tint, benchmark, replace, run_plan
from editmgt_lib.evaluation.datasets.magicbrush import MagicBrush

benchmark.Finished = lambda folder: Tint()
plan = replace(PLAN, stages=(*PLAN.stages, "report"), report={"draws": 100})
run_plan(Path(sys.argv[1]), MagicBrush("magicbrush", 8, 4), Path(sys.argv[2]), plan)
"""


def test_processes_at_the_same_time_share_a_run(tmp_path, dataset, data, edited_by):
    edited_by(Tint())
    whole = run_plan(tmp_path / "whole" / "run", dataset, data)
    places = (str(tmp_path / "run"), str(data))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, *places],
            cwd=ROOT,
            env={**os.environ, "RANK": rank, "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)},
        )
        for rank in "10"
    ]
    assert [process.wait(timeout=600) for process in started] == [0, 0]
    run = RunFolder(tmp_path / "run")
    assert findings(run) == findings(whole)
    assert (run.path / "report.html").exists()  # by whichever was last
    assert report_of(run) == report_of(whole)


def test_what_is_remembered_of_a_file_ends_when_the_file_changes(tmp_path):
    """As when a checkpoint is trained on, or edits are made anew, between two calls."""
    weights, picture = tmp_path / "net" / "weights.bin", tmp_path / "1.png"
    weights.parent.mkdir()
    found = []
    for second, colour in enumerate(("red", "tan", "red")):
        weights.write_text(colour)
        Image.new("RGB", (8, 8), colour).save(picture)
        for path in (weights, picture):
            os.utime(path, (second, second))  # else a fast disk may give two writes one time
        found.append((digest_of_files(weights), digest_of_files(weights.parent),
                      thumbnails({"result": picture}, 8)["result"]))  # fmt: skip
    assert found[0] == found[2] and not set(found[0]) & set(found[1])


def test_the_environment_says_which_process_this_is(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert RunFolder(tmp_path).process[:2] == (3, 8)
    monkeypatch.setenv("RANK", "three")
    with pytest.raises(InputError, match="RANK='three'"):
        RunFolder(tmp_path)


def test_seeds_depend_on_the_item_alone():
    first, second = (Item(id=name, task="", instruction="", source="") for name in "ab")
    assert seed_of(0, first) == seed_of(0, first) < 2**64
    assert len({seed_of(seed, item) for seed in (0, 1) for item in (first, second)}) == 4
    assert seed_of(7, replace(first, extra={"seed_offset": 5})) == 12


# ---- failures


def test_a_failure_is_recorded_and_the_rest_goes_on(tmp_path, dataset, data, edited_by):
    ids = [item.id for item in run_plan(tmp_path / "x", dataset, data,
                                        replace(PLAN, stages=("prepare",))).items()]  # fmt: skip
    edited_by(Tint(fails=ids[2:3]))
    run = run_plan(tmp_path / "run", dataset, data)
    attempt = run.attempts()[ids[2]]
    assert (attempt.status, attempt.reason) == ("failed", "RuntimeError: no idea")
    scores = run.scores()
    assert {scores[ids[2], name].status for name in METRICS} == {"failed"}
    assert "no picture" in scores[ids[2], L1].reason
    assert sum(s.status == "ok" for s in scores.values()) == 7 * len(METRICS)
    editor = edited_by(Tint())
    mended = run_plan(tmp_path / "run", dataset, data)
    assert editor.edited == [ids[2]]
    assert {s.status for s in mended.scores().values()} == {"ok"}


def test_too_many_failures_stop_the_run_and_say_why(tmp_path, dataset, data, edited_by):
    ids = [item.id for item in run_plan(tmp_path / "x", dataset, data,
                                        replace(PLAN, stages=("prepare",))).items()]  # fmt: skip
    edited_by(Tint(fails=ids))
    with pytest.raises(InputError, match=r"8 of 8 items failed.*0\.2.*RuntimeError: no idea"):
        run_plan(tmp_path / "run", dataset, data)
    assert len(RunFolder(tmp_path / "run").attempts()) == 8
    run_plan(tmp_path / "run", dataset, data, replace(PLAN, max_failed=1))


def test_the_share_of_failures_is_judged_on_enough_items():
    pace = Pace("edits", 100, 0.5)
    for number in range(30):
        pace.step(number < 10, "why")  # ten failures at the start are half of twenty
    with pytest.raises(InputError, match="of the items|of \\d+ items failed"):
        for _ in range(30):
            pace.step(True, "why")


def test_black_and_missing_finished_pictures_fail(tmp_path, dataset, data):
    prepared = run_plan(tmp_path / "x", dataset, data, replace(PLAN, stages=("prepare",)))
    ids = [item.id for item in prepared.items()]
    finished = tmp_path / "finished"
    finished.mkdir()
    for number, name in enumerate(ids[:-1]):
        suffix = ".jpg" if number == 1 else ".png"
        color = (0, 0, 0) if number == 0 else (200, 30, 40)
        Image.new("RGB", (8, 8), color).save(finished / f"{name}{suffix}")
    (finished / f"{ids[2]}.png").write_bytes(b"no picture")
    plan = replace(PLAN, pictures=finished, max_failed=0.5)
    run = run_plan(tmp_path / "run", dataset, data, plan)
    reasons = {name: run.scores()[name, L1].reason for name in ids}
    assert "black" in reasons[ids[0]]
    assert [bool(reason) for reason in reasons.values()] == [True, False, True, *[False] * 4, True]
    assert str(finished) in run.attempts()[ids[-1]].reason
    assert run.picture(ids[3]).read_bytes() == (finished / f"{ids[3]}.png").read_bytes()
    assert run.parts("baselines").keys() == {"copy"}
    with pytest.raises(InputError, match="of 8 items failed"):
        run_plan(tmp_path / "strict", dataset, data, replace(plan, max_failed=0.2))


def test_wrong_counts_and_missing_pictures_of_the_data(tmp_path, dataset, data):
    with pytest.raises(InputError, match="9"):
        run_plan(tmp_path / "run", replace(dataset, turns=9), data)

    class Odd:
        name, tasks, metrics = "odd", ("t",), METRICS

        def items(self, data, store):
            yield Item(id="a", task="t", instruction="x", source="gone.png")

    with pytest.raises(InputError, match=r"1 pictures of the data are missing.*gone\.png"):
        run_plan(tmp_path / "run", Odd(), data)
    assert "prepare" not in RunFolder(tmp_path / "run").manifest


@pytest.mark.parametrize("ids", [("a/b",), ("..",), ("a", "A"), ("",), ("x" * 300,)])
def test_ids_that_cannot_name_files_are_refused(tmp_path, ids):
    class Odd:
        name, tasks, metrics = "odd", ("t",), ()

        def items(self, data, store):
            path = store("source.png", b"bytes")
            yield from (Item(id=name, task="t", instruction="x", source=path) for name in ids)

    with pytest.raises(InputError, match="id"):
        prepare(RunFolder(tmp_path / "run"), Odd(), tmp_path)


def test_stored_bytes_are_written_once(tmp_path):
    class Odd:
        name, tasks, metrics = "odd", ("t",), ()

        def items(self, data, store):
            assert store("p.png", b"one") == store("p.png", b"one") == "run:inputs/p.png"
            yield Item(id="a", task="t", instruction="x", source=store("p.png", b"one"))
            store("p.png", b"two")

    with pytest.raises(InputError, match="another picture"):
        prepare(RunFolder(tmp_path / "run"), Odd(), tmp_path)


# ---- chains, baselines, sweeps


def test_chains_edit_the_result_before(tmp_path, dataset, data, edited_by):
    edited_by(Tint())
    run = run_plan(tmp_path / "run", dataset, data, replace(PLAN, chains=True))
    chained = [item for item in run.items() if item.previous]
    assert chained and all(run.source(i) == run.picture(i.previous) for i in chained)
    ends = {item.id for item in run.final_items()}
    assert len(ends) == 4
    statuses = {(s.item in ends, s.status) for s in run.scores().values()}
    assert statuses == {(True, "ok"), (False, "n/a")}
    for rank in (1, 0):  # chains are not divided among processes
        shared = RunFolder(run.path, process=Process(rank, 2, None)).mine()
        assert {i.previous for i in shared} - {None} <= {i.id for i in shared}


def test_a_failed_turn_fails_those_after_it(tmp_path, dataset, data, edited_by):
    plan = replace(PLAN, chains=True, max_failed=1)
    items = run_plan(tmp_path / "x", dataset, data, replace(plan, stages=("prepare",))).items()
    first = next(i.previous for i in items if i.previous)
    edited_by(Tint(fails=(first,)))
    run = run_plan(tmp_path / "run", dataset, data, plan)
    after = [a for a in run.attempts().values() if first in a.reason]
    assert [a.status for a in after] == ["failed"]
    assert run.attempts()[first].status == "failed"


def test_copying_the_input_is_always_measured_beside(tmp_path, dataset, data, edited_by):
    edited_by(Tint())
    run = run_plan(tmp_path / "run", dataset, data)
    copied = run.parts("baselines")["copy"]
    assert copied.items() == run.items() and copied.locate("x") == run.locate("x")
    psnr = {s.value for (_, name), s in copied.scores().items() if name.startswith("psnr")}
    assert psnr == {float("inf")}
    alone = run_plan(tmp_path / "alone", dataset, data, replace(PLAN, baselines=False))
    assert alone.parts("baselines") == {}


def test_a_sweep_has_a_run_for_every_combination():
    plan = Plan(sweep={"threshold": (0, 0.1), "guidance": (1, 3)})
    assert list(plan.points()) == [
        "threshold=0,guidance=1", "threshold=0,guidance=3",
        "threshold=0.1,guidance=1", "threshold=0.1,guidance=3",
    ]  # fmt: skip
    with pytest.raises(InputError, match="sweep"):
        Plan(sweep={"threshold": (0, 0)})
    with pytest.raises(InputError, match="needs a model"):
        Plan(sweep={"threshold": (0, 1)}, editor="copy")


def test_a_sweep_shows_what_the_judge_says_and_counts_failures(tmp_path):
    run = RunFolder(tmp_path)
    judged = "gedit/sc/model"
    points = {f"threshold={x}": {"threshold": x} for x in (0.2, 0.0)}
    for number, name in enumerate(points):
        rows = [Score("a", sweeps.L1, 0.5), Score("b", sweeps.L1, None, "failed", "why"),
                Score("c", sweeps.L1, None, "n/a", "why"),
                Score("a", judged, 4.0 + number)]  # fmt: skip
        run.part("sweep", name).append("scores", rows)
    sweeps.write_sweep(run, points)
    first = json.loads((tmp_path / "sweep.json").read_text())["points"][0]
    assert first["values"] == {"threshold": 0.2}
    assert first["figures"][sweeps.L1] == {
        "mean": 0.75, "items": 3, "failed": 1, "not_applicable": 1
    }  # fmt: skip
    plot = (tmp_path / "sweep.svg").read_text()
    assert judged in plot and "lambda" in plot
    assert (tmp_path / "sweep.md").read_text().count("\n") == 4


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint):
    import editmgt_lib

    return editmgt_lib.load(tiny_checkpoint, device="cpu")


def swept(place, dataset, data, tiny, **sweep):
    plan = replace(PLAN, editor="model", pictures=None, setup=Setup({"steps": 1}), limit=1,
                   sweep=sweep, baselines=False, stages=(*PLAN.stages, "report"),
                   report={"draws": 100, "pictures": "none"})  # fmt: skip
    run = RunFolder(place, data)
    run_benchmark(run, dataset, data, plan, lambda: tiny)
    return run


@pytest.mark.parametrize("name", DRAWN)
def test_lambda_is_swept_on_any_benchmark(tmp_path, name, tiny):
    dataset = DRAWN[name](tmp_path / "data", small=True)
    run = swept(tmp_path / "run", dataset, tmp_path / "data", tiny, threshold=(0.0, 0.9))
    points = json.loads((run.path / "sweep.json").read_text("utf-8"))["points"]
    free, held = (point["figures"][sweeps.L1]["mean"] for point in points)
    assert [point["values"] for point in points] == [{"threshold": 0.0}, {"threshold": 0.9}]
    assert held <= free  # what is held keeps the source
    assert "lambda" in (run.path / "sweep.svg").read_text("utf-8")
    assert "lambda" in (run.path / "report.html").read_text("utf-8")


def test_guidance_and_lambda_are_swept_together(tmp_path, dataset, data, tiny):
    run = swept(tmp_path / "run", dataset, data, tiny, threshold=(0.0, 0.9), guidance=(1.0, 3.0))
    parts = run.parts("sweep")
    settings = [part.manifest["generate"]["sampling"] for part in parts.values()]
    assert {(s["threshold"], s["guidance"]) for s in settings} == {
        (0.0, 1.0), (0.0, 3.0), (0.9, 1.0), (0.9, 3.0)
    }  # fmt: skip
    assert len({next(iter(part.attempts().values())).seed for part in parts.values()}) == 1
    assert not (run.path / "sweep.svg").exists()  # two options have no one axis
    assert (run.path / "sweep.md").read_text("utf-8").count("\n") == 6


def test_a_sweep_of_seeds_shows_what_chance_does(tmp_path, dataset, data, tiny):
    run = swept(tmp_path / "run", dataset, data, tiny, seed=(0, 7))
    [item], parts = run.items(), run.parts("sweep")
    seeds = [part.attempts()[item.id].seed for part in parts.values()]
    assert seeds == [seed_of(0, item), seed_of(7, item)]
    assert [part.manifest["generate"]["seed"] for part in parts.values()] == [0, 7]
    report = json.loads((run.path / "report.json").read_text("utf-8"))
    assert {row["metric"] for row in report["between"]} >= {L1, sweeps.L1}
    assert all(row["name"] == "seeds" and row["runs"] == 2 for row in report["between"])
    assert not (run.path / "sweep.svg").exists()
    with pytest.raises(InputError, match="seed is -1"):
        Plan(sweep={"seed": (-1, 0)})


def bench(tiny_checkpoint, out, *words):
    args = ["benchmark", "toyworld", "--out", str(out), "--samples", "1", "--device", "cpu"]
    model = [] if "--pictures" in words or "--model" in words else ["--model", str(tiny_checkpoint)]
    return main([*args, *model, *words])


STAGES = ("--stages", "prepare,generate,score", "--limit", "3", "--max-failed", "0")


def test_the_command_sweeps_lambda(tiny_checkpoint, tmp_path, capsys):
    words = (
        "--stages",
        "prepare,generate,score,report",
        "--limit",
        "2",
        "--set",
        "steps=2",
        "--sweep",
        "threshold=0,0.9",
        "--metrics",
        "toyworld/success,l1/target/fit-output",
    )
    assert bench(tiny_checkpoint, tmp_path / "run", *words) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run' / 'report.html'}\n"
    run = RunFolder(tmp_path / "run")
    assert set(run.parts("sweep")) == {"threshold=0", "threshold=0.9"}
    assert set(run.parts("baselines")) == {"copy", "roundtrip"}
    free, held = (run.parts("sweep")[f"threshold={x}"] for x in ("0", "0.9"))
    assert held.manifest["generate"]["sampling"]["threshold"] == 0.9
    assert free.manifest["generate"]["sampling"]["steps"] == 2
    points = json.loads((run.path / "sweep.json").read_text())["points"]
    assert [point["values"]["threshold"] for point in points] == [0, 0.9]
    assert set(points[0]["figures"]) == {"toyworld/success", L1, sweeps.L1}
    assert points[0]["figures"][sweeps.L1]["mean"] >= points[1]["figures"][sweeps.L1]["mean"]
    assert "| 0.9 " in (run.path / "sweep.md").read_text().replace("|       0.9", "| 0.9")
    assert (run.path / "sweep.svg").read_text().count("<polyline") == 2
    assert all((place / "report.html").exists() for place in (run.path, free.path, held.path))


def test_the_command_makes_maps_and_round_trips(tiny_checkpoint, tmp_path, capsys):
    assert bench(tiny_checkpoint, tmp_path / "run", *STAGES) == 0
    run = RunFolder(tmp_path / "run")
    item = run.items()[0]
    with Image.open(run.map(item)) as image:
        assert image.size == (64, 64) and image.mode.startswith("I")
    roundtrip = run.parts("baselines")["roundtrip"]
    scores = {name: s for (i, name), s in roundtrip.scores().items() if i == item.id}
    assert scores["toyworld/auc"].status == "n/a" and scores["toyworld/success"].status == "ok"
    assert 0 < scores["l1/source/fit-output"].value < 1
    model = ("--model", f"roundtrip:{tiny_checkpoint}")
    assert bench(None, tmp_path / "alone", *STAGES, *model) == 0
    alone = RunFolder(tmp_path / "alone")
    assert alone.picture(item).read_bytes() == roundtrip.picture(item).read_bytes()
    assert "score: 3 of 3" in capsys.readouterr().err


def test_networks_are_loaded_from_their_folder(tiny_checkpoint, tmp_path, capsys):
    write_clip(tmp_path / "networks" / "clip-vit-b-32")
    words = (*STAGES, "--metrics", "clip-i/vit-b-32/source", "--set", "steps=1")
    words += ("--networks", str(tmp_path / "networks"))
    assert bench(tiny_checkpoint, tmp_path / "run", *words) == 0
    scores = RunFolder(tmp_path / "run").parts("baselines")["copy"].scores()
    assert [s.value for s in scores.values()] == [pytest.approx(1, abs=1e-4)] * 3
    words = (*words, "--metrics", "dino/v1-s-16/source")
    assert bench(tiny_checkpoint, tmp_path / "other", *words) == 2
    assert "dino-s-16" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_squash_fits_any_shape(tiny_checkpoint, tmp_path, dataset, data):
    import editmgt_lib

    model = editmgt_lib.load(tiny_checkpoint, device="cpu")
    wide = tmp_path / "wide.png"
    Image.fromarray(np.arange(96 * 48 * 3, dtype=np.uint8).reshape(48, 96, 3)).save(wide)
    item = Item(id="a", task="t", instruction="make it red", source="")
    for fit in ("pad", "native", "squash"):
        made = ModelEditor(model, Setup({"steps": 1}, fit=fit)).edit(item, wide, 3)
        assert made.image.shape == (1, 48, 96, 3) and made.map.shape == (1, 48, 96)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--set", "stepz=3"), "stepz"),
        (("--set", "steps=0"), "steps is 0"),
        (("--set", "steps"), "OPTION=VALUE"),
        (("--set", "seed=3"), "--seed"),
        (("--sweep", "threshold=0,7"), "threshold is 7"),
        (("--stages", "paint"), "'paint'"),
        (("--metrics", "l3"), "'l3'"),
        (("--metrics", "vmaf"), "no metric 'vmaf'; docs/evaluation.md lists them"),
        (
            ("--stages", "judge", "--judge", "modle=m"),
            "judge: there is no key 'modle'; did you mean 'model'?",
        ),
        (("--stages", "judge", "--judge", "model=m"), "judge: url is missing; give --judge url="),
        (("--download",), "--download has no effect on toyworld"),
        (("--fit", "stretch"), "'stretch'"),
        (("--model", "copy", "--pictures", "x"), "give one"),
        (("--metrics", "clip-i/vit-b-32/source"), "--networks"),
        (("--seed", "-1"), "seed is -1"),
        (("--stages", "score,report", "--report", "failure=drop"), "'failure'"),
        (("--judge", "url=u"), "options of judge have no effect with the stages prepare, generate"),
        (("--report", "failures=drop"), "score; add report to them, or leave the options out"),
        (("--samples", "0"), "samples is 0"),
        (("--limit", "0"), "limit is 0"),
    ],
)
def test_bad_input_of_benchmark(tiny_checkpoint, tmp_path, capsys, words, says):
    assert bench(tiny_checkpoint, tmp_path / "run", *STAGES[:4], *words) == 2
    err = capsys.readouterr().err
    assert says in err and len(err.splitlines()) == 1


def test_a_benchmark_without_its_data_says_so(tmp_path, capsys):
    assert main(["benchmark", "magicbrush", "--out", str(tmp_path / "run")]) == 2
    assert "--data" in capsys.readouterr().err
    assert main(["benchmark", "imagenet", "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert "imagenet" in err and "'toyworld'" in err and "'magicbrush'" in err
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(tmp_path)]) == 2
    assert "holds no prepared run; name the folder of one" in capsys.readouterr().err


def test_progress_has_rate_and_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    with pace.Meter() as meter:
        for done in range(1, 102):
            now[0] += 20
            meter("generate", done, 400, 3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 50
    assert lines[-1] == (
        "editmgt: generate: 101 of 400, 3 failed, 0.05 per second, 1 h 40 min left"
    )


# ---- ToyWorld


def direct_figures(model, samples, categories, threshold, steps):
    """Means by category and metric of plain edits: the pipeline alone, no files, no stages.

    Maps have 16 bits and pictures 8, as in files: cells that differ by less are ties for the AUC.
    """
    size, found = model.settings.resolution, {}
    for category in categories:
        rows = [pair_at(0, pair_index(category, k), True, category) for k in range(samples)]
        for rank, pair in enumerate(rows):
            seed = pair_index(category, rank)
            source = torch.from_numpy(render(pair.source, size)).float()[None] / 255
            mask = change_mask(pair, size)
            text = model.encode_instruction(pair.instruction)
            sampling = replace(model.settings.sampling, steps=steps, seed=seed)
            map_ = model.localize(model.encode_image(source), text, None, sampling)
            cells = map_.upsample(GRID, GRID)[0].clamp(0, 1).mul(65535).round().numpy() / 65535
            located = overlap(cells, mask_cells(mask, GRID, GRID), IOU_THRESHOLD)
            values = {"auc": located.auc, "iou/t0.1": located.iou, "iou/best": located.best_iou}
            for name, at in (("free", 0.0), ("held", threshold)):
                made = model.edit(source, pair.instruction, seed=seed, threshold=at, steps=steps)
                picture = made.image[0].mul(255).round().div(255).numpy()
                values[name, "success"] = float(judge(picture, pair).succeeded)
                values[name, "outside"] = outside_error(picture, source[0].numpy(), mask).mean
            for name, value in values.items():
                found.setdefault((category, name), []).append(value)
    return {key: mean(values) for key, values in found.items()}


def test_toyworld_gives_the_figures_of_direct_edits(tmp_path):
    """Seeds, criterion and maps survive stages and files; with 60 samples, README's table too.

    At most ten pairs of each category are edited once more directly, which is half of the time.
    """
    import editmgt_lib

    model = editmgt_lib.load("toyworld", device="cpu")
    samples = int(os.environ.get("EDITMGT_TOYWORLD_SAMPLES", "1"))
    names = ("add", "background") if samples == 1 else ToyWorld.tasks
    steps = 2 if samples == 1 else model.settings.sampling.steps
    threshold = model.settings.sampling.threshold or FALLBACK_THRESHOLD
    run = RunFolder(tmp_path / "run")
    plan = Plan(
        stages=("prepare", "generate", "score"), setup=Setup({"steps": steps}),
        sweep={"threshold": (0.0, threshold)}, baselines=False,
    )  # fmt: skip
    dataset = ToyWorld(samples, size=model.settings.resolution, categories=names)
    run_benchmark(run, dataset, tmp_path, plan, lambda: model)
    points = {"free": run.parts("sweep")["threshold=0.0"],
              "held": run.parts("sweep")[f"threshold={threshold}"]}  # fmt: skip
    tasks = {item.id: item.task for item in run.items()}
    found = {}
    for point, part in points.items():
        for (item, metric), score in part.scores().items():
            key = tasks[item], (point, metric.removeprefix("toyworld/"))
            found.setdefault(key, []).append(score.value)
    near = {"success": 0.004, "outside": 3e-4, "auc": 1e-3}  # a cell at the threshold may flip
    direct = min(samples, 10)
    expected = direct_figures(model, direct, names, threshold, steps)
    for (category, key), value in expected.items():
        point, metric = key if isinstance(key, tuple) else ("held", key)
        got = mean(found[category, (point, metric)][:direct])
        assert got == (value and pytest.approx(value, abs=near.get(metric, 0.01))), (category, key)
    if samples == 60:
        check_readme_table({k: mean(v) for k, v in found.items()})


def check_readme_table(found):
    """README's figures of the shipped checkpoint are those of this run, but for two pairs of 60."""
    text = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(
        r"^\| (\w+) \| 60 \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+|–|-) \|$", text, re.MULTILINE
    )
    assert len(rows) == len(ToyWorld.tasks), "README has no table of 60 pairs per category"
    for name, free, held, area in rows:
        task = {"colour": "color"}.get(name, name)
        for point, percent in (("free", free), ("held", held)):
            got = found[task, (point, "success")]
            assert got == pytest.approx(float(percent) / 100, abs=2 / 60 + 0.005), (name, point)
        if area not in "–-":
            assert found[task, ("held", "auc")] == pytest.approx(float(area), abs=0.02), name


def test_the_short_form_is_the_same_run(tiny_checkpoint, tmp_path, capsys):
    """`editmgt evaluate` and `editmgt benchmark toyworld` give every pair the same figures."""
    words = ("--sweep", "threshold=0,0.1", "--stages", "prepare,generate,score", "--no-baselines")
    assert bench(tiny_checkpoint, tmp_path / "run", *words, "--seed", "3") == 0
    out = tmp_path / "short.json"
    words = ("--samples", "1", "--seed", "3", "--device", "cpu", "--json", str(out))
    assert main(["evaluate", str(tiny_checkpoint), *words]) == 0
    run, pairs = RunFolder(tmp_path / "run"), json.loads(out.read_text("utf-8"))["pairs"]
    points = run.parts("sweep")
    for item, pair in zip(run.items(), pairs, strict=True):
        assert (item.task, item.extra["index"]) == (pair["category"], pair["index"])
        for name, part in (("free", points["threshold=0"]), ("held", points["threshold=0.1"])):
            scores = {m: s.value for (i, m), s in part.scores().items() if i == item.id}
            assert scores["toyworld/success"] == pair[name]["success"]
            assert scores["toyworld/outside"] == pair[name]["outside"]["mean"]
            assert scores["toyworld/moved/t0.1"] == pair[name]["outside"]["share"]
            assert scores["toyworld/auc"] == pair["localization"]["auc"]
            assert scores["toyworld/iou/t0.1"] == pair["localization"]["iou"]
        assert points["threshold=0.1"].attempts()[item.id].held == pair["held_share"]


def test_toyworld_success_takes_any_size(tmp_path):
    run = RunFolder(tmp_path / "run")
    dataset = ToyWorld(samples=1, size=64)
    prepare(run, dataset, tmp_path)

    class Target(Tint):
        def edit(self, item, source, seed):
            pixels = read_rgb(run.locate(item.reference))
            return Made(pixels.repeat_interleave(2, 1).repeat_interleave(2, 2))

    generate(run, Target())
    plan = Plan(stages=("score",), baselines=False)
    run_benchmark(run, dataset, tmp_path, plan, lambda: None)
    success = [s.value for (_, m), s in run.scores().items() if m == "toyworld/success"]
    assert len(success) == 7 and np.mean(success) > 0.7  # resizing blurs, but shows the target


@pytest.mark.parametrize("name", DRAWN)
def test_every_benchmark_goes_through_the_stages(tmp_path, name, edited_by):
    edited_by(Tint())
    dataset = DRAWN[name](tmp_path / "data", small=True)
    run = run_plan(tmp_path / "run", dataset, tmp_path / "data")
    assert {a.status for a in run.attempts().values()} == {"ok"}
    assert len(run.scores()) == len(METRICS) * len(run.items()) > 0
    assert {s.status for s in run.scores().values()} <= {"ok", "n/a"}
    assert set(run.manifest["prepare"]["tasks"]) <= set(dataset.tasks)


def documented_calls():
    text = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    return [words[words.index("benchmark") :] for words in lines]


@pytest.mark.parametrize("call", documented_calls(), ids=" ".join)
def test_documented_commands_are_understood(call):
    assert callable(parse(call).run)


def test_documented_metrics_exist():
    text = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
    table = text.partition("## Metrics")[2].partition("\n## ")[0]
    names = [n for n in re.findall(r"`([a-z0-9-]+/[^`]+)`", table) if not n.endswith("...")]
    assert len(names) > 20 and [metric.name for metric in metrics.find(names)]
