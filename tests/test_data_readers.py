"""Readers: every row counts once, what cannot be used says why, and nothing leaves its folder."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from editmgt_lib.data.columns import find_columns
from editmgt_lib.data.folders import CaptionReader, ListReader, open_folder
from editmgt_lib.data.opening import open_reader
from editmgt_lib.data.rows import Row, RowCounts, Skipped
from editmgt_lib.data.toyworld import write_pairs
from editmgt_lib.errors import InputError


def picture(width=40, height=32, seed=0, format="PNG", mode="RGB"):
    """Content of a picture file."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, len(mode)), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels, mode).save(content, format)
    return content.getvalue()


def write_list(folder, rows, name="pairs.jsonl"):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return folder / name


def read(reader):
    return [item for part in reader.parts for item in reader.rows(part)]


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png", "deep/c.jpg"):
        path = tmp_path / "pairs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(format="JPEG" if name.endswith("jpg") else "PNG"))
    (tmp_path / "secret.png").write_bytes(picture())
    return tmp_path / "pairs"


def test_a_list_of_pairs(folder):
    rows = [
        {"input": "a.png", "output": "b.png", "instruction": " make it red ", "type": "color"},
        {"input": "deep/c.jpg", "output": "a.png", "instruction": "remove it", "id": "x"},
    ]
    reader = ListReader(write_list(folder, rows))
    assert reader.edits
    first, second = read(reader)
    assert first == Row("pairs.jsonl:0", "color", "make it red", folder / "b.png", folder / "a.png")
    assert second == Row("x", "", "remove it", folder / "a.png", folder / "deep/c.jpg")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("instruction input_img output_img type", ("instruction", "output_img", "input_img")),
        ("edit_instruction input edited_file", ("edit_instruction", "edited_file", "input")),
        ("text image_file generated_image", ("text", "generated_image", "image_file")),
        ("text image", ("text", "image", None)),
        ("caption file_name score", ("caption", "file_name", None)),
    ],
)  # fmt: skip
def test_columns_go_by_the_names_in_use(names, expected):
    columns = find_columns(names.split(), "here")
    assert (columns.prompt, columns.target, columns.source) == expected


@pytest.mark.parametrize(
    ("names", "missing"),
    [("instruction output", "before the edit"), ("a b", "for the picture"), ("image", "caption")],
)
def test_a_missing_column_is_named_with_its_names(names, missing):
    with pytest.raises(InputError, match=f"here has no column.*{missing}.*name it one of"):
        find_columns(names.split(), "here")


def test_csv_with_quotes_and_a_byte_order_mark(folder):
    text = '\ufeffinput,output,instruction\na.png,b.png,"make it red,\nplease"\n'
    (folder / "pairs.csv").write_text(text, encoding="utf-8")
    [row] = read(open_folder(folder))
    assert row.prompt == "make it red,\nplease" and row.source == folder / "a.png"


def test_a_bad_line_of_a_csv_is_skipped(folder):
    lines = ["input,output,text", "a.png,b.png,one", "a.png,b.png,two,three", "a.png",
             f"a.png,b.png,{'x' * 200_000}", "a.png,b.png,four"]  # fmt: skip
    (folder / "pairs.csv").write_text("\n".join(lines))
    items = read(open_folder(folder))
    assert [type(item) for item in items] == [Row, Skipped, Skipped, Skipped, Row]
    assert [item.detail for item in items[1:4:2]] == [
        "more cells than columns", "no CSV (field larger than field limit (131072))",
    ]  # fmt: skip


PAIR = {"input": "a.png", "output": "b.png", "instruction": "x"}


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ('{"input": "a.png"', "damaged row", "no JSON"),
        ("[1]", "damaged row", "list"),
        (PAIR | {"instruction": ""}, "no instruction or caption", ""),
        (PAIR | {"instruction": None}, "no instruction or caption", "None"),
        (PAIR | {"instruction": 3}, "no instruction or caption", "3"),
        (PAIR | {"instruction": "x" * 20_000}, "instruction is not usable text", ""),
        ('{"input": "a.png", "output": "b.png", "instruction": "\\ud800"}',
         "instruction is not usable text", ""),
        (PAIR | {"input": "no.png"}, "picture is missing", "no.png"),
        (PAIR | {"output": None}, "picture is missing", "None"),
        (PAIR | {"output": "deep"}, "picture is missing", "no file"),
        (PAIR | {"input": "../secret.png"}, "picture is missing", "leaves the folder"),
        (PAIR | {"input": "deep/../../secret.png"}, "picture is missing", "leaves the folder"),
        (PAIR | {"input": "/etc/passwd"}, "picture is missing", "leaves the folder"),
        (PAIR | {"input": "a\0.png"}, "picture is missing", "no path"),
    ],
)  # fmt: skip
def test_a_bad_row_is_skipped_with_its_reason_and_ends_nothing(folder, row, reason, detail):
    before, skipped, after = read(ListReader(write_list(folder, [PAIR, row, PAIR])))
    assert isinstance(before, Row) and isinstance(after, Row)
    assert isinstance(skipped, Skipped) and skipped.reason == reason and detail in skipped.detail


def test_a_link_out_of_the_folder_is_not_followed(folder):
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    [item] = read(ListReader(write_list(folder, [PAIR | {"input": "link.png"}])))
    assert "leaves the folder" in item.detail


def test_line_separators_inside_a_text_are_no_ends_of_lines(folder):
    [row] = read(
        ListReader(write_list(folder, ['{"input":"a.png","output":"b.png","text":"a\u2028b"}']))
    )
    assert row.prompt == "a\u2028b"


