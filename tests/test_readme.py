"""The README does what it says: its commands are understood, its example runs, its files exist."""

import re
import runpy
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from editmgt_lib import cli
from editmgt_lib.toyworld.world import Scene, Thing, is_heldout, render

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCENE = Scene((Thing("star", "yellow", 0), Thing("circle", "red", 5), Thing("square", "green", 7)),
              "sky")  # fmt: skip
PICTURE = "docs/images/scene.png"
PENDING = set()  # files to come


def blocks(language):
    """The fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def shell_lines():
    return [line for block in blocks("bash") for line in block.splitlines()]


def commands():
    """Every call of `editmgt` in a code block, as the arguments it passes."""
    parts = [shlex.split(part) for line in shell_lines() for part in line.split("&&")]
    calls = [words[1:] for words in parts if Path(words[0]).name == "editmgt"]
    assert calls
    return calls


@pytest.mark.parametrize("call", commands(), ids=" ".join)
def test_commands_are_understood(call):
    assert callable(cli.parse(call).run)


def test_the_tables_name_real_commands_and_options():
    named = set(re.findall(r"^\| `editmgt (\w+)", README, re.MULTILINE))
    assert named == {command.__name__.rsplit(".", 1)[1] for command in cli.COMMANDS}
    with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("argparse.ArgumentParser._print_message", lambda self, text, file: lines
                      .append(text))  # fmt: skip
        cli.parse(["edit", "--help"])
    for option in re.findall(r"`(--[\w-]+)", README):
        assert option in lines[0] or option in ("--to", "--out", "--help"), option


def test_the_first_command_edits_the_picture_of_the_example():
    (first, *_) = shell_lines()
    assert PICTURE in first and "-o " in first
    assert PICTURE in blocks("python")[0]


def test_ci_runs_the_second_command():
    lines = [line for line in shell_lines() if line.endswith("-m pytest")]
    assert len(lines) == 1
    assert lines[0] == next(x for x in README.splitlines() if x.endswith("-m pytest"))
    assert "-m 1 -- '-m pytest$' README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_picture_is_drawn_by_toyworld():
    assert is_heldout(SCENE)
    with Image.open(ROOT / PICTURE) as image:
        assert np.array_equal(np.asarray(image), render(SCENE, 128))


def test_the_python_example_runs(tmp_path, monkeypatch):
    (example,) = blocks("python")
    (tmp_path / PICTURE).parent.mkdir(parents=True)
    shutil.copyfile(ROOT / PICTURE, tmp_path / PICTURE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    names = runpy.run_path("example.py")
    with Image.open("edited.png") as image:
        assert image.size == (128, 128)
    assert names["kept"].any() and not names["kept"].all()


def test_files_that_are_linked_exist():
    linked = {x for x in re.findall(r"\]\(([^)#]+)\)", README) if not x.startswith("http")}
    missing = {x for x in linked if not (ROOT / x).exists()}
    assert missing <= PENDING
