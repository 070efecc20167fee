"""README and docs do what they say: commands are understood, examples run, linked files exist."""

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
LIBRARY, TRAINING = (
    (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("library", "training")
)
SCENE = Scene((Thing("balloon", "red", 1), Thing("house", "yellow", 6), Thing("tree", "green", 8)),
              "grass")  # fmt: skip
PICTURE = "docs/images/scene.png"


def blocks(language, text=README):
    """The fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def shell_lines(text=README):
    joined = (block.replace("\\\n", " ") for block in blocks("bash", text))
    return [line for block in joined for line in block.splitlines() if line]


def commands(text=README):
    """Every call of `editmgt` in a code block, as the arguments it passes."""
    parts = [shlex.split(part) for line in shell_lines(text) for part in line.split("&&")]
    calls = [words[1:] for words in parts if Path(words[0]).name == "editmgt"]
    assert calls
    return calls


@pytest.mark.parametrize("call", [*commands(), *commands(TRAINING)], ids=" ".join)
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
        assert np.array_equal(np.asarray(image), render(SCENE))


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A working directory that holds the example picture."""
    (tmp_path / PICTURE).parent.mkdir(parents=True)
    shutil.copyfile(ROOT / PICTURE, tmp_path / PICTURE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_example_runs(workplace):
    (example,) = blocks("python")
    (workplace / "example.py").write_text(example, encoding="utf-8")
    names = runpy.run_path("example.py")
    with Image.open("edited.png") as image:
        assert image.size == (256, 256)
    assert names["unchanged"].any() and not names["unchanged"].all()


def recipes():
    """Recipes of docs/library.md by heading, each once as the code that follows the preamble."""
    found = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", LIBRARY, re.MULTILINE | re.DOTALL)
    return {title: "\n".join(blocks("python", body)) for title, body in found}


@pytest.fixture(scope="module")
def preamble():
    """Names the first block defines; the model is loaded once."""
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        exec(blocks("python", LIBRARY)[0], names)
    return names


@pytest.mark.parametrize("title", recipes())
def test_recipes_run(title, workplace, preamble, capsys):
    names = dict(preamble)
    exec(compile(recipes()[title], title, "exec"), names)
    printed = capsys.readouterr().out
    result = names.get("result")
    if result is not None:  # the recipe's edit has had an effect, and not on everything
        assert result.changed.any() and not result.changed.all()
    expected = {"Progress and cancelling": "step 3 of 16", "Notes and errors": "its words are"}
    assert expected.get(title, "") in printed
    for written in re.findall(r'write_image\("([^"]+)"', recipes()[title]):
        with Image.open(written) as image:
            assert image.size == (256, 256)


def test_links_to_recipes_lead_to_one():
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in recipes()}
    assert set(re.findall(r"\]\(#([\w-]+)\)", LIBRARY)) == anchors
    assert all(recipes().values())


@pytest.mark.parametrize("name", ["README.md", "docs/library.md"])
def test_files_that_are_linked_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    linked = {x for x in re.findall(r"\]\(([^)#]+)\)", text) if not x.startswith("http")}
    missing = {x for x in linked if not (ROOT / name).parent.joinpath(x).exists()}
    assert not missing
