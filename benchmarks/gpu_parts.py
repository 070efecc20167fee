"""The parts of a GPU run, the most valuable first; each yields rows as they are measured."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from editmgt_lib.checkpoints import fp8
from editmgt_lib.loader import set_tf32
from editmgt_lib.models.attention import Segments, strength_groups

from . import gpu_attention as attention
from .clock import DTYPES, machine, repeated, set_precision
from .compare import Row, agreement, offload_rows, option_rows, stage_rows
from .gpu_session import Caught, Session, told
from .training import Ours as OurTraining

ROOT = Path(__file__).resolve().parents[1]
MAIN = "bfloat16"  # what `load` takes on a GPU
STRENGTH = 1.1
HELD = 0.3
GOOD = 0.02  # relative error of attention in half precision
Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """seconds: the most it may take of 480; together they are more, as few take as long."""

    measure: Callable[[Session], Rows]
    seconds: float


def environment(s: Session) -> Rows:
    """What is measured on, and its ceilings."""
    about: dict[str, Any] = {"name": "environment", **machine(s.device)}
    if torch.device(s.device).type == "cuda":
        card, wanted = torch.cuda.get_device_properties(s.device), "driver_version,clocks.max.sm"
        about |= {
            "memory_gib": card.total_memory / 2**30, "units": card.multi_processor_count,
            "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
            "driver": _output("nvidia-smi", f"--query-gpu={wanted}", "--format=csv,noheader"),
        }  # fmt: skip
    for name in ("triton", "transformers", "xformers", "diffusers"):
        try:
            about[name] = version(name)
        except PackageNotFoundError:
            about[name] = None
    yield about
    for precision in (MAIN, "tf32"):
        yield {"name": "ceiling", "precision": precision, "limits": s.limit(precision)}


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None


def _edit(s: Session, name: str = "whole edit", held: bool = False, **more: Any) -> Row:
    asked = {"steps": s.steps, "strength": STRENGTH, **more}
    if held:
        asked |= {"layers": list(s.case.layers), "threshold": HELD}
    held_name = f", held below {HELD}" if held else ""
    return Row(f"{name}, {s.steps} steps{held_name}", "edit", asked)


def _sampling(s: Session, name: str, **more: Any) -> Row:
    asked = {"steps": s.steps, "strength": STRENGTH, **more}
    return Row(f"{name}, {s.steps} steps", "sample", asked)


def edits(s: Session) -> Rows:
    """Whole edits, then their stages."""
    for held in (False, True):
        yield s.row(_edit(s, held=held), MAIN)
    for row in stage_rows(s.case):
        if row.stage != "text":
            yield s.row(row, MAIN, rounds=5)


def kernels(s: Session) -> Rows:
    """Every way to compute attention: time and error; then a whole edit with the fastest."""
    found = []
    for batch in (1, 8):
        for row in _kernels(s, batch):
            found.append(row)
            yield row
    exact = [r for r in found if r["strength"] != 1 and r.get("error", 1) < GOOD]
    if timed := [r for r in exact if "seconds" in r]:
        best = min(timed, key=lambda r: r["seconds"])["kernel"]
        for name in dict.fromkeys(("flash", best)):
            with s.attending(attention.CANDIDATES[name], MAIN):
                yield {**s.row(_edit(s, f"whole edit, attention {name}"), MAIN), "kernel": name}


def _kernels(s: Session, batch: int) -> Rows:
    config, stride = s.case.transformer, s.case.transformer.stride
    image = (s.case.side // stride) ** 2
    segments = Segments(s.case.text_length, image, image)
    sizes = sum(segments), 2 * batch, config.num_attention_heads, config.attention_head_dim
    like = torch.zeros(1, device=s.device, dtype=set_precision(MAIN))
    given = attention.inputs(*sizes, like)
    flops = 4 * 2 * batch * sum(segments) ** 2 * config.width
    for name, strength in [("sdpa", 1.0), *((name, STRENGTH) for name in attention.CANDIDATES)]:
        groups = strength_groups(segments, segments, strength, "text+image", like)
        row = {"name": f"attention {name}, strength {strength:g}, batch {batch}", "batch": batch}
        row |= {"kernel": name, "strength": strength}
        call = partial(attention.CANDIDATES[name], *given, groups)
        try:
            if batch == 1:  # at larger ones the definition fills gigabytes
                row["error"] = attention.error(call(), attention.definition(*given, groups))
            taken = median(repeated(call, s.device, 0.02 if s.quick else 0.2, inner=10))
            row |= {"seconds": taken, "reaches": flops / taken / s.limit(MAIN)["flops"]}
        except Exception as error:
            row["missing"] = told(error)
        yield row


def compiled(s: Session) -> Rows:
    """Runs with steps recorded as CUDA graphs, and with compiled blocks."""
    graphs, blocks = {"recorded": True}, {"compiled": True}
    for name, more in {
        "": {}, " recorded": graphs, " compiled": blocks, " compiled, recorded": graphs | blocks
    }.items():  # fmt: skip
        for batch in (1, 8):
            row = _sampling(s, f"sampling{name}, batch {batch}", batch=batch, **more)
            yield s.row(row, MAIN, rounds=1 if batch > 1 else 3)
        if more:
            yield s.row(_edit(s, f"whole edit{name}", **more), MAIN)
    s.free()  # the compiled copy too


def tests(s: Session) -> Rows:
    """The tests that need a GPU."""
    files = [p for p in (ROOT / "tests").glob("test_*.py") if "mark.cuda" in p.read_text("utf-8")]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    done = subprocess.run([*command, *map(str, files)], cwd=ROOT, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    counts = {k: int(n) for n, k in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    yield {"name": "GPU tests", "counts": counts, "output": done.stdout[-6000:]}


def official(s: Session) -> Rows:
    """The official code on the same checkpoint: as it comes, and as fast as it can be made."""
    if s.official is None:
        yield {"name": "the official code", "missing": "no checkout was given (--official)"}
        return
    read = {"layers": list(s.case.layers)}
    ways = {
        "float32": {"as it comes, attention captured": read},
        MAIN: {"without capture": {}, "attention captured": read},
    }
    for precision, named in ways.items():
        with s.opened_official(precision) as side:
            sides = {"official": Caught(side)}
            for name, more in named.items():
                step = Row(f"step, official {name}", "step", {"strength": STRENGTH, **more})
                yield s.row(step, precision, sides, rounds=1)
                edit = _edit(s, f"whole edit, official {name}", **more)
                yield s.row(edit, precision, sides, rounds=1, warm_up=False)


def offload(s: Session) -> Rows:
    """From prompt to picture under each offload: time and peak memory."""
    ours = s.ours(MAIN)
    if s.case.text_encoders is not None:
        encoders = s.case.text_encoders()
        for network in encoders.networks:
            network.to(DTYPES[MAIN]).requires_grad_(False)
        ours.model.text_encoders = encoders.to(s.device)
        yield s.row(Row("text encoding", "text"), MAIN)
    for row in offload_rows(s.steps):
        yield s.row(row, MAIN, rounds=1, warm_up=False)
    ours.model.text_encoders = None


def precisions(s: Session) -> Rows:
    """Whole edits in the other precisions, and how many of float32's tokens each one gives."""
    ids: dict[str, torch.Tensor] = {}
    for precision in ("float32", "tf32", "float16", MAIN):
        yield {"name": "ceiling", "precision": precision, "limits": s.limit(precision)}
        if precision != MAIN:
            yield s.row(_edit(s), precision, rounds=1)
        row = {"name": f"tokens in {precision}", "precision": precision}
        try:
            answer = s.ours(precision).sample(steps=s.steps, strength=STRENGTH)
            ids[precision] = answer["ids"]
            yield {**row, **agreement(ids[precision], ids["float32"])}
        except Exception as error:
            yield {**row, "missing": told(error)}


