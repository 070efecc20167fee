"""Checkpoint folders: reading, loading, saving, describing; every fault is a CheckpointError."""

import json
import os
import re
import shutil
import struct
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import editmgt_lib
from editmgt_lib.checkpoints import (
    check_mask_token,
    describe,
    load_module,
    read_config,
    read_headers,
    read_state_dict,
    resolve,
    save_module,
)
from editmgt_lib.checkpoints.layout import PARTS, check_folder
from editmgt_lib.errors import CheckpointError, InputError
from editmgt_lib.files import atomic_path, atomic_write_bytes, atomic_write_json
from editmgt_lib.models.config import TransformerConfig, complete_config, infer_connector
from editmgt_lib.settings import Settings

from .parity import goldens

TENSORS = {
    "a.weight": torch.arange(12.0).reshape(3, 4),
    "b": torch.tensor([1, 2, 3]),
    "half": torch.ones(5, dtype=torch.float16),
    "none": torch.zeros(0, 2),
    "scalar": torch.tensor(2.5),
}


class Net(nn.Module):
    """A head tied to the embedding, an integer buffer, and a buffer that is not saved."""

    def __init__(self, width=4, tied=True, table=False):
        super().__init__()
        self.embed = nn.Embedding(6, width)
        self.body = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
        self.head = nn.Linear(width, 6, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        self.register_buffer("steps", torch.tensor(3))
        if table:
            self.register_buffer("table", torch.arange(4.0), persistent=False)


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in a
    )


def write_folder(root, parts=PARTS):
    for part in parts:
        place = root / part.name
        place.mkdir(parents=True)
        (place / part.marker).write_text("{}")
        if part.has_weights:
            save_file({"w": torch.zeros(2, 3), "ids": torch.arange(4)}, place / "model.safetensors")
    return root


def write_shards(folder, stem="model"):
    names = list(TENSORS)
    files = {f"{stem}-0000{i}-of-00002.safetensors": names[i - 1 :: 2] for i in (1, 2)}
    for file, members in files.items():
        save_file({n: TENSORS[n] for n in members}, folder / file)
    index = {"weight_map": {n: f for f, members in files.items() for n in members}}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    return index


