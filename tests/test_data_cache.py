"""The token cache: killed and resumed, shared, refused where it does not fit, equal to live."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import editmgt_lib
from editmgt_lib.cli import main
from editmgt_lib.data.cache import CacheOptions, CacheProgress, build_cache
from editmgt_lib.data.cached import CachedSource
from editmgt_lib.data.crops import Crop, draw_crop
from editmgt_lib.data.draws import draws
from editmgt_lib.data.encoding import Encoder, EncodingOptions
from editmgt_lib.data.folders import open_folder
from editmgt_lib.data.index import damaged_shards, read_index
from editmgt_lib.data.live import LiveSource
from editmgt_lib.data.mixed import Mixed
from editmgt_lib.data.opening import open_source
from editmgt_lib.data.processes import this_process
from editmgt_lib.data.shards import FOLDER
from editmgt_lib.data.toyworld import ToyWorldReader, ToyWorldSource
from editmgt_lib.errors import CheckpointError, InputError

from .test_data_readers import picture, write_list

SIZE = 64


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return editmgt_lib.load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs of many sizes, some of them unusable."""
    root, rows = tmp_path_factory.mktemp("pairs"), []
    sizes = [
        ((40, 32), (80, 64)),
        ((32, 50), (32, 50)),
        ((64, 64), (128, 128)),
        ((90, 33), (45, 17)),
    ]
    for n in range(20):
        for name, size in zip(("input", "output"), sizes[n % 4], strict=True):
            path = root / f"{name}{n}.png"
            path.write_bytes(picture(*size, seed=n))
        rows.append({"input": f"input{n}.png", "output": f"output{n}.png",
                     "instruction": f"make it number {n}",
                     "type": ["color", "motion change"][n % 2]})  # fmt: skip
    (root / "input5.png").write_bytes(b"no picture")
    (root / "output9.png").write_bytes(picture(64, 32))
    write_list(root, rows)
    return root


def encoder(model, text=True, **options):
    pooled = model.text_encoders.pooled_text if text else None
    return Encoder(EncodingOptions(SIZE, **options), model.vq, pooled)


LOOSE = CacheOptions(most_skipped=0.2, shard_rows=6)


@pytest.fixture(scope="module")
def cached(model, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("cache") / "out"
    assert build_cache(open_folder(folder), encoder(model, crops=2), out, LOOSE)
    return out


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in folder.rglob("*") if p.is_file()}  # fmt: skip


def equal(one, two):
    assert list(one.prompts) == list(two.prompts)
    for name in ("target", "source", "micro_conditions", "pooled"):
        a, b = getattr(one, name), getattr(two, name)
        assert (a is None) == (b is None), name
        assert a is None or (a.dtype == b.dtype and torch.equal(a, b)), name


def test_what_a_cache_holds(cached, model):
    index = read_index(cached)
    assert len(index.rows) == 18 and dict(index.kinds) == {"color": 10, "motion change": 8}
    assert (index.counts.read, index.counts.used) == (20, 18)
    assert dict(index.counts.skipped) == {
        "picture cannot be read": 1, "aspects of the pair differ": 1,
    }  # fmt: skip
    [detail] = index.counts.examples["aspects of the pair differ"]
    assert detail == "pairs.jsonl:9: 64x32 and 32x50"
    assert "18 pairs at 64 pixels: 4x4 tokens, 2 crops each" in index.summary()
    batch = CachedSource(cached, 0, "all").batch([0, 1])
    assert batch.target.shape == batch.source.shape == (2, 4, 4)
    assert batch.target.dtype == torch.int64 and batch.micro_conditions.dtype == torch.float32
    expected = model.text_encoders.encode(batch.prompts[0]).pooled
    assert torch.equal(batch.pooled[:1], expected)


def test_a_cache_equals_live_encoding_bit_for_bit(cached, folder, model):
    stored = CachedSource(cached, seed=4)
    live = LiveSource(open_folder(folder), encoder(model, crops=2), seed=4, most_skipped=0.2)
    assert len(stored) == len(live) == 18
    equal(stored.batch(range(40)), live.batch(range(40)))  # more than two epochs
    assert live.counts == read_index(cached).counts


