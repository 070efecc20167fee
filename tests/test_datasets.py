"""The benchmarks: each layout read whole, each known defect, and what is said of broken data."""

import io
import json
import shutil
import sys
import tarfile
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from editmgt_lib.errors import InputError
from editmgt_lib.evaluation.datasets import fetching, registry
from editmgt_lib.evaluation.datasets.anybench import GROUPS, AnyBench
from editmgt_lib.evaluation.datasets.emu_edit import EmuEdit
from editmgt_lib.evaluation.datasets.gedit import GEdit
from editmgt_lib.evaluation.datasets.imgedit import ImgEdit
from editmgt_lib.evaluation.datasets.masks import alpha_mask, mask_bytes, run_length_mask
from editmgt_lib.evaluation.datasets.pie_bench import PieBench
from editmgt_lib.evaluation.datasets.reading import item_id
from editmgt_lib.evaluation.datasets.tables import find_table

from . import lookalikes
from .comfy.fake_hub import commit_of, point_at, serving

pytest.importorskip("pyarrow")


class Kept(dict):
    """A store in memory: name -> bytes."""

    def __call__(self, name, data):
        assert self.setdefault(name, data) == data
        return f"run:{name}"

    def picture(self, path):
        return self[path.removeprefix("run:")]


def read(dataset, folder):
    kept = Kept()
    return list(dataset.items(folder, kept)), kept


def refused(dataset, folder, match):
    """The data is refused in one line that says this, before the first item."""
    with pytest.raises(InputError, match=match) as error:
        next(dataset.items(folder, Kept()))
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Items, store and folder of a look-alike with the true counts, by name.

    Read by the registered dataset, once.
    """
    known = {}

    def get(name):
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            lookalikes.DRAWN[name](folder)
            known[name] = *read(registry.find(name).dataset, folder), folder
        return known[name]

    return get


# ---- all of them


@pytest.mark.parametrize("name", lookalikes.DRAWN)
def test_each_layout_is_read_whole(whole, name):
    items, kept, folder = whole(name)
    dataset = registry.find(name).dataset
    assert dataset.name == name
    ids = [item.id.lower() for item in items]
    assert len(set(ids)) == len(ids) and all(id.startswith(f"{name}-") for id in ids)
    assert all(set(id) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-") for id in ids)
    assert max(map(len, ids)) < 100
    assert {item.task for item in items} == set(dataset.tasks)
    assert len({(item.cluster, item.source) for item in items}) >= len({i.cluster for i in items})
    for item in items:
        assert item.cluster and item.instruction and item.extra["key"]
        extra = [item.extra.get(kind) for kind in ("emu_output", "raw", "visual_input")]
        for path in filter(None, [item.source, item.reference, item.mask, *extra]):
            data = kept.picture(path) if path.startswith("run:") else (folder / path).read_bytes()
            assert data[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0")
        assert type(item).from_dict(json.loads(json.dumps(item.to_dict()))) == item


@pytest.mark.parametrize("name", lookalikes.DRAWN)
def test_reading_again_gives_the_same_items(tmp_path, name):
    dataset = lookalikes.DRAWN[name](tmp_path, small=True)
    assert read(dataset, tmp_path) == read(dataset, tmp_path)


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("emu-edit", "emu-edit-00000-0", "emu-edit-03588-3588"),
        ("magicbrush", "magicbrush-00000-242679-1", "magicbrush-01052-244281-1"),
        ("magicbrush-dev", "magicbrush-dev-00000-242679-1", "magicbrush-dev-00527-243474-1"),
        ("anybench", "anybench-00000-replace-COCO_000000",
         "anybench-01249-visual_sketch-COCO_000049"),
        ("pie-bench", "pie-bench-00000-000000000000", "pie-bench-00699-900000000079"),
        ("imgedit", "imgedit-00000-22", "imgedit-00736-868"),
    ],
)  # fmt: skip
def test_ids_do_not_change(whole, name, first, last):
    """Seeds and the names of others' pictures hang on them."""
    items, _, _ = whole(name)
    assert (items[0].id, items[-1].id) == (first, last)


def test_an_id_holds_what_every_file_system_takes():
    assert item_id("x", 3, "a/b\\c: ?*.jpg") == "x-00003-a-b-c-jpg"
    assert item_id("x", 3, "../..") == item_id("x", 3, "") == "x-00003"
    assert len(item_id("x", 3, "k" * 500)) < 60


# ---- Emu Edit


