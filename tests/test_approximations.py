"""Options that trade exactness for speed: what they skip, and that they are off by default."""

from dataclasses import replace

import pytest
import torch

from editmgt_lib import load
from editmgt_lib.errors import InputError
from editmgt_lib.models.blocks import DoubleBlock
from editmgt_lib.prediction import Predictor
from editmgt_lib.sampling import SamplingOptions

PROMPT = "make the red circle blue"
OPTIONS = SamplingOptions(steps=4, guidance=3.0)


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def tokens(model):
    pixels = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    return model.encode_image(pixels)


def streams_of(model, tokens, options, monkeypatch):
    """Batch size and number of image streams at each step."""
    seen, forward = [], DoubleBlock.forward

    def spied(self, text, images, *more):
        seen.append((len(text), len(images)))
        return forward(self, text, images, *more)

    monkeypatch.setattr(DoubleBlock, "forward", spied)
    model.sample(tokens, model.encode_instruction(PROMPT), options)
    return seen


def test_by_default_everything_is_computed(model, tokens, monkeypatch):
    assert streams_of(model, tokens, OPTIONS, monkeypatch) == [(4, 2)] * 4


def test_guidance_on_an_interval_takes_half_the_batch_elsewhere(model, tokens, monkeypatch):
    options = replace(OPTIONS, guidance_interval=(0.0, 0.5))
    assert streams_of(model, tokens, options, monkeypatch) == [(4, 2)] * 2 + [(2, 2)] * 2


def test_the_reference_is_refreshed_every_other_step(model, tokens, monkeypatch):
    options = replace(OPTIONS, reference_refresh=2)
    assert streams_of(model, tokens, options, monkeypatch) == [(4, 2), (4, 1)] * 2


def test_a_kept_half_is_not_taken_for_both(model, tokens, monkeypatch):
    options = replace(OPTIONS, reference_refresh=4, guidance_interval=(0.5, 1.0))
    seen = streams_of(model, tokens, options, monkeypatch)
    assert seen == [(2, 2), (2, 1), (4, 2), (4, 1)]


def test_outside_the_interval_the_prediction_is_that_without_guidance(model, tokens):
    instruction = model.encode_instruction(PROMPT).expand(2)
    masked = torch.full_like(tokens.ids, model.transformer.config.mask_token_id)
    half = replace(OPTIONS, guidance_interval=(0.5, 1.0))
    logits = [
        Predictor.of(model.transformer, tokens, instruction, options)(masked, 0, 3)[0]
        for options in (half, replace(OPTIONS, guidance=1.0), OPTIONS)
    ]
    torch.testing.assert_close(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2], atol=1e-4)


def test_kept_keys_and_values_are_those_of_the_step_that_made_them(model, tokens):
    """With the same ids and timestep the approximation is none."""
    instruction = model.encode_instruction(PROMPT).expand(2)
    masked = torch.full_like(tokens.ids, model.transformer.config.mask_token_id)
    options = replace(OPTIONS, reference_refresh=2, strength=1.3)
    predictor = Predictor.of(model.transformer, tokens, instruction, options)
    first, second = (predictor(masked, step, 3)[0] for step in (0, 1))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("interval", [(0.5, 0.2), (0.0, 1.5), (0.0,), 0.5, None])
def test_an_interval_that_cannot_be_is_named(interval):
    with pytest.raises(InputError, match="guidance_interval"):
        SamplingOptions(guidance_interval=interval)


@pytest.mark.parametrize("every", [0, 1.5, True])
def test_a_refresh_that_cannot_be_is_named(every):
    with pytest.raises(InputError, match="reference_refresh"):
        SamplingOptions(reference_refresh=every)
