"""Runs of the command line over several pictures: names, resuming, Ctrl-C, and odd surroundings."""

import json
import os
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from editmgt_lib import write_image
from editmgt_lib.cli import main
from editmgt_lib.commands import editing, identity, interrupts
from editmgt_lib.commands.console import shown
from editmgt_lib.commands.inputs import READABLE, result_names

TEXT = "make the red heart blue"
ROOT = Path(__file__).parent.parent


@pytest.fixture
def edit(tiny_checkpoint):
    """Run `editmgt edit` on the tiny checkpoint; gives the exit code."""

    def run(*words):
        return main(["edit", *map(str, words), "--model", str(tiny_checkpoint), "--steps", "1"])

    return run


@pytest.fixture
def folder(tmp_path):
    """Three pictures."""
    for number, name in enumerate("abc"):
        draw(tmp_path / "in" / f"{name}.png", number)
    return tmp_path / "in"


def draw(path, seed=0, format=None):
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format)
    return path


def rows_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def names_in(folder):
    return sorted(p.name for p in folder.iterdir())


def fail_at(monkeypatch, name, error):
    """Have the picture that is written under this name raise."""

    def write(path, *rest):
        if path.name == name:
            raise error
        return write_image(path, *rest)

    monkeypatch.setattr(editing, "write_image", write)


# ---- two names for one file


@pytest.fixture
def ignores_case(monkeypatch):
    """Every file system finds names of another case or Unicode form, as FUSE's do: no inode."""

    def lexists(path):
        parent, name = os.path.split(os.fspath(path))
        try:
            return not name or any(map(same(name), os.listdir(parent or ".")))
        except OSError:
            return False

    def same(name):
        return lambda other: identity.fold(other) == identity.fold(name)

    monkeypatch.setattr(os.path, "lexists", lexists)


def test_case_and_unicode_form_are_folded():
    decomposed = unicodedata.normalize("NFD", "Zażółć.PNG")
    assert identity.fold(decomposed) == identity.fold("zażółć.png") != identity.fold("zazolc.png")
    assert identity.fold("STRASSE") == identity.fold("straße")


def test_an_input_is_no_output_under_another_spelling(edit, tmp_path, ignores_case, capsys):
    before = draw(tmp_path / "Photo.PNG", format="PNG").read_bytes()
    for name in ("photo.png", "PHOTO.png"):
        assert edit(tmp_path / "Photo.PNG", TEXT, "-o", tmp_path / name, "--overwrite") == 2
        assert "is an input" in capsys.readouterr().err
    assert names_in(tmp_path) == ["Photo.PNG"]
    assert (tmp_path / "Photo.PNG").read_bytes() == before


def test_outputs_of_one_run_are_no_other_outputs_under_another_spelling(edit, tmp_path, capsys):
    draw(tmp_path / "in.png")
    words = ("-o", tmp_path / "New/x.png", "--changed-out", tmp_path / "new/X.PNG")
    assert edit(tmp_path / "in.png", TEXT, *words) == 2
    assert "also --out" in capsys.readouterr().err


def test_names_that_differ_on_this_file_system_may_be_used(edit, tmp_path):
    draw(tmp_path / "photo.png")
    if (tmp_path / "PHOTO.png").exists():
        pytest.skip("this file system ignores case")
    assert edit(tmp_path / "photo.png", TEXT, "-o", tmp_path / "PHOTO.png") == 0


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_link_to_an_input_is_no_output(edit, tmp_path, link, capsys):
    picture, mask = draw(tmp_path / "in.png"), draw(tmp_path / "mask.png", 1)
    for name, target in (("x.png", picture), ("y.png", mask)):
        link(target, tmp_path / name)
        before = (tmp_path / name).read_bytes()
        words = ("--mask", mask, "-o", tmp_path / name, "--overwrite")
        assert edit(picture, TEXT, *words) == 2
        assert "is an input" in capsys.readouterr().err
        assert (tmp_path / name).read_bytes() == before


def test_outputs_in_one_folder_of_two_names_collide(edit, tmp_path, capsys):
    draw(tmp_path / "in.png")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    words = ("-o", tmp_path / "real/new/x.png", "--changed-out", tmp_path / "link/new/x.png")
    assert edit(tmp_path / "in.png", TEXT, *words) == 2
    assert "also --out" in capsys.readouterr().err