def test_emu_edit_captions_that_are_known_to_be_wrong(whole):
    items, _, _ = whole("emu-edit")
    counts = Counter(defect for item in items for defect in item.exclusions)
    placeholders = sum(n % 97 == 5 for n in range(3589))
    equal = sum(n % 53 == 7 for n in range(3589) if n % 97 != 5)
    assert counts == {"placeholder-caption": placeholders, "equal-captions": placeholders + equal}
    assert items[0].captions == {"input": "a room with 0 chairs",
                                 "output": "a red room with 0 chairs"}  # fmt: skip


def test_emu_edits_own_outputs_are_joined_by_what_they_are_of(whole):
    """In another order, and under the other split's name."""
    items, kept, _ = whole("emu-edit")
    for n in (0, 1, 1794, 3588):
        assert kept.picture(items[n].extra["emu_output"]) == lookalikes.picture(n + 10_000)
        assert kept.picture(items[n].source) == lookalikes.picture(n // 2)
        assert items[n].reference is None
    assert items[0].cluster == items[1].cluster != items[2].cluster


def test_emu_edits_outputs_are_stored_as_far_as_they_are_asked_for(tmp_path):
    dataset = lookalikes.emu_edit(tmp_path, small=True, generations=False)
    rows = [row | {"edited_image": lookalikes.cell(lookalikes.picture(500 + n))}
            for n, row in enumerate(find_table(tmp_path, 14, "x").rows(
                ("hash", "instruction")))]  # fmt: skip
    lookalikes.shards(tmp_path / "generations/data", "validation", rows, 1)
    kept = Kept()
    assert next(dataset.items(tmp_path, kept)).extra["emu_output"] and len(kept) == 2


def test_emu_edit_without_its_outputs_or_with_them_alone(tmp_path):
    bare = lookalikes.emu_edit(tmp_path / "a", small=True, generations=False)
    items, _ = read(bare, tmp_path / "a")
    assert len(items) == 14 and not any("emu_output" in item.extra for item in items)
    lookalikes.emu_edit(tmp_path / "b", small=True)
    alone, kept = read(bare, tmp_path / "b/generations")
    assert len(alone) == 14
    assert all(kept.picture(i.extra["emu_output"]) != kept.picture(i.source) for i in alone)


def test_emu_edits_other_split_is_found_by_its_count(tmp_path):
    lookalikes.emu_edit(tmp_path, small=True, generations=False)
    items, _ = read(EmuEdit("emu-edit-validation", 7), tmp_path)
    assert len(items) == 7 and items[0].id == "emu-edit-validation-00000-14"


def test_emu_edit_of_a_wrong_split_has_no_outputs(tmp_path):
    dataset = lookalikes.emu_edit(tmp_path, small=True)
    shutil.rmtree(tmp_path / "generations")
    rows = [{"hash": f"{n:032x}", "instruction": "x", "idx": n,
             "edited_image": lookalikes.cell(lookalikes.picture(n))}
            for n in range(14)]  # fmt: skip
    lookalikes.shards(tmp_path / "generations/data", "test", rows, 1)
    refused(dataset, tmp_path, r"14 rows of emu-edit have no output in .*generations.*swapped")


def test_emu_edit_shards_that_the_authors_replaced_are_left_out(tmp_path):
    dataset = lookalikes.emu_edit(tmp_path, small=True, generations=False)
    before = read(dataset, tmp_path)
    shard = next((tmp_path / "data").glob("test-00002-*"))
    shutil.copy(shard, shard.with_name("test-00002-of-00003-0a14114eb2f63780.parquet"))
    assert read(dataset, tmp_path) == before
    shutil.copy(shard, shard.with_name("test-00002-of-00003-0123456789abcdef.parquet"))
    refused(dataset, tmp_path, r"emu-edit has 14 rows.*test 18 \(two files for shard 2\)")


def test_emu_edit_a_task_of_another_name_is_kept(tmp_path):
    dataset = lookalikes.emu_edit(tmp_path, small=True, generations=False)
    (row,) = lookalikes_rows(1)
    for path in (tmp_path / "data").iterdir():
        path.unlink()
    lookalikes.shards(tmp_path / "data", "test", [row | {"task": "texture"}], 1)
    items, _ = read(replace(dataset, rows=1), tmp_path)
    assert [item.task for item in items] == ["texture"]


def lookalikes_rows(count):
    """Rows of Emu Edit's test set."""
    return [{"instruction": f"do {n}", "image": lookalikes.cell(lookalikes.picture(n)),
             "task": "add", "idx": n, "hash": str(n), "input_caption": "a", "output_caption": "b"}
            for n in range(count)]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"instruction": " "}, r"emu-edit row 1: instruction is ' ', not text"),
        ({"task": None}, r"emu-edit row 1: task is None, not text"),
        (
            {"image": {"bytes": b"", "path": None}},
            r"emu-edit row 1: image holds no picture but b''",
        ),
        ({"image": {"bytes": b"<html>", "path": None}}, r"row 1: image holds no picture.*<html>"),
        ({"image": None}, r"emu-edit row 1: image holds no picture but None"),
    ],
)
def test_a_broken_row_is_named(tmp_path, change, match):
    rows = lookalikes_rows(3)
    rows[1] |= change
    lookalikes.shards(tmp_path, "test", rows, 1)
    items = EmuEdit(rows=3).items(tmp_path, Kept())
    assert next(items).extra["key"] == "0"
    with pytest.raises(InputError, match=match):
        next(items)


