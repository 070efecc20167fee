"""Parquet in CrispEdit-2M's layout: on this machine with its defects, and on the hub."""

import importlib
import sys

import huggingface_hub.constants
import pytest

import editmgt_lib
from editmgt_lib.cli import main
from editmgt_lib.data.cache import CacheOptions, build_cache
from editmgt_lib.data.cached import CachedSource
from editmgt_lib.data.encoding import Encoder, EncodingOptions
from editmgt_lib.data.opening import open_reader
from editmgt_lib.data.parquet import gaps, in_runs
from editmgt_lib.data.rows import Row, Skipped
from editmgt_lib.errors import InputError
from editmgt_lib.evaluation.datasets.reading import damaged

from .comfy.fake_hub import commit_of, point_at, serving
from .test_data_readers import picture, read

pa = pytest.importorskip("pyarrow")
pq = importlib.import_module("pyarrow.parquet")

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CRISPEDIT = pa.schema(
    [("input_img", IMAGE), ("instruction", pa.string()), ("output_img", IMAGE),
     ("type", pa.string())]
)  # fmt: skip


def image(*size, format="PNG", seed=0):
    return {"bytes": picture(*size, format=format, seed=seed), "path": None}


def rows_of(count, kind="motion change", format="PNG"):
    return [
        {
            "input_img": image(32, 40, format=format, seed=n),
            "instruction": f"{kind} {n}",
            "output_img": image(64, 80, format=format, seed=n),
            "type": kind,
        }
        for n in range(count)
    ]