def test_a_bind_mount_is_the_folder_it_shows(edit, tmp_path, capsys):
    draw(tmp_path / "real" / "in.png")
    (tmp_path / "bound").mkdir()
    mount = ["mount", "--bind", str(tmp_path / "real"), str(tmp_path / "bound")]
    try:
        done = subprocess.run(mount, capture_output=True)
    except OSError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip("mounting is not allowed")
    try:
        picture = tmp_path / "real" / "in.png"
        assert edit(picture, TEXT, "-o", tmp_path / "bound/in.png", "--overwrite") == 2
        assert "is an input" in capsys.readouterr().err
        words = ("-o", tmp_path / "real/new/x.png", "--changed-out", tmp_path / "bound/new/x.png")
        assert edit(picture, TEXT, *words) == 2
        assert "also --out" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", str(tmp_path / "bound")], check=True)


def test_results_do_not_become_inputs(edit, folder, capsys):
    draw(folder / "d.jpg")
    assert edit(folder, TEXT, "-o", folder, "--overwrite") == 2
    assert names_in(folder) == ["a.png", "b.png", "c.png", "d.jpg"]
    assert "d.jpg: --out" in capsys.readouterr().err


# ---- names of results


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["b.jpg", "a.png"], ["b", "a"]),
        (["a.jpg", "a.png", "a.webp"], ["a.jpg", "a", "a.webp"]),
        (["a.gif", "a.jpg"], ["a", "a.jpg"]),
        (["x/a.png", "y/a.png", "z/a.png"], ["a", "a-2", "a-3"]),
        (["x/a.png", "y/a.png", "a-2.png"], ["a", "a-3", "a-2"]),
        (["x/a.png", "a.jpg", "y/a.jpg"], ["a", "a.jpg", "a-2"]),
        (["a.png", "a.jpg", "a.jpg.png"], ["a", "a-2", "a.jpg"]),
        (["A.png", "a.png", "a.JPG"], ["A", "a-2", "a.JPG"]),
        (["é.png", unicodedata.normalize("NFD", "é.gif")], ["é", "e\u0301.gif"]),
        ([], []),
    ],
)
def test_every_result_has_a_name_of_its_own(sources, names):
    assert result_names([Path(source) for source in sources]) == names


def test_same_stems_share_a_run_and_a_resumed_one(edit, tmp_path, capsys):
    for number, name in enumerate(("a.png", "a.jpg", "x/a.png")):
        draw(tmp_path / "in" / name, number)
    inputs, out = (tmp_path / "in", tmp_path / "in" / "x"), tmp_path / "out"
    assert edit(*inputs, TEXT, "-o", out, "--changed-out", tmp_path / "maps") == 0
    assert names_in(out) == names_in(tmp_path / "maps") == ["a-2.png", "a.jpg.png", "a.png"]
    assert "2 renamed" in (err := capsys.readouterr().err) and "a.jpg is a.jpg.png" in err
    before = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    (out / "a.jpg.png").unlink()
    assert edit(*inputs, TEXT, "-o", out) == 0
    after = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    assert after.keys() == before.keys()
    assert {p for p in before if before[p] != after[p]} == {out / "a.jpg.png"}


