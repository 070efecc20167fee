"""Attention, number formats and memory are the user's: what `inside` reports is judged here."""

import json
import subprocess
from pathlib import Path

import pytest

from tools.comfy.server import places

from .inside import BACKENDS, FORMATS, SHARE, STRENGTHS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def report():
    """What `inside` found, in a Python process without a server."""
    if places() is None:
        pytest.skip("no ComfyUI: set COMFYUI_PATH to a checkout and COMFY_PYTHON to its Python")
    checkout, python = places()
    command = [python, str(ROOT / "tests" / "comfy" / "inside.py"), str(ROOT)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_chosen_attention_is_the_one_that_runs(report, backend, strength):
    rows = {(row["backend"], row["strength"]): row for row in report["attention"]}
    found, reference = rows[backend, strength], rows[BACKENDS[0], strength]
    assert set(found["calls"]) == {backend} and found["calls"][backend] > 50
    same = [a == b for a, b in zip(found["ids"], reference["ids"], strict=True)]
    assert sum(same) / len(same) > 0.95  # other rounding, now and then another token


def test_an_edit_is_the_same_when_most_weights_are_cast_at_use(report):
    partial = report["partial"]["MaskedTransformer"]
    assert partial["partial"] and 0 < partial["loaded"] <= SHARE
    assert partial["cast at use"] > partial["layers"] / 3
    whole = next(r for r in report["attention"] if r["strength"] == STRENGTHS[-1])
    assert report["ids when partly loaded"] == whole["ids"]


STORED = {"bf16": "torch.bfloat16", "fp8": "torch.float8_e4m3fn"}


@pytest.mark.parametrize("dtype", FORMATS)
def test_small_formats_project_in_float32_and_edit_alike(report, dtype):
    row = report["formats"][dtype]
    assert row["linear"] == STORED[dtype]
    assert row["projection"] == row["logits"] == "torch.float32"
    whole = next(r for r in report["attention"] if r["strength"] == STRENGTHS[-1])
    same = [a == b for a, b in zip(row["ids"], whole["ids"], strict=True)]
    assert sum(same) / len(same) > 0.8


def test_a_run_needs_what_was_estimated(report):
    for row in report["memory"]:
        assert row["peak"] <= row["estimate"] <= 2 * row["peak"], row


def test_a_file_in_8_bits_stays_so_in_memory_and_gives_what_widening_gives(report):
    found = report["eight bits"]
    kept, wide = found["small.safetensors auto"], found["small.safetensors fp32"]
    for small, large in zip(kept["bytes"], wide["bytes"], strict=True):
        assert small < 0.75 * large  # all but its embeddings and norms is a quarter
    assert kept["bytes"][0] < 0.6 * wide["bytes"][0]
    assert kept["states"] == pytest.approx(wide["states"], rel=1e-9)
    assert kept["ids"] == wide["ids"] == kept["ids when partly loaded"]


def test_choosing_fp8_rounds_as_the_file_does(report):
    found = report["eight bits"]
    chosen, kept = found["toyworld fp8"], found["small.safetensors auto"]
    assert chosen["bytes"][0] < 1.1 * kept["bytes"][0]
    assert chosen["ids"] == chosen["ids when partly loaded"]
    whole = next(r for r in report["attention"] if r["strength"] == STRENGTHS[-1])
    for row in (chosen, kept):
        same = [a == b for a, b in zip(row["ids"], whole["ids"], strict=True)]
        assert sum(same) / len(same) > 0.8


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_compiled_copy_captures_whole_blocks_and_leaves_the_model_alone(report, dtype):
    found = report[f"compiled {dtype}"]
    assert found["breaks"] == {} and 4 <= found["graphs"] <= 24
    assert found["ids"] == found["ids when partly loaded"] == found["before"] == found["after"]
    assert found["graphs of the original"] == 0