def test_without_text_there_is_no_pooled(folder, model, tmp_path):
    build_cache(open_folder(folder), encoder(model, text=False), tmp_path / "c", LOOSE)
    source = CachedSource(tmp_path / "c", 0)
    assert source.batch([0]).pooled is None and not source.has_pooled


def test_an_epoch_covers_each_row_once_and_takes_the_next_crop(cached):
    source = CachedSource(cached, seed=0)
    first, second = source.batch(range(18)), source.batch(range(18, 36))
    assert len(set(first.prompts)) == 18 and set(first.prompts) == set(second.prompts)
    assert list(first.prompts) != list(second.prompts)
    moved = [
        bool((first.micro_conditions[i] != second.micro_conditions[j]).any())
        for i, text in enumerate(first.prompts)
        for j in [list(second.prompts).index(text)]
    ]
    assert any(moved)  # square pictures have one crop only


def test_numbers_do_not_depend_on_the_batch(cached):
    source = CachedSource(cached, seed=0)
    whole = source.batch(range(12))
    for numbers in ([7], [3, 11, 0]):
        part = CachedSource(cached, seed=0).batch(numbers)
        assert list(part.prompts) == [whole.prompts[n] for n in numbers]
        assert torch.equal(part.target, whole.target[numbers])
        assert torch.equal(part.source, whole.source[numbers])


def test_splits_share_no_row_and_do_not_hang_on_the_seed(cached):
    parts = {}
    for seed in (0, 1):
        for split in ("train", "held-out"):
            source = CachedSource(cached, seed, split, held_out=0.3)
            parts[seed, split] = set(source.batch(range(len(source))).prompts)
    assert parts[0, "train"] == parts[1, "train"] and parts[0, "held-out"] == parts[1, "held-out"]
    assert not parts[0, "train"] & parts[0, "held-out"]
    assert len(parts[0, "train"] | parts[0, "held-out"]) == 18
    with pytest.raises(InputError, match="'held-out' of 18 with held_out 0"):
        CachedSource(cached, 0, "held-out")
    with pytest.raises(InputError, match="split is 'test'"):
        CachedSource(cached, 0, "test")
    made = {CachedSource(cached, *options).fingerprint
            for options in ((0,), (1,), (0, "all"), (0, "train", 0.3))}  # fmt: skip
    assert len(made) == 4


def test_caches_mix_with_other_sources(cached, model):
    toy = ToyWorldSource(model.vq, 128, 0, "generate")
    mixed = Mixed([CachedSource(cached, 0), toy], [3, 1], seed=0, group=4)
    kinds = [mixed.batch(range(4 * k, 4 * k + 4)).source is None for k in range(40)]
    assert 0 < sum(kinds) < 20


# Resuming and sharing


class Killed(BaseException):
    pass


@pytest.mark.parametrize("point", range(0, 14))
def test_a_run_stopped_anywhere_leaves_a_cache_that_resumes_to_the_same_bytes(
    point, cached, folder, model, tmp_path, monkeypatch
):
    """Stopped at any write, before it or after; what it leaves is what a kill leaves."""
    real, writes = os.replace, []

    def stopping(source, target):
        writes.append(target)
        if len(writes) == point // 2 + 1:
            if point % 2:
                real(source, target)
            raise Killed
        real(source, target)

    out = tmp_path / "out"
    monkeypatch.setattr(os, "replace", stopping)
    with pytest.raises(Killed):
        build_cache(open_folder(folder), encoder(model, crops=2), out, LOOSE)
    monkeypatch.setattr(os, "replace", real)
    for p in list(out.rglob(".*.tmp*")):
        p.write_bytes(b"half")
    assert build_cache(open_folder(folder), encoder(model, crops=2), out, LOOSE)
    whole = {n: c for n, c in contents(out).items() if ".tmp" not in n}
    assert whole == contents(cached)


