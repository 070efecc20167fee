"""Saved states: resumed to the bit, never half there, and never silently replaced by a start."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from editmgt_lib.errors import CheckpointError, InputError
from editmgt_lib.training import run as run_module
from editmgt_lib.training.logs import LOG
from editmgt_lib.training.loop import WINDOW, DivergedError, train
from editmgt_lib.training.optimizers import OptimizerOptions
from editmgt_lib.training.run import Run
from editmgt_lib.training.state import MARKER, prune, saved_steps, write_state

from .training_runs import (
    ADAM,
    KINDS,
    ROOT,
    advance,
    assert_same,
    environment,
    loop,
    stage_of,
    state_of,
    weights_of,
)

pytestmark = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="the extra `train` needs torch 2.9"
)

LOOP = loop()


def logged(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


# --- resuming ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_repeats_an_uninterrupted_one(kind, tmp_path):
    options = loop(optimizer=replace(ADAM, muon=1e-2))
    straight = advance(Run(stage_of(kind), options, tmp_path / "straight"), 6)
    advance(Run(stage_of(kind), options, tmp_path / "resumed"), 3).save()
    stage = stage_of(kind)
    with torch.no_grad():  # so that all that changes has to come from the file
        for name, tensor in stage.modules.state_dict(keep_vars=True).items():
            if tensor.requires_grad or not isinstance(tensor, torch.nn.Parameter):
                tensor.add_(1)
            else:
                assert kind in ("tokenizer", "decoder"), name
    resumed = Run(stage, options, tmp_path / "resumed")
    assert resumed.step == 3 and "resumed exactly" in resumed.resumed
    assert_same(state_of(straight), state_of(advance(resumed, 3)))
    start = stage_of(kind).modules.state_dict()
    assert any(not torch.equal(t, start[n]) for n, t in weights_of(stage).items())


def test_a_killed_run_goes_on_to_the_bit(tmp_path):
    """kill -9 in the middle, whatever it was doing; then to the end."""
    text = (ROOT / "tests" / "tiny_run.toml").read_text()
    (tmp_path / "run.toml").write_text(text)
    command = [sys.executable, "-m", "editmgt_lib", "train", str(tmp_path / "run.toml")]
    command += ["--threads", "1", "--device", "cpu", "--out"]
    alone = {k: v for k, v in environment(0, 1, 0).items() if k not in ("RANK", "WORLD_SIZE")}
    process = subprocess.Popen([*command, str(tmp_path / "a")], env=alone, cwd=tmp_path,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 300
    while not saved_steps(tmp_path / "a" / "decoder") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    killed = max(saved_steps(tmp_path / "a" / "decoder"))
    assert killed < 200
    for out in "ab":
        subprocess.run([*command, str(tmp_path / out)], env=alone, cwd=tmp_path, check=True,
                       capture_output=True, timeout=500)  # fmt: skip
    for part in ("weight", "average", "optimizer"):
        paths = [saved_steps(tmp_path / out / "decoder")[200] for out in "ab"]
        assert_same(*(load_file(path / f"{part}.safetensors") for path in paths))
    events = [line["event"] for line in logged(tmp_path / "a" / "decoder") if "event" in line]
    assert any(f"resumed exactly from step-{killed:06d}" in event for event in events)


def test_options_that_may_change_are_named_and_others_refused(tmp_path):
    advance(Run(stage_of("decoder"), LOOP, tmp_path), 1).save()
    other = replace(LOOP, steps=9, optimizer=OptimizerOptions(5e-3))
    said = Run(stage_of("decoder"), other, tmp_path).resumed
    assert "resumed exactly" in said and "steps 6 -> 9" in said and "learning_rate" in said
    with pytest.raises(CheckpointError, match="batch 4, this run has 8"):
        Run(stage_of("decoder"), replace(LOOP, batch=8), tmp_path)
    stage = stage_of("decoder")
    stage.fingerprint = "other pictures"
    with pytest.raises(CheckpointError, match="data .*'other pictures'"):
        Run(stage, LOOP, tmp_path)
    with pytest.raises(CheckpointError, match="stage 'DecoderStage', this run has 'TextStage'"):
        Run(stage_of("text"), LOOP, tmp_path)


# --- broken states ---


@pytest.fixture
def saved(tmp_path):
    advance(Run(stage_of("decoder"), LOOP, tmp_path), 1).save()
    return tmp_path, saved_steps(tmp_path)[1]


@pytest.mark.parametrize("file", ["weight", "average", "optimizer"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_a_broken_state_is_named(damage, file, saved):
    folder, state = saved
    path = state / f"{file}.safetensors"
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] + (b"" if damage == "truncated" else bytes([whole[-1] ^ 1])))
    with pytest.raises(CheckpointError, match=f"{file}.safetensors .*remove .*step-000001"):
        Run(stage_of("decoder"), LOOP, folder)


@pytest.mark.parametrize("marker", [None, "", "{}", '{"format": 99, "files": {}}'])
def test_a_state_without_its_marker_is_named(marker, saved):
    folder, state = saved
    (state / MARKER).unlink()
    if marker is not None:
        (state / MARKER).write_text(marker)
    with pytest.raises(CheckpointError, match="state.json|format 99"):
        Run(stage_of("decoder"), LOOP, folder)


def rewrite(state, group, change):
    """Change a group's tensors and the marker with it, as another version might write them."""
    tensors = change(load_file(state / f"{group}.safetensors"))
    record = json.loads((state / MARKER).read_text())
    for part in ("weight", "average", "optimizer"):
        kept = tensors if part == group else load_file(state / f"{part}.safetensors")
        save_file(kept, state / f"{part}.safetensors")
    groups = {p: load_file(state / f"{p}.safetensors") for p in ("weight", "average", "optimizer")}
    for key in ("files", "format", "step"):
        record.pop(key)
    write_state(state.parents[1], 1, groups, record)


