"""Defects of the published code, and places where paper and code part: one test each.

The first line of every docstring says what the published code does; the test says what ours does.
"""

from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from editmgt_lib.errors import Cancelled, InputError
from editmgt_lib.localization.maps import Localization, LocalizationOptions, consolidate
from editmgt_lib.models.transformer import MaskedTransformer
from editmgt_lib.pictures.fitting import FitOptions, project_mask
from editmgt_lib.sampling import predictor as prediction
from editmgt_lib.sampling.noise import ItemNoise
from editmgt_lib.sampling.options import SamplingOptions
from editmgt_lib.sampling.predictor import Predictor, row_weights
from editmgt_lib.sampling.step import mask_ratio, n_masked
from editmgt_lib.text.instruction import Instruction

from .test_pipeline import open_tiny, picture

PROMPT = "make the red heart blue"
QUICK = SamplingOptions(steps=3, guidance=2.0, strength=1.1)
HOLD = replace(QUICK, threshold=0.4)
WIDE = FitOptions("native", resolution=128, factor=16)  # 128x96 pixels: 8x6 tokens, 4x3 positions


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return open_tiny(tiny_checkpoint)


@pytest.fixture(scope="module")
def instruction(model):
    return model.encode_instruction(PROMPT)


@pytest.fixture
def steps(monkeypatch):
    """What every forward step was given and gave: (ids, timesteps, prediction)."""
    seen, step = [], MaskedTransformer.step

    def spied(self, ids, timestep, *more, **named):
        result = step(self, ids, timestep, *more, **named)
        seen.append((ids, timestep, result))
        return result

    monkeypatch.setattr(MaskedTransformer, "step", spied)
    return seen