def test_a_picture_given_twice_is_edited_once(edit, folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert edit(folder, folder / "a.png", tmp_path / "link", TEXT, "-o", tmp_path / "out") == 0
    assert names_in(tmp_path / "out") == ["a.png", "b.png", "c.png"]


def test_a_folder_gives_what_can_be_read_and_says_what_not(edit, tmp_path, capsys):
    inside = tmp_path / "in"
    for name, kind in (("a.jfif", "JPEG"), ("b.jpe", "JPEG"), ("C.PNG", "PNG"), ("-d.bmp", "BMP")):
        draw(inside / name, format=kind)
    if features.check("avif"):
        draw(inside / "e.avif")
    for name in ("x.heic", "y.SVG", "notes.txt", "a.xmp", "._a.jfif", ".hidden.heic"):
        (inside / name).write_bytes(b"junk")
    (inside / "sub.png").mkdir()
    (inside / "gone.png").symlink_to(tmp_path / "nowhere.png")
    draw(inside / "mask.png", 1)
    mask = tmp_path / "painted.png"
    os.link(inside / "mask.png", mask)
    assert edit(inside, TEXT, "-o", tmp_path / "out", "--mask", mask) == 0
    expected = {"a.png", "b.png", "C.png", "-d.png"}
    expected |= {"e.png"} if features.check("avif") else set()
    assert set(names_in(tmp_path / "out")) == expected
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("editmgt: skipped 4: ") and "(the mask)" in line
    assert all(name in line for name in ("x.heic", "y.SVG", "gone.png", "mask.png"))


def test_outputs_are_kinds_that_can_be_read_again():
    assert {".png", ".jpg", ".jpeg", ".webp", ".avif", ".jfif", ".jpe"} <= set(READABLE)


# ---- a run goes on after a stop


def test_a_stopped_run_goes_on(edit, folder, tmp_path, monkeypatch, capsys):
    out, file = tmp_path / "out", tmp_path / "rows.jsonl"
    words = (folder, TEXT, "-o", out, "--json", file)
    with monkeypatch.context() as patch:
        fail_at(patch, "b.png", KeyboardInterrupt())
        assert edit(*words) == 130
    assert names_in(out) == ["a.png"] and [r["output"] for r in rows_of(file)] == [f"{out}/a.png"]
    first, row = (out / "a.png").stat().st_mtime_ns, rows_of(file)[0]
    capsys.readouterr()
    assert edit(*words) == 0
    assert capsys.readouterr().err.startswith("editmgt: 1 already done; add --overwrite")
    assert names_in(out) == ["a.png", "b.png", "c.png"]
    assert [Path(r["output"]).name for r in rows_of(file)] == names_in(out)
    assert rows_of(file)[0] == row and (out / "a.png").stat().st_mtime_ns == first
    again = file.read_bytes()
    assert edit(*words) == 0 and file.read_bytes() == again
    assert "3 already done" in capsys.readouterr().err
    assert edit(*words, "--overwrite") == 0 and len(rows_of(file)) == 3
    assert (out / "a.png").stat().st_mtime_ns != first


def test_lines_are_written_as_they_come(edit, folder, tmp_path, monkeypatch):
    out, file, seen = tmp_path / "out", tmp_path / "rows.jsonl", []

    def write(path, *rest):
        seen.append(len(rows_of(file)) if file.exists() else 0)
        return write_image(path, *rest)

    monkeypatch.setattr(editing, "write_image", write)
    assert edit(folder, TEXT, "-o", out, "--json", file) == 0
    assert seen == [0, 1, 2]


def test_a_failure_is_tried_again_and_its_line_replaced(edit, folder, tmp_path):
    (folder / "b.png").write_bytes(b"cut off")
    words = (folder, TEXT, "-o", tmp_path / "out", "--json", tmp_path / "rows.jsonl")
    assert edit(*words) == 2 and edit(*words) == 2
    rows = rows_of(tmp_path / "rows.jsonl")
    assert sorted(Path(row["input"]).name for row in rows) == ["a.png", "b.png", "c.png"]
    assert sum("error" in row for row in rows) == 1
    draw(folder / "b.png")
    assert edit(*words) == 0
    rows = rows_of(tmp_path / "rows.jsonl")
    assert sorted(Path(row["input"]).name for row in rows) == ["a.png", "b.png", "c.png"]
    assert not any("error" in row for row in rows)


def test_a_line_that_was_cut_off_is_made_good(edit, folder, tmp_path):
    out, file = tmp_path / "out", tmp_path / "rows.jsonl"
    words = (folder, TEXT, "-o", out, "--json", file)
    assert edit(*words) == 0
    whole = rows_of(file)
    file.write_bytes(file.read_bytes()[:-40])
    (out / "b.png").unlink()
    assert edit(*words) == 0
    rows = rows_of(file)
    assert sorted(r["output"] for r in rows) == sorted(r["output"] for r in whole)
    assert [r for r in rows if "skipped" in r] == [
        {"input": f"{folder}/c.png", "output": f"{out}/c.png", "skipped": "the output exists"}
    ]


def test_pictures_done_without_lines_get_one(edit, folder, tmp_path, capsys):
    words = (folder, TEXT, "-o", tmp_path / "out")
    assert edit(*words) == 0
    capsys.readouterr()
    assert edit(*words, "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 3 and all(row["skipped"] for row in rows)


def test_lines_of_other_runs_stay(edit, folder, tmp_path):
    for out in ("one", "two"):
        words = (folder, TEXT, "-o", tmp_path / out, "--json", tmp_path / "rows.jsonl")
        assert edit(*words) == 0
    assert len({row["output"] for row in rows_of(tmp_path / "rows.jsonl")}) == 6


@pytest.mark.parametrize(
    "content", [b"mine", b"[]\n", b"{}\n", b'{"folder": 1}\n', b'{"a": 1', b"\xff\xfe\n", b"\0" * 9]
)
def test_a_file_of_another_kind_is_not_taken_for_earlier_lines(edit, folder, tmp_path, content):
    (tmp_path / "mine.json").write_bytes(content)
    words = (folder, TEXT, "-o", tmp_path / "out", "--json", tmp_path / "mine.json")
    assert edit(*words) == 2 and not (tmp_path / "out").exists()
    assert (tmp_path / "mine.json").read_bytes() == content


def test_maps_of_an_unfinished_picture_do_not_stand_in_the_way(edit, folder, tmp_path, monkeypatch):
    maps = ("--attention-out", tmp_path / "heat", "--changed-out", tmp_path / "mask")
    words = (folder, TEXT, "-o", tmp_path / "out", *maps)
    with monkeypatch.context() as patch:
        real = editing.write_image

        def write(path, *rest):
            if path == tmp_path / "out" / "b.png":
                raise KeyboardInterrupt
            real(path, *rest)

        patch.setattr(editing, "write_image", write)
        assert edit(*words) == 130
    assert names_in(tmp_path / "heat") == names_in(tmp_path / "mask") == ["a.png"]
    assert edit(*words) == 0
    assert names_in(tmp_path / "heat") == names_in(tmp_path / "out") == ["a.png", "b.png", "c.png"]


def test_generate_goes_on_with_the_seeds_it_left(tiny_checkpoint, tmp_path, capsys):
    out, file = tmp_path / "out", tmp_path / "rows.jsonl"
    words = ["generate", "ball", "-o", str(out), "--count", "3", "--model", str(tiny_checkpoint)]
    words += ["--steps", "1", "--json", str(file)]
    assert main(words) == 0
    whole, second = rows_of(file), (out / "0002.png").read_bytes()
    (out / "0002.png").unlink()
    assert main(words) == 0
    assert "2 already done" in capsys.readouterr().err
    assert (out / "0002.png").read_bytes() == second
    assert sorted(row["output"] for row in rows_of(file)) == [row["output"] for row in whole]


# ---- Ctrl-C


SWALLOWED = """
try:
    os.kill(os.getpid(), signal.SIGINT); time.sleep(5)
except KeyboardInterrupt:
    pass
"""
DISGUISED = """
try:
    os.kill(os.getpid(), signal.SIGINT); time.sleep(5)
except KeyboardInterrupt as error:
    raise ImportError("numpy is broken") from error
"""
TORN = """
os.kill(os.getpid(), signal.SIGINT); time.sleep(5)
"""


@pytest.mark.parametrize("code", [SWALLOWED, DISGUISED, TORN])
def test_ctrl_c_during_imports_leaves_at_once(tmp_path, code):
    (tmp_path / "torch.py").write_text(f"import os, signal, time{code}")
    draw(tmp_path / "in.png")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    words = ["-m", "editmgt_lib", "edit", "in.png", TEXT, "-o", "out.png"]
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "editmgt: stopped\n")
    assert not (tmp_path / "out.png").exists()


def test_the_program_starts_where_ctrl_c_is_taken_care_of():
    assert '\neditmgt = "editmgt_lib.__main__:main"\n' in (ROOT / "pyproject.toml").read_text()


def test_the_signal_is_left_alone_where_it_is_ignored():
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interrupts.starting()
        interrupts.working()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupts.starting()
        assert signal.getsignal(signal.SIGINT) is interrupts.leave_at_once
        interrupts.working()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("keep_cause", [True, False])
def test_an_interrupt_in_disguise_stops_the_whole_run(
    edit, folder, tmp_path, monkeypatch, capsys, keep_cause
):
    def broken(*_, **__):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            if keep_cause:
                raise ImportError("half an import") from error
            raise SystemError("returned NULL")  # noqa: B904

    monkeypatch.setattr("editmgt_lib.pipeline.EditMGT.decode", broken)
    assert edit(folder, TEXT, "-o", tmp_path / "out") == 130
    assert capsys.readouterr().err == "editmgt: stopped\n"
    monkeypatch.setattr("editmgt_lib.load", broken)
    assert edit(folder, TEXT, "-o", tmp_path / "out") == 130


# ---- odd surroundings


def test_text_that_is_no_utf8_is_named(edit, tmp_path, capsys):
    picture, bad = draw(tmp_path / "in.png"), "caf\udce9"
    for words in (
        [bad],
        *([TEXT, option, bad] for option in ("--negative", "--words", "--device")),
    ):
        assert edit(picture, *words, "-o", tmp_path / "out.png") == 2
        err = capsys.readouterr().err
        assert "UTF-8" in err and "caf\\udce9" in err and len(err.splitlines()) == 1
    assert edit(tmp_path / f"{bad}.png", TEXT, "-o", tmp_path / "out.png") == 2
    assert "caf\\udce9.png" in capsys.readouterr().err


def test_file_names_of_any_kind_are_edited_and_shown_in_one_line(edit, tmp_path, capsys):
    names = ["new\nline", "-dash", "--model", "\x1b[31mred", "zażółć", "[1]", "%s%d", "a'quote\""]
    for name in names:
        draw(tmp_path / "in" / f"{name}.png")
    try:
        os.link(tmp_path / "in/zażółć.png", os.fsencode(tmp_path / "in") + b"/caf\xe9.png")
        names.append("caf\udce9")
    except OSError:
        pass  # this file system has no such names
    assert edit(tmp_path / "in", TEXT, "-o", tmp_path / "out") == 0
    captured = capsys.readouterr()
    assert {p.stem for p in (tmp_path / "out").iterdir()} == set(names)
    lines = captured.out.splitlines()
    assert len(lines) == len(names) and "\x1b" not in captured.out and not captured.err
    assert any("new\\nline.png" in line for line in lines)


def test_dashes_may_lead_after_two_dashes(edit, tmp_path, monkeypatch, tiny_checkpoint):
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "-in.png")
    words = [
        "edit",
        "-o",
        "out.png",
        "--model",
        str(tiny_checkpoint),
        "--",
        "-in.png",
        "-5 degrees",
    ]
    assert main(words) == 0 and (tmp_path / "out.png").exists()