# ---- tables


def test_tables_that_are_not_whole(tmp_path):
    dataset = EmuEdit(rows=6)
    refused(dataset, tmp_path, "holds no parquet or arrow files of emu-edit")
    lookalikes.shards(tmp_path, "test", lookalikes_rows(6), 3)
    assert len(read(dataset, tmp_path)[0]) == 6
    middle = next(tmp_path.glob("test-00001-*"))
    kept = middle.read_bytes()
    middle.unlink()
    refused(dataset, tmp_path, r"has 6 rows, and .* test 4 \(shard 1 of 3 is missing\); fetch all")
    middle.write_bytes(kept[: len(kept) // 2])
    refused(dataset, tmp_path, r"cannot read .*test-00001-of-00003.* as parquet")


def test_a_damaged_page_is_named_with_its_file(tmp_path):
    lookalikes.shards(tmp_path, "test", lookalikes_rows(200), 1)
    path = next(tmp_path.iterdir())
    data = bytearray(path.read_bytes())
    data[2000:6000] = bytes(4000)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"cannot read .*test-00000-of-00001.*fetch it again"):
        read(EmuEdit(rows=200), tmp_path)


def test_a_large_table_is_read_a_row_group_at_a_time(tmp_path):
    import pyarrow as pa

    rows = lookalikes_rows(60)
    for n, row in enumerate(rows):
        row["image"] = lookalikes.cell(lookalikes.picture(0) + bytes([n]) * 300_000)
    lookalikes.write_parquet(tmp_path / "test-00000-of-00001.parquet", rows, group=5)
    usual = pa.default_memory_pool()
    meter = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(meter)
    try:
        count = sum(1 for _ in EmuEdit(rows=60).items(tmp_path, lambda name, data: name))
    finally:
        pa.set_memory_pool(usual)
    assert count == 60 and 0 < meter.max_memory() < 9e6


def test_another_table_is_refused_by_its_columns(tmp_path):
    lookalikes.shards(tmp_path, "test", [{"a": 1, "image": "x"}], 1)
    refused(EmuEdit(rows=1), tmp_path, r"has no column hash, instruction.* among a, image")


def test_tables_need_pyarrow_and_say_how_to_install_it(tmp_path, monkeypatch):
    dataset = lookalikes.gedit(tmp_path, small=True)
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    refused(dataset, tmp_path, r"needs pyarrow; install it with .*eval")


# ---- MagicBrush


def test_magicbrush_turns_are_chained(whole):
    items, _, _ = whole("magicbrush")
    by_id = {item.id: item for item in items}
    assert Counter(item.turn for item in items) == {1: 535, 2: 259, 3: 259}
    for item in items:
        assert (item.previous is None) == (item.turn == 1)
        if item.previous:
            before = by_id[item.previous]
            assert (before.cluster, before.turn) == (item.cluster, item.turn - 1)
            assert before.reference == item.source and not before.extra["final"]
    assert sum(item.extra["final"] for item in items) == 535 == len({i.cluster for i in items})


def test_magicbrush_test_pictures_are_never_copied(whole):
    items, kept, _ = whole("magicbrush")
    assert items[0].source == "images/242679/242679-input.png"
    assert items[1].reference == "images/242679/242679-output2.png"
    with Image.open(io.BytesIO(kept.picture(items[0].mask))) as mask:
        assert (mask.mode, set(np.unique(mask))) == ("L", {0, 255})
    assert set(kept) == {item.mask.removeprefix("run:") for item in items}  # and nothing else


def test_magicbrush_captions_by_kind(whole):
    items, _, _ = whole("magicbrush")
    assert items[1].captions == {
        "input": "a street, output1", "output": "a street, output2",
        "local": "a cat of output2", "global": "a street, output2",
    }  # fmt: skip


def test_magicbrush_dev_is_read_from_the_hub_or_the_zip(tmp_path):
    hub = lookalikes.magicbrush_dev(tmp_path / "hub", small=True)
    unzipped = lookalikes.magicbrush(tmp_path / "zip", small=True, dev=True)
    assert hub == unzipped
    first, kept = read(hub, tmp_path / "hub")
    second, _ = read(hub, tmp_path / "zip")
    assert [i.id for i in first] == [i.id for i in second]
    for a, b in zip(first, second, strict=True):
        assert (a.instruction, a.turn, a.previous, a.mask) == (b.instruction, b.turn, b.previous,
                                                               b.mask)  # fmt: skip
        assert kept.picture(a.source) == (tmp_path / "zip" / b.source).read_bytes()
        assert kept.picture(a.reference) == (tmp_path / "zip" / b.reference).read_bytes()
    assert not first[0].captions and second[0].captions["local"]


def sessions_of(folder, change):
    path = folder / "edit_sessions.json"
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


def test_magicbrush_turns_are_paired_by_name_whatever_their_order(tmp_path):
    dataset = lookalikes.magicbrush(tmp_path, small=True)
    before, _ = read(dataset, tmp_path)
    sessions_of(tmp_path, lambda rows: [turns.reverse() for turns in rows.values()])
    after, _ = read(dataset, tmp_path)
    pairs = [{(i.cluster, i.turn, i.source, i.reference, i.captions["local"], i.extra["final"])
              for i in items} for items in (before, after)]  # fmt: skip
    assert pairs[0] == pairs[1]
    first = [item for item in after if item.cluster == "242679"]
    assert [item.turn for item in first] == [3, 2, 1] and first[0].previous == first[1].id


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda turn: turn.update(output="242679-output3.png"),
         r"magicbrush has other counts.*turns 7 \(expected 8\)"),
        (lambda turn: turn.update(output="242679-output4.png"),
         r"session 242679 has turns \[2, 3, 4\], not 1 to 3"),
        (lambda turn: turn.update(output="242679-result.png"), r"has output '242679-result.png'"),
        (lambda turn: turn.pop("mask"), r"turn 1 of session 242679: mask is None, not text"),
        (lambda turn: turn.update(input="../../../etc/hosts"), r"leaves the folder"),
        (lambda turn: turn.update(input="/etc/hosts"), r"1 pictures are missing"),
        (lambda turn: turn.update(instruction=""), r"turn 1 of .*242679: instruction is ''"),
    ],
)  # fmt: skip
def test_magicbrush_sessions_that_are_broken(tmp_path, change, match):
    dataset = lookalikes.magicbrush(tmp_path, small=True)
    sessions_of(tmp_path, lambda rows: change(rows["242679"][0]))
    refused(dataset, tmp_path, match)


