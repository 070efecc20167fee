"""The transformer computes what the official implementation computes, block by block."""

import pytest
import torch

from editmgt_lib.models.attention import STRENGTH_SCOPES, text_to_image
from editmgt_lib.models.config import TransformerConfig
from editmgt_lib.models.transformer import TIME_SCALE, InjectionOptions, MaskedTransformer

from .goldens import assert_close, case_dirs, load, meta

REL = 1e-5
CASES = case_dirs("transformer_")
CAPTURES = case_dirs("attention_capture")


def build(case, weights=None):
    settings = meta(case)
    model = MaskedTransformer(TransformerConfig.from_dict(settings["config"]))
    model.load_state_dict(load(case / "weights.safetensors" if weights is None else weights))
    return model.train(False)


def arguments(inputs, run):
    """Inputs and injection options that a run's name stands for."""
    timestep = inputs["timestep_float" if "float_timestep" in run else "timestep"]
    options = {}
    if "_strength_" in run:
        options["strength"] = float(run.rsplit("_", 1)[1])
    if run == "edit_reference_timestep_5":
        options["timestep"] = 5
    reference = None
    if run.startswith("edit"):
        reference = inputs["reference_tokens" + "_other_grid" * ("other_grid" in run)]
    return {
        "ids": inputs["image_tokens"],
        "timestep": timestep,
        "text": inputs["text"],
        "pooled": inputs["pooled"],
        "micro_conditions": inputs["micro_conds"],
        "reference_ids": reference,
        "injection": InjectionOptions(**options),
    }


@pytest.mark.parametrize("case", CASES, ids=lambda d: f"{d.parent.parent.name}-{d.name}")
@torch.no_grad()
def test_logits_of_every_run(case):
    model, inputs = build(case), load(case / "inputs.safetensors")
    expected = load(case / "outputs.safetensors")
    runs = [k.removesuffix(".logits") for k in expected if k.endswith(".logits")]
    assert {"t2i", "edit"} <= set(runs)
    for run in runs:
        logits = model.logits(model(**arguments(inputs, run)).features)
        assert_close(logits.permute(0, 3, 1, 2), expected[f"{run}.logits"], REL, run)


@pytest.mark.parametrize("case", CASES, ids=lambda d: f"{d.parent.parent.name}-{d.name}")
@torch.no_grad()
def test_hidden_states_of_every_block(case):
    inputs, expected = load(case / "inputs.safetensors"), load(case / "outputs.safetensors")
    runs = {k.split(".mid.")[0] for k in expected if ".mid." in k}
    if not runs:
        assert "linear" not in case.name, "linear cases carry intermediate states"
        return
    (run,) = runs
    got, model = {}, build(case)
    rows, cols = inputs["image_tokens"].shape[-2:]
    text, target = inputs["text"].shape[1], rows * cols // model.config.stride**2

    def keep(name, output):
        return lambda module, args, result: got.update({name: output(result)})

    for i, block in enumerate(model.transformer_blocks):
        block.register_forward_hook(keep(f"double.{i}.text", lambda out: out[0]))
        block.register_forward_hook(keep(f"double.{i}.image", lambda out: out[1][:, :target]))
        block.register_forward_hook(keep(f"double.{i}.reference", lambda out: out[1][:, target:]))
    *earlier, last = model.single_transformer_blocks
    for i, block in enumerate(earlier):
        block.register_forward_hook(keep(f"single.{i}.joint", lambda out: out[:, : text + target]))
        block.register_forward_hook(
            keep(f"single.{i}.reference", lambda out: out[:, text + target :])
        )
    last.register_forward_hook(keep("last target", lambda out: out))
    given = arguments(inputs, run)
    model(**given)
    prepared = model.prepare(
        given["text"],
        given["pooled"],
        given["micro_conditions"],
        given["timestep"][None],
        tuple(given["ids"].shape[-2:]),
        given["reference_ids"],
        given["injection"],
    )
    cond = model.embed_conditions(given["pooled"], given["micro_conditions"])
    times = torch.stack([given["timestep"], torch.zeros_like(given["timestep"])]) * TIME_SCALE
    got |= {"text_in": prepared.text, "cond": cond}
    got["temb"], got["reference_temb"] = model.time_text_embed(times.float(), cond)
    got["reference_in"] = prepared.reference
    got["image_in"] = model.embed_tokens(given["ids"])
    signs = torch.tensor([-1.0, 1.0]).repeat(prepared.rotary.shape[-1] // 2)
    tables = prepared.rotary * torch.stack([torch.ones_like(signs), signs])[:, None]
    got["rope_cos"], got["rope_sin"] = tables[:, : text + target]
    got["reference_rope_cos"], got["reference_rope_sin"] = tables[:, text + target :]
    # Of the last block nothing but the target's rows is computed, as nothing else is read.
    joint = expected[f"{run}.mid.single.{len(earlier)}.joint"]
    assert_close(got["last target"], joint[:, -got["last target"].shape[1] :], REL, "last target")
    del got["last target"]
    for name, value in expected.items():
        prefix, _, part = name.partition(".mid.")
        if part in got:
            assert_close(got.pop(part), value, REL, part)
    assert not got, f"nothing in the goldens to compare {sorted(got)} with"


@pytest.mark.parametrize("case", CAPTURES, ids=lambda d: d.parent.parent.name)
@torch.no_grad()
def test_captured_maps(case):
    settings, inputs = meta(case), load(case / "inputs.safetensors")
    expected = load(case / "outputs.safetensors")
    weights = case.parent / settings["weights"]
    model = build(weights.parent, weights)
    runs = [k.removesuffix(".logits") for k in expected if k.endswith(".logits")]
    assert runs
    for run in runs:
        given, blocks = arguments(inputs, run), settings["blocks"]
        maps = model(**given, probe=text_to_image, probed=blocks).scores
        assert sorted(maps) == blocks
        for block, got in maps.items():
            assert_close(got, expected[f"{run}.text_to_image.{block}"], REL, f"{run} block {block}")


def test_goldens_are_there():
    assert CASES and CAPTURES
    assert len(STRENGTH_SCOPES) == 2  # the published code's, which the goldens show; the paper's
