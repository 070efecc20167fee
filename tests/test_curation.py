"""`editmgt curate`: whole runs, kills, moved thresholds, and what configuration and command say."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from editmgt_lib.cli import main
from editmgt_lib.commands.curate import line_of
from editmgt_lib.curation import images, run
from editmgt_lib.curation.backends import Backends
from editmgt_lib.curation.config import PRESETS, config_from, load_config, preset_names
from editmgt_lib.curation.estimate import duration
from editmgt_lib.curation.run import curate
from editmgt_lib.errors import InputError

from .curation_stages import Aesthetic

ROOT = Path(__file__).resolve().parents[1]
if sys.version_info < (3, 11):
    pytest.importorskip("tomli")


def picture(seed, size=(80, 64)):
    """Smooth shapes with fine grain: sharp, and unlike any other seed's."""
    random = np.random.default_rng(seed)
    rough = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
    smooth = np.asarray(rough.resize(size, Image.Resampling.BICUBIC)).astype(int)
    grain = random.integers(-25, 26, smooth.shape)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """24 pictures, of which 14 are good."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(14):
        picture(seed).save(folder / f"good{seed:02}.png")
    picture(0).save(folder / "zero.webp", lossless=True)
    picture(1).save(folder / "one.jpg", quality=70)
    picture(2).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "two.png")
    picture(20, (160, 128)).resize((40, 32)).save(folder / "small.png")
    picture(4, (200, 64)).save(folder / "wide.png")
    Image.new("RGB", (80, 64), (9, 90, 200)).save(folder / "flat.png")
    ramp = np.repeat(np.arange(80, dtype=np.uint8)[None] * 3, 64, 0)
    Image.fromarray(ramp).save(folder / "ramp.png")
    data = (folder / "good05.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    picture(6).save(folder / "moving.gif", save_all=True, append_images=[picture(7)])
    return folder


REASONS = {
    "zero.webp": "duplicate", "one.jpg": "similar", "two.png": "similar", "small.png": "short_side",
    "wide.png": "aspect", "flat.png": "entropy", "ramp.png": "sharpness", "cut.png": "unreadable",
    "empty.jpg": "unreadable", "moving.gif": "frames",
}  # fmt: skip


def config(pictures, keep=None, **options):
    keep = {"short_side": ">= 64", **(keep or {})}
    source = {"name": "p", "path": str(pictures), "licence": "own"}
    engine = {"workers": 1, "shard_rows": 5, **options.pop("engine", {})}
    return config_from({"sources": [source], "keep": {"images": keep}, "engine": engine, **options})


def verdicts(pictures, out):
    """Reasons by file name."""
    keys = dict(_lines(out, "sources", "id", "key"))
    reasons = _lines(out, "decisions", "id", "reason")
    return {keys[id]: reason for id, reason in reasons if reason}


def _lines(out, stage, *names):
    for path in sorted((out / stage).glob("*.jsonl")):
        for line in path.read_text().splitlines():
            yield tuple(json.loads(line).get(name) for name in names)


def contents(out, *stages):
    return {
        p.relative_to(out).as_posix(): p.read_bytes()
        for stage in stages
        for p in sorted((out / stage).glob("*.jsonl"))
    }


@pytest.fixture(scope="module")
def reference(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "out"
    return out, curate(config(pictures), out)


def test_every_row_has_a_verdict_with_its_reason(pictures, reference):
    out, (listing, stage) = reference
    assert verdicts(pictures, out) == REASONS
    assert (listing.seen, listing.kept) == (24, 24)
    assert (stage.seen, stage.kept, stage.dropped, stage.failed) == (24, 14, 8, 2)
    assert stage.reasons == {
        "similar": 2, "unreadable": 2, "duplicate": 1, "short_side": 1, "aspect": 1, "entropy": 1,
        "sharpness": 1, "frames": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "engine",
    [{"workers": 3}, {"workers": 2, "processes": True}, {"workers": 2, "shard_rows": 7}],
    ids=["threads", "processes", "shards"],
)
def test_decisions_do_not_depend_on_the_workers(pictures, reference, tmp_path, engine):
    curate(config(pictures, engine=engine), tmp_path / "out")
    stages = ("sources", "images", "decisions")
    found = contents(tmp_path / "out", *stages)
    expected = contents(reference[0], *stages)
    if "shard_rows" not in engine:
        assert found == expected
    for stage in stages:  # the rows are the same in any shards
        of = [b"".join(v for k, v in c.items() if k.startswith(stage)) for c in (found, expected)]
        assert of[0] == of[1]


def test_a_second_run_computes_nothing(pictures, reference, tmp_path, monkeypatch):
    out = shutil.copytree(reference[0], tmp_path / "out")
    monkeypatch.setattr(images, "measure", None)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("0*")}
    assert curate(config(pictures), out) == reference[1]
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("0*")}


def test_a_moved_threshold_computes_nothing(pictures, reference, tmp_path, monkeypatch):
    out = shutil.copytree(reference[0], tmp_path / "out")
    monkeypatch.setattr(images, "measure", None)
    moved = {"short_side": ">= 32", "aspect": "off", "sharpness": "flag >= 50"}
    _, stage = curate(config(pictures, moved, duplicates={"distance": -1}), out)
    assert verdicts(pictures, out) == {
        k: v for k, v in REASONS.items() if k in
        ("zero.webp", "flat.png", "cut.png", "empty.jpg", "moving.gif")
    }  # fmt: skip
    assert stage.kept == 19
    assert curate(config(pictures), out) == reference[1]  # and back
    assert contents(out, "decisions") == contents(reference[0], "decisions")


def test_rows_that_come_into_question_later_are_scored_then(pictures, tmp_path, monkeypatch):
    scorer, out = Aesthetic(), tmp_path / "out"
    backends = Backends({}, {}, {}, {"mean": scorer})
    monkeypatch.setattr(run, "open_backends", lambda config: backends)
    scored = {"scorers": {"mean": {}}}
    *_, stage = curate(config(pictures, **scored), out)
    assert scorer.calls == stage.seen == 14
    first = contents(out, "scores")
    *_, stage = curate(config(pictures, {"short_side": ">= 32"}, **scored), out)
    assert scorer.calls == stage.seen == 15
    assert contents(out, "scores").items() >= first.items()
    curate(config(pictures, {"short_side": ">= 32"}, **scored), out)
    assert scorer.calls == 15


def test_a_missing_file_is_tried_again(pictures, tmp_path):
    folder, out = shutil.copytree(pictures, tmp_path / "pictures"), tmp_path / "out"
    curate(config(folder), out, stages=[])
    (folder / "good03.png").rename(tmp_path / "away.png")
    *_, stage = curate(config(folder), out)
    assert stage.reasons["missing_file"] == 1
    (tmp_path / "away.png").rename(folder / "good03.png")
    *_, stage = curate(config(folder), out)
    assert (stage.kept, stage.failed) == (14, 2)


def test_new_pictures_are_added(pictures, tmp_path):
    folder, out = shutil.copytree(pictures, tmp_path / "pictures"), tmp_path / "out"
    curate(config(folder), out)
    before = contents(out, "sources", "images")
    picture(99).save(folder / "aaa.png")
    *_, stage = curate(config(folder), out)
    assert (stage.seen, stage.kept) == (25, 15)
    assert contents(out, "sources", "images").items() >= before.items()


@pytest.mark.parametrize("engine", [{"workers": 1}, {"workers": 2}, {"shard_rows": 100}])
def test_pictures_in_parquet_get_the_verdicts_they_get_as_files(pictures, tmp_path, engine):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    files = sorted(pictures.iterdir())
    cells = [{"bytes": f.read_bytes() or None, "path": f.name} for f in files]
    table = pa.table({"image": cells, "id": [f.name for f in files]})
    pq.write_table(table, tmp_path / "p.parquet", row_group_size=9)
    curate(config(tmp_path / "p.parquet", engine=engine), tmp_path / "out")
    expected = {**REASONS, "empty.jpg": "missing_file"}
    assert verdicts(pictures, tmp_path / "out") == expected


def test_a_parquet_file_that_lost_rows_costs_these_alone(pictures, tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    def write(count):
        files = sorted(pictures.glob("good*"))[:count]
        cells = [{"bytes": f.read_bytes(), "path": None} for f in files]
        pq.write_table(pa.table({"image": cells}), tmp_path / "p.parquet", row_group_size=4)

    write(12)
    curate(config(tmp_path / "p.parquet"), tmp_path / "out", stages=[])
    write(9)
    *_, stage = curate(config(tmp_path / "p.parquet"), tmp_path / "out")
    assert (stage.seen, stage.kept, stage.reasons) == (12, 9, {"missing_file": 3})


# ---- kills


COMMAND = """
import sys, time
from editmgt_lib.curation import images
slow = images.measure
def measure(data):
    time.sleep(0.03)
    return slow(data)