def test_magicbrush_a_source_that_is_not_the_last_target_is_marked(tmp_path):
    dataset = lookalikes.magicbrush(tmp_path, small=True)
    sessions_of(tmp_path, lambda rows: rows["242679"][1].update(input="242679-input.png"))
    items, _ = read(dataset, tmp_path)
    assert [i.id for i in items if i.exclusions] == ["magicbrush-00001-242679-2"]
    assert items[1].exclusions == ("source-is-not-the-last-target",)


def test_all_missing_pictures_are_told_at_once(tmp_path):
    dataset = lookalikes.magicbrush(tmp_path, small=True)
    for path in (tmp_path / "images/242679").glob("*output*"):
        path.unlink()
    mask = tmp_path / "images/242682/242682-mask1.png"
    mask.write_text("version https://git-lfs.github.com/spec/v1")
    refused(dataset, tmp_path, r"4 pictures are missing in .*LFS pointers.*242679-output1\.png")


@pytest.mark.parametrize("name", ["edit_sessions.json", "local_descriptions.json"])
def test_magicbrush_files_that_are_no_json(tmp_path, name):
    dataset = lookalikes.magicbrush(tmp_path, small=True)
    (tmp_path / name).write_text('{"1": [')
    refused(dataset, tmp_path, rf"cannot read .*{name} as JSON")
    (tmp_path / name).write_text("[]")
    refused(dataset, tmp_path, rf"{name} holds list, not dict")
    (tmp_path / name).unlink()
    refused(dataset, tmp_path, "holds neither" if "sessions" in name else "there is no .*loc")