def test_resuming_encodes_only_what_is_missing(cached, folder, model, tmp_path):
    out, seen = tmp_path / "out", []
    build_cache(open_folder(folder), encoder(model, crops=2), out, LOOSE)
    (out / "index.json").unlink()
    (out / FOLDER / "000000-0002.json").unlink()

    def watch(progress):
        seen.append((progress.rows, progress.new))

    assert build_cache(open_folder(folder), encoder(model, crops=2), out, LOOSE, watch)
    assert seen[0] == (13, 1) and seen[-1] == (20, 8)
    assert contents(out) == contents(cached)
    assert build_cache(open_folder(folder), encoder(model, crops=2), out, LOOSE)  # done already


def test_a_run_killed_by_the_system_resumes(tiny_checkpoint, tmp_path):
    out = tmp_path / "out"
    call = [sys.executable, "-m", "editmgt_lib", "cache", "toyworld:520", "--out", str(out),
            "--model", str(tiny_checkpoint), "--device", "cpu", "--workers", "1"]  # fmt: skip
    process = subprocess.Popen(call, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 300
        while not list(out.glob(f"{FOLDER}/*.json")) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    finally:
        process.wait()
    done = len(list(out.glob(f"{FOLDER}/*.json")))
    assert 0 < done < 3 and not (out / "index.json").exists()
    assert main(call[3:]) == 0
    assert len(CachedSource(out, 0)) == 520
    assert damaged_shards(out, read_index(out)) == []


def test_processes_share_the_parts_and_the_last_one_finishes(model, tmp_path):
    reader, whole, shared = ToyWorldReader("5", SIZE), tmp_path / "whole", tmp_path / "shared"
    reader.parts = tuple(replace(reader.parts[0], rows=rows) for rows in (5, 3, 2))
    assert build_cache(reader, encoder(model, text=False), whole)
    shares = []
    for rank in (1, 0):
        before = set(contents(shared)) if shared.exists() else set()
        done = build_cache(reader, encoder(model, text=False), shared, CacheOptions(rank, 2))
        shares.append(({n[:13] for n in set(contents(shared)) - before if "/" in n}, done))
    assert shares[0] == ({"shards/000001"}, False)
    assert shares[1] == ({"shards/000000", "shards/000002"}, True)
    assert contents(shared) == contents(whole)


def test_two_processes_at_once_make_the_cache_of_one(tiny_checkpoint, tmp_path):
    call = [sys.executable, "-m", "editmgt_lib", "cache", "toyworld:300", "--model",
            str(tiny_checkpoint), "--device", "cpu", "--workers", "1", "--out"]  # fmt: skip
    environment = {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen([*call, str(tmp_path / "two")], stdout=subprocess.PIPE, text=True,
                         env={**os.environ, **environment, "RANK": str(rank)})
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=400)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert any("300 pairs at 64 pixels" in text for text in outputs)
    assert main([*call[3:], str(tmp_path / "one")]) == 0
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_the_environment_says_which_process_this_is(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert this_process() == (0, 1, None) and this_process().device("auto") == "auto"
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(InputError, match="WORLD_SIZE='many'"):
        this_process()
    for world in ("0", "3"):
        monkeypatch.setenv("WORLD_SIZE", world)
        with pytest.raises(InputError, match=f"RANK=3 and WORLD_SIZE={world}"):
            this_process()
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(InputError, match="RANK=3 and WORLD_SIZE=1"):
        this_process()
    with pytest.raises(InputError, match="rank is 3"):
        CacheOptions(rank=3, world=2)


def test_progress_names_rate_and_time_left():
    assert str(CacheProgress(50, 0, 100, 9.0)) == "50 of 100 rows"
    assert str(CacheProgress(1_500, 500, 4_500, 10.0)) == (
        "1,500 of 4,500 rows, 50.0 per second, 1 min left"
    )
    assert str(CacheProgress(1, 1, 36_001, 1.0)).endswith("1.0 per second, 10.0 h left")


# Refusals


@pytest.mark.parametrize(
    ("options", "name", "values"),
    [({"crops": 3}, "crops", "2 there and 3"), ({"crops": 2, "seed": 9}, "seed", "0 there and 9")],
)
def test_a_cache_goes_on_with_its_own_settings_only(cached, folder, model, options, name, values):
    with pytest.raises(InputError, match=f"{name} is {values}"):
        build_cache(open_folder(folder), encoder(model, **options), cached, LOOSE)


def test_a_cache_goes_on_with_its_own_data_only(cached, model, tmp_path):
    with pytest.raises(InputError, match=r"the data set \(fingerprint\) is '\w+' there and '\w+'"):
        build_cache(ToyWorldReader("9", SIZE), encoder(model, crops=2), cached, LOOSE)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty and holds no cache"):
        build_cache(ToyWorldReader("9", SIZE), encoder(model), tmp_path)


def test_another_tokenizer_is_refused_and_both_fingerprints_are_named(cached, model):
    from editmgt_lib.models.vq import VQModel

    table = {"kind": "cache", "path": str(cached)}
    open_source(table, vq=model.vq, size=SIZE, seed=0, encoders=model.text_encoders)
    other = VQModel(model.vq.config)
    with pytest.raises(InputError, match=r"tokenizer's weights .* is '\w+' there and '\w+' now"):
        open_source(table, vq=other, size=SIZE, seed=0)
    with pytest.raises(InputError, match="size is 64 there and 128 now"):
        open_source(table, vq=model.vq, size=128, seed=0)


def test_another_text_encoder_or_transform_is_refused(cached, model, monkeypatch):
    table = {"kind": "cache", "path": str(cached)}
    from editmgt_lib.data import opening

    with monkeypatch.context() as patch:
        patch.setattr(opening, "text_of", lambda encoders: "other")
        with pytest.raises(InputError, match="CLIP text encoder's weights .* 'other' now"):
            open_source(table, vq=model.vq, size=SIZE, seed=0, encoders=model.text_encoders)
    monkeypatch.setattr(opening, "VERSION", 99)
    with pytest.raises(InputError, match="version of the picture transform is 1 there and 99 now"):
        open_source(table, vq=model.vq, size=SIZE, seed=0)


def test_the_text_fingerprint_does_not_depend_on_the_precision(tiny_checkpoint):
    from editmgt_lib.data.encoding import text_of

    loaded = [editmgt_lib.load(tiny_checkpoint, device="cpu", dtype=dtype)
              for dtype in ("float32", "bfloat16")]  # fmt: skip
    first, second = (text_of(model.text_encoders.pooled_text) for model in loaded)
    assert first == second != text_of(None)


def test_too_many_skipped_rows_finish_nothing(folder, model, tmp_path):
    with pytest.raises(InputError, match=r"10.0% of the rows cannot be used.*max_skipped 5.0%"):
        build_cache(open_folder(folder), encoder(model), tmp_path / "c")
    with pytest.raises(InputError, match="not finished"):
        CachedSource(tmp_path / "c", 0)
    assert build_cache(open_folder(folder), encoder(model), tmp_path / "c", LOOSE)


def test_no_usable_row_is_an_error(model, tmp_path):
    write_list(tmp_path / "pairs", [{"input": "a", "output": "b", "instruction": "x"}])
    loose = CacheOptions(most_skipped=1)
    with pytest.raises(InputError, match="no row of the data can be used(.|\n)*picture is missing"):
        build_cache(open_folder(tmp_path / "pairs"), encoder(model), tmp_path / "c", loose)


def test_what_is_no_cache_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no cache"):
        CachedSource(tmp_path, 0)
    (tmp_path / "cache.json").write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match="its format is 99, not 1"):
        CachedSource(tmp_path, 0)


def test_damage_is_found_removed_and_mended(folder, model, tmp_path, capsys, cached):
    out = tmp_path / "out"
    build_cache(open_folder(folder), encoder(model, crops=2), out, LOOSE)
    shard = sorted((out / FOLDER).glob("*.records"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    source = CachedSource(out, 0, "all")
    with pytest.raises(CheckpointError, match=f"{shard.name} cannot be read"):
        source.batch(range(18))
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert damaged_shards(out, read_index(out)) == [shard.stem]
    assert main(["cache", str(out), "--info", "--verify"]) == 2
    assert "1 of 4 shards were damaged and removed" in capsys.readouterr().err
    assert build_cache(open_folder(folder), encoder(model, crops=2), out, LOOSE)
    assert contents(out) == contents(cached)


def test_sizes_and_codes_that_do_not_fit_are_refused(model):
    with pytest.raises(InputError, match="size is 72; use a multiple of 32"):
        Encoder(EncodingOptions(72), model.vq)
    with pytest.raises(InputError, match="crops is 0"):
        EncodingOptions(64, crops=0)


def test_a_row_that_changes_under_live_training_is_named(folder, model, tmp_path):
    path = write_list(tmp_path, [{"input": "a.png", "output": "a.png", "text": "x"}])
    (path.parent / "a.png").write_bytes(picture())
    source = LiveSource(open_folder(tmp_path), encoder(model), seed=0)
    (path.parent / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="pairs.jsonl:0 cannot be read any more"):
        source.batch([0])


@pytest.mark.parametrize("name", ["rows.index", "index.json"])
def test_an_index_that_is_cut_off_is_refused(cached, tmp_path, name):
    out = shutil.copytree(cached, tmp_path / "out")
    (out / name).write_bytes((out / name).read_bytes()[:-28])
    with pytest.raises(CheckpointError, match="remove index.json"):
        CachedSource(out, 0)


# Crops


def gradient(height, width):
    """A picture whose colours say where a point lies, in fractions of the sides."""
    rows = (torch.arange(height) + 0.5) / height
    cols = (torch.arange(width) + 0.5) / width
    return torch.stack([rows[:, None].expand(height, width), cols.expand(height, width),
                        torch.zeros(height, width)], dim=-1)  # fmt: skip


@pytest.mark.parametrize(
    ("target", "source"),
    [((96, 144), (96, 144)), ((96, 144), (192, 288)), ((300, 200), (150, 101)),
     ((64, 64), (500, 500)), ((70, 200), (140, 397))],
)  # fmt: skip
def test_source_and_target_show_the_same_part(target, source):
    """Within a pixel of the crop, where independent crops lie 5 to 11 tokens apart."""
    for k in range(4):
        crop = draw_crop(*target, draws(0, k, "crop"))
        one, two = (crop.take(gradient(*size), 64) for size in (target, source))
        assert one.shape == (3, 64, 64)
        pixel = max(1 / min(source), 1 / min(target))
        assert float((one - two).abs().max()) < pixel


def test_a_crop_is_as_large_as_fits_anywhere_along_the_longer_side():
    crops = [draw_crop(50, 90, draws(0, k, "crop")) for k in range(200)]
    assert {(c.top, c.side) for c in crops} == {(0, 50)}
    lefts = {c.left for c in crops}
    assert min(lefts) == 0 and max(lefts) == 40 and len(lefts) > 30


def test_micro_conditions_are_the_published_ones_of_the_crop():
    assert Crop(600, 900, 0, 120, 600).micro_conditions(64) == [900, 600, 0, 13, 6]
    assert Crop(1024, 1536, 0, 100, 1024).micro_conditions(1024) == [1536, 1024, 0, 100, 6]


def test_a_crop_at_full_scale_keeps_the_pixels():
    picture = torch.rand(64, 100, 3)
    crop = Crop(64, 100, 0, 17, 64)
    assert torch.equal(crop.take(picture, 64), picture[:, 17:81].permute(2, 0, 1))


def test_crops_are_kept_with_the_row(cached):
    from editmgt_lib.data.encoding import record_type
    from editmgt_lib.data.shards import map_records

    index = read_index(cached)
    settings = index.settings
    layout = record_type(True, 2, settings["grid"], settings["pooled"])
    name, rows = index.shards[0]
    records = map_records(cached / FOLDER / f"{name}.records", rows, layout)
    for record in records:
        for (width, height, *_), (top, left, bottom, right) in zip(
            record["micro"], record["crop"], strict=True
        ):
            side = min(width, height)
            np.testing.assert_allclose((bottom - top) * height, side, rtol=1e-5)
            np.testing.assert_allclose((right - left) * width, side, rtol=1e-5)
        assert record["digest"].any()


# The command and the [data] table


def test_the_command(folder, tiny_checkpoint, cached, tmp_path, capsys):
    out = tmp_path / "out"
    call = ["cache", str(folder), "--out", str(out), "--model", str(tiny_checkpoint), "--device",
            "cpu", "--crops", "2"]  # fmt: skip
    assert main(call) == 2
    assert "max_skipped" in capsys.readouterr().err
    assert main([*call, "--max-skipped", "0.2"]) == 0
    assert "18 pairs at 64 pixels" in capsys.readouterr().out
    ours, theirs = CachedSource(out, 0).batch(range(18)), CachedSource(cached, 0).batch(range(18))
    equal(ours, theirs)
    assert main(["cache", str(out), "--info"]) == 0
    assert "2 crops each" in capsys.readouterr().out
    assert main(["cache", str(folder)]) == 2
    assert "--out is missing" in capsys.readouterr().err
    assert main(["cache", str(folder), "--info"]) == 2
    assert "holds no cache" in capsys.readouterr().err


def test_data_is_looked_for_before_networks_are_loaded(tmp_path, capsys, monkeypatch):
    def load(*_):
        raise AssertionError("loaded")

    monkeypatch.setattr("editmgt_lib.loader.load_tokenizer", load)
    for data, says in ((tmp_path / "none", "no data set"), (tmp_path, "holds no list")):
        assert main(["cache", str(data), "--out", str(tmp_path / "out")]) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def source_of(model, table, **options):
    return open_source(table, vq=model.vq, size=SIZE, seed=0, **options)


@pytest.mark.parametrize("kind", ["cache", "folder", "parquet"])
def test_data_that_is_not_there_is_named_with_the_key_that_names_it(model, tmp_path, kind):
    with pytest.raises(InputError, match=rf"pairs, which does not exist; .*{kind}.* --set data"):
        source_of(model, {"kind": kind, "path": "pairs"}, root=tmp_path)


def test_the_data_table_opens_every_kind(model, cached, folder):
    live = source_of(model, {"kind": "folder", "path": folder.name, "crops": 2, "max_skipped": 0.2},
                     root=folder.parent, encoders=model.text_encoders)  # fmt: skip
    equal(
        live.batch(range(5)),
        source_of(model, {"kind": "cache", "path": str(cached)}).batch(range(5)),
    )
    assert source_of(model, {"kind": "toyworld", "task": "generate"}).batch([0]).source is None
    mixed = source_of(model, {"sources": [{"kind": "cache", "path": str(cached), "weight": 3.0},
                                          {"kind": "toyworld", "task": "generate"}]},
                      group=2)  # fmt: skip
    assert isinstance(mixed, Mixed) and mixed.mixture.shares == (750, 250)
    held = source_of(
        model, {"kind": "cache", "path": str(cached), "held_out": 0.3}, split="held-out"
    )
    assert 0 < len(held) < 18


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "data.kind is missing; use one of cache, folder"),
        ({"kind": "hdf5", "path": "x"}, "data.kind is 'hdf5'; use one of"),
        ({"kind": "cache"}, "data.path is ''; name the cache"),
        ({"kind": "toyworld", "path": "x"}, "data.path is 'x'; leave it out"),
        ({"kind": "toyworld", "pth": "x"}, "data.pth is unknown; use kind, path"),
        ({"kind": "toyworld", "task": "both"}, "data.task is 'both'"),
        ({"kind": "toyworld", "weight": 0}, "data.weight is 0"),
        ({"kind": "toyworld", "held_out": 2}, "data.held_out is 2"),
        ({"sources": []}, "data.sources is \\[\\]"),
        ({"sources": [{"kind": "toyworld"}], "kind": "cache"}, "data.kind stands beside"),
        ({"kind": "folder", "path": "/nowhere"}, "data.path is /nowhere, which does not"),
    ],
)
def test_the_data_table_names_key_value_and_fix(model, table, message):
    with pytest.raises(InputError, match=message):
        source_of(model, table)


def test_a_table_for_another_kind_of_data_is_refused(model, folder):
    with pytest.raises(InputError, match="data.kind is 'parquet'"):
        source_of(model, {"kind": "parquet", "path": str(folder)})


def test_settings_are_plain_json_for_people(cached):
    settings = json.loads(Path(cached / "cache.json").read_text())
    assert settings["size"] == 64 and settings["crops"] == 2 and settings["edits"] is True