# ---- reading


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "diffusion_pytorch_model.safetensors",
        "x.safetensors",
        "model.fp16.safetensors",
    ],
)
def test_reads_a_single_file_of_any_usual_name(tmp_path, name):
    save_file(TENSORS, tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    assert same(read_state_dict(tmp_path), TENSORS)
    assert same(read_state_dict(tmp_path / name), TENSORS)
    assert {n: i.shape for n, i in read_headers(tmp_path).items()} == {
        n: tuple(t.shape) for n, t in TENSORS.items()
    }


def test_reads_shards_by_their_index(tmp_path):
    write_shards(tmp_path)
    assert same(read_state_dict(tmp_path), TENSORS)
    assert same(read_state_dict(str(tmp_path / "model.safetensors.index.json")), TENSORS)


def test_plain_weights_win_over_variants_and_hidden_files(tmp_path):
    save_file({"plain": torch.ones(1)}, tmp_path / "model.safetensors")
    save_file({"variant": torch.ones(1)}, tmp_path / "model.fp16.safetensors")
    (tmp_path / "._model.safetensors").write_bytes(b"junk")
    assert list(read_state_dict(tmp_path)) == ["plain"]


def test_changing_a_tensor_leaves_the_file_alone(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    read_state_dict(tmp_path)["a.weight"].zero_()
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda d: None, "it is empty"),
        (lambda d: (d / "config.json").write_text("{}"), r"no weights.*it has config\.json"),
        (lambda d: (d / "model.bin").write_bytes(b"PK"), r"model\.bin .*safetensors.*weights_only"),
        (lambda d: save_file(TENSORS, d / "model-00001-of-00002.safetensors"), "index"),
        (
            lambda d: [save_file(TENSORS, d / f"{n}.safetensors") for n in "xy"],
            "several weight files: x.safetensors, y.safetensors",
        ),
        (
            lambda d: (d / "model.safetensors").write_bytes(b"PK\x03\x04" + b"0" * 90),
            "PyTorch file",
        ),
        (lambda d: (d / "model.safetensors").write_bytes(b"<!doctype html>" * 9), "web page"),
        (
            lambda d: (d / "model.safetensors").write_text("version https://git-lfs.github.com/x"),
            "Git LFS pointer",
        ),
        (lambda d: (d / "model.safetensors.index.json").write_text("{"), "not a weight index"),
        (lambda d: (d / "model.safetensors.index.json").write_text("[]"), "not a weight index"),
        (
            lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {}}'),
            "lists no tensors",
        ),
        (
            lambda d: (d / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "../model.safetensors"}}'
            ),
            "of its own folder",
        ),
    ],
)
def test_unusable_weights_say_what_is_wrong(tmp_path, make, says):
    make(tmp_path)
    with pytest.raises(CheckpointError, match=says) as error:
        read_state_dict(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_state_dict(tmp_path / "nothing")
    (tmp_path / "x.ckpt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="can run code"):
        read_state_dict(tmp_path / "x.ckpt")


def test_shards_that_contradict_their_index(tmp_path):
    index = write_shards(tmp_path)
    file = tmp_path / "model.safetensors.index.json"
    first, second = sorted(set(index["weight_map"].values()))
    absent = {"weight_map": {**index["weight_map"], "ghost": first}}
    file.write_text(json.dumps(absent))
    with pytest.raises(CheckpointError, match=f"ghost is in {first}, but no shard has it"):
        read_state_dict(tmp_path)
    file.write_text(json.dumps(index))
    save_file({**TENSORS}, tmp_path / second)
    with pytest.raises(CheckpointError, match="is in two files"):
        read_state_dict(tmp_path)
    (tmp_path / second).unlink()
    with pytest.raises(CheckpointError, match=f"1 missing file.*{second}"):
        read_state_dict(tmp_path)


@pytest.fixture(scope="module")
def weights_bytes(tmp_path_factory):
    file = tmp_path_factory.mktemp("bytes") / "x.safetensors"
    save_file(TENSORS, file, metadata={"format": "pt"})
    return file.read_bytes()


def test_every_truncation_is_a_checkpoint_error(tmp_path, weights_bytes):
    file = tmp_path / "model.safetensors"
    for length in range(len(weights_bytes)):
        file.write_bytes(weights_bytes[:length])
        for read in (read_state_dict, read_headers):
            with pytest.raises(CheckpointError, match=r"truncated") as error:
                read(tmp_path)
            assert str(file) in str(error.value)


quiet = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quiet
@given(data=st.data())
def test_a_damaged_file_loads_or_is_a_checkpoint_error(tmp_path, weights_bytes, data):
    damaged = bytearray(weights_bytes)
    header_end = 8 + struct.unpack("<Q", weights_bytes[:8])[0]
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, header_end - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(damaged))
    try:
        read_state_dict(tmp_path)
    except CheckpointError as error:
        assert str(file) in str(error)


@quiet
@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_checkpoint_error(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("change", ["overlap", "gap", "shape", "beyond", "list", "entry"])
def test_headers_that_lie(tmp_path, change):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = {"a": entry, "b": {**entry, "data_offsets": [8, 16]}}
    extra = {
        "overlap": {"b": {**entry, "data_offsets": [4, 12]}},
        "gap": {"b": {**entry, "data_offsets": [12, 20]}},
        "shape": {"b": {**entry, "shape": [3], "data_offsets": [8, 16]}},
        "beyond": {"b": {**entry, "shape": [2**40], "data_offsets": [8, 8 + 2**42]}},
        "list": [],
        "entry": {"b": {"dtype": "F32", "shape": [-1], "data_offsets": [8, 4]}},
    }[change]
    text = json.dumps({**header, **extra} if isinstance(extra, dict) else extra).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    with pytest.raises(CheckpointError, match="corrupt|truncated"):
        read_state_dict(tmp_path)


def test_read_config(tmp_path):
    (tmp_path / "config.json").write_text('{"a": [1, null]}', encoding="utf-8")
    assert read_config(tmp_path) == {"a": [1, None]}
    for text, says in [("{'a': 1}", "line 1 column 2"), ("[1]", "holds a list"), ("", "not valid")]:
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(CheckpointError, match=says):
            read_config(tmp_path, "other.json")
    (tmp_path / "other.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_config(tmp_path, "other.json")
    with pytest.raises(CheckpointError, match="is missing"):
        read_config(tmp_path, "absent.json")


# ---- loading


def test_loads_strictly_and_ready_for_inference():
    state = Net().state_dict()
    net = load_module(Net, state)
    assert same(net.state_dict(), state)
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert not any(m.training for m in net.modules())


def test_ties_are_kept_and_need_one_tensor():
    state = Net().state_dict()
    del state["head.weight"]
    net = load_module(Net, state, dtype=torch.bfloat16)
    assert net.head.weight is net.embed.weight
    assert net.head.weight.dtype == torch.bfloat16
    state["head.weight"] = state["embed.weight"] + 1
    with pytest.raises(CheckpointError, match="different values for embed.weight and head.weight"):
        load_module(Net, state)


def test_dtypes():
    state = Net().state_dict()
    net = load_module(Net, state, dtype=torch.float16)
    assert net.embed.weight.dtype == torch.float16 and net.steps.dtype == torch.int64
    half = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    assert {p.dtype for p in load_module(Net, half).parameters()} == {torch.float16}


def test_the_callers_parameters_are_left_alone():
    source = Net()
    load_module(Net, dict(source.named_parameters()) | {"steps": source.steps})
    assert source.embed.weight.requires_grad


def test_every_contradiction_is_listed_before_anything_is_copied():
    state = Net(width=4).state_dict() | {"extra.weight": torch.ones(1)}
    del state["body.0.bias"]
    state["steps"] = torch.tensor(1.0)
    with pytest.raises(CheckpointError) as error:
        load_module(lambda: Net(width=8), state, where="/some/folder")
    text = str(error.value)
    assert text.startswith("/some/folder")
    assert re.search(r"missing tensors \(1\):\n  body.0.bias", text)
    assert re.search(r"surplus tensors \(1\):\n  extra.weight", text)
    assert "embed.weight: config says [6, 8], file has [6, 4]" in text
    assert "steps: config says torch.int64, file has torch.float32" in text


def test_long_lists_are_counted():
    state = Net().state_dict() | {f"extra.{i}": torch.ones(1) for i in range(40)}
    with pytest.raises(CheckpointError, match=r"surplus tensors \(40\)(.|\n)*and 28 more"):
        load_module(Net, state)
    assert load_module(Net, state, ignore=["extra.*"]).steps == 3


def test_buffers_no_file_stores_must_be_filled():
    state = Net().state_dict()

    def build():
        return Net(table=True)

    with pytest.raises(CheckpointError, match=r"without values(.|\n)*table"):
        load_module(build, state)

    def fill(net):
        net.table = torch.arange(4.0)

    assert load_module(build, state, fill=fill).table.tolist() == [0, 1, 2, 3]


def test_building_costs_no_memory_and_no_random_numbers():
    before = torch.get_rng_state()
    state = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
    load_module(lambda: nn.Linear(2, 2), state)
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(CheckpointError, match=r"\[1000000, 1000000\]"):
        load_module(lambda: nn.Linear(10**6, 10**6), state)


# ---- saving


def test_save_and_load_round_trip(tmp_path):
    net = Net()
    files = save_module(tmp_path, net, {"width": 4}, weights_name="w.safetensors")
    assert set(files) == set(tmp_path.iterdir())
    assert len({file.stat().st_mode for file in files}) == 1  # who may read one may read both
    assert read_config(tmp_path) == {"width": 4}
    assert "head.weight" not in read_state_dict(tmp_path)
    assert same(load_module(Net, read_state_dict(tmp_path)).state_dict(), net.state_dict())


def test_saving_over_the_file_a_module_was_loaded_from(tmp_path):
    save_module(tmp_path, Net(), {})
    net = load_module(Net, read_state_dict(tmp_path))
    expected = {n: t.clone() for n, t in net.state_dict().items()}
    save_module(tmp_path, net, {})
    assert same(net.state_dict(), expected)
    assert same(load_module(Net, read_state_dict(tmp_path)).state_dict(), expected)


def test_save_takes_views_and_shared_memory(tmp_path):
    net = Net(tied=False)
    whole = torch.arange(48.0).reshape(6, 8)
    net.embed.weight.data = whole[:, ::2]  # not contiguous, shares memory with the head
    net.head.weight.data = whole[:, 1::2]
    net.body[1].bias.data = net.body[1].weight.data  # one memory, two parameters
    expected = {n: t.clone() for n, t in net.state_dict().items()}
    save_module(tmp_path, net, {})
    assert same(read_state_dict(tmp_path), expected)


def test_a_failed_save_leaves_what_was_there(tmp_path):
    save_module(tmp_path, Net(), {"version": 1})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with torch.device("meta"):
        empty = Net()
    bad_config = {"x": torch.ones(1)}
    for arguments in [(empty, {}), (Net(), bad_config), (Net(), {"x": float("nan")})]:
        with pytest.raises(InputError):
            save_module(tmp_path, *arguments)
    for name in ("model.bin", "../model.safetensors", ".safetensors", "a/b.safetensors"):
        with pytest.raises(InputError, match="weights_name"):
            save_module(tmp_path, Net(), {}, weights_name=name)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


# ---- files


def test_atomic_writes(tmp_path):
    target = tmp_path / "new" / "x.json"
    atomic_write_json(target, {"ä": 1})
    assert json.loads(target.read_text(encoding="utf-8")) == {"ä": 1}
    atomic_write_bytes(target, b"2")
    with pytest.raises(RuntimeError), atomic_path(target) as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"2"
    assert list(target.parent.iterdir()) == [target]


def test_unwritable_places_are_input_errors(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        atomic_write_bytes(tmp_path / "file" / "x", b"")
    with pytest.raises(InputError, match="a folder has this name"):
        atomic_write_bytes(tmp_path, b"")
    with pytest.raises(InputError, match="finite"):
        atomic_write_json(tmp_path / "x.json", float("inf"))
    assert not (tmp_path / "x.json").exists()


# ---- layout


def test_describe_counts_from_headers(tmp_path):
    report = describe(write_folder(tmp_path))
    assert report.complete and report.parameters == 4 * 6
    part = report.parts[0]
    assert part.dtypes == {"F32": 1, "I64": 1}
    assert set(part.files) == {"config.json", "model.safetensors"}
    assert report.file_bytes == sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())


def test_describe_reports_broken_parts(tmp_path):
    write_folder(tmp_path, PARTS[1:-1])
    (tmp_path / "vqvae" / "model.safetensors").write_bytes(b"123")
    report = describe(tmp_path)
    problems = {p.part.name: p.problem for p in report.parts if p.problem}
    assert set(problems) == {"editmgt", "vqvae"} and not report.complete
    assert "truncated" in problems["vqvae"] and "editmgt/config.json" in problems["editmgt"]
    with pytest.raises(InputError, match="there is no folder"):
        describe(tmp_path / "nothing")


def test_settings_file(tmp_path):
    assert Settings.read(tmp_path) == Settings()
    given = {"resolution": 256, "sampling": {"steps": 12}}
    (tmp_path / "editmgt.json").write_text(json.dumps(given))
    settings = Settings.read(tmp_path)
    assert (settings.resolution, settings.text_length, settings.sampling.steps) == (256, 256, 12)
    for bad in ({"resolution": "256"}, {"text_length": 0}, {"sampling": 3}, {"steps": 3}):
        (tmp_path / "editmgt.json").write_text(json.dumps(bad))
        with pytest.raises(CheckpointError, match=f"editmgt.json: .*{next(iter(bad))}"):
            Settings.read(tmp_path)


def write_schedule(folder, **values):
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(values))


def test_the_scheduler_is_optional_and_read_where_it_is(tmp_path):
    root = write_folder(tmp_path, PARTS[:-1])
    assert check_folder(root) == root and describe(root).complete
    assert Settings.read(root).sampling.schedule == "cosine"
    check_mask_token(root, 39)
    write_schedule(root, masking_schedule="linear", mask_token_id=39, _class_name="Scheduler")
    assert Settings.read(root).sampling.schedule == "linear" and len(describe(root).parts) == 6
    check_mask_token(root, 39)
    (root / "editmgt.json").write_text(json.dumps({"sampling": {"steps": 7}}))
    assert Settings.read(root).sampling.schedule == "linear"
    (root / "editmgt.json").write_text(json.dumps({"sampling": {"schedule": "cosine"}}))
    assert Settings.read(root).sampling.schedule == "cosine"
    write_schedule(root, masking_schedule="square")
    assert Settings.read(root).sampling.schedule == "cosine"
    (root / "editmgt.json").unlink()
    with pytest.raises(CheckpointError, match="masking_schedule is 'square'"):
        Settings.read(root)
    (root / "scheduler" / "scheduler_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="scheduler_config.json is not valid JSON"):
        Settings.read(root)


def test_another_mask_token_than_the_transformers_is_refused(tiny_copy):
    write_schedule(tiny_copy, mask_token_id=38)
    with pytest.raises(CheckpointError, match="mask_token_id is 38.* is 39"):
        editmgt_lib.load(tiny_copy, device="cpu", text=False)


def test_missing_parts_are_named_with_their_marker(tmp_path):
    root = write_folder(tmp_path / "model")
    assert resolve(root) == root and resolve(str(root)) == root
    (root / "llm_encoder" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"llm_encoder/config\.json \(Gemma"):
        resolve(root)
    with pytest.raises(CheckpointError, match=f"did you mean {root}"):
        resolve(tmp_path)
    with pytest.raises(CheckpointError, match=f"one part of a checkpoint, give {root}"):
        resolve(root / "editmgt")


# ---- transformer config

CASES = [c for c in goldens.case_dirs("transformer_") if (c / "weights.safetensors").exists()]


def golden_config(case):
    shapes = {n: i.shape for n, i in read_headers(case / "weights.safetensors").items()}
    return goldens.meta(case)["config"], shapes


@pytest.mark.parametrize("case", CASES, ids=goldens.case_id)
def test_goldens_agree_and_complete_their_config(case):
    config, shapes = golden_config(case)
    assert infer_connector(shapes) == config["connector_type"]
    completed = complete_config(config, shapes)
    assert completed.items() >= config.items()
    told = {k: v for k, v in config.items() if k in ("axes_dims_rope",)}
    derived = complete_config(told | {"connector_type": None}, shapes)
    for key in config.keys() - {"patch_size", "in_channels", "text_encoder_architecture"}:
        assert derived[key] == config[key], key


@pytest.mark.parametrize("case", CASES, ids=goldens.case_id)
@pytest.mark.parametrize(
    "key",
    [
        "num_layers",
        "num_single_layers",
        "num_attention_heads",
        "attention_head_dim",
        "joint_attention_dim",
        "pooled_projection_dim",
        "vocab_size",
        "codebook_size",
        "downsample",
        "upsample",
        "connector_type",
    ],
)
def test_a_contradicting_key_is_listed_with_both_values(case, key):
    config, shapes = golden_config(case)
    if key == "joint_attention_dim" and config["connector_type"] == "none":
        pytest.skip("nothing depends on it without a connector")
    right = config[key]
    wrong = "x" if isinstance(right, str) else not right if isinstance(right, bool) else right + 1
    with pytest.raises(CheckpointError) as error:
        complete_config(config | {key: wrong}, shapes, "/f")
    line = next(x for x in str(error.value).splitlines() if key in x)
    assert "config says" in line and "the tensors say" in line and str(wrong) in line


def test_published_size_from_its_key_list():
    for root in goldens.roots():
        file = root / "fullsize" / "transformer_keys.json"
        if not file.exists():
            continue
        published = json.loads(file.read_text())
        for connector in ("none", "linear"):
            shapes = {k: s for k, s, _, c in published["keys"] if c in (None, connector)}
            completed = complete_config(published["config"], shapes)
            assert completed["connector_type"] == connector
            assert completed["num_attention_heads"] == 8 and completed["num_layers"] == 14


def test_other_weights_are_refused():
    with pytest.raises(CheckpointError, match="context_embedder.weight"):
        complete_config({}, {"encoder.conv.weight": (3, 3)})
    with pytest.raises(CheckpointError, match="not linear .connector.other"):
        infer_connector(["connector.other"])


EXTRA = {"decay": 0.9999, "optimization_step": 7, "update_after_step": 0, "_class_name": "X"}


@pytest.mark.parametrize("part", ["editmgt", "vqvae"])
def test_keys_that_other_tools_add_are_a_warning(tiny_copy, part):
    file = tiny_copy / part / "config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | EXTRA))
    says = f"{file}: ignored unknown keys decay, optimization_step, update_after_step$"
    with pytest.warns(UserWarning, match=says):
        editmgt_lib.load(tiny_copy, device="cpu", text=False)
    key = "num_layers" if part == "editmgt" else "latent_channels"
    file.write_text(json.dumps(values | EXTRA | {key: values[key] + 1}))
    with warnings.catch_warnings(), pytest.raises(CheckpointError, match="config says"):
        warnings.simplefilter("ignore")
        editmgt_lib.load(tiny_copy, device="cpu", text=False)


def tiny_shapes(head_dim):
    """The tensors that tell a transformer's sizes, at one head."""
    return {
        "context_embedder.weight": (head_dim, 8),
        "transformer_blocks.0.attn.norm_q.weight": (head_dim,),
        "cond_embed.linear_1.weight": (8, 1288),
        "embed.embeddings.weight": (9, 8),
        "mlm_layer.conv2.weight": (8, 8),
    }


def test_rotary_axes_that_are_absent():
    config = complete_config({"axes_dims_rope": None}, tiny_shapes(128))
    assert TransformerConfig.from_dict(config).axes_dims_rope == (16, 56, 56)
    with pytest.raises(CheckpointError, match=r"/f: .*lacks axes_dims_rope.* head dimension, 64"):
        complete_config({}, tiny_shapes(64), "/f")
    for wrong in (
        [16, 56],
        [15, 57, 56],
        [128, 0, 0],
        "16",
        128,
        [16.0, 56.0, 56.0],
        [-16, 72, 72],
    ):
        values = complete_config({"axes_dims_rope": wrong}, tiny_shapes(128))
        with pytest.raises(CheckpointError, match="axes_dims_rope is"):
            TransformerConfig.from_dict(values)


# ---- whole checkpoints of other tools


def rename(file, change):
    save_file({change(n): t for n, t in read_state_dict(file).items()}, file)


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: re.sub(r"(blocks\.\d+\.)", r"\1_orig_mod.", name),
        lambda name: f"_fsdp_wrapped_module.{name}".replace(
            ".attn", "._checkpoint_wrapped_module.attn"
        ),
    ],
)
def test_names_of_wrapped_networks(tiny_copy, tiny_checkpoint, change):
    for part in ("editmgt", "vqvae", "text_encoder", "llm_encoder"):
        file = next((tiny_copy / part).glob("*.safetensors"))
        rename(file, change)
        assert read_headers(file) == read_headers(tiny_checkpoint / part)
    model = editmgt_lib.load(tiny_copy, device="cpu")
    expected = editmgt_lib.load(tiny_checkpoint, device="cpu")
    assert same(model.transformer.state_dict(), expected.transformer.state_dict())


def test_module_is_only_a_wrapper_where_every_name_has_it(tmp_path):
    tensors = {"module.a": torch.ones(1), "b": torch.ones(1)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert set(read_state_dict(tmp_path)) == {"module.a", "b"}
    save_file({"_orig_mod.a": torch.ones(1), "a": torch.ones(1)}, tmp_path / "model.safetensors")
    for read in (read_state_dict, read_headers):
        with pytest.raises(CheckpointError, match="holds a both wrapped and bare"):
            read(tmp_path)


def test_a_clip_saved_whole_is_its_text_part(tiny_copy):
    before = editmgt_lib.load(tiny_copy, device="cpu").text_encoders.clip
    folder = tiny_copy / "text_encoder"
    text = json.loads((folder / "config.json").read_text())
    width = text.pop("projection_dim")
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"model_type": "clip", "text_config": text, "vision_config": vision}
    (folder / "config.json").write_text(json.dumps(config | {"projection_dim": width}))
    file = next(folder.glob("*.safetensors"))
    image_side = {
        "logit_scale": torch.tensor(2.6),
        "vision_model.embeddings.class_embedding": torch.zeros(16),
        "vision_model.encoder.layers.0.layer_norm1.weight": torch.zeros(16),
        "visual_projection.weight": torch.zeros(width, 16),
        "text_model.embeddings.position_ids": torch.arange(77)[None],
    }
    save_file(read_state_dict(file) | image_side, file)
    clip = editmgt_lib.load(tiny_copy, device="cpu").text_encoders.clip
    assert same(clip.state_dict(), before.state_dict())
    assert clip.config.projection_dim == width
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "siglip"}))
    with pytest.raises(CheckpointError, match="'siglip', expected 'clip_text_model' or 'clip'"):
        editmgt_lib.load(tiny_copy, device="cpu")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("text_encoder", {"hidden_act": "gelu_newest"}),
        ("llm_encoder", {"hidden_activation": "gelu_newest"}),
        ("llm_encoder", {"num_attention_heads": "two"}),
        ("vqvae", {"norm_num_groups": 5}),
        ("editmgt", {"connector_type": ["linear"]}),
    ],
)
def test_a_network_that_cannot_be_built_names_its_folder(tiny_copy, part, change):
    file = tiny_copy / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=str(file.parent)):
        editmgt_lib.load(tiny_copy, device="cpu")


