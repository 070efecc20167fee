"""The base model computes what its official code computes: CLIP's states, logits, a whole picture.

The folder is Meissonic's published layout, read by the loader that users have.
"""

import json
import shutil

import pytest
import torch

import editmgt_lib
from editmgt_lib.pictures.canvas import Canvas, Tokens
from editmgt_lib.sampling import predictor as prediction
from editmgt_lib.sampling.noise import SharedNoise
from editmgt_lib.text.clip import ClipEncoder
from editmgt_lib.text.instruction import Instruction

from . import goldens

REL = 1e-5
CASES = goldens.case_dirs("meissonic")


@pytest.fixture(scope="module", params=CASES, ids=goldens.case_id)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def model(case, tiny_meissonic, tmp_path_factory):
    """The golden networks in a folder; tokenizers and picture tokenizer take no part."""
    folder, settings = tmp_path_factory.mktemp("golden") / "meissonic", goldens.meta(case)
    for part in ("tokenizer", "vqvae", "scheduler"):
        shutil.copytree(tiny_meissonic / part, folder / part)
    for part, weights, config in (
        ("transformer", "weights", "config"),
        ("text_encoder", "clip_weights", "clip_config"),
    ):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(settings[config]))
        shutil.copy(case / f"{weights}.safetensors", folder / part / "model.safetensors")
    # The tiny tokenizer has more words than the golden encoder.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("editmgt_lib.text.clip.prepare_tokenizer", lambda *_: None)
        return editmgt_lib.load(folder, device="cpu", dtype="float32")


def arrays(case):
    return goldens.load(case / "inputs.safetensors"), goldens.load(case / "outputs.safetensors")


@torch.no_grad()
def test_text_states_are_those_of_clip(case, model):
    inputs, expected = arrays(case)
    assert isinstance(model.text_encoders, ClipEncoder)
    for name, ids in (("prompt", inputs["clip_ids"]), ("negative", inputs["negative_ids"])):
        states, pooled = model.text_encoders.encode_ids(ids)
        goldens.assert_close(states, expected[f"{name}.states"], REL, f"{name} states")
        goldens.assert_close(pooled, expected[f"{name}.pooled"], REL, f"{name} pooled")


@torch.no_grad()
def test_logits(case, model):
    inputs, expected = arrays(case)
    states, pooled = model.text_encoders.encode_ids(inputs["clip_ids"])
    given = inputs["image_tokens"], inputs["timestep"], states, pooled, inputs["micro_conds"]
    logits = model.transformer.logits(model.transformer(*given).features)
    goldens.assert_close(logits.permute(0, 3, 1, 2), expected["t2i.logits"], REL)


@torch.no_grad()
def test_a_picture_from_a_text_has_the_official_tokens(case, model, monkeypatch):
    inputs, expected = arrays(case)
    run, mask_id = goldens.meta(case)["run"], goldens.meta(case)["mask_token_id"]
    states, pooled = model.text_encoders.encode_ids(inputs["clip_ids"][:1])
    negative_states, negative_pooled = model.text_encoders.encode_ids(inputs["negative_ids"])
    instruction = Instruction(
        ("p",), ("n",), states, pooled, negative_states, negative_pooled, ((),), ((),), (0,)
    )
    options = model.settings.override(
        steps=run["num_inference_steps"], draw="race", temperature=tuple(run["temperature"])
    ).sampling
    assert options.guidance == run["guidance_scale"]
    height, width = run["height"], run["width"]
    blank = Tokens(torch.full((1, height // 16, width // 16), mask_id),
                   Canvas.blank(1, height, width, 16))  # fmt: skip
    logits, events, call = [], [], prediction.Predictor.__call__

    def spied(self, ids, step, rows=None):
        if not logits:
            logits.append(call(self, ids, step)[0])  # of all positions
        return call(self, ids, step, rows)

    monkeypatch.setattr(prediction.Predictor, "__call__", spied)
    noise = SharedNoise(torch.Generator().manual_seed(run["generator_seed"]))
    tokens, _ = model.sample(blank, instruction, options, noise=noise, callback=events.append)
    first = logits[0].unflatten(1, blank.ids.shape[1:])[:, ::8, ::8].permute(0, 3, 1, 2)
    goldens.assert_close(first, expected["generate.logits_step0_every8"], REL, "first step")
    for step, event in enumerate(events):
        proposal = expected["generate.pred_original_sample"][step].long()
        assert torch.equal(event.proposal, proposal), f"step {step}"
    assert torch.equal(tokens.ids, expected["generate.final"].long())


def test_defaults_are_those_of_the_published_script(case, model):
    published, own = goldens.meta(case)["defaults"], model.settings
    assert own.sampling.steps == published["num_inference_steps"]
    assert own.sampling.guidance == published["guidance_scale"]
    assert own.resolution == published["resolution"]
    assert own.text_length == len(arrays(case)[0]["clip_ids"][0]) and not own.edits