@pytest.mark.parametrize("group", ["weight", "average", "optimizer"])
@pytest.mark.parametrize("change", ["missing", "surplus"])
def test_a_state_that_does_not_fit_says_what_is_wrong(group, change, saved):
    folder, state = saved
    name = next(n for n in sorted(load_file(state / f"{group}.safetensors")) if "exp_avg." in n
                or group != "optimizer")  # fmt: skip

    def changed(tensors):
        if change == "missing":
            tensors.pop(name)
        else:
            tensors["other"] = torch.zeros(1)
        return tensors

    rewrite(state, group, changed)
    named = re.escape(name) if change == "missing" else "other"
    with pytest.raises(CheckpointError, match=named):
        Run(stage_of("decoder"), LOOP, folder)


def test_an_unfinished_save_is_no_state_and_the_one_before_goes_on(saved, monkeypatch):
    folder, _ = saved
    run = advance(Run(stage_of("decoder"), LOOP, folder), 1)

    def crash(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("editmgt_lib.training.state.atomic_write_json", crash)
    with pytest.raises(KeyboardInterrupt):
        run.save()
    monkeypatch.undo()
    assert list(saved_steps(folder)) == [1]
    again = Run(stage_of("decoder"), LOOP, folder)
    assert again.step == 1
    advance(again, 1).save()  # over the leftovers
    assert list(saved_steps(folder)) == [1, 2]
    assert not list((folder / "state").glob(".*"))


def test_old_states_go_only_after_the_new_one_is_there(tmp_path, monkeypatch):
    stage, seen = stage_of("decoder"), []
    run = Run(stage, loop(keep_last=1), tmp_path)
    monkeypatch.setattr(run_module, "prune", lambda *a: (seen.append(list(saved_steps(tmp_path))),
                                                         prune(*a)))  # fmt: skip
    for _ in range(3):
        advance(run, 1).save()
    assert seen == [[1], [1, 2], [2, 3]] and list(saved_steps(tmp_path)) == [3]


def test_states_to_keep(tmp_path):
    for step in (2, 4, 6, 8, 10):
        write_state(tmp_path, step, {"weight": {"a": torch.zeros(1)}}, {})
    prune(tmp_path, keep=2, every=4)
    assert list(saved_steps(tmp_path)) == [4, 8, 10]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "state").write_text("a file in the way")
    run = advance(Run(stage_of("decoder"), LOOP, tmp_path), 1)
    with pytest.raises(InputError, match="cannot save the state"):
        run.save()