def left(height, width, batch=1):
    region = torch.zeros(batch, height, width)
    region[..., : width // 2] = 1
    return region


def belongings(model):
    """Everything that hangs on the model and its modules, weights by identity."""

    def frozen(value):
        if isinstance(value, dict):
            return {k: frozen(v) for k, v in value.items()}
        plain = isinstance(value, (bool, int, float, str, tuple, type(None)))
        return value if plain else (type(value).__name__, id(value))

    networks = {"transformer": model.transformer, "vq": model.vq, "clip": model.text_encoders.clip}
    networks |= {"gemma": model.text_encoders.gemma}
    found = {"": frozen(vars(model))}
    for part, network in networks.items():
        for name, module in network.named_modules():
            found[f"{part}.{name}"] = frozen(vars(module))
    return found


# Sizes and geometry


@pytest.mark.parametrize("size", [(96, 128), (128, 96), (32, 128), (100, 70), (33, 65)])
@pytest.mark.parametrize("fit_options", ["pad", "native", WIDE])
def test_any_size_and_shape(model, size, fit_options):
    """Published: 1024x1024 alone works; others end in shape errors or a squashed reference."""
    source = picture(*size)
    result = model.edit(source, PROMPT, options=HOLD, fit_options=fit_options)
    assert result.image.shape == source.shape and torch.isfinite(result.image).all()
    assert torch.equal(result.image[~result.changed], source[~result.changed])


def test_positions_cover_the_grid_once(model, instruction):
    """Published: at another height the position ids are those of a grid twice as wide."""
    tokens = model.encode_image(picture(128, 96), WIDE)
    predictor = Predictor(model.transformer, tokens, instruction, QUICK)
    conditioning = predictor.conditioning
    assert conditioning.grid == (4, 3) and conditioning.segments[1:] == (4 * 3, 4 * 3)
    target, reference = conditioning.rotary[:, conditioning.segments.text :].chunk(2, dim=1)
    assert torch.equal(target, reference)


def test_a_wide_picture_is_encoded_alike_each_time(model):
    """Published: input that is no square is cropped at a random place, at inference too."""
    source, state = picture(40, 110), torch.get_rng_state()
    first, second = model.encode_image(source), model.encode_image(source)
    assert torch.equal(first.ids, second.ids)
    assert torch.equal(state, torch.get_rng_state())


def test_a_wide_picture_stays_aligned(model):
    """Published: the random crop shifts the reference against the result."""
    source = picture(32, 128)
    changed = source.clone()
    changed[:, 16:, 112:] = 1 - changed[:, 16:, 112:]
    first, second = (model.encode_image(x, "native").ids for x in (source, changed))
    place = (first != second)[0].nonzero().tolist()
    assert place == [[1, 7]]


def test_canvas_size_is_the_micro_condition(model, instruction, monkeypatch):
    """Published: width comes before height, and is that of the picture to be made."""
    seen, original = [], prediction.micro_conditions

    def spied(batch, height, width):
        seen.append(original(batch, height, width))
        return seen[-1]

    monkeypatch.setattr(prediction, "micro_conditions", spied)
    model.sample(model.encode_image(picture(128, 96), WIDE), instruction, QUICK)
    assert seen[0].tolist() == [[96, 128, 0, 0, 6]] * 2


# Key words


def test_rows_of_words_lie_at_the_end(model, instruction):
    """Published: words are looked up in the CLIP tokenizer, but index the other one's rows.

    Those are padded on the left, so that the rows it takes are padding.
    """
    (rows,) = instruction.rows_of("heart")
    length = instruction.text_length
    assert rows == [length - 2]  # "make the red heart blue": last word but one
    clip, gemma = model.text_encoders.tokenize(PROMPT)
    padding = model.text_encoders.gemma_tokenizer.pad_token_id
    assert all(int(gemma[0, row]) != padding for row in rows)
    in_clip = model.text_encoders.clip_tokenizer.convert_ids_to_tokens(clip[0].tolist())
    (wrong,) = (i for i, token in enumerate(in_clip) if "heart" in token)
    assert int(gemma[0, wrong]) == padding


def test_the_map_of_a_word_is_read_from_its_rows(model, instruction):
    """Published: what counts as the map of a word is the mean over padding rows."""
    tokens = model.encode_image(picture(128, 96), WIDE)
    options = LocalizationOptions(words=("heart",), layers=(1, 1), filter="none")
    (rows,) = instruction.rows_of("heart")
    weights = row_weights(instruction, options)
    assert weights[0].nonzero().flatten().tolist() == rows
    found = model.localize(tokens, instruction, options)
    changed = instruction.states.clone()
    changed[:, rows] += 1
    other = model.localize(tokens, replace(instruction, states=changed), options)
    assert not torch.allclose(found.relevance, other.relevance, atol=1e-3)


@pytest.mark.parametrize("rows", ["all", "content"])
def test_rows_that_count_are_an_option(instruction, rows):
    """Published: all rows count, padding included; paper: the rows of words."""
    weights = row_weights(instruction, LocalizationOptions(rows=rows))
    expected = instruction.text_length if rows == "all" else len(instruction.content_rows[0])
    assert int((weights > 0).sum()) == expected
    assert float(weights.sum()) == pytest.approx(1)


# Reading the maps


@pytest.mark.parametrize("layers", [(0, 0), (0, 2), (1, 2)])
@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_any_block_at_any_strength(model, layers, strength):
    """Published: reading a double-stream block stops at any strength but 1."""
    options = replace(HOLD, strength=strength)
    result = model.edit(
        picture(), PROMPT, options=options, localization=LocalizationOptions(layers=layers)
    )
    assert torch.isfinite(result.localization.relevance).all()


def test_reading_without_a_reference_at_a_strength(model, instruction):
    """Published: with a strength set and no reference, reading a map stops."""
    blank, options = model.blank_tokens(), replace(QUICK, strength=1.5)
    _, found = model.sample(
        blank, instruction, options, localization=LocalizationOptions(layers=(0, 2))
    )
    assert found.relevance.shape == (1, 2, 2)


def test_strength_is_not_seen_within_a_block(model, instruction):
    """Kept: the softmax that is read leaves the reference out, so the first block can't tell."""
    tokens, how = model.encode_image(picture(128, 96), WIDE), LocalizationOptions(layers=(0, 0))
    maps = [
        model.localize(tokens, instruction, how, replace(QUICK, strength=s)) for s in (1.0, 3.0)
    ]
    assert torch.equal(maps[0].relevance, maps[1].relevance)


def test_no_attention_map_is_kept(model, steps):
    """Published: whole maps of all heads and both halves go to the CPU, 226 MB a block and step.

    Ours hands on one number per position, of the conditional half alone.
    """
    source = picture(128, 96, batch=2)
    model.edit(source, PROMPT, options=HOLD, fit_options=WIDE)
    assert len(steps) == 2 * QUICK.steps
    for _, _, result in steps:
        assert sorted(result.scores) == [0, 1, 2]
        assert all(scores.shape == (1, 4 * 3) for scores in result.scores.values())


def test_maps_are_read_only_when_wanted(model, steps, monkeypatch):
    """Published: once maps are switched on, every step smooths them, held or not."""
    monkeypatch.setattr(prediction, "consolidate", lambda *_: 1 / 0)
    model.edit(picture(), PROMPT, options=QUICK)
    assert all(not result.scores for _, _, result in steps)


def test_maps_are_smoothed_along_both_axes():
    """Published: lengths but 1024 and 4096 are smoothed as one long row."""
    options = LocalizationOptions(filter="gaussian")
    speck = torch.zeros(1, 9, 9)
    speck[0, 4, 4] = 1
    around = consolidate(speck.flatten(1), (9, 9), options).relevance[0]
    assert float(around[3, 4]) > 0.01  # one row up: nothing in a single row reaches it
    torch.testing.assert_close(around, around.T)
    scores = torch.rand(1, 6, 4, generator=torch.Generator().manual_seed(0))
    upright = consolidate(scores.flatten(1), (6, 4), options).relevance
    turned = consolidate(scores.mT.flatten(1), (4, 6), options).relevance
    torch.testing.assert_close(turned.mT, upright)


# Holding


def test_hold_in_a_batch(model):
    """Published: holding stops at batch 2. Ours treats every item as if it were alone."""
    source, seeds = picture(128, 96, batch=2), (3, 9)
    options = replace(HOLD, seed=seeds)
    both = model.edit(source, PROMPT, options=options, fit_options=WIDE)
    for k in range(2):
        one = model.edit(
            source[k : k + 1], PROMPT, options=replace(options, seed=seeds[k]), fit_options=WIDE
        )
        assert torch.equal(one.tokens.ids, both.tokens.ids[k : k + 1])
        torch.testing.assert_close(
            one.localization.relevance, both.localization.relevance[k : k + 1]
        )


@pytest.mark.parametrize("rule", ["proposal", "restore"])
def test_hold_without_guidance(model, steps, rule):
    """Published: holding stops without guidance, as it splits the batch in two regardless."""
    options = replace(HOLD, guidance=1.0, hold_rule=rule)
    result = model.edit(picture(), PROMPT, options=options)
    assert result.localization is not None
    assert all(len(ids) == 1 for ids, _, _ in steps)


def test_hold_without_a_reference_is_refused_in_words(model, instruction):
    """Published: holding without a reference is an AttributeError."""
    with pytest.raises(InputError, match="there is none here"):
        model.sample(model.blank_tokens(), instruction, HOLD)


@pytest.mark.parametrize("rule", ["proposal", "restore"])
def test_hold_with_a_mask(model, instruction, rule):
    """Published: holding with a mask stops, as the masked reference holds a token of no code."""
    region, options = left(64, 64), replace(HOLD, hold_rule=rule)
    tokens = model.encode_image(picture())
    result, found = model.sample(tokens, instruction, options, region=region)
    place = project_mask(region, tokens.canvas)
    assert found is not None and not (result.changed & ~place).any()


@pytest.mark.parametrize("rule", ["proposal", "restore"])
def test_hold_on_a_grid_that_is_no_square(model, rule):
    """Published: holding stops at 1024x768."""
    source, events = picture(128, 96), []
    options = replace(HOLD, hold_rule=rule)
    result = model.edit(source, PROMPT, options=options, fit_options=WIDE, callback=events.append)
    assert events[0].held.shape == (1, 8, 6) and events[0].held.any()
    assert result.localization.relevance.shape == (1, 4, 3)


def test_both_hold_rules(model, instruction):
    """Published: a held token only proposes the source while masked; paper: it is put back.

    So a token that turns irrelevant after it was revealed stays changed, or returns.
    """
    tokens = model.encode_image(picture())
    first, then = torch.ones(1, 4, 4), torch.zeros(1, 4, 4)
    how = LocalizationOptions(layers=(0, 0))

    def run(rule):
        maps = iter([first] * 2 + [then] * 2)

        def scripted(*_):
            return Localization(next(maps), how)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prediction, "consolidate", scripted)
            options = replace(HOLD, steps=4, hold_rule=rule)
            return model.sample(tokens, instruction, options, localization=how)[0]

    ended = {rule: run(rule).changed.any().item() for rule in ("proposal", "restore")}
    assert ended == {"proposal": True, "restore": False}