images.measure = measure
from editmgt_lib.cli import main
from editmgt_lib.commands.curate import line_of
sys.exit(main(sys.argv[1:]))
"""


def written(out):
    return sorted((out / "images").glob("0*.json"))


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("shards", [0, 2])
def test_a_kill_loses_at_most_a_shard(pictures, reference, tmp_path, shards):
    file, out = tmp_path / "run.toml", tmp_path / "out"
    write_config(file, pictures)
    call = [sys.executable, "-c", COMMAND, "curate", str(file), "-o", str(out)]
    process = subprocess.Popen(call, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(written(out)) < shards or not (out / "images" / "settings.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {p: p.stat().st_mtime_ns for p in written(out)}
    assert shards <= len(done) < 5
    assert curate(config(pictures), out) == reference[1]
    stages = ("sources", "images", "decisions")
    assert contents(out, *stages) == contents(reference[0], *stages)
    assert {p: p.stat().st_mtime_ns for p in done} == done
    assert not list(out.rglob(".*"))


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_files_of_a_write_that_was_cut_off_do_not_count(pictures, reference, tmp_path, suffix):
    """A shard's lines without manifest, and verdicts that are not those of their manifest."""
    out = shutil.copytree(reference[0], tmp_path / "out")
    (out / "images" / "000002-000.json").unlink()
    (out / "images" / "000002-000.jsonl").write_bytes(b'{"id": "half')
    (out / "images" / ".0123.tmp.jsonl").write_bytes(b"x")
    verdict = out / "decisions" / f"000001-000{suffix}"
    verdict.write_bytes(verdict.read_bytes()[:-9])
    assert curate(config(pictures), out) == reference[1]
    assert contents(out, "images", "decisions") == contents(reference[0], "images", "decisions")
    assert not list(out.rglob(".*"))


