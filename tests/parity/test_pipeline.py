"""Whole runs against the golden loops of the official pipeline: ids equal at every step.

Two levels. `Predictor` with `sample_tokens` is compared array by array; `EditMGT.sample`, where the
public options can express a run, must reach the same tokens. The text states and reference tokens
are given, so no tokenizer and no text encoder takes part.
"""

from functools import cache
from types import SimpleNamespace

import pytest
import torch

from editmgt_lib.localization.maps import LocalizationOptions, consolidate
from editmgt_lib.models.config import TransformerConfig
from editmgt_lib.models.transformer import MaskedTransformer
from editmgt_lib.pictures.fitting import Canvas, Tokens
from editmgt_lib.pipeline import EditMGT
from editmgt_lib.sampling import predictor as prediction
from editmgt_lib.sampling.loop import sample_tokens
from editmgt_lib.sampling.noise import SharedNoise
from editmgt_lib.sampling.options import SamplingOptions
from editmgt_lib.sampling.predictor import Predictor
from editmgt_lib.settings import Settings
from editmgt_lib.text.instruction import Instruction

from . import goldens

CASES = goldens.case_dirs("pipeline_")
RUNS = [(case, name, run) for case in CASES for name, run in goldens.meta(case)["runs"].items()]
FACTOR = 16
# Relative errors allowed. Rescaling divides the error of the raw scores by their span, so maps are
# allowed SCORES / span; the golden maps themselves are 0.9e-6 off a float64 run of the network.
LOGITS, SCORES = 1e-5, 1e-5


def label(entry):
    case, name, _ = entry
    return f"{case.parent.parent.name}-{case.name}-{name}"


def params(keep=lambda run: True):
    return [pytest.param(*entry, id=label(entry)) for entry in RUNS if keep(entry[2])]


def layers_of(run):
    """First and last block of a run's scores, or None where they leave gaps."""
    blocks = run["attention_enable_blocks"]
    return (blocks[0], blocks[-1]) if blocks == list(range(blocks[0], blocks[-1] + 1)) else None


def expressible(run):
    """Whether the public options say the same (ours name a range, and keep the reference)."""
    gaps = run["attention_enable_blocks"] and not layers_of(run)
    return not gaps and not run["mask_box_top_bottom_left_right"]


@cache
def transformer(case):
    settings = goldens.meta(case)
    model = MaskedTransformer(TransformerConfig.from_dict(dict(settings["config"])))
    model.load_state_dict(goldens.load(case.parent / settings["weights"]))
    return model.train(False)


def options_of(run):
    return SamplingOptions(
        steps=run["num_inference_steps"],
        guidance=run["guidance_scale"],
        strength=float(run["reference_strength"]),
        temperature=tuple(map(float, run["temperature"])),
        schedule=run["masking_schedule"],
        threshold=run["local_guidance"],
        draw="race",
    )


def localization_of(run):
    blocks = run["attention_enable_blocks"]
    return None if blocks is None else LocalizationOptions(layers=(blocks[0], blocks[-1]))


def given(case, run):
    """What a run starts from: instruction, reference ids or None, start ids, noise."""
    inputs, batch = goldens.load(case / "inputs.safetensors"), run["batch"]
    height, width = run["height"], run["width"]
    rows, cols = height // FACTOR, width // FACTOR
    instruction = Instruction(
        prompt=("",) * batch,
        negative=("",) * batch,
        states=inputs["encoder_hidden_states"][:batch],
        pooled=inputs["prompt_embeds"][:batch],
        negative_states=inputs["negative_encoder_hidden_states"][:batch],
        negative_pooled=inputs["negative_prompt_embeds"][:batch],
        rows=((),) * batch,
        content_rows=((),) * batch,
        truncated=(0,) * batch,
    )
    reference = None
    if run["reference"]:
        side = f"{height}" if height == width else f"{height}x{width}"
        reference = inputs[f"reference_tokens_{side}"][:batch].long()
    mask_id = goldens.meta(case)["mask_token_id"]
    return SimpleNamespace(
        instruction=instruction,
        reference=reference,
        canvas=Canvas.blank(batch, height, width, FACTOR),
        blank=torch.full((batch, rows, cols), mask_id),
        mask_id=mask_id,
        noise=SharedNoise(torch.Generator().manual_seed(run["generator_seed"])),
    )


