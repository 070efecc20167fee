"""Bulk editing: names, lists, parquet, resuming, and what is never written over."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from editmgt_lib.cli import main
from editmgt_lib.curation.bulk import FOLDER, RESULTS, edit_all
from editmgt_lib.curation.edits import EditOptions, EditStage
from editmgt_lib.curation.engine import EngineOptions
from editmgt_lib.curation.rows import Unavailable
from editmgt_lib.curation.sources import SourceConfig
from editmgt_lib.errors import InputError

from .curation_stages import Inverting

TEXT = "make the sky red"


def draw(path, value=10, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)
    return path


def edit(path, out, text=TEXT, editor=None, seed=0, **engine):
    editor = editor or Inverting()
    stage = EditStage({editor.name: editor}, {}, EditOptions(0, seed=seed))
    found = edit_all(
        SourceConfig("pictures", str(path)), text, stage, out,
        EngineOptions(**{"workers": 1, "shard_rows": 2, **engine}),
        show=lambda progress: None, report=lambda line: None,
    )  # fmt: skip
    return found, editor


def files(out):
    """Visible files below a folder."""
    found = (p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    return sorted(name for name in found if not name.startswith("."))


def results(out):
    return [json.loads(line) for line in (out / RESULTS).read_text().splitlines()]


def write_list(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# ---- names


def test_names_and_sub_folders_survive(tmp_path):
    for name in ("a.png", "b/a.jpg", "b/c d/é.webp", ".thumbs/a.png", "b/._a.jpg"):
        draw(tmp_path / "in" / name)
    found, _ = edit(tmp_path / "in", tmp_path / "out")
    assert files(tmp_path / "out") == ["a.png", "b/a.png", "b/c d/é.png", RESULTS]
    assert (found.kept, found.failed) == (3, 0)
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.size == (6, 4) and picture.getpixel((0, 0)) == (245, 255, 255)


def test_names_that_clash_on_some_file_system_are_told_apart_and_stay(tmp_path):
    for name in ("a.png", "b.png"):
        draw(tmp_path / "in" / name)
    edit(tmp_path / "in", tmp_path / "out")
    for name in ("A.jpg", "a.jpg", "a-2.png"):  # listed later, some before a.png by name
        draw(tmp_path / "in" / name)
    edit(tmp_path / "in", tmp_path / "out")
    outputs = {line["input"]: line["output"] for line in results(tmp_path / "out")}
    assert (outputs["a.png"], outputs["b.png"]) == ("a.png", "b.png")
    assert len({name.casefold() for name in outputs.values()}) == 5
    assert set(files(tmp_path / "out")) == {*outputs.values(), RESULTS}


@pytest.mark.parametrize("kind", ["pictures", "list", "parquet"])
@pytest.mark.parametrize("way", ["relative", "linked"])
def test_a_source_may_be_named_by_a_relative_path_or_a_link(tmp_path, monkeypatch, way, kind):
    real = tmp_path / "real"
    data = draw(tmp_path / "x.png").read_bytes()
    if kind == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        real.mkdir()
        pq.write_table(pa.table({"image": [data]}), real / "part.parquet")
    else:
        draw(real / "a.png")
    if kind == "list":
        write_list(real / "list.jsonl", [{"image": "a.png"}])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(real)
    place = Path("real") if way == "relative" else tmp_path / "link"
    found, _ = edit(place / "list.jsonl" if kind == "list" else place, tmp_path / "out")
    assert (found.kept, found.failed) == (1, 0)


@pytest.mark.parametrize("id", ["../../x", "/etc/x", "a:b", "..", "", "x" * 300, ".hid"])
def test_ids_of_parquet_rows_make_safe_names(tmp_path, id):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    data = draw(tmp_path / "x.png").read_bytes()
    table = pa.table({"id": [id, id], "input_img": [data, data], "instruction": ["one", "two"]})
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(table, folder / "part-0.parquet")
    edit(folder, tmp_path / "out", "")
    lines = results(tmp_path / "out")
    assert [line["instruction"] for line in lines] == ["one", "two"]
    assert [Path(line["output"]).parts[0] for line in lines] == ["part-0"] * 2
    assert len(files(tmp_path / "out")) == 3
    assert not [p for p in tmp_path.iterdir() if p.name not in ("in", "out", "x.png")]


def test_a_list_with_an_instruction_for_each_row(tmp_path):
    for name in ("a.png", "b/c.png"):
        draw(tmp_path / name)
    path = write_list(tmp_path / "list.jsonl", [
        {"image": "a.png", "instruction": "one"},
        {"image": "a.png", "instruction": "two"},
        {"image": "b/c.png"},
        {"image": "../secret.png", "instruction": "x"},
        {"image": "gone.png", "instruction": "x"},
    ])  # fmt: skip
    edit(path, tmp_path / "out", "for all")
    lines = results(tmp_path / "out")
    assert [line.get("output") for line in lines] == ["a.png", "a-2.png", "b/c.png", None, None]
    assert [line["instruction"] for line in lines[:3]] == ["one", "two", "for all"]
    assert [line["failed"] for line in lines[3:]] == ["bad_path", "bad_path"]


def test_a_row_without_any_instruction_fails_alone(tmp_path):
    draw(tmp_path / "a.png")
    rows = [{"image": "a.png", "instruction": "one"}, {"image": "a.png"}]
    found, editor = edit(write_list(tmp_path / "list.jsonl", rows), tmp_path / "out", "")
    assert (found.kept, editor.calls) == (1, 1)
    assert results(tmp_path / "out")[1]["failed"] == "no_instruction"


# ---- going on


def test_a_second_run_does_what_is_missing(tmp_path):
    for number in range(5):
        draw(tmp_path / "in" / f"{number}.png", number)
    _, editor = edit(tmp_path / "in", tmp_path / "out")
    assert editor.calls == 5
    draw(tmp_path / "in" / "new.png")
    before = (tmp_path / "out" / "0.png").stat().st_mtime_ns
    found, editor = edit(tmp_path / "in", tmp_path / "out")
    assert (editor.calls, found.kept) == (1, 6)
    assert (tmp_path / "out" / "0.png").stat().st_mtime_ns == before


def test_failures_are_rows_and_those_that_may_pass_are_tried_again(tmp_path):
    draw(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    rows = [{"image": "a.png", "instruction": text} for text in ("refuse", "later", "good")]
    path = write_list(tmp_path / "list.jsonl", [*rows, {"image": "cut.png", "instruction": "x"}])
    found, editor = edit(path, tmp_path / "out")
    assert (found.kept, found.failed, editor.calls) == (1, 3, 3)
    reasons = [line.get("failed") for line in results(tmp_path / "out")]
    assert reasons == ["refused", "busy", None, "bad_input"]
    assert results(tmp_path / "out")[0]["detail"] == "it will not"
    _, editor = edit(path, tmp_path / "out")
    assert editor.calls == 1


def test_an_editor_that_is_gone_stops_the_run_which_goes_on_later(tmp_path):
    class Gone(Inverting):
        def edit(self, *given):
            if self.calls == 2:
                raise Unavailable("the server is gone")
            return super().edit(*given)

    for number in range(5):
        draw(tmp_path / "in" / f"{number}.png", number)
    with pytest.raises(Unavailable):
        edit(tmp_path / "in", tmp_path / "out", editor=Gone())
    assert files(tmp_path / "out") == ["0.png", "1.png", RESULTS]
    assert [line.get("waiting") for line in results(tmp_path / "out")] == [None, None] + [True] * 3
    _, editor = edit(tmp_path / "in", tmp_path / "out")
    assert editor.calls == 3 and len(files(tmp_path / "out")) == 6


@pytest.mark.parametrize("step", range(4))
def test_a_kill_between_two_files_loses_nothing(tmp_path, monkeypatch, step):
    """Killed after `step` files were put in their places."""

    class Killed(BaseException):
        pass

    from editmgt_lib.curation import publishing

    for number in range(4):
        draw(tmp_path / "in" / f"{number}.png", number)
    place, done = publishing._place, []

    def placing(path, *given):
        if len(done) == step:
            raise Killed
        done.append(path)
        place(path, *given)

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "_place", placing)
        with pytest.raises(Killed):
            edit(tmp_path / "in", tmp_path / "out")
    _, editor = edit(tmp_path / "in", tmp_path / "out")
    assert editor.calls == 4 - (2 if step < 2 else 4)  # shards of two rows
    assert files(tmp_path / "out") == ["0.png", "1.png", "2.png", "3.png", RESULTS]
    assert not list((tmp_path / "out" / FOLDER).rglob("*.zip"))


def test_kill_9_loses_at_most_a_shard(tmp_path):
    """A real one, while a second shard is being edited."""
    for number in range(4):
        draw(tmp_path / "in" / f"{number}.png", number)
    code = (
        "from tests.test_bulk import *\n"
        f"edit(Path({str(tmp_path)!r}) / 'in', Path({str(tmp_path)!r}) / 'out',"
        " editor=Inverting(0.3))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
    manifest = tmp_path / "out" / FOLDER / "edits" / "000000-000.json"
    until = time.monotonic() + 120
    while not manifest.is_file() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, editor = edit(tmp_path / "in", tmp_path / "out")
    assert editor.calls <= 2
    assert len(files(tmp_path / "out")) == 5
    assert not [p for p in (tmp_path / "out").rglob(".*.tmp*")]


# ---- what is never written over


def test_a_file_of_someone_else_is_never_written_over(tmp_path):
    for number in range(2):
        draw(tmp_path / "in" / f"{number}.png", number)
    out = tmp_path / "out"

    class Late(Inverting):
        def edit(self, *given):  # it appears while the shard is being edited
            (out / "1.png").write_bytes(b"mine")
            return super().edit(*given)

    with pytest.raises(InputError, match=r"1\.png is there, and not by this run; move it away"):
        edit(tmp_path / "in", out, editor=Late())
    assert (out / "1.png").read_bytes() == b"mine"
    (out / "1.png").unlink()
    _, editor = edit(tmp_path / "in", out)
    assert editor.calls == 0 and files(out) == ["0.png", "1.png", RESULTS]


def test_a_folder_in_use_is_refused_before_any_work(tmp_path):
    draw(tmp_path / "in" / "a.png")
    draw(tmp_path / "out" / "a.png")
    editor = Inverting()
    with pytest.raises(InputError, match="holds other files; choose an empty folder"):
        edit(tmp_path / "in", tmp_path / "out", editor=editor)
    for out in (tmp_path / "in", tmp_path / "in" / "results"):
        with pytest.raises(InputError, match="choose a"):
            edit(tmp_path / "in", out, editor=editor)
    assert editor.calls == 0 and files(tmp_path / "in") == ["a.png"]


@pytest.mark.parametrize("change", [{"text": "another"}, {"seed": 1}])
def test_other_settings_need_another_folder(tmp_path, change):
    draw(tmp_path / "in" / "a.png")
    edit(tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match="another --out"):
        edit(tmp_path / "in", tmp_path / "out", **change)


def test_without_hard_links_nothing_is_written_over_either(tmp_path, monkeypatch):
    from editmgt_lib.curation import publishing

    def refused(*_):
        raise OSError(1, "not permitted")

    monkeypatch.setattr(publishing.os, "link", refused)
    publishing._place(tmp_path / "a.png", b"one", tmp_path / "temporary")
    assert (tmp_path / "a.png").read_bytes() == b"one"
    with pytest.raises(InputError, match="move it away"):
        publishing._place(tmp_path / "a.png", b"two", tmp_path / "temporary")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


# ---- the command


@pytest.fixture
def editmgt(tiny_checkpoint):
    return lambda *words: main([*map(str, words), "--model", str(tiny_checkpoint), "--steps", "2"])


def noise(path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_the_command_edits_a_tree(editmgt, tmp_path, capsys):
    noise(tmp_path / "in" / "a" / "b.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    assert editmgt("edit", tmp_path / "in", TEXT, "--engine", "local", "-o", out) == 2
    assert files(out) == ["a/b.png", RESULTS]
    told = capsys.readouterr()
    assert "1 edited, 1 failed; bad_input 1" in told.out
    assert "edits: 2 of 2 rows" in told.err and "rows/s" in told.err


def test_the_command_edits_a_list(editmgt, tmp_path):
    noise(tmp_path / "a.png")
    path = write_list(tmp_path / "list.jsonl", [{"image": "a.png", "instruction": TEXT}])
    assert editmgt("edit", path, "-o", tmp_path / "out") == 0
    assert files(tmp_path / "out") == ["a.png", RESULTS]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["in", TEXT, "--engine", "local", "--mask", "m.png"], "--mask is for single pictures"),
        (["in", TEXT, "--workers", "2"], "--workers is for many pictures; add --engine"),
        (["in", "in", TEXT, "--engine", "local"], "2 inputs; edit one folder"),
        (["in", TEXT, "--engine", "local", "--gpus", "1"], "--gpus is for --engine ray"),
        (["in/a.png", TEXT, "--engine", "local"], "no folder, list"),
        (["in", TEXT, "--engine", "local", "--workers", "0"], "workers is 0"),
        (["in", TEXT, "--engine", "local", "--editors", "e.toml"], "given beside --editors"),
        (["in", " ", "--engine", "local"], "instruction is empty"),
    ],
)
def test_mistakes_are_named(editmgt, tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    noise(tmp_path / "in" / "a.png")
    (tmp_path / "e.toml").write_text("")
    assert editmgt("edit", *words, "-o", "out") == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
