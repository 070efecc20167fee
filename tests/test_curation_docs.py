"""What docs/curation.md says: commands are understood, tables open, defaults are the defaults."""

import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

if sys.version_info < (3, 11):
    pytest.importorskip("tomli")

from editmgt_lib import cli
from editmgt_lib.curation.config import VALUES, config_from
from editmgt_lib.curation.edits import EditOptions
from editmgt_lib.curation.instructions import InstructionOptions
from editmgt_lib.curation.terms import SOURCES, terms_of
from editmgt_lib.curation.variety import THEMES
from editmgt_lib.curation.verdicts import DuplicateOptions
from editmgt_lib.tables import toml_reader

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "curation.md").read_text("utf-8")
SOURCE = {"sources": [{"name": "p", "path": "p"}]}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def table(header):
    """Rows of the table whose first cell is the header."""
    found = re.search(
        rf"^\| {re.escape(header)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE
    )
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]


CALLS = [line for block in blocks("bash") for line in block.splitlines()]


@pytest.mark.parametrize("call", CALLS)
def test_commands_are_understood(call):
    args = cli.parse(shlex.split(call)[1:])
    for change in getattr(args, "changes", []):
        key, _, text = change.partition("=")
        assert config_from({**SOURCE, "keep": {"images": {key.split(".")[-1]: text}}})


@pytest.mark.parametrize("block", blocks("toml"))
def test_tables_are_understood(block):
    made = config_from({**SOURCE, **toml_reader().loads(block)})
    if "[duplicates]" in block:
        assert made.duplicates == DuplicateOptions()
    if "[edits]" in block:
        assert made.edits == EditOptions()
    if "[instructions]" in block:
        assert replace(made.instructions, balance={}) == InstructionOptions()


def test_defaults_are_those_of_the_preset():
    keep = config_from(SOURCE).keep["images"]
    stated = {name.strip("`"): text.strip("`") for name, text, *_ in table("`[keep.images]`")}
    assert stated == keep
    also = re.search(r"Also measured, without a default: (.*?)\. A threshold", TEXT, re.DOTALL)[1]
    assert {*re.findall(r"`(\w+)`", also), *keep} == set(VALUES["images"])


def test_faults_and_their_defaults_are_those_of_the_library():
    rows = table("`[keep.instructions]`")
    stated = {name.strip("`"): text.strip("`") for name, text, _ in rows}
    assert stated == config_from(SOURCE).keep["instructions"]
    assert {*stated, "words", "tries"} == set(VALUES["instructions"])


def test_the_numbers_of_wishes_are_those_of_the_lists():
    kinds = ("style", "background change", "add")
    numbers = re.search(
        r"style out of (\d+), a place out of (\d+), a kind of\s+\w+ out of (\d+)", TEXT
    )
    assert [int(n) for n in numbers.groups()] == [len(THEMES[kind]) for kind in kinds]


def test_terms_are_those_of_the_library():
    for names, may in table("`licence`"):
        for name in re.findall(r"`([\w-]+)`", names):
            uses = terms_of(name).uses
            assert name == "unknown" or name in SOURCES
            assert ("publish" in uses) == may.startswith("published")
            assert ("train" in uses) == bool(re.search(r"trained on(?! for research)", may))
