"""The attention a user started ComfyUI with is used, and a partly loaded model edits alike."""

import json
import subprocess
from pathlib import Path

import pytest

from tools.comfy.server import places

from .inside import BACKENDS, SHARE, STRENGTHS

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
