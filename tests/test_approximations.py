"""Options that trade exactness for speed: what they skip, and that they are off by default."""

import copy
from dataclasses import fields, replace

import pytest
import torch

from editmgt_lib import load
from editmgt_lib.errors import EditMGTError, InputError
from editmgt_lib.models.blocks import DoubleBlock
from editmgt_lib.pictures.fitting import FitOptions
from editmgt_lib.sampling.options import FAST, SamplingOptions
from editmgt_lib.sampling.predictor import Predictor
from editmgt_lib.sampling.reuse import ReusingPredictor, stale_positions
from editmgt_lib.sampling.step import masked_first

from .tiny import MASK

PROMPT = "make the red heart blue"
OPTIONS = SamplingOptions(steps=4, guidance=3.0)
needs_later_dynamo = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6),
    reason="torch 2.5 compiles more sizes, and words its failures otherwise",
)


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def tokens(model):
    pixels = torch.rand(2, 128, 128, 3, generator=torch.Generator().manual_seed(0))
    return model.encode_image(pixels, FitOptions("pad", resolution=128))


def spy_on_blocks(monkeypatch):
    """Batch and image tokens of each call of the one double block."""
    seen, forward = [], DoubleBlock.forward

    def spied(self, text, image, *more):
        seen.append((len(text), image.shape[1]))
        return forward(self, text, image, *more)

    monkeypatch.setattr(DoubleBlock, "forward", spied)
    return seen


def computed(model, tokens, options, monkeypatch):
    """Batch size and image tokens of each step; 16 positions of the target, 16 of the reference."""
    seen = spy_on_blocks(monkeypatch)
    model.sample(tokens, model.encode_instruction(PROMPT), options, batched=True)
    return seen


def still(predictor):
    """The predictor with every step at the first one's timestep."""
    c = predictor.conditioning
    predictor.conditioning = replace(
        c,
        modulations=tuple(m[:1].expand_as(m) for m in c.modulations),
        text_modulations=tuple(m[:1].expand_as(m) for m in c.text_modulations),
    )
    return predictor


def test_by_default_everything_is_computed(model, tokens, monkeypatch):
    assert computed(model, tokens, OPTIONS, monkeypatch) == [(4, 32)] * 4


def test_guidance_on_an_interval_takes_half_the_batch_elsewhere(model, tokens, monkeypatch):
    options = replace(OPTIONS, guidance_interval=(0.0, 0.5))
    assert computed(model, tokens, options, monkeypatch) == [(4, 32)] * 2 + [(2, 32)] * 2


def test_the_reference_is_refreshed_every_other_step(model, tokens, monkeypatch):
    options = replace(OPTIONS, reuse="reference", refresh=2)
    assert computed(model, tokens, options, monkeypatch) == [(4, 32), (4, 16)] * 2


def test_nothing_is_kept_that_no_step_will_use(model, tokens):
    options = replace(OPTIONS, reuse="known", refresh=2)
    instruction = model.encode_instruction(PROMPT).expand(2)
    predictor = ReusingPredictor(model.transformer, tokens, instruction, options)
    masked = torch.full_like(tokens.ids, model.transformer.config.mask_token_id)
    cached = []
    for step in range(4):
        predictor(masked, step)
        cached.append(len(predictor.cache))
    assert cached == [len(model.transformer.blocks), 0] * 2


def test_a_kept_half_is_not_taken_for_both(model, tokens, monkeypatch):
    options = replace(OPTIONS, reuse="reference", refresh=4, guidance_interval=(0.5, 1.0))
    seen = computed(model, tokens, options, monkeypatch)
    assert seen == [(2, 32), (2, 16), (4, 32), (4, 16)]


def test_outside_the_interval_the_prediction_is_that_without_guidance(model, tokens):
    instruction = model.encode_instruction(PROMPT).expand(2)
    masked = torch.full_like(tokens.ids, model.transformer.config.mask_token_id)
    half = replace(OPTIONS, guidance_interval=(0.5, 1.0))
    logits = [
        Predictor(model.transformer, tokens, instruction, options)(masked, 0)[0]
        for options in (half, replace(OPTIONS, guidance=1.0), OPTIONS)
    ]
    torch.testing.assert_close(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2], atol=1e-4)


@pytest.mark.parametrize("reuse", ["reference", "known"])
def test_kept_keys_and_values_are_those_of_the_step_that_made_them(model, tokens, reuse):
    """With the same ids and timestep the approximation is none."""
    instruction = model.encode_instruction(PROMPT).expand(2)
    masked = torch.full_like(tokens.ids, model.transformer.config.mask_token_id)
    options = replace(OPTIONS, reuse=reuse, refresh=2, strength=1.3)
    predictor = still(ReusingPredictor(model.transformer, tokens, instruction, options))
    first, second = (predictor(masked, step)[0] for step in (0, 1))
    torch.testing.assert_close(first, second)


@pytest.fixture
def part_known(model, tokens):
    """Tokens of which the upper left quarter is masked, and the same one step later."""
    before = tokens.ids.clone()
    before[:, :4, :4] = model.transformer.config.mask_token_id
    after = before.clone()
    after[0, :2, :2] = tokens.ids[0, :2, :2]
    return before, after