def test_captions_beside_pictures(folder):
    (folder / "a.txt").write_text("a red heart\n", encoding="utf-8")
    (folder / "b.txt").write_text(" ", encoding="utf-8")
    reader = open_folder(folder)
    assert isinstance(reader, CaptionReader) and not reader.edits
    used, empty, missing = read(reader)
    assert used == Row("a.png", "", "a red heart", folder / "a.png")
    assert empty == Skipped("b.png", "empty caption")
    assert missing.id == "deep/c.jpg" and missing.reason == "no instruction or caption"


def test_captions_in_a_list(folder):
    rows = [{"file_name": "a.png", "text": "a heart"}]
    reader = ListReader(write_list(folder, rows, "metadata.jsonl"))
    assert not reader.edits and read(reader)[0].source is None


def test_a_folder_must_say_what_it_is(folder):
    with pytest.raises(InputError, match="no list"):
        open_folder(folder)
    write_list(folder, [PAIR], "a.jsonl")
    write_list(folder, [PAIR], "b.jsonl")
    with pytest.raises(InputError, match=r"several lists \(a.jsonl, b.jsonl\)"):
        open_folder(folder)
    with pytest.raises(InputError, match="no data set"):
        open_reader(str(folder / "nothing"))
    with pytest.raises(InputError, match="toyworld:many"):
        open_reader("toyworld:many")
    with pytest.raises(InputError, match="no list or parquet"):
        open_reader(str(folder / "a.png"))


def test_any_row_can_be_read_alone_and_many_rows_make_several_parts(folder):
    rows = [PAIR | {"instruction": f"{n}"} for n in range(600)]
    reader = ListReader(write_list(folder, rows))
    assert [part.rows for part in reader.parts] == [256, 256, 88]
    assert [row.prompt for row in read(reader)] == [str(n) for n in range(600)]
    [row] = reader.rows(reader.parts[1], 7, 8)
    assert row.prompt == "263" and row.id == "pairs.jsonl:263"


def test_toyworld_rows_are_pairs_or_captions():
    names = ("toyworld:3", "toyworld:3:generate", "toyworld:3:spare")
    pairs, captions, spare = readers = [open_reader(name, size=64) for name in names]
    assert [reader.edits for reader in readers] == [True, False, True]
    assert len({reader.fingerprint for reader in readers}) == 3
    assert captions.fingerprint == open_reader("toyworld:3", size=64, edits=False).fingerprint
    assert all("pink" in row.prompt for row in read(spare))
    assert not any("pink" in row.prompt for row in read(pairs))
    with pytest.raises(InputError, match="task is 'spares'"):
        open_reader("toyworld:3:spares")
    assert all(isinstance(row.source, bytes) for row in read(pairs))
    assert all(row.source is None for row in read(captions))
    assert read(pairs) == read(open_reader("toyworld:3", size=64))


def test_drawn_pairs_can_be_written_as_a_folder(tmp_path):
    write_pairs(tmp_path / "pairs", 3, "spare", 64)
    names = str(tmp_path / "pairs"), "toyworld:3:spare"
    for one, other in zip(*(read(open_reader(name, size=64)) for name in names), strict=True):
        assert (one.prompt, one.kind) == (other.prompt, other.kind)
        assert (one.source.read_bytes(), one.target.read_bytes()) == (other.source, other.target)


def test_drawn_pairs_of_several_tasks_lie_in_one_folder(tmp_path):
    write_pairs(tmp_path, 2, ("spare", "edit"), 64)
    drawn = [read(open_reader(f"toyworld:2{task}", size=64)) for task in (":spare", "")]
    rows = read(open_reader(str(tmp_path), size=64))
    assert [row.prompt for row in rows] == [row.prompt for part in drawn for row in part]
    assert rows[3].source.read_bytes() == drawn[1][1].source


def test_fingerprints_do_not_depend_on_the_place_but_on_the_content(folder, tmp_path):
    first = ListReader(write_list(folder, [PAIR])).fingerprint
    assert ListReader(write_list(tmp_path / "other", [PAIR])).fingerprint == first
    assert ListReader(write_list(folder, [PAIR, PAIR])).fingerprint != first


def counted(used, **skipped):
    counts = RowCounts()
    for _ in range(used):
        counts.use()
    for reason, times in skipped.items():
        for n in range(times):
            counts.skip(Skipped(f"row{n}", reason, "why"))
    return counts


def test_counts_add_up_and_survive_a_file():
    counts = counted(5, missing=2)
    counts.add(RowCounts.from_dict(json.loads(json.dumps(counted(1, missing=2, odd=1).to_dict()))))
    assert (counts.read, counts.used, dict(counts.skipped)) == (11, 6, {"missing": 4, "odd": 1})
    assert counts.summary().splitlines() == [
        "11 rows read, 6 used",
        "4 skipped: missing (row0: why; row1: why; row0: why)",
        "1 skipped: odd (row0: why)",
    ]


def test_too_many_skipped_rows_are_an_error_once_there_are_enough_to_judge():
    counted(94, bad=6).check(0.06)
    with pytest.raises(
        InputError, match=r"6.0% of the rows.*max_skipped 5.0%(.|\n)*6 skipped: bad"
    ):
        counted(94, bad=6).check(0.05)
    counted(1, bad=1).check(0.05)
    with pytest.raises(InputError, match="50.0%"):
        counted(1, bad=1).check(0.05, final=True)