@pytest.mark.parametrize("what", ["listdir", "lstat"])
def test_a_folder_that_cannot_be_read_is_named(edit, folder, tmp_path, monkeypatch, capsys, what):
    real = getattr(os, what)

    def closed(path, *rest, **options):
        if os.fspath(path).startswith(os.fspath(folder)):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path, *rest, **options)

    monkeypatch.setattr(os, what, closed)
    assert edit(folder, TEXT, "-o", tmp_path / "out") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"{folder} (Permission denied)" in line


@pytest.mark.parametrize("name", ["editmgt.json", b"caf\xe9.json"])
def test_what_the_system_says_about_a_file_is_no_defect(edit, folder, monkeypatch, capsys, name):
    def closed(*_, **__):
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr("editmgt_lib.load", closed)
    assert edit(folder / "a.png", TEXT, "-o", folder / "x.png") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert shown(os.fsdecode(name)) in line and "Permission denied" in line


def test_a_download_without_a_home_asks_for_a_folder(monkeypatch, capsys):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert main(["download"]) == 2
    assert "--to" in capsys.readouterr().err


def test_a_picture_in_a_closed_folder_is_not_called_missing(edit, folder, monkeypatch, capsys):
    real = os.stat

    def closed(path, *rest, **options):
        if isinstance(path, Path) and path.name == "a.png":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path, *rest, **options)

    monkeypatch.setattr(os, "stat", closed)
    assert edit(folder / "a.png", TEXT, "-o", folder / "x.png") == 2
    assert "a.png (Permission denied)" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("command", "unbuffered"), [("--help", ""), ("info --json", "1")])