JUNK = (None, True, 0, -1, 3, 0.5, float("inf"), "", "gelu", [], [1], {}, {"a": 1})


def damage_json(file, random):
    """Change, drop or rename one value at any depth."""
    value = json.loads(file.read_text())
    places = []

    def walk(node):
        keys = node if isinstance(node, dict) else range(min(len(node), 4))
        for key in keys:
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(value)
    node, key = random.choice(places)
    if isinstance(node, dict) and random.random() < 0.3:
        taken = node.pop(key)
        node.update({"renamed": taken} if random.random() < 0.5 else {})
    else:
        node[key] = random.choice(JUNK)
    file.write_text(json.dumps(value))


def damage_bytes(file, random):
    """Change bytes of the header, mostly digits and names, or cut the file."""
    data = bytearray(file.read_bytes())
    end = 8 + int.from_bytes(data[:8], "little")
    for _ in range(random.randint(1, 3)):
        data[random.randrange(8 * (random.random() < 0.9), end)] = random.choice(b'0123456789aF[]"')
    file.write_bytes(data[: random.randrange(len(data))] if random.random() < 0.1 else data)


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_checkpoint_loads_or_is_a_deliberate_error(tiny_copy):
    random = Random(9)
    texts = [f for f in sorted(tiny_copy.rglob("*.json")) if f.name != "tokenizer.json"]
    weights = sorted(tiny_copy.rglob("*.safetensors"))
    outcomes = Counter()
    for case in range(150):
        file, damage = (
            (random.choice(texts), damage_json) if case % 3 else (weights[case % 4], damage_bytes)
        )
        before = file.read_bytes()
        damage(file, random)
        try:
            text = file.parent.name not in ("editmgt", "vqvae")  # only to save time
            editmgt_lib.load(tiny_copy, device="cpu", text=text)
            outcomes["loaded"] += 1
        except (CheckpointError, InputError):
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(
                f"case {case}: {file.name}: {file.read_bytes()[:3000]!r}"
            ) from error
        file.write_bytes(before)
    assert outcomes["loaded"] > 10 and outcomes["refused"] > 50


