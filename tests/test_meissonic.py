"""The base model's layout, read, described, packed and fetched; and how stage 1 starts from it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import editmgt_lib
from editmgt_lib.checkpoints import describe, hub, layout_of, pack, save_module
from editmgt_lib.checkpoints.layout import EDITMGT, MEISSONIC, check_folder
from editmgt_lib.checkpoints.transfer import RemoteFile
from editmgt_lib.cli import main
from editmgt_lib.commands.info import memory
from editmgt_lib.errors import CheckpointError
from editmgt_lib.results import UNTRAINED
from editmgt_lib.settings import Settings
from editmgt_lib.text.clip import ClipEncoder
from editmgt_lib.text.encoders import TextEncoders
from editmgt_lib.training.stage_one import load_stage_one_text, start_stage_one

SIZE = (64, 64)
PROMPT = "a red heart on a blue background"


def load(folder, **options):
    return editmgt_lib.load(folder, device="cpu", dtype="float32", **options)


@pytest.fixture(scope="module")
def model(tiny_meissonic):
    return load(tiny_meissonic)


@pytest.fixture
def copy(tiny_meissonic, tmp_path):
    """A copy of the base model to break."""
    return shutil.copytree(tiny_meissonic, tmp_path / "base")


def change_weights(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


# ---- reading


def test_the_transformers_folder_tells_the_layout(tiny_checkpoint, tiny_meissonic, copy):
    assert layout_of(tiny_checkpoint) is EDITMGT and layout_of(tiny_meissonic) is MEISSONIC
    report = describe(tiny_meissonic)
    assert report.complete and [p.part.name for p in report.parts][0] == "transformer"
    shutil.copytree(tiny_checkpoint / "editmgt", copy / "editmgt")  # the official repository's way
    assert layout_of(copy) is EDITMGT


def test_its_own_settings_hold_unless_a_file_says_otherwise(model, copy):
    own = model.settings
    assert (own.text_length, own.edits, own.resolution) == (77, False, 1024)
    assert (own.sampling.steps, own.sampling.guidance, own.sampling.schedule) == (64, 9.0, "cosine")
    assert own.negative == Settings().negative
    (copy / "editmgt.json").write_text(json.dumps({"resolution": 512, "sampling": {"steps": 48}}))
    changed = Settings.read(copy)
    assert (changed.resolution, changed.sampling.steps) == (512, 48)
    assert (changed.sampling.guidance, changed.text_length, changed.edits) == (9.0, 77, False)
    (copy / "editmgt.json").write_text(json.dumps({"edits": "no"}))
    with pytest.raises(CheckpointError, match="edits is 'no'; use true or false"):
        Settings.read(copy)


def test_a_text_becomes_a_picture(model):
    encoders = model.text_encoders
    assert type(encoders) is ClipEncoder and repr(encoders).startswith("ClipEncoder(L=77")
    first = model.generate(PROMPT, size=SIZE, steps=3, seed=1)
    assert first.shape == (1, *SIZE, 3) and first.isfinite().all()
    assert torch.equal(first, model.generate(PROMPT, size=SIZE, steps=3, seed=1))
    assert not torch.equal(first, model.generate("a green star", size=SIZE, steps=3, seed=1))


def test_words_lie_in_clips_own_rows_and_notes_name_them_once(model):
    instruction = model.encode_instruction(["red heart", " ".join(["heart"] * 90)])
    assert instruction.states.shape == (2, 77, 64) and instruction.pooled.shape == (2, 16)
    assert instruction.rows_of("heart")[0] == [2]  # after the mark of the start
    assert instruction.truncated == (0, 15)
    assert instruction.notes == (
        "prompt: too long, its end is ignored (92 tokens for 77 text rows)",
    )


@pytest.mark.parametrize("offload", ["stages", "layers"])
def test_offloaded_it_makes_the_same_picture(model, tiny_meissonic, offload):
    picture = load(tiny_meissonic, offload=offload).generate(PROMPT, size=SIZE, steps=2)
    assert torch.equal(picture, model.generate(PROMPT, size=SIZE, steps=2))


def test_a_picture_to_edit_is_taken_with_a_note(model, tiny_checkpoint):
    result = model.edit(torch.rand(1, *SIZE, 3), PROMPT, steps=1, fit_options="native")
    assert result.image.shape == (1, *SIZE, 3) and UNTRAINED in result.notes
    tokens = load(tiny_checkpoint, text=False).encode_image(torch.rand(1, *SIZE, 3))
    assert UNTRAINED not in tokens.notes


# ---- strictly


@pytest.mark.parametrize("part", ["vqvae", "text_encoder", "tokenizer"])
def test_a_missing_part_is_named(copy, part):
    shutil.rmtree(copy / part)
    with pytest.raises(CheckpointError, match=f"not a complete checkpoint: {part}/"):
        load(copy)


def test_a_folder_without_the_transformers_config_is_still_told_by_its_name(copy):
    (copy / "transformer" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint: transformer/config.json \(.*\) not fo"):
        load(copy)


@pytest.mark.parametrize(
    ("part", "name"),
    [("transformer", "context_embedder.weight"), ("text_encoder", "text_projection.weight")],
)
def test_missing_and_surplus_tensors_are_refused(copy, part, name):
    (file,) = (copy / part).glob("*.safetensors")
    change_weights(file, lambda tensors: tensors.update(other=torch.zeros(2)))
    with pytest.raises(CheckpointError, match="surplus tensors"):
        load(copy)
    change_weights(file, lambda tensors: [tensors.pop(key) for key in ("other", name)])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load(copy)


def test_parts_of_different_checkpoints_are_refused(copy, tiny_checkpoint):
    (copy / "editmgt.json").write_text(json.dumps({"text_length": 24}))
    with pytest.raises(CheckpointError, match="text_length is 24, but its CLIP has 77 positions"):
        load(copy)
    (copy / "editmgt.json").unlink()
    shutil.rmtree(copy / "transformer")
    shutil.copytree(tiny_checkpoint / "editmgt", copy / "transformer")
    with pytest.raises(
        CheckpointError, match=r"widths \(16, 16\).* \(64, 16\); .*belongs in editm"
    ):
        load(copy)


def test_an_editor_with_another_language_model_is_refused(tiny_copy, tmp_path):
    from editmgt_lib.toyworld.language import corpus
    from editmgt_lib.toyworld.text_encoders import write_text_folders

    write_text_folders(tmp_path / "wider", corpus(), text_length=24, width=32, pooled=16)
    shutil.rmtree(tiny_copy / "llm_encoder")
    shutil.copytree(tmp_path / "wider" / "llm_encoder", tiny_copy / "llm_encoder")
    with pytest.raises(CheckpointError, match=r"\(16, 16\), the text encoders give \(32, 16\)"):
        load(tiny_copy)


# ---- one file, the commands, the Hub


@pytest.mark.parametrize("dtype", ["keep", "fp8"])
def test_one_file_holds_it(model, tiny_meissonic, tmp_path, dtype):
    file = pack(tiny_meissonic, tmp_path / "base.safetensors", dtype)
    assert check_folder(file) == file and describe(file).complete
    packed = load(file)
    assert type(packed.text_encoders) is ClipEncoder and packed.settings == model.settings
    picture = packed.generate(PROMPT, size=SIZE, steps=2)
    assert picture.shape == (1, *SIZE, 3)
    if dtype == "keep":
        assert torch.equal(picture, model.generate(PROMPT, size=SIZE, steps=2))


def test_commands_describe_and_use_it(tiny_meissonic, tmp_path, capsys):
    needed = memory(describe(tiny_meissonic))["float32"]
    assert needed["all"] > needed["without_text"] > 0 and needed["layers"] == needed["stages"]
    assert main(["info", str(tiny_meissonic)]) == 0
    shown = capsys.readouterr().out
    assert "transformer" in shown and "77 text rows" in shown and "llm_encoder" not in shown
    out = tmp_path / "a.png"
    command = ["generate", PROMPT, "-o", str(out), "--model", str(tiny_meissonic)]
    assert main([*command, "--size", "64", "--steps", "2", "--device", "cpu"]) == 0
    assert out.stat().st_size > 0


def test_the_hub_gives_the_parts_of_one_layout():
    def listing(*layouts):
        parts = {part for layout in layouts for part in layout.parts}
        names = {f"{part.name}/{name}" for part in parts
                 for name in (part.marker, "model.safetensors")}  # fmt: skip
        return [RemoteFile(name, 1, None, None) for name in sorted(names)]

    def folders(*layouts):
        return {f.path.split("/")[0] for f in hub.wanted_files(listing(*layouts), "a/b")}

    assert folders(MEISSONIC) == {part.name for part in MEISSONIC.parts}
    assert folders(EDITMGT, MEISSONIC) == {part.name for part in EDITMGT.parts}
    incomplete = [f for f in listing(MEISSONIC) if not f.path.startswith("text_encoder")]
    with pytest.raises(CheckpointError, match="it has no text_encoder/config.json"):
        hub.wanted_files(incomplete, "a/b")


# ---- the start of the stages


def test_stage_one_starts_from_the_base_with_a_fresh_connector(tiny_meissonic, model):
    transformer, fresh = start_stage_one(tiny_meissonic, text_width=24, seed=3)
    assert fresh == ("connector.projector.weight", "connector.projector.bias")
    weights, base = transformer.state_dict(), model.transformer.state_dict()
    assert set(weights) - set(base) == set(fresh)
    assert all(torch.equal(weights[name], tensor) for name, tensor in base.items())
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert transformer.config.connector_type == "linear"
    assert transformer.config.joint_attention_dim == 24
    again, other = (start_stage_one(tiny_meissonic, 24, seed)[0].state_dict() for seed in (3, 4))
    assert torch.equal(again[fresh[0]], weights[fresh[0]])
    assert not torch.equal(other[fresh[0]], weights[fresh[0]]) and weights[fresh[0]].any()


def test_stage_one_refuses_other_starts(copy, tiny_checkpoint):
    with pytest.raises(CheckpointError, match="has no base model for stage 1"):
        start_stage_one(tiny_checkpoint, 16, 0)
    (file,) = (copy / "transformer").glob("*.safetensors")
    change_weights(file, lambda tensors: tensors.pop("project_to_hidden.weight"))
    with pytest.raises(CheckpointError, match=r"missing tensors \(1\)"):
        start_stage_one(copy, 16, 0)
    shutil.rmtree(copy / "transformer")
    shutil.copytree(tiny_checkpoint / "editmgt", copy / "transformer")
    with pytest.raises(CheckpointError, match="has a connector already"):
        start_stage_one(copy, 16, 0)


@pytest.fixture
def exported(tiny_meissonic, tiny_checkpoint, tmp_path) -> Path:
    """What stage 1 leaves behind, before its first step."""
    folder = tmp_path / "stage-1"
    encoders = load_stage_one_text(tiny_meissonic, tiny_checkpoint / "llm_encoder", 24)
    assert type(encoders) is TextEncoders and encoders.widths == (16, 16)
    transformer, _ = start_stage_one(tiny_meissonic, encoders.widths[0], 0)
    save_module(folder / "editmgt", transformer, transformer.config.to_dict())
    for source, parts in (
        (tiny_meissonic, ("vqvae", "text_encoder", "tokenizer", "scheduler")),
        (tiny_checkpoint, ("llm_encoder",)),
    ):
        for part in parts:
            shutil.copytree(source / part, folder / part)
    settings = {"resolution": 64, "text_length": 24, "edits": False}
    (folder / "editmgt.json").write_text(json.dumps(settings))
    return folder


def test_later_stages_start_from_an_export_in_float32(exported, tiny_meissonic):
    started = start_stage_one(tiny_meissonic, 16, 0)[0].state_dict()
    found = load(exported).transformer.state_dict()
    assert found.keys() == started.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in started.items())
    (file,) = (exported / "editmgt").glob("*.safetensors")
    change_weights(file, lambda t: t.update({n: v.bfloat16() for n, v in t.items()}))
    found = load(exported).transformer.state_dict()  # stored smaller, trained in float32
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    change_weights(file, lambda t: t.pop("connector.projector.bias"))
    with pytest.raises(CheckpointError, match=r"missing tensors \(1\).*\n  connector.projector.b"):
        load(exported)
