"""Validation: what is measured, exactly alike on any number of processes."""

import json
from dataclasses import replace

import pytest
import torch

from editmgt_lib.errors import InputError
from editmgt_lib.toyworld.text_encoders import build_text_encoders
from editmgt_lib.training import initial
from editmgt_lib.training.generation import GenerationStage
from editmgt_lib.training.objective import ObjectiveOptions
from editmgt_lib.training.validation import (
    QUANTITIES,
    ValidationOptions,
    record,
    validate,
)

from .test_objective import CORPUS, Source
from .tiny import TRANSFORMER

BOUND = 1e-3
"""Least effect on the logits that an input the network uses has."""
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


def test_a_record_is_a_line_of_json(encoders):
    tally = validate(stage_of(encoders), Source(), FEW)
    line = record(40, FEW, tally, tally)
    assert json.loads(json.dumps(line, allow_nan=False)) == line
    assert line["step"] == 40 and line["average"] == line["trained"]
    assert set(line["trained"]["by_ratio"]) == {"0.3", "1"}
    assert line["trained"]["max_logit"] > 0


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