def test_positions_are_stale_where_tokens_are_masked_or_new(model, part_known):
    before, after = part_known
    mask_id = model.transformer.config.mask_token_id
    assert stale_positions(before, before, mask_id, 2).tolist() == [[0, 1, 4, 5]] * 2
    assert stale_positions(after, before, mask_id, 2).tolist() == [[0, 1, 4, 5]] * 2
    # A step later what is known is known; the item with less to do repeats its first position.
    assert stale_positions(after, after, mask_id, 2).tolist() == [[1, 4, 5, 1], [0, 1, 4, 5]]


def test_a_step_computes_text_and_stale_positions_alone(model, tokens, part_known, monkeypatch):
    instruction = model.encode_instruction(PROMPT).expand(2)
    options = replace(OPTIONS, reuse="known", strength=1.3)
    predictor = still(ReusingPredictor(model.transformer, tokens, instruction, options))
    seen, (before, _) = spy_on_blocks(monkeypatch), part_known
    rows = masked_first(before, model.transformer.config.mask_token_id)[:, :16]
    exact, reused = (predictor(before, step, rows)[0] for step in (0, 1))
    assert seen == [(4, 32), (4, 4)]
    torch.testing.assert_close(reused, exact)  # nothing has changed, so nothing is approximated


@pytest.mark.parametrize("strength_scope", ["text+image", "image"])
def test_reuse_draws_the_same_for_an_item_alone_or_in_a_batch(model, tokens, strength_scope):
    region = torch.zeros(2, 128, 128)
    region[0, :40, :40] = region[1, :, 50:] = 1
    options = replace(OPTIONS, reuse="known", strength_scope=strength_scope, seed=(5, 6))
    instruction = model.encode_instruction(PROMPT)
    both, _ = model.sample(tokens, instruction, options, region=region, batched=True)
    for k in range(2):
        alone = replace(options, seed=options.seed[k])
        single, _ = model.sample(tokens.item(k), instruction, alone, region=region[k : k + 1])
        assert torch.equal(single.ids[0], both.ids[k])


def test_a_map_can_be_read_while_tokens_are_kept(model, tokens):
    options = replace(OPTIONS, reuse="known", threshold=0.4, hold_rule="restore")
    _, found = model.sample(tokens, model.encode_instruction(PROMPT), options)
    assert found.relevance.shape == (2, 4, 4)


@pytest.fixture
def own_model(tiny_checkpoint):
    """One that a test may change."""
    return load(tiny_checkpoint, device="cpu")


def test_compiled_blocks_draw_the_same_tokens(own_model, tokens):
    options = replace(OPTIONS, reuse="known", refresh=2)
    instruction = own_model.encode_instruction(PROMPT)
    plain, _ = own_model.sample(tokens, instruction, options)
    before = set(own_model.transformer.state_dict())
    own_model.transformer.compile_blocks(backend="eager")
    compiled, _ = own_model.sample(tokens, instruction, options)
    assert torch.equal(plain.ids, compiled.ids)
    assert set(own_model.transformer.state_dict()) == before


def test_a_copy_of_a_compiled_network_runs_with_its_own_weights(own_model, tokens):
    own_model.transformer.compile_blocks(backend="eager")
    instruction = own_model.encode_instruction(PROMPT)
    before = Predictor(own_model.transformer, tokens, instruction, OPTIONS)(
        torch.full_like(tokens.ids, MASK), 0
    )
    other = copy.deepcopy(own_model.transformer)
    for parameter in other.parameters():
        parameter.data.zero_()
    after = Predictor(own_model.transformer, tokens, instruction, OPTIONS)(
        torch.full_like(tokens.ids, MASK), 0
    )
    zeros = Predictor(other, tokens, instruction, OPTIONS)(torch.full_like(tokens.ids, MASK), 0)
    assert torch.equal(before[0], after[0]) and not zeros[0].any()


@needs_later_dynamo
def test_all_blocks_of_a_kind_compile_once_whatever_their_sizes(own_model):
    """Batches, grids, guidance, reuse: no size too many, and none that goes on uncompiled."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    own_model.transformer.compile_blocks(backend=backend)
    instruction = own_model.encode_instruction(PROMPT)
    for side in (64, 128, 192):
        pixels = torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(side))
        tokens = own_model.encode_image(pixels, FitOptions("native", resolution=side))
        for more in ({}, {"reuse": "known", "refresh": 3}, {"guidance_interval": (0.0, 0.5)}):
            own_model.sample(tokens, instruction, replace(OPTIONS, strength=1.2, **more))
    assert len(graphs) <= 24


@needs_later_dynamo
def test_without_a_compiler_the_way_out_is_said(own_model, tokens):
    def backend(*_):
        raise RuntimeError("no compiler found")

    own_model.transformer.compile_blocks(backend=backend)
    with pytest.raises(EditMGTError, match="do without: .*\n?.*no compiler found"):
        own_model.sample(tokens, own_model.encode_instruction(PROMPT), OPTIONS)


def test_the_fast_preset_is_made_of_options():
    assert set(FAST) < {f.name for f in fields(SamplingOptions)}
    assert SamplingOptions(**FAST) != SamplingOptions()


@pytest.mark.parametrize("interval", [(0.5, 0.2), (0.0, 1.5), (0.0,), 0.5, None])
def test_an_interval_that_cannot_be_is_named(interval):
    with pytest.raises(InputError, match="guidance_interval"):
        SamplingOptions(guidance_interval=interval)


@pytest.mark.parametrize("every", [0, 1.5, True])
def test_a_refresh_that_cannot_be_is_named(every):
    with pytest.raises(InputError, match="refresh"):
        SamplingOptions(refresh=every)
