"""Validation: what is measured, exactly alike on any number of processes."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

import editmgt_lib
from editmgt_lib.data.source import TokenBatch
from editmgt_lib.errors import InputError
from editmgt_lib.models.transformer import MaskedTransformer
from editmgt_lib.sampling.predictor import micro_conditions
from editmgt_lib.toyworld.batches import to_pixels
from editmgt_lib.toyworld.text_encoders import build_text_encoders
from editmgt_lib.toyworld.world import pair_at
from editmgt_lib.training import initial
from editmgt_lib.training.curves import COLORS, WIDTH, draw_curves, read_curves
from editmgt_lib.training.generation import GenerationStage
from editmgt_lib.training.objective import ObjectiveOptions
from editmgt_lib.training.validation import (
    QUANTITIES,
    ValidationOptions,
    input_effects,
    validate,
)

from .test_objective import CORPUS, Source
from .tiny import TRANSFORMER

BOUND = 5e-4
"""Least change of the logits, relative to their spread, by an input that the network uses."""
FEW = ValidationOptions(samples=7, ratios=(0.3, 1.0), seeds=(0, 1), batch=3)


@pytest.fixture(scope="module")
def encoders():
    return build_text_encoders(CORPUS, text_length=16, width=16, pooled=16)


def stage_of(encoders, transformer=None, options=None):
    transformer = transformer or initial.new_transformer(TRANSFORMER, seed=0)
    options = options or ObjectiveOptions(steps=8)
    return GenerationStage(transformer, encoders, Source(), options, precision=torch.float32)


def flat(tally):
    return torch.cat([tally.sums.flatten(), tally.counts.flatten(), tally.largest])


def test_shards_add_up_to_the_whole(encoders):
    stage = stage_of(encoders)
    whole = validate(stage, Source(), FEW)
    for world in (2, 3):
        parts = [validate(stage, Source(), FEW, rank, world) for rank in range(world)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        assert torch.equal(total.counts, whole.counts)
        assert torch.allclose(flat(total), flat(whole), rtol=1e-5, atol=1e-4)


def test_the_batch_does_not_matter_and_weights_do(encoders):
    stage = stage_of(encoders)
    whole = validate(stage, Source(), FEW)
    assert torch.allclose(
        flat(validate(stage, Source(), replace(FEW, batch=7))), flat(whole), rtol=1e-5, atol=1e-4
    )
    assert torch.equal(flat(validate(stage, Source(), FEW)), flat(whole))
    with torch.no_grad():
        stage.transformer.mlm_layer.conv2.weight.mul_(2)
    assert not torch.allclose(flat(validate(stage, Source(), FEW)), flat(whole), rtol=1e-3)


def test_counts_are_of_masked_tokens(encoders):
    counts = validate(stage_of(encoders), Source(), FEW).counts
    named = dict(zip(QUANTITIES, counts[1], strict=True))  # at ratio 1 all 16 tokens
    changed = sum(n % 9 for n in range(7))
    assert named["loss"] == 2 * 7 * 16 and named["changed_loss"] == 2 * changed
    assert named["kept_loss"] == named["copied"] == 2 * (7 * 16 - changed)
    assert dict(zip(QUANTITIES, counts[0], strict=True))["loss"] == 2 * 7 * 5  # round(0.3 * 16)


def test_a_network_that_ignores_an_input_has_no_gap(encoders):
    stage = stage_of(encoders)
    used = validate(stage, Source(), FEW).summary(FEW)
    assert used["instruction_gap"] != 0 and used["reference_gap"] != 0
    with torch.no_grad():
        for block in stage.transformer.blocks:  # gates closed: nothing mixes tokens
            for norm in ("norm", "norm1", "norm1_context"):
                if hasattr(block, norm):
                    getattr(block, norm).linear.bias.zero_()
    deaf = validate(stage, Source(), FEW).summary(FEW)
    for name in QUANTITIES:
        if "gap" in name:
            assert deaf[name] == pytest.approx(0, abs=1e-6)


def test_text_to_image_has_no_reference_to_measure(encoders):
    summary = validate(stage_of(encoders), Source(edit=False), FEW).summary(FEW)
    assert summary["loss"] > 0 and summary["instruction_gap"] is not None
    for name in ("changed_loss", "kept_loss", "copied", "reference_gap"):
        assert summary[name] is None


def test_equal_instructions_are_no_gap(encoders):
    class Same(Source):
        def batch(self, numbers):
            return replace(super().batch(numbers), prompts=[CORPUS[0]] * len(numbers))

    summary = validate(stage_of(encoders), Same(), FEW).summary(FEW)
    assert summary["instruction_gap"] is None and summary["reference_gap"] is not None


def test_a_summary_is_plain_json(encoders):
    summary = validate(stage_of(encoders), Source(), FEW).summary(FEW)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert set(summary["by_ratio"]) == {"0.3", "1"}
    rows = summary["by_ratio"].values()
    assert summary["loss"] == pytest.approx(sum(row["loss"] for row in rows) / 2)
    assert summary["max_logit"] == max(row["max_logit"] for row in rows) > 0


def test_without_gaps_the_rest_is_the_same(encoders):
    stage, quick = stage_of(encoders), replace(FEW, gaps=False)
    full, less = (validate(stage, Source(), o).summary(o) for o in (FEW, quick))
    assert less["instruction_gap"] is None and less["loss"] == full["loss"]


@pytest.mark.parametrize(
    "change", [{"samples": 1}, {"ratios": (0.0,)}, {"ratios": ()}, {"seeds": 3}, {"batch": 0}],
    ids=str,
)  # fmt: skip
def test_options_are_checked(change):
    with pytest.raises(InputError, match=next(iter(change))):
        ValidationOptions(**change)


# --- curves of a log ---


def write_log(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_curves_are_read_by_step_and_the_last_word_counts(tmp_path):
    lines = [
        {"step": 0, "event": "started"},
        {"step": 20, "loss": 5.0, "nll": "nan"},
        {"step": 10, "loss": 6.0},
        {"step": 20, "loss": 4.0},  # written again after a resume
        {"step": 20, "validation/copied": 0.1, "validation-average/copied": 0.2},
    ]
    curves = read_curves(write_log(tmp_path / "log.jsonl", lines))
    assert curves["loss"] == [(10, 6.0), (20, 4.0)] and curves["nll"] == []
    assert curves["copied"] == [(20, 0.2)]


@pytest.mark.parametrize("steps", [0, 1, 30])
def test_a_log_becomes_a_picture(tmp_path, steps):
    lines = [{"step": s, "loss": 9.0 / s, "validation-average/kept_loss": -s} for s in range(1, 31)]
    picture = tmp_path / "curves.png"
    draw_curves(write_log(tmp_path / "log.jsonl", lines[:steps]), picture)
    with Image.open(picture) as image:
        colors = {color for _, color in image.getcolors(2**24)}
        assert image.width == max(1, 2 * (steps > 0)) * WIDTH
    assert (COLORS[0] in colors) == (steps > 0)


@pytest.mark.parametrize("text", ["no json", "[1]", '{"loss": 1}'])
def test_another_file_is_no_log(tmp_path, text):
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(InputError, match="log.jsonl is not the log of a run"):
        draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")


# --- what moves the logits ---


def heard(effects):
    """The conditions among the inputs that move the logits."""
    return {k for k in ("time", "pooled", "micro_conditions") if effects[k] > BOUND}


CONDITIONS = {"time", "pooled", "micro_conditions"}


def test_random_weights_hear_every_input(encoders):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = MaskedTransformer(TRANSFORMER)
    effects = input_effects(stage_of(encoders, transformer), Source(cached=True))
    assert heard(effects) == CONDITIONS and effects["text"] > BOUND
    assert effects["reference"] > BOUND


def test_training_opens_the_conditions(encoders):
    """Modulations start at zero, and a few steps open them; see `optimizers.CONDITIONING`."""
    stage = stage_of(encoders)
    stage.source = Source(cached=True)
    assert heard(input_effects(stage, stage.source)) == set()
    named = list(stage.transformer.named_parameters())
    slow = [p for n, p in named if n.startswith(("time_text_embed.", "cond_embed."))]
    rest = [p for n, p in named if not n.startswith(("time_text_embed.", "cond_embed."))]
    groups = [{"params": rest}, {"params": slow, "lr": 0.05 * 3e-3}]
    optimizer = torch.optim.AdamW(groups, 3e-3)
    for step in range(40):
        prepared = stage.prepare(range(8 * step, 8 * step + 8))
        stage.loss(prepared, prepared.counts)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert heard(input_effects(stage, stage.source)) == CONDITIONS


def test_a_network_without_gates_hears_nothing(encoders):
    stage = stage_of(encoders)
    with torch.no_grad():
        for block in stage.transformer.blocks:
            for norm in ("norm", "norm1", "norm1_context"):
                if hasattr(block, norm):
                    getattr(block, norm).linear.bias.zero_()
    effects = input_effects(stage, Source(cached=True))
    assert set(effects.values()) == {0.0}


class ToyPairs:
    """Held-out ToyWorld edits."""

    fingerprint = "toyworld"

    def __init__(self, model):
        self.vq, self.size = model.vq, model.settings.resolution

    def batch(self, numbers):
        pairs = [pair_at(3, number, heldout=True) for number in numbers]
        source, target = (
            self.vq.encode(to_pixels([getattr(p, k) for p in pairs], self.size))
            for k in ("source", "target")
        )
        micro = micro_conditions(len(pairs), self.size, self.size)
        return TokenBatch(target, source, [p.instruction for p in pairs], micro)


@pytest.fixture(scope="module")
def shipped():
    model = editmgt_lib.load("toyworld", device="cpu")
    options = ObjectiveOptions(steps=model.settings.sampling.steps)
    source = ToyPairs(model)
    return GenerationStage(
        model.transformer, model.text_encoders, source, options, precision=torch.float32
    )


def test_the_shipped_checkpoint_hears_its_conditions(shipped):
    assert heard(input_effects(shipped, shipped.source)) == CONDITIONS


@pytest.fixture(scope="module")
def validated(shipped):
    options = ValidationOptions(samples=16, ratios=(0.5, 1.0), seeds=(0,), batch=4)
    return validate(shipped, shipped.source, options).summary(options)


def test_the_shipped_checkpoint_reads_instruction_and_reference(shipped, validated):
    assert validated["changed_accuracy"] > 0.9
    assert validated["instruction_gap_changed"] > 1 and validated["reference_gap_kept"] > 0.1
    effects = input_effects(shipped, shipped.source)
    assert effects["text"] > 0.1 and effects["reference"] > 0.1


def test_the_shipped_checkpoint_copies_what_is_kept(validated):
    assert validated["copied"] > 0.99