def masked_at_start(case, name, start):
    """Tokens that the official run starts with as masks, bool [B, H, W]."""
    return goldens.load(case / f"{name}.safetensors")["sample_in"][0] == start.mask_id


def grid_of(case, run):
    """Rows and columns of positions inside the transformer."""
    stride = 2 if goldens.meta(case)["config"]["downsample"] else 1
    return run["height"] // FACTOR // stride, run["width"] // FACTOR // stride


def within(raw):
    """Relative error allowed in the map of raw scores [B, N]."""
    return SCORES * float((raw.amax(-1) / (raw.amax(-1) - raw.amin(-1))).max())


def record(case, name, run, monkeypatch):
    """Run one golden case through `Predictor` and `sample_tokens`, keeping every array."""
    start, seen = given(case, run), SimpleNamespace(ids=[], logits=[], raw=[], maps=[], events=[])
    options, ids, reference = options_of(run), start.blank, start.reference
    if run["mask_box_top_bottom_left_right"]:
        # The published code masks its own reference in place; its arrays need that reproduced.
        place = masked_at_start(case, name, start)
        ids = torch.where(place, start.mask_id, reference)
        reference = ids
    tokens = Tokens(start.blank if reference is None else reference, start.canvas, reference)
    predictor = Predictor(
        transformer(case), tokens, start.instruction, options, localization_of(run)
    )
    if run["attention_enable_blocks"]:
        predictor.blocks = run["attention_enable_blocks"]

    def spied(scores, *more):
        seen.raw.append(scores)
        return consolidate(scores, *more)

    def predict(ids, step, rows):
        seen.ids.append(ids)
        logits, found = predictor(ids, step, rows)
        assert rows.shape[1] == (ids == start.mask_id).sum((1, 2)).max()
        whole = logits.new_full((*ids.shape, logits.shape[-1]), torch.nan)
        for item, some, own in zip(whole, rows, logits, strict=True):
            item.view(-1, item.shape[-1])[some] = own  # of known tokens there are none
        seen.logits.append(whole.permute(0, 3, 1, 2))
        seen.maps.append(None if found is None else found.relevance)
        return logits, found

    monkeypatch.setattr(prediction, "consolidate", spied)
    codes = goldens.meta(case)["config"]["codebook_size"]
    seen.final = sample_tokens(
        predict, ids, options=options, noise=start.noise, mask_id=start.mask_id, codes=codes,
        source=start.reference if options.threshold > 0 else None, callback=seen.events.append,
    ).ids  # fmt: skip
    return seen


def test_goldens_are_there():
    assert CASES


@pytest.mark.parametrize("case", CASES, ids=goldens.case_id)
def test_every_golden_run_is_compared(case):
    stored = {p.stem for p in case.glob("*.safetensors")} - {"inputs"}
    assert stored and stored == set(goldens.meta(case)["runs"])


@pytest.mark.parametrize(("case", "name", "run"), params())
def test_every_array_of_the_run(case, name, run, monkeypatch):
    expected = goldens.load(case / f"{name}.safetensors")
    got = record(case, name, run, monkeypatch)
    left = set(expected) - {"generator_state"}
    for key in sorted(left):
        if key.startswith("logits_step"):
            step, every = (int(n) for n in key.removeprefix("logits_step").split("_every"))
            thinned = got.logits[step][..., ::every, ::every]
            masked = ~thinned.isnan()
            assert step > 0 or masked.all()
            goldens.assert_close(thinned[masked], expected[key][masked], LOGITS, key)
            left.discard(key)
    for step, ids in enumerate(expected["sample_in"]):
        assert torch.equal(got.ids[step], ids.long()), f"tokens before step {step}"
    for step, ids in enumerate(expected["pred_original_sample"]):
        assert torch.equal(got.events[step].proposal, ids.long()), f"proposal of step {step}"
    assert torch.equal(got.final, expected["final"].long())
    left -= {"sample_in", "pred_original_sample", "final"}
    if "local_scores" in left:
        for step, scores in enumerate(expected["local_scores"]):
            raw = expected["scores_raw"][step]
            goldens.assert_close(got.raw[step], raw, SCORES, f"raw scores {step}")
            goldens.assert_close(got.maps[step].flatten(1), scores, within(raw), f"scores {step}")
            alone = consolidate(raw, grid_of(case, run), LocalizationOptions()).relevance
            goldens.assert_close(alone.flatten(1), scores, SCORES, f"scores of raw scores {step}")
        left -= {"local_scores", "scores_raw"}
    assert not left, f"arrays that nothing was compared with: {sorted(left)}"
    assert len(got.ids) == len(expected["sample_in"]) == run["num_inference_steps"]