# Masks


def test_a_mask_leaves_the_reference_whole(model, instruction, monkeypatch):
    """Published: masking for the start writes into the reference, which is the same tensor."""
    seen, prepare = [], MaskedTransformer.prepare

    def spied(self, *given):
        seen.append(given[5].clone())
        return prepare(self, *given)

    monkeypatch.setattr(MaskedTransformer, "prepare", spied)
    tokens = model.encode_image(picture())
    before = tokens.ids.clone()
    model.sample(tokens, instruction, QUICK, region=left(64, 64))
    assert torch.equal(tokens.ids, before) and torch.equal(tokens.source_ids, before)
    assert seen[0].shape[0] == 2 and all(torch.equal(half, before[0]) for half in seen[0])


def test_a_mask_in_a_batch(model, instruction, steps):
    """Published: a mask fails at batch 2. Ours: one for all, or one each, counted per item."""
    tokens = model.encode_image(picture(batch=2))
    for region in (left(64, 64), torch.stack([left(64, 64)[0], torch.ones(64, 64)])):
        steps.clear()
        result, _ = model.sample(tokens, instruction, QUICK, region=region)
        place = project_mask(region, tokens.canvas)
        first = [ids[:1] for ids, step, _ in steps if step == 0]
        masked = torch.cat(first) == model.transformer.config.mask_token_id
        assert torch.equal(masked, place)
        assert not (result.changed & ~place).any()