# ---- sources and terms


def test_the_clean_preset_keeps_what_may_be_published_and_was_looked_at(pictures, tmp_path):
    names = ("own", "unsplash-lite", "journeydb", "laion", "open-images")
    table = {"name": "s", "path": str(pictures / "good00.png")}
    for name in names:
        (tmp_path / name).mkdir()
        picture(names.index(name)).save(tmp_path / name / "a.png")
    sources = [{**table, "name": n, "path": str(tmp_path / n), "licence": n} for n in names]
    keep = {"images": {"short_side": ">= 64"}}
    settings = {"preset": "clean", "sources": sources, "keep": keep, "engine": {"workers": 1}}
    listing, stage = curate(config_from(settings), tmp_path / "out")
    assert (listing.kept, listing.reasons) == (2, {"licence": 3})
    assert stage.reasons == {"not_scored": 2}
    keep["scores"] = {"nsfw": "< 0.5", "minors": "off", "watermark": "flag < 0.5"}
    listing, stage = curate(config_from(settings), tmp_path / "out")
    assert (listing.kept, stage.kept) == (2, 2)


def test_pictures_of_a_benchmark_and_what_repeats_them_are_not_kept(pictures, tmp_path):
    bench = tmp_path / "bench"
    bench.mkdir()
    picture(8).resize((40, 32)).save(bench / "test.png")
    sources = [
        {"name": "p", "path": str(pictures), "licence": "own"},
        {"name": "bench", "path": str(bench), "exclude": True},
    ]
    keep = {"images": {"short_side": ">= 64"}}
    curate(config_from({"sources": sources, "keep": keep}), tmp_path / "out")
    found = verdicts(pictures, tmp_path / "out")
    assert found == {**REASONS, "good08.png": "similar", "test.png": "excluded"}


def test_the_removal_list_goes_by_file(pictures, reference, tmp_path):
    out = shutil.copytree(reference[0], tmp_path / "out")
    digest = hashlib.sha256((pictures / "good09.png").read_bytes()).hexdigest()
    listed = tmp_path / "removed.txt"
    listed.write_text(f"# on notice\n{digest.upper()}  # good09\n")
    curate(config(pictures, removed=str(listed)), out)
    assert verdicts(pictures, out) == {**REASONS, "good09.png": "removed"}
    listed.write_text("good09.png")
    with pytest.raises(InputError, match="no SHA-256"):
        curate(config(pictures, removed=str(listed)), out)


# ---- configuration and command


def write_config(path, pictures, extra=""):
    path.write_text(
        f'[[sources]]\nname = "p"\npath = "{Path(pictures).as_posix()}"\nlicence = "own"\n'
        f'[keep.images]\nshort_side = ">= 64"\n[engine]\nworkers = 1\nshard_rows = 5\n{extra}'
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("keep.images.entropie='> 1'", "did you mean 'entropy'"),
        ("keep.images.entropy=3", "keep.images.entropy is 3"),
        ("keep.images.entropy='about 3'", "keep.images.entropy is 'about 3'"),
        ("keep.pictures.entropy='> 1'", "keep is 'pictures'"),
        ("engine.worker=1", "did you mean 'workers'"),
        ("engine.workers=0", "engine.workers is 0"),
        ("preset=dirty", "preset is 'dirty'"),
        ("uses=['sell']", "uses is 'sell'"),
        ("duplicates.distance=40", "distance is 40"),
        ("p.licens='own'", "did you mean 'licence'"),
        ("p.most=-1", "most is -1"),
        ("p.path='gone'", "there is no .*gone"),
        ("removed='gone.txt'", "cannot read the removal list"),
        ("nonsense", "write key=value"),
    ],
)  # fmt: skip
def test_mistakes_are_named(pictures, tmp_path, capsys, change, message):
    path = tmp_path / "run.toml"
    write_config(path, pictures)
    assert main(["curate", str(path), "--set", change]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, error), error
    assert not (tmp_path / "run-curated" / "images").exists()


