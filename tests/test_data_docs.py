"""What the docs say of data: commands are understood, tables open."""

import re
import shlex
from pathlib import Path

import pytest

from editmgt_lib import cli
from editmgt_lib.data.opening import SourceOptions

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "training-data.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def calls():
    lines = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    return [words[words.index("cache") :] for words in lines]


@pytest.mark.parametrize("call", calls(), ids=" ".join)
def test_commands_are_understood(call):
    assert callable(cli.parse(call).run)


def test_tables_are_understood():
    tomllib = pytest.importorskip("tomllib")
    single, mixed = (tomllib.loads(block)["data"] for block in blocks("toml"))
    assert SourceOptions.of(single).held_out == 0.01
    assert [SourceOptions.of(table).weight for table in mixed["sources"]] == [0.9, 0.1]