def write(path, rows, schema=CRISPEDIT, group=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=group)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two kinds, one with a space and a gap in its numbers, one short shard, both codecs."""
    root = tmp_path / "crisp"
    write(root / "data/motion change_00000.parquet", rows_of(9))
    write(root / "data/motion change_00002.parquet", rows_of(1))
    write(root / "data/add_00000.parquet", rows_of(5, "add", "JPEG"))
    return root


def test_shards_as_they_are_published(folder):
    reader = open_reader(str(folder))
    assert reader.edits and [part.rows for part in reader.parts] == [5, 9, 1]
    assert reader.notes == (
        "motion change: 1 files missing within the numbering, the first motion change_00001",
    )
    items = read(reader)
    assert len(items) == 15 and all(isinstance(item, Row) for item in items)
    assert items[0].kind == "add" and items[5].kind == "motion change"
    assert items[13].id == "data/motion change_00000.parquet:8"
    assert items[13].prompt == "motion change 8"
    assert len({item.id for item in items}) == 15


def test_any_row_can_be_read_alone(folder):
    reader = open_reader(str(folder))
    for start, stop in ((0, 1), (3, 6), (8, 9), (8, 20)):
        prompts = [row.prompt for row in reader.rows(reader.parts[1], start, stop)]
        assert prompts == [f"motion change {n}" for n in range(start, min(stop, 9))]


def test_only_the_files_asked_for(folder):
    reader = open_reader(str(folder), files="add_*.parquet")
    assert [part.name for part in reader.parts] == ["data/add_00000.parquet"]
    assert reader.notes == ()
    with pytest.raises(
        InputError, match=r"none of the 3 .* matches 'remove_\*'; the first is data/"
    ):
        open_reader(str(folder), files="remove_*")
    alone = open_reader(str(folder / "data/add_00000.parquet"))
    assert [row.prompt for row in read(alone)] == [row.prompt for row in read(reader)]


def test_large_files_are_cut_at_row_groups():
    assert in_runs([100] * 7) == [range(0, 3), range(3, 6), range(6, 7)]
    assert in_runs([1000, 10, 300]) == [range(0, 1), range(1, 3)]
    assert in_runs([]) == []


def test_a_large_file_is_read_a_row_group_at_a_time(tmp_path):
    """Not less: a writer puts up to 1024 rows into one page, which is read as a whole."""
    rows = rows_of(1) * 80
    for n, row in enumerate(rows):
        content = {"bytes": bytes([n]) * 500_000, "path": None}
        rows[n] = row | {"input_img": content, "output_img": content}
    path, table = tmp_path / "big_00000.parquet", pa.Table.from_pylist(rows, schema=CRISPEDIT)
    pq.write_table(table, path, compression="none", use_dictionary=False, row_group_size=10)
    del table
    assert path.stat().st_size > 79e6
    usual = pa.default_memory_pool()
    meter = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(meter)
    try:
        reader = open_reader(str(path))
        count = sum(1 for _ in reader.rows(reader.parts[0]))
    finally:
        pa.set_memory_pool(usual)
    assert count == 80 and 0 < meter.max_memory() < 30e6


def test_a_bad_row_never_ends_a_shard(tmp_path):
    rows = rows_of(6)
    rows[1]["input_img"] = None
    rows[2]["output_img"] = {"bytes": None, "path": "elsewhere.png"}
    rows[3]["instruction"] = None
    rows[4]["input_img"] = {"bytes": b"", "path": None}
    items = read(open_reader(str(write(tmp_path / "a.parquet", rows))))
    assert [isinstance(item, Row) for item in items] == [True, False, False, False, False, True]
    assert [item.reason for item in items[1:5]] == [
        "picture is missing", "picture is missing", "no instruction or caption",
        "picture is missing",
    ]  # fmt: skip
    assert "input_img" in items[1].detail and "output_img" in items[2].detail


def test_text_that_is_no_text_skips_its_row(tmp_path):
    schema = pa.schema([pa.field("caption", pa.binary()), pa.field("image", pa.binary())])
    rows = [{"caption": b"\xff\xfe", "image": picture()}, {"caption": b"ok", "image": picture()}]
    table = pa.Table.from_pylist(rows, schema=schema)
    text = pa.Array.from_buffers(pa.string(), 2, table["caption"].chunk(0).buffers())
    table = table.set_column(0, "caption", text)
    pq.write_table(table, tmp_path / "a.parquet")
    first, second = read(open_reader(str(tmp_path / "a.parquet")))
    assert isinstance(first, Skipped) and second.prompt == "ok"


def test_a_damaged_row_group_loses_its_own_rows_only(tmp_path):
    path = write(tmp_path / "a.parquet", rows_of(12))
    group = pq.ParquetFile(path).metadata.row_group(1)
    column = next(group.column(i) for i in range(5) if "bytes" in group.column(i).path_in_schema)
    data = bytearray(path.read_bytes())
    at = column.dictionary_page_offset or column.data_page_offset
    data[at : at + 40] = b"\xff" * 40
    path.write_bytes(data)
    items = read(open_reader(str(path)))
    assert [type(item) for item in items] == [Row] * 4 + [Skipped] * 4 + [Row] * 4
    assert {item.reason for item in items[4:8]} == {"damaged row"}
    assert [item.prompt for item in items[8:]] == [f"motion change {n}" for n in range(8, 12)]


def test_an_error_that_says_nothing_is_called_by_its_kind(folder, monkeypatch):
    def fail(*_, **__):
        raise OSError

    monkeypatch.setattr(pq, "ParquetFile", fail)
    with pytest.raises(InputError, match=r"as parquet \(OSError\); fetch it again"):
        open_reader(str(folder))
    assert "(ValueError)" in str(damaged(folder, ValueError("\n")))
    assert "(first)" in str(damaged(folder, ValueError("\n first\nsecond")))


def test_a_file_that_is_cut_off_is_named_before_any_work(folder):
    path = folder / "data/add_00000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"add_00000.parquet as parquet .* fetch it again"):
        open_reader(str(folder))


def test_captioned_pictures_and_pairs_do_not_mix(folder, tmp_path):
    schema = pa.schema([("image", IMAGE), ("text", pa.string()), ("id", pa.string())])
    rows = [{"image": image(32, 32), "text": "a heart", "id": "seven"}]
    captions = write(folder / "data/zz.parquet", rows, schema)
    with pytest.raises(InputError, match="add_00000.parquet and data/zz.parquet differ"):
        open_reader(str(folder))
    reader = open_reader(str(captions))
    assert not reader.edits and read(reader)[0].id == "seven"


def test_columns_to_the_right_do_not_matter(tmp_path):
    schema = pa.schema([*CRISPEDIT, ("score", pa.float32()), ("id", pa.string())])
    rows = [row | {"score": 0.5, "id": f"id{n}"} for n, row in enumerate(rows_of(3))]
    items = read(open_reader(str(write(tmp_path / "a.parquet", rows, schema))))
    assert [item.id for item in items] == ["id0", "id1", "id2"]


def test_gaps_in_the_numbering_are_named():
    names = [f"data/add_{n:05d}.parquet" for n in (0, 1, 3, 6)] + ["other.parquet"]
    assert gaps(names) == ("add: 3 files missing within the numbering, the first add_00002",)


def test_without_pyarrow_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match="needs pyarrow; install.*train"):
        open_reader(str(folder))


# On the hub


@pytest.fixture
def server(folder, monkeypatch, tmp_path):
    """A Hub of one data set, asked by the real huggingface_hub over HTTP."""
    (folder / "README.md").write_text("readme")
    with serving(folder) as started:
        point_at(started, monkeypatch, tmp_path / "hub")
        yield started


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint):
    model = editmgt_lib.load(tiny_checkpoint, device="cpu")
    return Encoder(EncodingOptions(64), model.vq, model.text_encoders.pooled_text)


def test_the_hub_gives_the_rows_that_the_files_give(server, folder, tmp_path):
    work = tmp_path / "work"
    reader = open_reader("hf:owner/name", work=work)
    assert reader.commit == commit_of("main")
    assert [part.name for part in reader.parts] == sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*.parquet")
    )
    assert [(r.id, r.prompt, r.target) for r in read(reader)] == [
        (r.id, r.prompt, r.target) for r in read(open_reader(str(folder)))
    ]
    assert server.revisions == {"main", commit_of("main")}
    assert "README.md" not in server.sent
    assert not list(work.rglob("*"))  # each is removed once it is read


def test_a_part_of_the_hub_at_a_revision(server, tmp_path):
    reader = open_reader(
        "hf:owner/name", files="data/motion change_*", revision="v2", work=tmp_path
    )
    assert [part.name for part in reader.parts] == [
        "data/motion change_00000.parquet", "data/motion change_00002.parquet",
    ]  # fmt: skip
    [row] = reader.rows(reader.parts[0], 7, 8)
    assert row.prompt == "motion change 7"
    assert server.revisions == {"v2", commit_of("v2")}
    with pytest.raises(InputError, match=r"no parquet file that matches 'x\*'"):
        open_reader("hf:owner/name", files="x*", work=tmp_path)


def test_a_file_that_arrives_damaged_is_not_read(server, tmp_path):
    name = "data/add_00000.parquet"
    server.corrupt[name] = bytes((server.folder / name).stat().st_size)
    reader = open_reader("hf:owner/name", files=name, work=tmp_path)
    with pytest.raises(editmgt_lib.errors.EditMGTError, match="did not arrive|cannot download"):
        read(reader)
    assert not list(tmp_path.glob(".fetched-*"))


def test_offline_is_said_and_nothing_is_asked(server, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="offline mode is on"):
        open_reader("hf:owner/name", work=tmp_path)
    assert server.requests == 0


def test_the_other_kind_of_data_is_named(server, tmp_path):
    reader = open_reader("hf:owner/name", work=tmp_path, edits=False)
    with pytest.raises(
        InputError, match="holds pairs, not captioned pictures; leave out --captions"
    ):
        read(reader)


def test_a_cache_of_the_hub_equals_one_of_its_files(server, folder, encoder, tmp_path):
    hub, local = tmp_path / "a", tmp_path / "b"
    assert build_cache(open_reader("hf:owner/name", work=hub), encoder, hub)
    assert build_cache(open_reader(str(folder)), encoder, local)
    one, two = (CachedSource(cache, 0).batch(range(15)) for cache in (hub, local))
    assert list(one.prompts) == list(two.prompts) and (one.target == two.target).all()
    assert {p.name for p in hub.iterdir()} == {p.name for p in local.iterdir()}


def test_resuming_keeps_the_commit_the_cache_was_begun_with(
    server, tiny_checkpoint, encoder, tmp_path, capsys
):
    out = tmp_path / "out"
    reader = open_reader("hf:owner/name", revision="old", work=out)
    assert not build_cache(reader, encoder, out, CacheOptions(0, 2))
    server.revisions.clear()
    call = ["cache", "hf:owner/name", "--out", str(out), "--model", str(tiny_checkpoint),
            "--device", "cpu"]  # fmt: skip
    assert main(call) == 0
    assert server.revisions == {commit_of("old")}
    assert "15 pairs" in capsys.readouterr().out
    (out / "index.json").unlink()
    assert main([*call, "--revision", "new"]) == 2
    assert "the data set (fingerprint)" in capsys.readouterr().err
