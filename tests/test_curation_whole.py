"""From pictures to a trained and measured model, by the commands alone; on Ray the same bytes."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from editmgt_lib.curation.backends import CATEGORIES

ROOT = Path(__file__).resolve().parents[1]
PAIRS = 200
STAGES = ("sources", "images", "scores", "instructions", "edits", "quality", "decisions")
if sys.version_info < (3, 11):
    pytest.importorskip("tomli")
pytest.importorskip("pyarrow")

# The preset's two editors with fewer steps: an edit costs what its steps do.
CONFIG = """
preset = "toyworld"
sources = [{name = "toyworld", path = "toyworld:112", licence = "synthetic"}]
uses = ["publish", "train"]

[editors.toy]
kind = "editmgt"
options = {steps = 3}

[editors.toy-fast]
kind = "editmgt"
options = {steps = 1}

[engine]
shard_rows = 32
"""
RUN = """
size = 256
text_length = 32
start = "toyworld"

[data]
kind = "cache"
path = "cache"
held_out = 0.1

[[stages]]
name = "few"
kind = "edit"
steps = 4
batch = 4
learning_rate = 1e-3
checkpoint_every = 2
validate_every = 4
validation = { samples = 2, seeds = [0] }

[stages.lora]
rank = 4
"""


def editmgt(*words):
    """Run a command as a user does; one thread, as Ray gives an actor: others may round."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "editmgt_lib", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def lines(out, stage):
    """What a stage wrote, row by row."""
    return [
        json.loads(line)
        for path in sorted((out / stage).glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def contents(folder):
    """Bytes of all files, of manifests all but the time spent."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        if path.suffix == ".json" and path.name[0].isdigit():
            data = {**json.loads(data), "seconds": 0}
        found[path.relative_to(folder).as_posix()] = data
    return found


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    """Configuration, curation and export in this process."""
    folder = tmp_path_factory.mktemp("curation")
    (folder / "toy.toml").write_text(CONFIG)
    plan = editmgt("curate", folder / "toy.toml", "--dry-run")
    assert "edits by toy-fast" in plan and not (folder / "toy-curated").exists()
    editmgt("curate", folder / "toy.toml")
    said = editmgt("export", folder / "toy-curated", "-o", folder / "pairs", "--reverse")
    assert "no curated data set: " in said
    return folder


def test_every_pair_is_decided_on_and_the_decision_explained(curated):
    out = curated / "toy-curated"
    parts = [part for line in lines(out, "instructions") for part in line.get("parts", ())]
    assert len(parts) >= PAIRS and len(lines(out, "edits")) >= PAIRS
    assert {part["values"]["category"] for part in parts} == set(CATEGORIES)
    decisions = lines(out, "decisions")
    assert len({one["id"] for one in decisions}) == len(decisions) >= PAIRS
    for one in decisions:
        if one["verdict"] == "keep":
            assert one["reached"] == "quality"
        else:
            assert one["stage"] and one["reason"]
        if one["verdict"] == "drop":
            assert one["measured"] is not None and one["limit"]
    for line in lines(out, "edits"):
        tried = line["values"]["candidates"]
        assert [one["editor"] for one in tried] == ["toy", "toy-fast"]
        assert line["values"]["chosen_by"] in ("judge", "tie", "order_disagreed")
    last = json.loads((out / "report.json").read_text())["stages"][-1]
    verdicts = Counter(one["verdict"] for one in decisions)
    assert (last["stage"], last["kept"]) == ("quality", verdicts["keep"])


def test_what_was_kept_is_cached_trained_on_and_measured(curated, tmp_path):
    card = json.loads((curated / "pairs" / "card.json").read_text())
    rows = {kind: found["rows"] for kind, found in card["categories"].items()}
    assert sum(rows.values()) == card["rows"]["exported"]
    assert sum(number > 0 for number in rows.values()) >= 3
    cache, trained, run = tmp_path / "cache", tmp_path / "run", tmp_path / "measured"
    editmgt("cache", curated / "pairs", "--out", cache)
    count = card["rows"]["exported"] + card["rows"]["reversed"]
    assert f"{count:,} pairs" in editmgt("cache", cache, "--info")
    (tmp_path / "few.toml").write_text(RUN)
    change = f"data.path={cache}"
    editmgt("train", tmp_path / "few.toml", "--out", trained, "--set", change)
    editmgt(
        "benchmark", "toyworld", "--samples", 1, "--set", "steps=2", "--no-maps", "--no-baselines",
        "--lora", trained / "few.safetensors", "--out", run,
    )  # fmt: skip
    report = json.loads((run / "report.json").read_text())
    assert report["items"] == {**report["items"], "total": 7, "edited": 7, "edits_failed": 0}
    scored = [json.loads(line) for line in (run / "scores-0.jsonl").read_text().splitlines()]
    success = [one["status"] for one in scored if one["metric"] == "toyworld/success"]
    assert success == ["ok"] * 7


def test_ray_decides_the_same_and_exports_the_same_bytes(curated):
    pytest.importorskip("ray")
    out, pairs = curated / "on-ray", curated / "pairs-on-ray"
    engine = "--set", 'engine.executor="ray"'
    editmgt("curate", curated / "toy.toml", "--out", out, *engine)
    for stage in STAGES:
        assert contents(out / stage) == contents(curated / "toy-curated" / stage)
    editmgt("export", out, "-o", pairs, "--reverse")
    found, expected = (contents(folder / "data") for folder in (pairs, curated / "pairs"))
    assert found == expected