def test_a_mask_without_a_picture_is_refused(model, instruction):
    """Published: without a reference the mask is silently ignored."""
    with pytest.raises(InputError, match="region"):
        model.sample(model.blank_tokens(), instruction, QUICK, region=left(64, 64))


# Batches and prompts


def test_several_pictures_of_one_prompt(model):
    """Published: more than one picture per prompt fails with a reference."""
    source = picture().expand(3, -1, -1, -1)
    result = model.edit(source, PROMPT, options=QUICK)
    ids = result.tokens.ids
    assert ids.shape[0] == 3 and not torch.equal(ids[0], ids[1])


def test_an_encoded_prompt_brings_its_negative(tiny_checkpoint, instruction, tmp_path):
    """Published: ready prompt states without negative ones fail under guidance."""
    instruction.save(tmp_path / "saved.safetensors")
    loaded = Instruction.load(tmp_path / "saved.safetensors")
    assert loaded.negative_states.shape == loaded.states.shape
    model = open_tiny(tiny_checkpoint, text=False)
    tokens, _ = model.sample(model.encode_image(picture()), loaded, QUICK)
    assert tokens.changed.any()


def test_noise_is_one_number_a_token():
    """Published: a CPU generator drags the probabilities of all codes to the CPU each step."""
    numbers = ItemNoise([1, 2]).draw(2, 4096, 8192, last=False)
    assert numbers.tokens.shape == numbers.ranking.shape == (2, 4096)


# Strength, timesteps and counts