# ---- names


def test_paths_that_hold_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    (tmp_path / "models").mkdir()
    (tmp_path / "file").write_text("")
    for name, says in [
        ("models/WeiChow--EditMGT", "there is no folder models/WeiChow--EditMGT"),
        ("models/absent", "there is no folder models/absent"),  # the parent is there
        ("nowhere/WeiChow--EditMGT", "there is no folder nowhere/WeiChow--EditMGT"),
        ("./a/b", "there is no folder a/b"),
        ("~/no/such", "there is no folder .*no/such"),
        (tmp_path / "a" / "b", "there is no folder"),
        ("file", "file is not a folder"),
        ("file/inside", "file/inside is not a folder"),
        ("owner/name", "owner/name is not downloaded.*no folder of this name.*editmgt download"),
        ("absent", "there is no checkpoint 'absent'"),
        ("", "there is no checkpoint ''"),
        ("x" * 300, "there is no checkpoint"),
        ("models/" + "x" * 300, "cannot read the folder models/xxx.*"),
        ("models/a\0b", "cannot read the folder"),
        ("owner/" + "x" * 200, "is not downloaded"),
    ]:
        with pytest.raises(InputError, match=says) as error:
            resolve(name)
        assert len(str(error.value).splitlines()) == 1
    with pytest.raises(CheckpointError, match="models is not a complete checkpoint"):
        resolve("models")