def float32(s: Session) -> Rows:
    """What stays float32 beside half precision: exact or in TF32, the tokenizer in two layouts."""
    ours, exact = s.ours(MAIN), None
    for layout in (torch.contiguous_format, torch.channels_last):
        ours.model.vq.to(memory_format=layout)
        for tf32 in (False, True):
            set_tf32(ours.model, tf32)
            how = f"{'TF32' if tf32 else 'exact'}, {str(layout).removeprefix('torch.')}"
            for stage in ("tokenize", "decode"):
                yield s.row(Row(f"{stage}, {how}", stage), MAIN, rounds=5)
            yield s.row(_edit(s, f"edit, {how}"), MAIN)
            ids = ours.tokenize()["ids"]
            exact = ids if exact is None else exact
            yield {"name": f"the picture's tokens, {how}", **agreement(ids, exact)}
    ours.model.vq.to(memory_format=torch.contiguous_format)
    set_tf32(ours.model, False)


def training(s: Session) -> Rows:
    """One optimizer step on eight edits."""
    s.free()
    inputs, folder = s.inputs, s.checkpoint()
    with torch.enable_grad():
        sides = {"ours": Caught(OurTraining(s.case, folder, inputs, s.device, DTYPES[MAIN]))}
        row = Row("training step, batch 8", "train", {"encoders": False, "batch": 8})
        yield {**s.row(row, MAIN, sides), "tokens": 8 * s.case.side**2}


def options(s: Session) -> Rows:
    """What each option that approximates saves."""
    for row in option_rows(s.steps, compiled=False):
        yield s.row(row, MAIN, rounds=1)


def eight_bits(s: Session) -> Rows:
    """Blocks' matrices stored in 8 bits: size, time to widen them, and tokens that stay."""
    ours = s.ours(MAIN)
    before = ours.sample(steps=s.steps, strength=STRENGTH)["ids"]
    layers = [m for b in ours.model.transformer.blocks for m in b.modules()
              if isinstance(m, torch.nn.Linear)]  # fmt: skip
    stored = [(fp8.quantise(m.weight), fp8.row_scales(m.weight)) for m in layers]

    def widen() -> None:
        for layer, (small, scale) in zip(layers, stored, strict=True):
            layer.weight.copy_(fp8.dequantise(small, scale))

    with torch.no_grad():
        taken = median(repeated(widen, s.device, 0.1))
    after = ours.sample(steps=s.steps, strength=STRENGTH)["ids"]
    sizes = {"mib": sum(a.nbytes + b.nbytes for a, b in stored) / 2**20,
             "wide_mib": sum(m.weight.nbytes for m in layers) / 2**20}  # fmt: skip
    s.free()  # its weights are rounded now
    yield {"name": "8-bit storage", "seconds": taken, **sizes, **agreement(after, before)}


PARTS = {
    "environment": Part(environment, 30),
    "edits": Part(edits, 70),
    "attention": Part(kernels, 75),
    "compiled": Part(compiled, 120),
    "official": Part(official, 120),
    "offload": Part(offload, 70),
    "training": Part(training, 40),
    "tests": Part(tests, 120),
    "float32": Part(float32, 40),
    "precisions": Part(precisions, 70),
    "options": Part(options, 40),
    "eight bits": Part(eight_bits, 30),
}
