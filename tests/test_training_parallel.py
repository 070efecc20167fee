"""One global batch, however many processes and micro-batches share it; launchers' variables."""

import json
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from editmgt_lib.errors import EditMGTError, InputError
from editmgt_lib.training.parallel import ONE, World, joined, split
from editmgt_lib.training.run import Run
from editmgt_lib.training.state import saved_steps

from .training_runs import (
    ROOT,
    advance,
    assert_same,
    launch,
    loop,
    losses_of,
    stage_of,
    start,
    state_of,
)

pytestmark = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="the extra `train` needs torch 2.9"
)

SHARED = ("text", "text-to-image", "edit", "decoder")
STEPS = 3
# Sums of float32 in another order; three steps of Adam at 1e-2, which divides by small moments, on
# top: a wrong gradient moves weights by ten times as much.
ROUNDING = 1e-3


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Losses and saved states of one process."""
    folder, losses = tmp_path_factory.mktemp("alone"), {}
    for kind in (*SHARED, "whole-edit"):
        run = Run(stage_of(kind), loop(batch=6), folder / kind)
        losses[kind] = losses_of(run, STEPS)
        run.save()
    return folder, losses


def state_in(folder, kind, step=STEPS):
    path = saved_steps(folder / kind)[step]
    return {
        f"{part}.{name}": tensor
        for part in ("weight", "average", "optimizer")
        for name, tensor in load_file(path / f"{part}.safetensors").items()
    }


def assert_near(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        if name.endswith("k_proj.bias"):
            continue  # softmax ignores it: its gradient is rounding, which Adam scales up
        limit = ROUNDING * max(1.0, float(tensor.abs().max()))
        assert (tensor - other[name]).abs().max() <= limit, name


@pytest.mark.parametrize("kind", SHARED)
def test_micro_batches_change_nothing_but_rounding(kind, alone, tmp_path):
    """Also uneven ones, whose token counts differ: each sum is divided by the global count."""
    run = Run(stage_of(kind), loop(batch=6, micro_batch=4), tmp_path)
    assert [len(part) for part in run._micro_batches(range(6))] == [3, 3]
    assert losses_of(run, STEPS) == pytest.approx(alone[1][kind], rel=1e-4)
    single = Run(stage_of(kind), loop(batch=6, micro_batch=1), tmp_path / "single")
    assert losses_of(single, 2) == pytest.approx(alone[1][kind][:2], rel=1e-4)


@pytest.mark.parametrize(("parallel", "kinds"), [("ddp", SHARED), ("fsdp", ("whole-edit",))])
def test_two_processes_train_like_one_and_go_on_from_its_state(parallel, kinds, alone, tmp_path):
    folder, losses = alone
    resumed = kinds[-1] if parallel == "fsdp" else "edit"
    shutil.copytree(folder / resumed, tmp_path / f"{resumed}@1")
    launch(2, tmp_path, parallel, ",".join([*kinds, f"{resumed}@1"]), STEPS)
    found = json.loads((tmp_path / "losses.json").read_text())
    for kind in kinds:
        assert found[kind] == pytest.approx(losses[kind], rel=1e-4), kind
        assert found[f"{kind} resumed"] == "from the start"
        assert_near(state_in(folder, kind), state_in(tmp_path, kind))
    straight = Run(stage_of(resumed), loop(batch=6), folder / resumed)
    assert found[f"{resumed}@1"] == pytest.approx(losses_of(straight, STEPS), rel=1e-3)
    said = found[f"{resumed}@1 resumed"]
    assert "elastically" in said and "processes 1 -> 2" in said
    back = Run(stage_of(resumed), loop(batch=6), tmp_path / f"{resumed}@1")  # one process again
    assert back.step == 2 * STEPS and "processes 2 -> 1" in back.resumed
    assert_near(state_of(straight), state_of(back))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals of Unix")
def test_a_signal_to_one_process_stops_and_saves_all(tmp_path):
    run = ROOT / "tests" / "tiny_run.toml"
    words = ["train", run, "--out", tmp_path, "--device", "cpu", "--threads", 1,
             "--set", "decoder.steps=100000", "--set", "decoder.batch=2"]  # fmt: skip
    processes = start(2, *words, module="editmgt_lib")
    try:
        deadline = time.monotonic() + 300
        while not saved_steps(tmp_path / "decoder") and time.monotonic() < deadline:
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [143, 143], outputs
    last = (tmp_path / "decoder" / "log.jsonl").read_text().splitlines()[-1]
    assert "stopped by signal 15; state saved" in last
    assert json.loads(last)["step"] == max(saved_steps(tmp_path / "decoder"))


def test_processes_that_went_apart_are_found_before_saving(tmp_path, monkeypatch):
    run = advance(Run(stage_of("decoder"), loop(), tmp_path), 1)
    monkeypatch.setattr(World, "gathered", lambda self, value: [value, value + 1e-9])
    with pytest.raises(EditMGTError, match="no longer have the same weights"):
        run.save()
    assert not saved_steps(tmp_path)


def test_every_process_takes_its_part_once():
    for size in (1, 2, 3, 5):
        worlds = [World(rank, size, ONE.device) for rank in range(size)]
        parts = [list(world.part(range(7, 20))) for world in worlds]
        assert sum(parts, []) == list(range(7, 20))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [list(part) for part in split(range(3), 1)] == [[0, 1, 2]]


@pytest.mark.parametrize(("parallel", "batch"), [("ddp", 3), ("fsdp", 6)])
def test_a_batch_that_cannot_be_shared_is_named(parallel, batch, tmp_path):
    with pytest.raises(InputError, match=f"batch {batch} cannot be shared by 4 processes"):
        Run(stage_of("edit"), loop(batch=batch), tmp_path, World(0, 4, ONE.device), parallel)


def test_variables_of_a_launcher_are_checked(monkeypatch):
    monkeypatch.setenv("RANK", "first")
    with (
        pytest.raises(InputError, match="RANK='first'"),
        joined(torch.device("cpu")),
    ):
        pass


def test_one_process_joins_nothing(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined(torch.device("cpu")) as world:
        assert (world.rank, world.size, world.first) == (0, 1, True)
        assert not torch.distributed.is_initialized()
        assert world.any(True) and not world.any(False) and world.gathered(3) == [3]


def test_samples_come_from_their_numbers_alone():
    for kind in SHARED:
        together, apart = stage_of(kind), stage_of(kind)
        counts = sum(apart.prepare([n]).counts for n in (4, 5, 6))
        assert torch.allclose(together.prepare([4, 5, 6]).counts, counts)


def test_recomputed_blocks_have_the_same_gradients(tmp_path):
    kept, recomputed = stage_of("edit"), stage_of("edit")
    recomputed.transformer.recompute_blocks()
    runs = [Run(s, loop(), tmp_path / str(i)) for i, s in enumerate((kept, recomputed))]
    assert_same(*(state_of(advance(run, 2)) for run in runs))
