"""Checkpoints in one file: written, loaded like a folder, refused when anything is wrong."""

import json
import struct
import weakref

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import editmgt_lib
from editmgt_lib.checkpoints import describe, load_module, pack, packing, read_state_dict, resolve
from editmgt_lib.checkpoints.fp8 import SCHEME, dequantise, quantise, row_scales
from editmgt_lib.checkpoints.names import TOY_FOLDER
from editmgt_lib.checkpoints.packed import FORMAT, is_packed
from editmgt_lib.cli import main
from editmgt_lib.errors import CheckpointError, EditMGTError, InputError
from editmgt_lib.settings import Settings


def load(path, dtype="float32"):
    return editmgt_lib.load(path, device="cpu", dtype=dtype)


def weights(model):
    encoders = model.text_encoders
    networks = (model.transformer, model.vq, encoders.clip, encoders.gemma)
    return {
        f"{number}.{name}": tensor
        for number, network in enumerate(networks)
        for name, tensor in network.state_dict().items()
    }


def differing(one, other):
    assert one.keys() == other.keys()
    return [n for n in one if one[n].dtype != other[n].dtype or not torch.equal(one[n], other[n])]


def bits(file):
    return {n: t.flatten().view(torch.uint8).tolist() for n, t in load_file(file).items()}


@pytest.fixture(scope="module")
def packed(tiny_checkpoint, tmp_path_factory):
    """The tiny checkpoint in one file, unchanged."""
    return pack(tiny_checkpoint, tmp_path_factory.mktemp("packed") / "tiny.safetensors", "keep")


