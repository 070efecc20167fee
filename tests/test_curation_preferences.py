"""Preferences: pairs with the edit that their judge liked less, on the terms of all three."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from editmgt_lib.cli import main
from editmgt_lib.curation.edits import EditStage
from editmgt_lib.curation.export import ExportOptions, export
from editmgt_lib.curation.pairs import less_liked
from editmgt_lib.curation.rows import Found, Origin, Row
from editmgt_lib.curation.terms import FREE, Terms
from editmgt_lib.data.opening import open_reader
from editmgt_lib.errors import InputError

from .curation_backends import GOOD, FakeEditor, FakeJudge, FakeWriter, backends, start
from .fake_services import png

pq = pytest.importorskip("pyarrow.parquet")
PREFERENCES = ExportOptions(preferences=True, samples=2)
DARK, LIGHT = FakeEditor("dark", 10), FakeEditor("light", 200)


def edited(editors, judges):
    """A row after the stage `edits`."""
    values = {"category": "remove", "instruction": GOOD["remove"][0]}
    picture = png(np.zeros((8, 8, 3), np.uint8))
    row = Row("id.0", Origin("p", "0.png"), picture, {"instructions": Found(values)})
    named = ({one.name: one for one in role} for role in (editors, judges))
    [found] = EditStage(*named)([row])
    return row.add("edits", found)[0]


def level(data):
    return int(np.asarray(Image.open(io.BytesIO(data))).max())


# ---- which edit was liked less


@pytest.mark.parametrize(
    "editors",
    [[DARK, LIGHT], [LIGHT, DARK], [FakeEditor("no", raises="refused"), LIGHT, DARK],
     [DARK, FakeEditor("no", raises="refused"), LIGHT]],
)  # fmt: skip
def test_the_loser_is_found_among_all_candidates(editors):
    row = edited(editors, [FakeJudge()])
    lost = less_liked(row)
    assert (lost["editor"], lost["licence"], lost["uses"]) == ("dark", "Apache-2.0", list(FREE))
    assert level(row.encoded("edits.other")) == 10


@pytest.mark.parametrize(
    ("editors", "judges"),
    [
        ([DARK, LIGHT], [FakeJudge(answer="first")]),  # always the first shown
        ([DARK, LIGHT], [FakeJudge(answer="tie")]),
        ([DARK, LIGHT], [FakeJudge(raises="refused")]),
        ([DARK, LIGHT], []),
        ([DARK], [FakeJudge()]),
        ([LIGHT, DARK, FakeEditor("too", 200)], [FakeJudge()]),  # the best two are equal
    ],
    ids=["order", "tie", "refused", "nobody", "only", "equal"],
)
def test_without_agreement_on_these_two_nobody_lost(editors, judges):
    assert less_liked(edited(editors, judges)) is None


def test_a_row_that_was_not_edited_has_no_loser():
    assert less_liked(Row("id", Origin("p", "0.png"), None)) is None


# ---- exported


def curated(folder, **editors):
    """Two noisy pictures with two instructions each."""
    (folder / "p").mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (24, 40, 3), np.uint8)
        Image.fromarray(noise).save(folder / "p" / f"{number}.png")
    levels = {"dark": 10, "light": 200}
    made = [FakeEditor(name, levels[name], terms=terms) for name, terms in editors.items()]
    roles = {"writers": [FakeWriter()], "editors": made, "judges": [FakeJudge()]}
    start(folder / "p", folder / "curated", backends(**roles))
    return folder / "curated"


def rows_of(out):
    return [row for path in out.glob("data/*.parquet") for row in pq.read_table(path).to_pylist()]


def test_both_edits_are_exported_with_who_made_them(tmp_path):
    folder = curated(tmp_path, dark=Terms("MIT", FREE), light=Terms("Apache-2.0", ("train",)))
    allowed = ExportOptions(("train",), preferences=True)
    found = export(folder, tmp_path / "out", allowed)
    rows = rows_of(tmp_path / "out")
    assert found.card["rows"]["exported"] == len(rows) == 4
    assert list(rows[0])[:5] == ["input_img", "instruction", "output_img", "type", "rejected_img"]
    for row in rows:
        assert level(row["output_img"]["bytes"]) == 200 and row["editor"] == "light"
        assert level(row["rejected_img"]["bytes"]) == 10 and row["rejected_editor"] == "dark"
        assert (row["rejected_licence"], row["uses"]) == ("MIT", ["train"])
        tried = {one["editor"]: one for one in json.loads(row["candidates"])}
        assert row["rejected_seed"] == tried["dark"]["seed"] != row["seed"]
    licences = {(one["of"], one["name"], one["licence"]) for one in found.card["licences"]}
    assert licences >= {("editor", "dark", "MIT"), ("editor", "light", "Apache-2.0")}
    assert {m["name"]: m["rows"] for m in found.card["makers"]}["dark"] == 4
    again = export(folder, tmp_path / "again", allowed)
    assert [file.sha256 for file in again.files] == [file.sha256 for file in found.files]
    # Readers of pairs see those of the edits that were kept.
    reader = open_reader(str(tmp_path / "out"))
    read = [row for part in reader.parts for row in reader.rows(part)]
    assert {level(row.target) for row in read} == {200} and len(read) == 4


def test_the_terms_of_the_loser_count_too(tmp_path):
    closed = Terms("FLUX.1-dev-Non-Commercial-1.1.1", ("publish",))
    folder = curated(tmp_path, dark=closed, light=Terms("Apache-2.0", FREE))
    found = export(folder, tmp_path / "out", PREFERENCES)
    assert found.files == ()
    assert found.card["left_out"] == {f"terms of the other editor: {closed.licence}": 4}
    assert len(export(folder, tmp_path / "pairs").files) > 0
    publish = ExportOptions(("publish",), preferences=True)
    export(folder, tmp_path / "publish", publish)
    assert {tuple(row["uses"]) for row in rows_of(tmp_path / "publish")} == {("publish",)}


def test_a_loser_whose_terms_nobody_recorded_allows_nothing(tmp_path):
    folder = curated(tmp_path, dark=Terms(), light=Terms("Apache-2.0", FREE))
    found = export(folder, tmp_path / "out", PREFERENCES)
    assert found.card["left_out"] == {"terms of the other editor: unknown": 4}


def test_pairs_without_a_loser_are_left_out_by_reason(tmp_path):
    folder = curated(tmp_path, light=Terms("Apache-2.0", FREE))
    found = export(folder, tmp_path / "out", PREFERENCES)
    assert found.card["left_out"] == {"no edit that the judge liked less": 4}


@pytest.mark.parametrize("other", ["negatives", "reverse"])
def test_preferences_are_a_folder_of_their_own(other):
    with pytest.raises(InputError, match="preferences"):
        ExportOptions(preferences=True, **{other: True})


def test_the_command_and_the_card(tmp_path, capsys):
    folder = curated(tmp_path, dark=Terms("MIT", FREE), light=Terms("Apache-2.0", FREE))
    assert main(["export", str(folder), "-o", str(tmp_path / "out"), "--preferences"]) == 0
    assert "4 of 4 rows" in capsys.readouterr().out
    said = (tmp_path / "out" / "README.md").read_text()
    assert "liked less" in said and '"preferences"' in said and "never a target" in said
