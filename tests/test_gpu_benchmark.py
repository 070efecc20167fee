"""The GPU benchmark, tried on a CPU with the tiny case: rows, limits, going on, tables, script."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_attention, gpu_parts, gpu_table, records
from benchmarks.cases import CASES
from benchmarks.gpu_session import Session
from editmgt_lib.models.attention import STRENGTH_SCOPES, Segments, strength_groups

ROOT = Path(__file__).resolve().parents[1]
FULL = Segments(5, 12, 9)
ON_CPU = ("sdpa", "flash", "math", "flash, bias in channels", "flex")
LEFT_OUT = ("compiled", "tests", "options")  # slow, or the suite itself


@pytest.mark.parametrize("scope", STRENGTH_SCOPES)
@pytest.mark.parametrize("strength", [1.0, 1.1, 0.2])
@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_candidates_compute_attention(name, strength, scope):
    given = gpu_attention.inputs(sum(FULL), 2, 3, 16, torch.zeros(1))
    groups = strength_groups(FULL, FULL, strength, scope, given[0])
    out = gpu_attention.CANDIDATES[name](*given, groups)
    assert out.shape == given[0].shape
    assert gpu_attention.error(out, gpu_attention.definition(*given, groups)) < 1e-5


@pytest.mark.parametrize("scope", STRENGTH_SCOPES)
def test_a_bias_in_channels_is_not_rounded_to_half_precision(scope):
    """The largest relative error a rounded bias would make is 2 ** -9 of 0.7."""
    q, k, v = gpu_attention.inputs(sum(FULL), 2, 3, 16, torch.zeros(1, dtype=torch.bfloat16))
    groups = strength_groups(FULL, FULL, 2.0, scope, q)
    seen = {}

    def spy(q, k, v, scale):
        seen["logits"] = q.double() @ k.double().mT * scale
        return v

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_attention.F, "scaled_dot_product_attention", spy)
        gpu_attention.bias_in_channels(q, k, v, groups)
    plain = q.double() @ k.double().mT / 4
    biased = plain.clone()
    for g in groups:
        biased[:, :, g.rows, g.keys] += g.bias
    assert (seen["logits"] - biased).abs().max() < 1e-5 < (biased - plain).abs().max()


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Of all parts that take seconds."""
    folder = tmp_path_factory.mktemp("gpu")
    parts = {k: part for k, part in gpu_parts.PARTS.items() if k not in LEFT_OUT}
    session = Session(CASES["tiny"](), folder / "checkpoint", "cpu", quick=True)
    journal = gpu.Journal(folder / "rows.jsonl")
    with torch.no_grad():
        assert gpu.run(session, parts, journal, 3600) == 0
    assert records.read_lines(folder / "rows.jsonl") == journal.rows
    return journal.rows


@pytest.mark.filterwarnings("ignore")
def test_every_part_measures(rows):
    parts = [row["part"] for row in rows if row.get("event") == "part"]
    assert parts == [name for name in gpu_parts.PARTS if name not in LEFT_OUT]
    failed = {row["name"]: row["missing"] for row in rows if "missing" in row}
    assert set(failed) <= {"the official code"} | {n for n in failed if "attention" in n}
    for name in ON_CPU:
        (row,) = (r for r in rows if r.get("name") == f"attention {name}, strength 1.1, batch 1")
        assert row["seconds"] > 0 and row["error"] < 0.01
    timed = [row for row in rows if "median" in row.get("ours", {})]
    assert {row["part"] for row in timed} >= {"edits", "offload", "training", "precisions"}
    assert all(r["ours"]["peak_mib"] > 0 for r in timed if r["name"].startswith("offload"))
    picture = [r for r in rows if r.get("name", "").startswith("the picture's tokens")]
    assert len(picture) == 4 and all(r["equal"] == r["tokens"] == 64 for r in picture)
    float32 = next(row for row in rows if row.get("name") == "tokens in float32")
    assert float32["equal"] == float32["tokens"] == 64


def test_tables_show_what_was_measured_and_what_was_not(rows, tmp_path):
    page, empty = gpu_table.page(rows), gpu_table.page([])
    assert page.count(gpu_table.NOTHING) < empty.count(gpu_table.NOTHING) == 15
    for text in ("whole edit", "samples/s", "flash, bias in channels", "no checkout was given"):
        assert text in page and text not in empty
    partial = gpu_table.page(rows[: len(rows) // 4])  # a cut
    assert "whole edit" in partial and gpu_table.NOTHING in partial


def part_of(*calls):
    def measure(session):
        for call in calls:
            yield {"name": "row", "seconds": call()}

    return gpu_parts.Part(measure, gpu.BUDGET)


def fail():
    raise RuntimeError("of ours\nsecond line")


def test_a_part_that_fails_or_lasts_leaves_the_others(tmp_path):
    path = tmp_path / "new" / "rows.jsonl"
    short = gpu_parts.Part(part_of(lambda: 1, lambda: time.sleep(30)).measure, 2.0)
    parts = {"a": part_of(lambda: 1, fail), "b": short, "c": part_of(lambda: 2)}
    session = Session(None, tmp_path, "cpu")
    start = time.monotonic()
    assert gpu.run(session, parts, gpu.Journal(path), gpu.BUDGET) == gpu.GO_ON  # an import was cut?
    assert gpu.run(session, parts, gpu.Journal(path), gpu.BUDGET) == 0
    assert time.monotonic() - start < 20
    rows = [row for row in records.read_lines(path) if "name" in row]
    told = [(row["part"], row.get("seconds"), row.get("missing")) for row in rows]
    assert told == [
        ("a", 1, None), ("a", None, "raises RuntimeError: of ours ... second line"),
        ("b", 1, None), ("b", None, "cut after 2 s"), ("c", 2, None),
    ]  # fmt: skip


def test_a_run_goes_on_after_the_part_that_broke_the_device(tmp_path, monkeypatch):
    path, session = tmp_path / "rows.jsonl", Session(None, tmp_path, "cpu")
    parts = {"a": part_of(lambda: 1), "b": part_of(lambda: 2)}
    with monkeypatch.context() as broke:
        broke.setattr(gpu, "_works", lambda device: False)
        assert gpu.run(session, parts, gpu.Journal(path), gpu.BUDGET) == gpu.GO_ON
    assert gpu.run(session, parts, gpu.Journal(path), gpu.BUDGET) == 0
    assert [row["seconds"] for row in records.read_lines(path) if "name" in row] == [1, 2]
    began = json.loads(path.read_text().splitlines()[0])["epoch"]
    late = gpu.Journal(path)
    assert late.began == began and late.tried == {"a", "b"}
    assert gpu.run(session, {"c": part_of(fail)}, late, time.time() - began) == 0
    assert late.rows[-1]["missing"] == "no time was left"


def test_the_script_runs_with_nothing_but_python(tmp_path):
    wheels = tmp_path / "wheels" / "ours"
    wheels.mkdir(parents=True)
    done = subprocess.run(
        ["sh", "benchmarks/gpu.sh", str(tmp_path / "out"), "-w", str(wheels.parent), "--",
         "--config", "tiny", "--quick", "--parts", "environment", "--seconds", "60"],
        cwd=ROOT, env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "HOME": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = records.read_lines(tmp_path / "out" / "rows.jsonl")
    assert [row["name"] for row in rows if "name" in row][:2] == ["environment", "ceiling"]
    assert "published size on a GPU" in (tmp_path / "out" / "table.md").read_text()


def test_unknown_parts_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="speed: use environment"):
        gpu.main(["--out", str(tmp_path / "x"), "--parts", "speed"])