@pytest.mark.parametrize(("case", "name", "run"), params())
def test_the_draws_come_from_the_same_generator(case, name, run):
    """The generator stands where the official one stood before every step."""
    states = goldens.load(case / f"{name}.safetensors")["generator_state"]
    generator = torch.Generator().manual_seed(run["generator_seed"])
    noise, codes = SharedNoise(generator), goldens.meta(case)["config"]["codebook_size"]
    for step, state in enumerate(states):
        assert torch.equal(generator.get_state(), state), f"step {step}"
        positions = run["tokens"] // run["batch"]
        noise.draw(run["batch"], positions, codes, step == len(states) - 1)


def public(case):
    """The public object around a golden transformer; sampling touches neither of the others."""
    settings = Settings(text_length=goldens.meta(case)["text_length"])
    return EditMGT(transformer(case), torch.nn.Identity(), None, settings)


@pytest.mark.parametrize(("case", "name", "run"), params(expressible))
def test_the_public_method_reaches_the_same_tokens(case, name, run):
    expected = goldens.load(case / f"{name}.safetensors")
    start = given(case, run)
    ids = start.blank if start.reference is None else start.reference
    tokens = Tokens(ids, start.canvas, start.reference)
    before, events = ids.clone(), []
    result, found = public(case).sample(
        tokens, start.instruction, options_of(run), localization=localization_of(run),
        callback=events.append, noise=start.noise,
    )  # fmt: skip
    assert torch.equal(result.ids, expected["final"].long())
    assert torch.equal(ids, before)
    for step, proposal in enumerate(expected["pred_original_sample"]):
        assert torch.equal(events[step].proposal, proposal.long())
    if "local_scores" in expected:
        last, allowed = found.relevance.flatten(1), within(expected["scores_raw"][-1])
        goldens.assert_close(last, expected["local_scores"][-1], allowed)
        held = [float(event.held.float().mean()) for event in events]
        assert held == pytest.approx(run["held_fraction_per_step"], abs=1e-4)
        same = int((result.ids == start.reference).sum())
        assert same == run["final_tokens_equal_reference"]
    else:
        assert found is None


@pytest.mark.parametrize("case", CASES, ids=goldens.case_id)
def test_the_public_method_does_not_mask_its_own_reference(case, monkeypatch):
    """Published mask editing blanks the reference inside the box too; ours shows the model all."""
    boxed = [
        n for n, r in goldens.meta(case)["runs"].items() if r["mask_box_top_bottom_left_right"]
    ]
    prepare, step, seen = MaskedTransformer.prepare, MaskedTransformer.step, {}

    def spied_prepare(self, text, pooled, micro, times, grid, reference_ids=None, *more):
        seen["reference"] = reference_ids
        return prepare(self, text, pooled, micro, times, grid, reference_ids, *more)

    def spied_step(self, ids, *more, **named):
        seen.setdefault("first", ids)
        return step(self, ids, *more, **named)

    monkeypatch.setattr(MaskedTransformer, "prepare", spied_prepare)
    monkeypatch.setattr(MaskedTransformer, "step", spied_step)
    for name in boxed:
        seen.clear()
        run, expected = goldens.meta(case)["runs"][name], goldens.load(case / f"{name}.safetensors")
        start = given(case, run)
        place, whole = masked_at_start(case, name, start), start.reference.clone()
        tokens = Tokens(start.reference, start.canvas, start.reference)
        pixels = place.repeat_interleave(FACTOR, 1).repeat_interleave(FACTOR, 2)
        result, _ = public(case).sample(
            tokens, start.instruction, options_of(run), region=pixels, noise=start.noise
        )
        assert torch.equal(seen["first"][:1], expected["sample_in"][0].long())
        assert all(torch.equal(half, whole[0]) for half in seen["reference"])
        assert torch.equal(tokens.ids, whole)
        assert torch.equal(result.ids[~place], whole[~place])
        assert not torch.equal(result.ids, expected["final"].long())
