"""Text rows on a padding prefix: those of the whole prompt, for less work."""

import pytest
import torch
from transformers import Gemma2Config

from editmgt_lib.errors import InputError
from editmgt_lib.offload import offload
from editmgt_lib.text.loading import isolated_build, second_last_gemma
from editmgt_lib.text.prefix import PaddingPrefix
from editmgt_lib.toyworld.language import corpus
from editmgt_lib.toyworld.text_encoders import build_text_encoders

LENGTH, PADDING, WORDS = 64, 0, 90


def gemma(window=4096, dtype=torch.float32, seed=0):
    """Alternating layers and soft caps, as published; the padding has states of its own."""
    config = Gemma2Config(
        vocab_size=WORDS, hidden_size=64, intermediate_size=128, num_hidden_layers=5,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, query_pre_attn_scalar=16,
        sliding_window=window, attn_logit_softcapping=2.0, initializer_range=0.1,
    )  # fmt: skip
    with isolated_build():
        torch.manual_seed(seed)
        model = second_last_gemma(config)
        model.embed_tokens.weight.data.normal_()
    return model.to(dtype).eval()


def prompts(*counts):
    ids = torch.full((len(counts), LENGTH), PADDING)
    generator = torch.Generator().manual_seed(1)
    for row, count in zip(ids, counts, strict=True):
        row[LENGTH - count :] = torch.randint(1, WORDS, (count,), generator=generator)
    return ids


@torch.no_grad()
def whole(model, ids):
    words = model.embed_tokens(ids)
    return model(inputs_embeds=words, use_cache=False).last_hidden_state


def error(actual, expected):
    """Largest error of a row, relative to the row."""
    lengths = expected.float().norm(dim=-1).clamp(min=1e-3)
    return float(((actual.float() - expected.float()).norm(dim=-1) / lengths).max())


@pytest.mark.parametrize("counts", [(9,), (1,), (20, 3, 12), (LENGTH,), (LENGTH, 2), (0, 0)])
def test_rows_equal_those_of_the_whole_prompt(counts):
    model = gemma()
    prefix, ids = PaddingPrefix(model, PADDING, LENGTH), prompts(*counts)
    expected = whole(model, ids)
    assert expected[0, 0].norm() > 0.1
    assert prefix.states(ids).shape == expected.shape
    assert error(prefix.states(ids), expected) < 1e-5


def test_rows_are_near_in_bfloat16():
    """Rounding is that of bfloat16 itself: as far from exact as the whole prompt's."""
    model, exact = gemma(dtype=torch.bfloat16), gemma()
    exact.load_state_dict({n: t.float() for n, t in model.state_dict().items()})
    ids = prompts(9, 3, 20)
    truth, rows = whole(exact, ids), PaddingPrefix(model, PADDING, LENGTH).states(ids)
    assert rows.dtype == torch.bfloat16
    assert error(rows, truth) < 1.5 * error(whole(model, ids), truth)


def test_padding_rows_are_the_same_for_every_prompt():
    """What makes it work: nothing to the right of a row takes part in it."""
    model = gemma()
    first, second = whole(model, prompts(5)), whole(model, prompts(17))
    assert error(first[:, : LENGTH - 17], second[:, : LENGTH - 17]) < 1e-5


def test_only_the_longest_prompt_of_the_batch_is_computed():
    model, seen = gemma(), []
    prefix = PaddingPrefix(model, PADDING, LENGTH)
    model.layers[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    prefix.states(prompts(9, 4))
    assert seen == [9]


def test_the_prefix_is_not_used_up():
    model = gemma()
    prefix, ids = PaddingPrefix(model, PADDING, LENGTH), prompts(9, 4)
    first = prefix.states(ids)
    prefix.states(prompts(30))
    assert torch.equal(prefix.states(ids), first)


def test_an_offloaded_encoder_works_the_same():
    model, ids = gemma(), prompts(9, 4)
    expected = PaddingPrefix(model, PADDING, LENGTH).states(ids)
    offload(model, torch.device("cpu"), excluded=("embed_tokens",), layerwise=("layers",))
    assert torch.equal(PaddingPrefix(model, PADDING, LENGTH).states(ids), expected)


def test_a_window_that_cuts_the_prefix_is_refused():
    with pytest.raises(InputError, match="looks back 32 rows of 64"):
        PaddingPrefix(gemma(window=32), PADDING, LENGTH)


def test_text_encoders_give_their_prefix_and_the_pooled_alone():
    encoders = build_text_encoders(corpus())
    texts = ["make the red heart blue", "", "remove the star"]
    clip_ids, ids = encoders.tokenize(texts)
    with torch.no_grad():
        states, _ = encoders.encode_ids(clip_ids, ids)
    assert error(encoders.padding_prefix().states(ids), states) < 1e-5
    pooled = encoders.pooled_text.encode(texts)
    assert pooled.dtype == torch.float32
    assert torch.equal(pooled, encoders.encode(texts).pooled)