def test_output_that_cannot_be_written_is_one_line(command, unbuffered):
    done = in_a_shell(f"{command} >/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "standard output: No space left" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs a Unix shell")
@pytest.mark.parametrize(
    "command", ["--version >&-", "nothing 2>&-", "nothing >&- 2>&-", "--help | true"]
)
def test_closed_streams_are_no_defect(command):
    done = in_a_shell(command, LC_ALL="C", PYTHONIOENCODING="ascii")
    assert done.returncode == (2 if command.startswith("nothing") else 0)
    assert done.stdout == "" and "rror" not in done.stderr


def in_a_shell(command, **environment):
    """Run `editmgt COMMAND`, which may redirect its streams."""
    return subprocess.run(
        f"{sys.executable} -m editmgt_lib {command}", shell=True, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip


def test_a_reader_that_left_ends_the_run(edit, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("os.dup2", lambda *_: None)
    monkeypatch.setattr("sys.stdout.fileno", lambda: 1, raising=False)

    def gone(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("editmgt_lib.commands.outputs.show", gone)
    assert edit(folder, TEXT, "-o", tmp_path / "out") == 1
    assert capsys.readouterr().err == "" and names_in(tmp_path / "out") == ["a.png"]


FLOOD = "9" * 5000


@pytest.mark.parametrize("value", [FLOOD, FLOOD[:4000], "1e999", "-1e999", "nan", "", "caf\udce9"])
@pytest.mark.parametrize(
    "option",
    ["--seed", "--steps", "--guidance", "--strength", "--threshold", "--feather", "--refresh",
     "--guided", "--mask", "--dtype", "--fit", "--json", "--attention-out", "--out"],
)  # fmt: skip
def test_values_that_are_garbage_are_bad_input(tmp_path, monkeypatch, capsys, option, value):
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "in.png")
    assert main(["edit", "in.png", TEXT, "-o", "out.png", f"{option}={value}"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("editmgt: error: ") and len(line) < 1200
    assert names_in(tmp_path) == ["in.png"]


@pytest.mark.parametrize("text", ["", "x", "0", "0,", "0.5,0.1", "0,nan", "0,1,1", "-1,1", "0,1e9"])
def test_garbage_for_guided_says_how_to_write_it(tmp_path, capsys, text):
    draw(tmp_path / "in.png")
    assert main(["edit", str(tmp_path / "in.png"), TEXT, "-o", "x.png", f"--guided={text}"]) == 2
    err = capsys.readouterr().err
    assert repr(text) in err and "write it as 0,0.5" in err and "_interval" not in err


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "ball", "-o", "x.png", "--size", FLOOD],
        ["generate", "ball", "-o", "x.png", "--size", "٣x-1"],
        ["generate", "ball", "-o", "x.png", "--count", FLOOD[:4000]],
        ["train", "toyworld-cpu", "--out", "run", "--threads", FLOOD[:4000]],
        ["train", "toyworld-cpu", "--out", "run", "--steps", FLOOD],
        ["edit", "in.png", TEXT, "-o", "x.png", "--device", "hpu"],
    ],
)
def test_garbage_elsewhere_is_bad_input(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "in.png")
    assert main(words) == 2 and names_in(tmp_path) == ["in.png"]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("editmgt: error: ")


def test_shown_text_is_one_line_of_its_own_characters():
    assert shown("zażółć 写真 👨\u200d👩 a\\b") == "zażółć 写真 👨\u200d👩 a\\b"
    assert shown("a\nb\x1b[0m\udce9\u2028") == "a\\nb\\x1b[0m\\udce9\\u2028"


# ---- what the library has to say


def test_notes_are_said_once_and_recorded(edit, folder, tmp_path, monkeypatch, capsys):
    def noted(function, *notes):
        def call(*args, **options):
            value = function(*args, **options)
            object.__setattr__(value, "notes", notes)
            return value

        return call

    from editmgt_lib.pipeline import EditMGT

    monkeypatch.setattr(editing, "read_image", noted(editing.read_image, "only the first frame"))
    encode = noted(EditMGT.encode_image, "a picture of another kind")
    monkeypatch.setattr(EditMGT, "encode_image", encode)
    monkeypatch.setattr(editing, "unchanged_notes", lambda tokens: ("nothing changed",))
    cut = "prompt: too long"
    assert edit(folder, f"{TEXT} " * 40, "-o", tmp_path / "out", "--json") == 0
    captured = capsys.readouterr()
    notes = ["only the first frame", "a picture of another kind", "nothing changed"]
    for line in captured.out.splitlines():
        of_text, *of_picture = json.loads(line)["notes"]
        assert of_text.startswith(cut) and of_picture == notes
    assert captured.err.count(cut) == 1
    assert captured.err.count("nothing changed") == 3
    assert "b.png: nothing changed" in captured.err