@contextmanager
def ordinary_user():
    """Tests may run as one who may read everything."""
    privileged = os.geteuid() == 0
    if privileged:
        os.seteuid(65534)
    try:
        yield
    finally:
        if privileged:
            os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
@pytest.mark.parametrize(
    "place",
    ["", "editmgt", "editmgt/config.json", "editmgt.json", "scheduler/scheduler_config.json",
     "vqvae/diffusion_pytorch_model.safetensors", "text_encoder"],
)  # fmt: skip
def test_what_may_not_be_read_is_named(tiny_checkpoint, place):
    with TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        Path(folder).chmod(0o755)
        copy = shutil.copytree(tiny_checkpoint, Path(folder) / "checkpoint")
        copy.chmod(0o755)
        editmgt_lib.load(copy, device="cpu")  # whatever is imported late
        (copy / place).chmod(0)
        try:
            with ordinary_user(), pytest.raises((InputError, CheckpointError)) as error:
                editmgt_lib.load(copy, device="cpu")
            with ordinary_user():
                try:
                    assert not describe(copy).complete or "json" in place
                except InputError as refused:
                    assert "Permission denied" in str(refused)
        finally:
            (copy / place).chmod(0o755)
    assert str(copy / place) in str(error.value) and "Permission denied" in str(error.value)


def test_no_home_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does without a home
    for call in (lambda: resolve("owner/name"), lambda: resolve("owner/name", allow_download=True)):
        with pytest.raises(InputError, match="no home folder is known.*--to"):
            call()
    assert resolve("toyworld").is_dir()