def test_strength_is_not_sticky(model):
    """Published: a strength stays on the modules and acts on the next call at strength 1."""
    source, neutral = picture(), replace(QUICK, strength=1.0)
    before = model.edit(source, PROMPT, options=neutral).tokens.ids
    other = model.edit(source, PROMPT, options=replace(QUICK, strength=50.0)).tokens.ids
    after = model.edit(source, PROMPT, options=neutral).tokens.ids
    assert torch.equal(before, after) and not torch.equal(before, other)


def test_strength_scope_is_an_option(model, instruction):
    """Published: text rows feel the strength too; paper: image rows alone."""
    tokens = model.encode_image(picture())
    masked = torch.full_like(tokens.ids, model.transformer.config.mask_token_id)

    def logits(scope, strength):
        options = replace(QUICK, strength=strength, strength_scope=scope)
        return Predictor(model.transformer, tokens, instruction, options)(masked, 0)[0]

    torch.testing.assert_close(logits("text+image", 1.0), logits("image", 1.0), rtol=0, atol=0)
    assert not torch.allclose(logits("text+image", 8.0), logits("image", 8.0), atol=1e-5)


def test_timesteps_count_down_to_zero(model, steps, monkeypatch):
    """Kept: sampling counts whole steps down to 0, on another scale than training saw."""
    prepare, seen = MaskedTransformer.prepare, []

    def spied(self, text, pooled, micro, timesteps, *more):
        seen.append(list(timesteps))
        return prepare(self, text, pooled, micro, timesteps, *more)

    monkeypatch.setattr(MaskedTransformer, "prepare", spied)
    model.edit(picture(), PROMPT, options=replace(QUICK, steps=4))
    assert seen == [[3, 2, 1, 0]] and [step for _, step, _ in steps] == [0, 1, 2, 3]


def test_mask_counts_are_those_of_float32():
    """Kept: after index 23 of 36, 2047 of 4096 tokens are masked; in float64 it were 2048."""
    count = n_masked(mask_ratio(23, 36), 1.0, torch.tensor([4000]), 4096)
    assert count.tolist() == [2047]


# Nothing stays behind


@pytest.mark.parametrize("how", ["run", "cancelled", "failed", "map"])
def test_nothing_is_left_on_the_modules(model, instruction, how, monkeypatch):
    """Published: hooks and strengths stay on the modules, for the next call to find."""
    tokens, before = model.encode_image(picture()), belongings(model)
    options = replace(HOLD, strength=1.7)

    def stop(event):
        if how == "failed":
            raise ZeroDivisionError
        return how != "cancelled"

    with suppress(Cancelled, ZeroDivisionError):
        if how == "map":
            model.localize(tokens, instruction, LocalizationOptions(layers=(0, 2)), options)
        else:
            model.edit(picture(), PROMPT, options=options, callback=stop)
    assert belongings(model) == before


def test_an_error_inside_the_network_leaves_nothing(model, instruction):
    """Published: after an error the hooks are still there, and their maps with them."""
    tokens, before = model.encode_image(picture()), belongings(model)
    good, _ = model.sample(tokens, instruction, HOLD)
    block, calls = type(model.transformer.single_transformer_blocks[0]), []
    forward = block.forward

    def failing(self, *given, **named):
        calls.append(1)
        if len(calls) == 3:
            raise ValueError("broken")
        return forward(self, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block, "forward", failing)
        with pytest.raises(ValueError, match="broken"):
            model.sample(tokens, instruction, HOLD)
    assert belongings(model) == before
    again, _ = model.sample(tokens, instruction, HOLD)
    assert torch.equal(again.ids, good.ids)


def test_the_tokenizer_keeps_to_float32(tiny_checkpoint, model):
    """Published: full precision is restored for decoding only, so half precision moves tokens."""
    source = picture(50, 70)
    for dtype in ("bfloat16", "float16"):
        short = open_tiny(tiny_checkpoint, dtype=dtype, text=False)
        assert torch.equal(short.encode_image(source).ids, model.encode_image(source).ids)