def test_sources_are_needed_and_have_names_of_their_own(pictures):
    with pytest.raises(InputError, match=r"add a \[\[sources\]\]"):
        config_from({})
    source = {"name": "p", "path": str(pictures)}
    with pytest.raises(InputError, match="two sources are called 'p'"):
        config_from({"sources": [source, source]})


def test_paths_start_at_the_file(tmp_path):
    write_config(tmp_path / "run.toml", "photos")
    assert load_config(tmp_path / "run.toml").sources[0].path == str(tmp_path / "photos")


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_complete_and_say_where_numbers_are_from(name, pictures):
    source = {"name": "p", "path": str(pictures)}
    made = config_from({"preset": name, "sources": [source]})
    assert made.rules() and made.keep["images"]["sharpness"]
    for line in (PRESETS / "default.toml").read_text("utf-8").splitlines():
        if " = " in line:
            assert "# " in line, line


def test_one_of_a_thing_is_not_called_many(pictures, tmp_path, capsys):
    write_config(tmp_path / "run.toml", pictures)
    assert main(["curate", str(tmp_path / "run.toml"), "--dry-run",
                 "--set", "engine.shard_rows=100"]) == 0  # fmt: skip
    assert "24 rows in 1 shard, 0 listed" in capsys.readouterr().out
    assert [duration(seconds) for seconds in (0.2, 1.2, 2, 7200)] == [
        "0 seconds", "1 second", "2 seconds", "2.0 hours"
    ]  # fmt: skip


def test_a_dry_run_says_the_plan_and_writes_nothing(pictures, tmp_path, capsys):
    path = tmp_path / "run.toml"
    write_config(path, pictures)
    assert main(["curate", str(path), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "source p: 24 rows; 24 of licence own, for publish, train" in shown
    assert "24 rows in 5 shards, 0 listed already" in shown
    assert "images.short_side >= 64" in shown and "a second (16 measured)" in shown
    assert shown.count("aesthetic (needs") == 1
    assert list(tmp_path.iterdir()) == [path]
    assert main(["curate", str(path)]) == main(["curate", str(path), "--dry-run"]) == 0
    assert "24 listed already" in (shown := capsys.readouterr().out)
    assert "stage images: nothing to do" in shown


def test_the_command_prints_what_survived(pictures, tmp_path, capsys):
    path = tmp_path / "run.toml"
    write_config(path, pictures)
    assert main(["curate", str(path), "--stages", "images"]) == 0
    shown = capsys.readouterr()
    assert re.search(r"images +24 +14 +8 +2  similar 2, unreadable 2,", shown.out)
    assert shown.err.count("not scored") == 1 and "24 of 24 rows" in shown.err
    assert main(["curate", str(path), "--stages", "edits"]) == 2
    assert main(["curate", str(path), "--stages", ","]) == 2


def test_the_report_names_the_rules_and_what_survived(reference):
    found = json.loads((reference[0] / "report.json").read_text("utf-8"))
    assert "images.short_side >= 64" in found["rules"]
    assert "flag unless images.colours >= 5" in found["rules"]
    assert found["duplicates"] == {"distance": 4, "mirrored": True}
    assert [stage["kept"] for stage in found["stages"]] == [24, 14]


def test_another_folder_is_not_written_into(pictures, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        curate(config(pictures), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_other_settings_are_named(pictures, reference, tmp_path, monkeypatch):
    out = shutil.copytree(reference[0], tmp_path / "out")
    monkeypatch.setattr(images, "VERSION", 99)
    with pytest.raises(InputError, match="version = 1, not 99; remove that folder"):
        curate(config(pictures), out)


def test_a_line_of_progress_says_verdicts_rate_and_time_left():
    verdicts = Counter(keep=1040, drop=160)
    line = line_of(run.Progress("edits", 2400, 1200, verdicts, 600.0))
    assert line == (
        "edits: 1,200 of 2,400 rows, keep 1,040, drop 160, failed 0, 2.0 rows/s, 10.0 minutes left"
    )
    assert line_of(run.Progress("edits", 5)).endswith("0.0 rows/s")  # nothing is known yet


def test_progress_counts_the_rows_of_this_run(pictures, tmp_path):
    seen = []
    curate(config(pictures), tmp_path / "out", show=lambda p: seen.append((p.done, p.due)))
    assert seen == [(n, 24) for n in range(1, 25)]