# ---- masks


def test_a_mask_is_where_its_picture_is_transparent_whatever_the_colours_there():
    values = np.full((4, 6, 4), 255, np.uint8)
    values[:, 3:, :3] = 0  # dark, but kept
    values[1:3, :2, 3] = 0  # white, but erased
    values[0, 5, 3] = 254
    expected = np.zeros((4, 6), bool)
    expected[1:3, :2] = expected[0, 5] = True
    mask = alpha_mask(lookalikes.encoded(Image.fromarray(values)), "here")
    assert np.array_equal(mask, expected)


def test_a_grey_mask_without_transparency_is_white_where_to_edit():
    values = np.zeros((4, 6), np.uint8)
    values[1:3, 2:] = 255
    for mode in ("L", "RGB", "RGBA", "P"):
        image = Image.fromarray(values).convert(mode)
        assert np.array_equal(alpha_mask(lookalikes.encoded(image), "here"), values > 0)


def test_a_mask_that_names_no_region_is_marked(tmp_path):
    dataset = lookalikes.magicbrush(tmp_path, small=True)
    shutil.copy(tmp_path / "images/242679/242679-input.png",
                tmp_path / "images/242679/242679-mask1.png")  # fmt: skip
    items, _ = read(dataset, tmp_path)
    assert (items[0].mask, items[0].exclusions) == (None, ("no-region",))
    (tmp_path / "images/242679/242679-mask1.png").write_bytes(lookalikes.picture(1)[:40])
    refused(dataset, tmp_path, r"turn 1 of session 242679: the mask cannot be read")


def test_pie_masks_known_answers():
    """Cases 7 to 9: the border counts as edited, runs are clipped, pixels are row-major."""
    empty = run_length_mask([])
    assert empty.shape == (512, 512) and empty.sum() == 2044 and (~empty).sum() == 260_100
    assert empty.mean() == pytest.approx(0.00779724121)
    assert empty[0].all() and empty[-1].all() and empty[:, 0].all() and empty[:, -1].all()
    added = np.argwhere(run_length_mask([5, 3, 512, 2]) & ~empty)
    assert added.tolist() == [[1, 1]]
    added = np.argwhere(run_length_mask([131328, 4]) & ~empty)
    assert added.tolist() == [[256, 256 + k] for k in range(4)]
    assert np.array_equal(run_length_mask([262140, 100]), empty)
    assert run_length_mask([0, 262144]).all()


@pytest.mark.parametrize("runs", [[1], [0, -1], [-4, 2], [0, 1.5], ["0", 3], [True, 3]])
def test_pie_masks_that_are_none(runs):
    with pytest.raises(InputError, match="mask is no list of starts and lengths"):
        run_length_mask(runs)


def test_a_mask_is_written_as_black_and_white():
    mask = run_length_mask([20, 5], 8, 8)
    with Image.open(io.BytesIO(mask_bytes(mask))) as image:
        assert np.array_equal(np.asarray(image), mask * np.uint8(255))


# ---- AnyBench


def test_anybench_groups_captions_and_second_pictures(whole):
    items, _, _ = whole("anybench")
    assert [i.task for i in items[::50]] == list(AnyBench.tasks)
    assert Counter(i.extra["group"] for i in items) == {
        "local": 450, "global": 150, "camera": 200, "implicit": 100, "visual": 350,
    }  # fmt: skip
    without = {i.task for i in items if "output" not in i.captions}
    assert without == set(lookalikes.UNCAPTIONED)
    assert all(i.captions["input"] for i in items)
    visual = [i for i in items if i.exclusions == ("visual-prompt",)]
    assert {i.task for i in visual} == set(GROUPS["visual"])
    assert all(i.extra["visual_input"] for i in visual)
    assert len({i.extra["key"] for i in items}) == 50  # names repeat in every type


def test_anybench_is_found_around_its_folder_or_in_it(tmp_path):
    dataset = lookalikes.anybench(tmp_path, small=True)
    outside, inside = read(dataset, tmp_path)[0], read(dataset, tmp_path / "anybench")[0]
    assert [i.id for i in outside] == [i.id for i in inside]
    assert outside[0].source == f"anybench/{inside[0].source}"
    assert (tmp_path / "anybench" / inside[0].source).is_file()


def test_anybench_wrong_counts(tmp_path):
    dataset = lookalikes.anybench(tmp_path, small=True)
    path = tmp_path / "anybench/add/edit_result.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:1]))
    shutil.rmtree(tmp_path / "anybench/resize")
    refused(dataset, tmp_path, r"anybench has other counts.*add 1 \(expected 2\), resize 0 \(expec")
    refused(dataset, tmp_path / "anybench/add", "holds no folders of anybench")