# --- stopping ---


def call_at(stage, monkeypatch, step, action):
    calls, prepare = [], stage.prepare

    def prepared(numbers):
        calls.append(1)
        if len(calls) == step:
            action()
        return prepare(numbers)

    monkeypatch.setattr(stage, "prepare", prepared)


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_ends_the_step_and_saves(number, raised, monkeypatch, tmp_path):
    stage, handler = stage_of("decoder"), signal.getsignal(number)
    call_at(stage, monkeypatch, 3, lambda: signal.raise_signal(number))
    with pytest.raises(raised):
        train(Run(stage, LOOP, tmp_path), name="test")
    assert signal.getsignal(number) is handler
    again = Run(stage_of("decoder"), LOOP, tmp_path)
    straight = advance(Run(stage_of("decoder"), LOOP, tmp_path / "none"), 3)
    assert again.step == 3
    assert_same(state_of(straight), state_of(again))
    assert f"stopped by signal {int(number)}" in logged(tmp_path)[-1]["event"]


def test_a_second_control_c_stops_at_once(monkeypatch, tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    stage = stage_of("decoder")
    call_at(stage, monkeypatch, 1, twice)
    with pytest.raises(KeyboardInterrupt):
        train(Run(stage, LOOP, tmp_path), name="test")
    assert not saved_steps(tmp_path)


def test_the_time_limit_saves(tmp_path):
    run = Run(stage_of("decoder"), loop(steps=10**6, checkpoint_every=10**6), tmp_path)
    train(run, name="test", minutes=0.005)
    assert list(saved_steps(tmp_path)) == [run.step] and 0 < run.step < 10**6
    assert "time limit" in logged(tmp_path)[-1]["event"]


def test_an_error_in_a_step_leaves_the_last_saved_state(monkeypatch, tmp_path):
    def fail():
        raise ZeroDivisionError

    stage = stage_of("decoder")
    call_at(stage, monkeypatch, 4, fail)
    with pytest.raises(ZeroDivisionError):
        train(Run(stage, LOOP, tmp_path), name="test")
    assert list(saved_steps(tmp_path)) == [2]


# --- trouble ---


def test_a_loss_that_is_not_a_number_stops_before_it_is_saved(monkeypatch, tmp_path):
    stage = stage_of("decoder")

    def poison():
        with torch.no_grad():
            next(p for p in stage.modules.parameters() if p.requires_grad).fill_(float("nan"))

    call_at(stage, monkeypatch, 4, poison)
    with pytest.raises(DivergedError, match="step 4: loss is nan.*learning_rate"):
        train(Run(stage, LOOP, tmp_path), name="test")
    assert list(saved_steps(tmp_path)) == [2]


def test_the_gate_stops_a_loss_that_rises(monkeypatch, tmp_path):
    stage = stage_of("decoder")
    loss, calls = stage.loss, []

    def rising(*a):
        calls.append(1)
        found, figures = loss(*a)
        return found * (3 if len(calls) > WINDOW + 20 else 1), figures

    monkeypatch.setattr(stage, "loss", rising)
    options = loop(steps=4 * WINDOW, log_every=1, gate=1.5, checkpoint_every=10**6)
    options = replace(options, optimizer=OptimizerOptions(1e-6), sheet_every=10**6)
    with pytest.raises(DivergedError, match="gate 1.5"):
        train(Run(stage, options, tmp_path), name="test")


def test_the_log_tells_speed_rates_and_clipping(tmp_path):
    train(Run(stage_of("edit"), loop(steps=4, log_every=2), tmp_path), name="test")
    lines = [line for line in logged(tmp_path) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 4]
    wanted = {"loss", "learning_rate", "gradient_norm", "clipped", "data_wait"}
    for line in lines:
        assert wanted | {"samples_per_second", "time"} <= line.keys()
        assert 0 <= line["clipped"] <= 1 and 0 <= line["data_wait"] <= 1
