"""Tiny stages of every kind, and a program that trains them as one of several processes."""

import copy
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from editmgt_lib.data.toyworld import ToyWorldSource
from editmgt_lib.models.vq import VQModel
from editmgt_lib.toyworld.text_encoders import build_text_encoders
from editmgt_lib.training import initial
from editmgt_lib.training.decoder import DecoderStage
from editmgt_lib.training.generation import GenerationStage
from editmgt_lib.training.objective import ObjectiveOptions
from editmgt_lib.training.optimizers import OptimizerOptions
from editmgt_lib.training.options import LoopOptions
from editmgt_lib.training.parallel import joined
from editmgt_lib.training.run import Run
from editmgt_lib.training.text import TextStage
from editmgt_lib.training.tokenizer import TokenizerStage

from .tiny import TRANSFORMER, VQ

ROOT = Path(__file__).parents[1]
SIZE = 64
KINDS = ("text", "tokenizer", "text-to-image", "edit", "decoder")
CORPUS = ("make the red heart blue", "remove the green mug", "a star at the top left")
EDIT = ObjectiveOptions(
    steps=3, changed_weight=4.0, alignment=0.2, aligned_blocks=(1,), reference_dropout=0.3
)
WHOLE = replace(EDIT, reference_dropout=0.0)
TEXT = ObjectiveOptions(steps=3)
ADAM = OptimizerOptions(1e-2)


def loop(steps=6, batch=4, optimizer=ADAM, **options):
    usual = {"warmup": 2, "cooldown": 2, "average": 0.9, "checkpoint_every": 2}
    return LoopOptions(steps, batch, optimizer, **usual | options)


class Fixed:
    """A source whose first samples come again and again."""

    def __init__(self, source, count):
        self.source, self.count, self.fingerprint = source, count, "fixed"

    def batch(self, numbers):
        return self.source.batch([number % self.count for number in numbers])


@cache
def _networks():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vq = VQModel(VQ).requires_grad_(False)
        vq.quantize.embedding.weight.normal_()  # codes far apart
    encoders = build_text_encoders(CORPUS, text_length=16, width=16, pooled=16)
    return initial.new_transformer(TRANSFORMER, seed=0), encoders, vq


def networks():
    """Transformer, text encoders and tokenizer, to change."""
    return copy.deepcopy(_networks())


def stage_of(kind, precision=torch.float32):
    transformer, encoders, vq = networks()
    if kind == "text":
        return TextStage(encoders)
    if kind == "tokenizer":
        return TokenizerStage(VQ, SIZE, seed=0, continuous=2, precision=precision)
    if kind == "decoder":
        return DecoderStage(vq, SIZE, precision=precision)
    options = {"edit": EDIT, "whole-edit": WHOLE, "text-to-image": TEXT}[kind]
    source = ToyWorldSource(vq, SIZE, 0, "generate" if options is TEXT else "edit")
    return GenerationStage(transformer, encoders, source, options, vq=vq, precision=precision)


def weights_of(stage):
    return {n: t.clone() for n, t in stage.modules.state_dict().items()}


def state_of(run):
    """All that decides how a run goes on."""
    kept = {n: o.state[p] for o in run.optimizers for n, p in run._of(o)}
    moments = {f"{n}.{k}": t for n, state in kept.items() for k, t in state.items()}
    averages = {f"average.{n}": t for n, t in run.averages.items()}
    weights = {n: t.detach().clone() for n, t in run.kept.items()}
    return weights | averages | moments


def assert_same(one, other):
    assert one.keys() == other.keys()
    different = [n for n in one if not torch.equal(one[n], other[n])]
    assert not different


def advance(run, steps):
    for _ in range(steps):
        run.advance()
    return run


def losses_of(run, steps):
    return [float(run.advance().shown["loss"]) for _ in range(steps)]


# --- several processes ---


def environment(rank, size, port):
    here = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_PORT": port}
    more = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": 1, "PYTHONPATH": ROOT}
    return os.environ | {k: str(v) for k, v in (here | more).items()}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(size, *arguments, module="tests.training_runs"):
    """Start a module as `size` processes, as a launcher does."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT, env=environment(rank, size, port), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in range(size)
    ]  # fmt: skip


def launch(size, *arguments):
    """Start this module as `size` processes and wait for all."""
    processes = start(size, *arguments)
    try:
        outputs = [process.communicate(timeout=500)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-3000:]
    return outputs


def main(out, parallel, names, steps):
    """Train stages, from a saved state if there is one; save, and write losses."""
    torch.set_num_threads(1)
    with joined(torch.device("cpu")) as world:
        losses = {}
        for name in names.split(","):
            stage = stage_of(name.partition("@")[0])
            run = Run(stage, loop(batch=6, micro_batch=2), Path(out) / name, world, parallel)
            losses[name] = losses_of(run, int(steps))
            run.save()
            losses[f"{name} resumed"] = run.resumed
        if world.first:
            (Path(out) / "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main(*sys.argv[1:])