@pytest.mark.parametrize("value", ["../../x.png", "anybench/../../x.png", "/etc/x.png"])
def test_a_list_cannot_name_pictures_outside_its_folder(tmp_path, value):
    dataset = lookalikes.anybench(tmp_path / "data", small=True)
    (tmp_path / "x.png").write_bytes(lookalikes.picture(0))
    path = tmp_path / "data/anybench/add/edit_result.json"
    rows = json.loads(path.read_text())
    rows[1]["edited_file"] = value
    path.write_text(json.dumps(rows))
    refused(dataset, tmp_path / "data", "leaves the folder|1 pictures are missing")


# ---- GEdit


def test_gedit_english_rows_and_keys_that_occur_twice(whole):
    items, kept, _ = whole("gedit-en")
    assert all(item.instruction.startswith("en: ") for item in items)
    assert len(items) == 606 and len({i.extra["key"] for i in items}) == 604
    once = [i for i in items if "duplicate-key" not in i.exclusions]
    assert len(once) == len({i.extra["key"] for i in once}) == 604
    assert Counter(i.task for i in once)["subject-remove"] == 55
    doubled = [i for i in items if i.exclusions]
    # A mapping by key keeps the last.
    assert [i.instruction for i in doubled] == ["en: subject-remove 1", "en: subject-remove 14"]
    for item in items[:3]:
        with Image.open(io.BytesIO(kept.picture(item.extra["raw"]))) as raw:
            assert raw.size == (16, 16)
    assert {i.extra["intersection"] for i in items} == {True, False}


def test_gedit_as_parquet_or_random_access_arrow(tmp_path):
    import pyarrow as pa

    dataset = lookalikes.gedit(tmp_path / "a", small=True)
    before = read(dataset, tmp_path / "a")
    for k, path in enumerate(sorted((tmp_path / "a").glob("*.arrow"))):
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_stream(source).read_all()
        rows = table.to_pylist()
        lookalikes.write_parquet(tmp_path / f"b/data/train-{k:05d}-of-00003.parquet", rows)
        (tmp_path / "c/train").mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(tmp_path / f"c/train/{path.name}"), "wb") as sink, pa.ipc.new_file(
            sink, table.schema
        ) as writer:  # fmt: skip
            writer.write_table(table)
    assert read(dataset, tmp_path / "b") == read(dataset, tmp_path / "c") == before


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_an_arrow_shard_without_rows_has_its_columns_all_the_same(tmp_path, kind):
    import pyarrow as pa

    table = pa.table({"a": [1, 2]})
    for number, part in enumerate((table, table.slice(0, 0))):
        path = tmp_path / f"data-{number:05d}-of-00002.arrow"
        new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
            for batch in part.to_batches():
                writer.write_batch(batch)
    assert list(find_table(tmp_path, None, "x").rows(["a"])) == [{"a": 1}, {"a": 2}]


def test_gedit_wrong_counts_and_broken_files(tmp_path):
    lookalikes.gedit(tmp_path, small=True)
    refused(GEdit(), tmp_path, r"gedit-en has other counts.*background_change 2 \(expected 40\)")
    path = next(tmp_path.glob("data-00001-*"))
    path.write_bytes(b"version https://git-lfs")
    refused(GEdit(), tmp_path, r"cannot read .*data-00001-of-00003.arrow")
    path.unlink()
    refused(GEdit(), tmp_path, r"gedit-en has one split, and .*shard 1 of 3 is missing")


# ---- PIE-Bench


def test_pie_bench_kinds_captions_and_masks(whole):
    items, kept, _ = whole("pie-bench")
    assert list(dict.fromkeys(i.task for i in items)) == list(PieBench().tasks)
    assert items[3].captions == {"input": "a cat on 3 chairs", "output": "a dog on 3 chairs"}
    with Image.open(io.BytesIO(kept.picture(items[0].mask))) as image:
        mask = np.asarray(image) == 255
    assert np.array_equal(mask, run_length_mask([131328, 40, 131840, 40]))
    with Image.open(io.BytesIO(kept.picture(items[-1].mask))) as image:
        assert items[-1].task == "style" and np.asarray(image).min() == 255
    assert len({i.cluster for i in items}) == 700


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"mask": [1]}, r"mapping_file.json item 000000000000: mask is no list"),
        ({"mask": "0 4"}, r"item 000000000000: mask is '0 4', not a list"),
        ({"editing_type_id": "12"}, r"random 1 \(expected 2\), type 12 1 \(expected 0\)"),
        ({"editing_instruction": None}, r"item 000000000000: editing_instruction is None"),
        ({"image_path": "../../x.jpg/../../../x"}, "leaves the folder"),
        ({"image_path": "gone.jpg"}, r"1 pictures are missing.*annotation_images/gone.jpg"),
    ],
)
def test_pie_bench_items_that_are_broken(tmp_path, change, match):
    dataset = lookalikes.pie_bench(tmp_path, small=True)
    path = tmp_path / "mapping_file.json"
    rows = json.loads(path.read_text())
    rows["000000000000"] |= change
    path.write_text(json.dumps(rows))
    refused(dataset, tmp_path, match)