def rewritten(file, target, change, **metadata):
    """A copy with `change` done to its tensors."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, target, {"format": FORMAT, **metadata})
    return target


# ---- the same checkpoint


def test_an_edit_is_the_same_bit_for_bit(tmp_path):
    file = pack(TOY_FOLDER, tmp_path / "toy.safetensors", "keep")
    picture = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(1))
    one, other = (
        load(path).edit(picture, "make the background red", seed=5, steps=3)
        for path in ("toyworld", file)
    )
    assert torch.equal(one.tokens.ids, other.tokens.ids) and torch.equal(one.image, other.image)


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [("keep", "float32"), ("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")],
)
def test_weights_are_those_of_the_folder(tiny_checkpoint, tmp_path, stored, dtype):
    file = pack(tiny_checkpoint, tmp_path / "tiny.safetensors", stored)
    assert not differing(weights(load(tiny_checkpoint, dtype)), weights(load(file, dtype)))


def test_settings_and_schedule_are_kept(tiny_copy, tmp_path):
    (tiny_copy / "scheduler" / "scheduler_config.json").write_text('{"masking_schedule": "linear"}')
    file = pack(tiny_copy, tmp_path / "tiny.safetensors")
    assert Settings.read(file) == Settings.read(tiny_copy)
    assert Settings.read(file).sampling.schedule == "linear"


def test_what_a_folder_leaves_out_a_file_may_leave_out(tiny_copy, tmp_path):
    (tiny_copy / "editmgt.json").unlink()
    (tiny_copy / "scheduler" / "scheduler_config.json").unlink()
    file = pack(tiny_copy, tmp_path / "tiny.safetensors")
    assert Settings.read(file) == Settings()
    assert describe(file).complete


def test_a_file_is_converted_like_a_folder(tiny_checkpoint, packed, tmp_path):
    one = pack(tiny_checkpoint, tmp_path / "one.safetensors", "fp8")
    other = pack(packed, tmp_path / "other.safetensors", "fp8")
    assert one.read_bytes() == other.read_bytes()
    same = pack(one, tmp_path / "same.safetensors", "keep")
    for file in (one, same):
        with safe_open(file, "pt") as opened:
            assert opened.metadata()["fp8"] == SCHEME
    assert bits(one) == bits(same)
    wide = pack(one, tmp_path / "wide.safetensors", "fp32")
    assert not differing(weights(load(one)), weights(load(wide)))


def test_what_is_never_loaded_is_left_out(tiny_copy, tmp_path):
    place = tiny_copy / "llm_encoder"
    [own] = place.glob("*.safetensors")
    state = load_file(own)
    last = json.loads((place / "config.json").read_text())["num_hidden_layers"] - 1
    state[f"model.layers.{last}.rest.weight"] = torch.zeros(2, 2)
    save_file(state | {"lm_head.weight": torch.zeros(2, 2)}, own)
    inside = read_state_dict(pack(tiny_copy, tmp_path / "tiny.safetensors") / "llm_encoder")
    assert inside and not [n for n in inside if f"layers.{last}." in n or "lm_head" in n]
    assert "model.norm.weight" not in inside


def test_precision_that_must_not_be_lost_is_kept(tiny_checkpoint, tmp_path):
    for dtype in ("bf16", "fp16", "fp8"):
        file = pack(tiny_checkpoint, tmp_path / f"{dtype}.safetensors", dtype)
        exact, picture = read_state_dict(file / "editmgt"), read_state_dict(file / "vqvae")
        assert exact["mlm_layer.conv2.weight"].dtype == torch.float32
        assert {t.dtype for t in picture.values() if t.is_floating_point()} == {torch.float32}
        assert exact["project_to_hidden.weight"].dtype == {"fp16": torch.float16}.get(
            dtype, torch.bfloat16
        )


# ---- 8 bits


def test_eight_bits_are_within_their_bound():
    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    weight = weight * torch.logspace(-6, 6, 40)[:, None]
    weight[3] = 0
    scale = row_scales(weight)
    error = (dequantise(quantise(weight), scale) - weight).abs()
    # Half a step: of the three bits after a leading one, or of the smallest numbers.
    bound = torch.maximum(weight.abs() / 16, scale[:, None] * 2**-10)
    assert (error <= bound * 1.001).all()
    assert error[3].max() == 0 and error.max() > 0


def test_layers_are_stored_in_eight_bits_and_loaded_with_their_scales(tiny_checkpoint, tmp_path):
    file = pack(tiny_checkpoint, tmp_path / "tiny.safetensors", "fp8")
    folder, small = weights(load(tiny_checkpoint)), weights(load(file))
    for part in ("editmgt", "text_encoder", "llm_encoder"):
        state = read_state_dict(file / part)
        eight = [n for n in state if state[n].dtype == torch.float8_e4m3fn]
        assert eight and all(state[f"{n}_scale"].shape == state[n].shape[:1] for n in eight)
        assert not [n for n in eight if "embed" in n or "norm.weight" in n]
    for name, tensor in folder.items():
        most = tensor.abs().max()
        assert (small[name] - tensor).abs().max() <= most / 16, name
    assert file.stat().st_size < pack(tiny_checkpoint, tmp_path / "b.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("scale", "says"),
    [
        (None, "has no b.weight_scale"),
        (torch.ones(3), r"b.weight_scale is torch.float32 \[3\], expected float32 \[2\]"),
        (torch.ones(2, 1), "expected float32"),
        (torch.ones(2, dtype=torch.float16), "expected float32"),
    ],
)
def test_scales_that_do_not_fit(scale, says):
    eight = torch.ones(2, 3).to(torch.float8_e4m3fn)
    state = {"a.weight": eight, "a.weight_scale": torch.ones(2), "b.weight": eight}
    if scale is not None:
        state["b.weight_scale"] = scale
    build = lambda: torch.nn.ModuleDict({n: torch.nn.Linear(3, 2, bias=False) for n in "ab"})  # noqa: E731
    with pytest.raises(CheckpointError, match=says):
        load_module(build, state)


def test_a_scale_without_eight_bits_is_surplus():
    state = {"weight": torch.ones(2, 3), "weight_scale": torch.ones(2)}
    with pytest.raises(CheckpointError, match="surplus tensors.*\n.*weight_scale"):
        load_module(lambda: torch.nn.Linear(3, 2, bias=False), state)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_not_converted(tiny_copy, tmp_path, value):
    [own] = (tiny_copy / "editmgt").glob("*.safetensors")
    state = load_file(own)
    name = next(n for n in state if n.startswith("transformer_blocks.0") and state[n].ndim == 2)
    state[name][0, 0] = value
    save_file(state, own)
    with pytest.raises(CheckpointError, match=name):
        pack(tiny_copy, tmp_path / "x.safetensors", "fp8")
    assert not [p for p in tmp_path.iterdir() if p != tiny_copy]


# ---- files that are wrong


def refused(path):
    with pytest.raises(CheckpointError) as error:
        load(path)
    assert path.name in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.999])
def test_a_cut_file(packed, tmp_path, share):
    cut = tmp_path / "cut.safetensors"
    data = packed.read_bytes()
    cut.write_bytes(data[: int(len(data) * share)])
    assert "truncated or corrupt" in refused(cut)
    assert not is_packed(cut)


def test_other_safetensors_files(tiny_checkpoint, tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    for metadata in (None, {"format": "pt"}, {"format": "editmgt.tokens.1"}):
        save_file({"a": torch.zeros(2)}, foreign, metadata)
        assert "not a whole EditMGT checkpoint" in refused(foreign)
        assert not is_packed(foreign)
    save_file({"a": torch.zeros(2)}, foreign, {"format": "editmgt.model.2"})
    assert "update EditMGT" in refused(foreign)


@pytest.mark.parametrize("part", ["editmgt", "vqvae", "text_encoder", "tokenizer", "llm_encoder"])
def test_a_part_that_is_missing(packed, tmp_path, part):
    def change(tensors):
        for name in [n for n in tensors if n.startswith((f"{part}.", f"files/{part}/"))]:
            del tensors[name]

    file = rewritten(packed, tmp_path / "part.safetensors", change)
    assert part in refused(file)
    assert not describe(file).complete


@pytest.mark.parametrize(
    ("gone", "says"),
    [
        ("files/vqvae/config.json", "vqvae/config.json"),
        ("files/llm_encoder/tokenizer_config.json", "llm_encoder/tokenizer_config.json"),
        ("files/tokenizer/tokenizer.json", "tokenizer"),
        ("editmgt.embed.conv.weight", "missing tensors"),
        ("vqvae.quantize.embedding.weight", "missing tensors"),
    ],
)
def test_a_piece_that_is_missing(packed, tmp_path, gone, says):
    file = rewritten(packed, tmp_path / "piece.safetensors", lambda tensors: tensors.pop(gone))
    assert says in refused(file)


def test_a_piece_too_many(packed, tmp_path):
    file = rewritten(
        packed, tmp_path / "more.safetensors", lambda t: t.update({"editmgt.x": torch.zeros(2)})
    )
    assert "surplus tensors" in refused(file)


def test_a_config_that_is_no_json(packed, tmp_path):
    broken = torch.tensor(list(b"{nonsense"), dtype=torch.uint8)
    for name in ("files/editmgt/config.json", "files/editmgt.json"):
        file = rewritten(
            packed, tmp_path / "x.safetensors", lambda t, name=name: t.update({name: broken})
        )
        assert name.removeprefix("files/") in refused(file)


def test_names_that_are_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("absent.safetensors", "./absent.safetensors", "a/absent.safetensors"):
        with pytest.raises(InputError, match="absent.safetensors"):
            resolve(name)


# ---- writing


def test_the_reader_of_safetensors_agrees(packed):
    tensors = load_file(packed)
    assert len(tensors) > 100 and all(t.is_contiguous() for t in tensors.values())
    with open(packed, "rb") as stream:
        length = struct.unpack("<Q", stream.read(8))[0]
        assert length % 8 == 0 and length < 100_000  # no tokenizer in it: listing files reads it
    with safe_open(packed, "pt") as file:
        assert file.metadata() == {"format": FORMAT, "dtype": "keep"}


def test_tensors_of_any_kind_are_written_as_they_are(tmp_path):
    tensors = {
        "f": torch.randn(3, 5),
        "h": torch.randn(7).bfloat16(),
        "turned": torch.randn(4, 6).t(),
        "one": torch.tensor(3),
        "none": torch.zeros(0, 4),
        "flags": torch.tensor([True, False, True]),
        "eight": torch.randn(3).to(torch.float8_e4m3fn),
    }
    entries = [packing.Entry(n, t.dtype, tuple(t.shape), lambda t=t: t) for n, t in tensors.items()]
    packing.write(tmp_path / "x.safetensors", entries, {"a": "ü"})
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[n].float(), t.float()) for n, t in tensors.items())
    assert all(read[n].dtype == t.dtype for n, t in tensors.items())


def test_one_tensor_at_a_time_is_in_memory(tmp_path):
    alive, most = weakref.WeakSet(), []

    def make():
        tensor = torch.zeros(1000)
        alive.add(tensor)
        most.append(len(alive))
        return tensor

    entries = [packing.Entry(f"t{n}", torch.bfloat16, (1000,), make) for n in range(20)]
    packing.write(tmp_path / "x.safetensors", entries, {})
    assert len(most) == 20 and max(most) <= 2  # the one before lives until its name is reused


def test_a_failure_leaves_the_older_file(tiny_checkpoint, tmp_path):
    target = tmp_path / "x.safetensors"
    target.write_text("older")

    def stop(name, done, total):
        raise EditMGTError("stop")

    with pytest.raises(EditMGTError, match="stop"):
        pack(tiny_checkpoint, target, progress=stop)
    assert target.read_text() == "older" and list(tmp_path.iterdir()) == [target]


def test_progress_ends_at_the_total(tiny_checkpoint, tmp_path):
    seen = []
    pack(tiny_checkpoint, tmp_path / "x.safetensors", progress=lambda *report: seen.append(report))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1] == seen[-1][2] > 0


def test_what_cannot_be_converted(tiny_copy, tmp_path):
    with pytest.raises(InputError, match="dtype is 'int4'"):
        pack(tiny_copy, tmp_path / "x.safetensors", "int4")
    with pytest.raises(InputError, match="there is no folder"):
        pack(tmp_path / "absent", tmp_path / "x.safetensors")
    (tiny_copy / "vqvae" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="vqvae/config.json"):
        pack(tiny_copy, tmp_path / "x.safetensors")


# ---- the command


def test_convert_info_and_edit(tiny_checkpoint, tmp_path, capsys):
    file = tmp_path / "tiny.safetensors"
    assert main(["convert", str(tiny_checkpoint), "-o", str(file), "--dtype", "fp8"]) == 0
    assert str(file) in capsys.readouterr().out
    assert main(["info", str(file), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    folder = describe(tiny_checkpoint)
    assert facts["complete"] and facts["folder"] == str(file)
    parts = {p.part.name: p.parameters for p in folder.parts}
    assert facts["parts"]["vqvae"]["parameters"] == parts["vqvae"]
    assert facts["parts"]["editmgt"]["parameters"] == parts["editmgt"]
    assert facts["parts"]["llm_encoder"]["parameters"] < parts["llm_encoder"]
    assert main(["info", str(tiny_checkpoint), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)["memory_bytes"]["float32"]
    assert facts["memory_bytes"]["float32"]["layers"] == whole["layers"]
    assert facts["memory_bytes"]["float32"]["without_text"] == whole["without_text"]
    out = tmp_path / "out.png"
    words = ["make the sky red", "--model", str(file), "-o", str(out), "--steps", "2"]
    assert main(["generate", *words]) == 0 and out.is_file()


def test_info_of_an_incomplete_file(packed, tmp_path, capsys):
    def change(tensors):
        del tensors["files/vqvae/config.json"]

    file = rewritten(packed, tmp_path / "part.safetensors", change)
    assert main(["info", str(file)]) == 2
    assert "vqvae" in capsys.readouterr().err


def test_convert_keeps_what_is_there(tiny_checkpoint, packed, tmp_path, capsys):
    there = tmp_path / "there.safetensors"
    there.write_text("mine")
    assert main(["convert", str(tiny_checkpoint), "-o", str(there)]) == 2
    assert "--overwrite" in capsys.readouterr().err and there.read_text() == "mine"
    assert main(["convert", str(tiny_checkpoint), "-o", str(tmp_path / "x.bin")]) == 2
    assert ".safetensors" in capsys.readouterr().err
    before = packed.read_bytes()
    assert main(["convert", str(packed), "-o", str(packed), "--overwrite"]) == 2
    assert "is an input" in capsys.readouterr().err and packed.read_bytes() == before
    assert main(["convert", str(tiny_checkpoint), "-o", str(there), "--overwrite"]) == 0
    assert is_packed(there)
