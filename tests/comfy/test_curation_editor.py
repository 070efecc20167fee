"""A real ComfyUI as an editor of a curation, by the table that the documentation shows."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

if sys.version_info < (3, 11):
    pytest.importorskip("tomli")
pytest.importorskip("torch")

from editmgt_lib.curation.backends import read_backends  # noqa: E402
from editmgt_lib.curation.edits import EditStage  # noqa: E402
from editmgt_lib.curation.rows import Found, Origin, Row  # noqa: E402
from editmgt_lib.errors import InputError  # noqa: E402
from editmgt_lib.tables import read_toml  # noqa: E402
from editmgt_lib.toyworld.world import render, sample_pair  # noqa: E402

from ..fake_services import png  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def editor(server, tmp_path, **changes):
    """The one of docs/curation-backends.md, asking this server for few steps."""
    text = (ROOT / "docs/curation-backends.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```toml\n(\[editors\.comfy\].*?)```", text, re.DOTALL)
    (tmp_path / "table.toml").write_text(block)
    table = read_toml(tmp_path / "table.toml")["editors"]["comfy"]
    table |= {
        "url": server.url,
        "workflow": str(ROOT / table["workflow"]),
        "values": {"7.steps": 2},
    }
    return read_backends({"editors": {"comfy": {**table, **changes}}}).editors["comfy"]


def test_it_edits_a_row_of_any_size(server, tmp_path):
    pair = sample_pair(np.random.default_rng(0), "color")
    before = render(pair.source, 256)[:, :208]
    one = editor(server, tmp_path)
    one.check()
    about = Found({"category": "color", "instruction": pair.instruction})
    row = Row("id.0", Origin("p", "0.png"), png(before), {"instructions": about})
    stage = EditStage({"comfy": one}, {})
    [found], [again] = stage([row]), stage([row])
    assert found.failure is None and found.values["editor"] == "comfy"
    assert (found.values["width"], found.values["height"]) == (208, 256)
    assert found.pictures == again.pictures  # the seed is the row's
    assert found.pictures["edited"] != png(before)


@pytest.mark.parametrize(
    ("change", "match"),
    [({"text": "99.text"}, "99"), ({"result": "Nowhere"}, "Nowhere")],
)
def test_what_the_workflow_lacks_is_told(server, tmp_path, change, match):
    with pytest.raises(InputError, match=match):
        editor(server, tmp_path, **change).check()