# ---- ImgEdit


def test_imgedit_clusters_are_pictures(whole):
    items, _, _ = whole("imgedit")
    assert len({i.cluster for i in items}) == 171
    assert len({i.cluster for i in items if i.task == "style"}) == 5
    assert len({i.cluster for i in items if i.task == "add"}) == 20
    assert items[0].source == "Benchmark/singleturn/for_add/000000000.jpg"


def test_imgedit_is_read_from_the_archive_as_it_was_fetched(tmp_path):
    lookalikes.imgedit(tmp_path / "a", small=True)
    dataset = lookalikes.imgedit(tmp_path / "b", small=True, tar=True)
    folder, _ = read(dataset, tmp_path / "a")
    archive, kept = read(dataset, tmp_path / "b")
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["Benchmark.tar"]
    for a, b in zip(folder, archive, strict=True):
        assert (a.id, a.task, a.instruction) == (b.id, b.task, b.instruction)
        assert (tmp_path / "a" / a.source).read_bytes() == kept.picture(b.source)
    assert len({i.cluster for i in archive}) == len({i.cluster for i in folder})


def test_imgedit_list_of_the_repository_beside_the_pictures(tmp_path):
    """Under the older name of a type, and with the pictures where its readme puts them."""
    dataset = lookalikes.imgedit(tmp_path / "a", small=True)
    before, _ = read(dataset, tmp_path / "a")
    source = tmp_path / "a/Benchmark/singleturn"
    text = (source / "singleturn.json").read_text().replace('"adjust"', '"alter"')
    shutil.copytree(source, tmp_path / "b/original_images")
    (tmp_path / "b/original_images/singleturn.json").unlink()
    (tmp_path / "b/basic_edit.json").write_text(text)
    after, _ = read(dataset, tmp_path / "b")
    assert [(i.id, i.task) for i in after] == [(i.id, i.task) for i in before]


def test_imgedit_that_is_broken(tmp_path):
    refused(ImgEdit(), tmp_path, "holds no Benchmark.tar, basic_edit.json or singleturn.json")
    dataset = lookalikes.imgedit(tmp_path, small=True)
    refused(ImgEdit(), tmp_path, r"imgedit has other counts.*add 2 \(expected 95\)")
    refused(replace(dataset, pictures=9), tmp_path, r"imgedit has 9 pictures and its list names 1")
    (tmp_path / "Benchmark/singleturn/style/000000001.jpg").unlink()
    refused(dataset, tmp_path, r"1 pictures are missing.*style/000000001.jpg")


def test_imgedit_archives_that_are_broken(tmp_path):
    dataset = lookalikes.imgedit(tmp_path, small=True, tar=True)
    path = tmp_path / "Benchmark.tar"
    whole = path.read_bytes()
    path.write_bytes(b"no archive")
    refused(dataset, tmp_path, r"cannot read .*Benchmark.tar")
    path.write_bytes(whole[:1500])
    refused(dataset, tmp_path, r"Benchmark.tar")
    rows = lookalikes.imgedit_rows(dataset.counts)
    with tarfile.open(path, "w") as archive:
        data = json.dumps(rows).encode()
        member = tarfile.TarInfo("Benchmark/singleturn/singleturn.json")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
        for name in {row["id"] for row in rows.values()}:  # links, which are never followed
            link = tarfile.TarInfo(f"Benchmark/singleturn/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/hosts"
            archive.addfile(link)
    refused(dataset, tmp_path, r"Benchmark.tar holds no .*for_add/000000000.jpg")


# ---- the registry


def test_every_benchmark_says_what_it_is_and_where_it_comes_from():
    assert set(registry.ENTRIES) == {*lookalikes.DRAWN, "emu-edit-validation"}
    for name, entry in registry.ENTRIES.items():
        assert entry.dataset.name == name and entry.dataset.average in ("items", "tasks")
        assert entry.about and entry.size and entry.terms and entry.where
        assert "\n" not in entry.about
    with pytest.raises(InputError, match="benchmark is 'gedit'; use one of .*'gedit-en'"):
        registry.find("gedit")


def test_all_default_metrics_exist():
    metrics = pytest.importorskip("editmgt_lib.evaluation.metrics.base")
    for module in ("comparisons", "similarities"):
        pytest.importorskip(f"editmgt_lib.evaluation.metrics.{module}")
    for entry in registry.ENTRIES.values():
        assert len(metrics.find(entry.dataset.metrics)) == len(entry.dataset.metrics)


# ---- fetching


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A Hub that answers for every repository with the same files, asked over HTTP."""
    lookalikes.emu_edit(tmp_path / "hub", small=True, generations=False)
    (tmp_path / "hub/README.md").write_text("readme")
    (tmp_path / "hub/data/loader.py").write_text("code")
    with serving(tmp_path / "hub") as started:
        yield point_at(started, monkeypatch, tmp_path / "cache")


def test_what_would_be_fetched_is_said_before_anything_is(server, tmp_path):
    plan = fetching.plan("emu-edit")
    assert [(d.repo, d.into, len(d.files)) for d in plan] == [
        ("facebook/emu_edit_test_set", "", 3),
        ("facebook/emu_edit_test_set_generations", "generations", 2),
    ]
    assert plan[0].commit == "b31936a0b6c267e87d373014034cd8fb44ced2fb"
    sizes = sum(p.stat().st_size for p in (tmp_path / "hub/data").glob("test-*"))
    assert plan[0].bytes == sizes
    assert not server.sent


def test_only_the_splits_files_of_the_pinned_commits_are_fetched(server, tmp_path):
    shown = []
    fetching.fetch("emu-edit", tmp_path / "to", progress=lambda *report: shown.append(report))
    names = sorted(p.relative_to(tmp_path / "to").as_posix()
                   for p in (tmp_path / "to").rglob("*") if p.is_file())  # fmt: skip
    assert len(names) == 6 and names[-1] == "revisions.json"
    assert all(
        name.startswith(("data/test-", "generations/data/validation-")) for name in names[:5]
    )
    pins = [repository.revision for repository in registry.find("emu-edit").hub]
    assert server.revisions == set(pins)
    assert list(fetching.revisions(tmp_path / "to").values()) == pins
    assert len(shown) == 5 and shown[-1][1] == shown[-1][2]
    assert all(a[1] < b[1] for a, b in pairwise(shown))
    items, _ = read(EmuEdit(rows=14), tmp_path / "hub")
    shutil.rmtree(tmp_path / "to/generations")
    assert read(EmuEdit(rows=14), tmp_path / "to")[0] == items


def test_fetching_again_brings_what_is_missing(server, tmp_path):
    fetching.fetch("emu-edit", tmp_path / "to")
    server.sent.clear()
    path = next((tmp_path / "to/data").iterdir())
    path.write_bytes(b"half")
    fetching.fetch("emu-edit", tmp_path / "to")
    assert list(server.sent) == [f"data/{path.name}"]


def test_a_benchmark_without_a_pin_records_the_commit_it_came_from(server, tmp_path):
    (tmp_path / "hub/data-00000-of-00001.arrow").write_bytes(b"x")
    fetching.fetch("gedit-en", tmp_path / "to")
    assert fetching.revisions(tmp_path / "to") == {"stepfun-ai/GEdit-Bench": commit_of("main")}
    assert fetching.plan("gedit-en", "v2")[0].commit == commit_of("v2")
    assert fetching.revisions(tmp_path / "elsewhere") == {}


def test_what_cannot_be_fetched(server, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"magicbrush cannot be .*zip.*OSU-NLP-Group/MagicBrush"):
        fetching.plan("magicbrush")
    with pytest.raises(InputError, match=r"sysuyy/ImgEdit holds no files Benchmark.*another rev"):
        fetching.plan("imgedit")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="offline mode is on"):
        fetching.fetch("emu-edit", tmp_path / "to")


def test_files_of_a_listing_cannot_leave_the_folder():
    import re

    for entry in registry.ENTRIES.values():
        for repository in entry.hub:
            for name in ("../x.arrow", "data/../../test-1-of-1.parquet", "/x.arrow", "a\\b.arrow"):
                assert not re.fullmatch(repository.files, name)
