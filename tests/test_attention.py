"""Attention back ends: the same softmax(q k^T + bias) v from each, with and without strength."""

import math

import pytest
import torch

from editmgt_lib import choices, load
from editmgt_lib.errors import EditMGTError, InputError
from editmgt_lib.models.attention import (
    STRENGTH_SCOPES,
    Attention,
    Segments,
    restrict,
    strength_groups,
)
from editmgt_lib.models.backends import BACKENDS, choose_attention
from editmgt_lib.sampling.options import SamplingOptions

from .test_pipeline import PROMPT, picture

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FULL = Segments(5, 12, 9)


def projections(queries=FULL, keys=FULL, dtype=torch.float32, device=CPU):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, sum(part), 16) for part in (queries, keys, keys)]
    q, k, v = (torch.randn(s, generator=generator) for s in shapes)
    return [(3 * x).to(device, dtype) for x in (q, k)] + [v.to(device, dtype)]


def expected(q, k, v, queries, keys, strength, scope):
    """The definition, with the whole bias matrix, in float64."""
    kinds = [torch.arange(3).repeat_interleave(torch.tensor(part)) for part in (queries, keys)]
    rows, columns = kinds[0][:, None], kinds[1][None]
    biased = (rows == 2) != (columns == 2)
    if scope == "image":
        biased &= (rows != 0) & (columns != 0)
    logits = q.double() @ k.double().mT / math.sqrt(q.shape[-1])
    return (logits + biased.to(q.device) * math.log(strength)).softmax(-1) @ v.double()


def available(name, device, dtype):
    try:
        return choose_attention(name, device, dtype)
    except InputError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("scope", STRENGTH_SCOPES)
@pytest.mark.parametrize("strength", [1.0, 1.1, 0.2])
@pytest.mark.parametrize("queries", [FULL, Segments(5, 4, 0)], ids=["all", "part"])
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    "device", [CPU, pytest.param(CUDA, marks=pytest.mark.cuda)], ids=["cpu", "cuda"]
)
def test_every_back_end_computes_attention(device, name, queries, strength, scope):
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    attention = available(name, device, dtype)
    q, k, v = projections(queries, dtype=dtype, device=device)
    groups = strength_groups(queries, FULL, strength, scope, q)
    out = attention(q, k, v, groups)
    wanted = expected(q, k, v, queries, FULL, strength, scope)
    assert out.dtype == dtype
    bound = 2e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(out.double(), wanted, rtol=0, atol=bound)


@pytest.mark.parametrize("scope", STRENGTH_SCOPES)
def test_without_a_reference_strength_has_no_effect(scope):
    alone = Segments(5, 12, 0)
    (group,) = strength_groups(alone, alone, 3.0, scope, torch.zeros(1))
    assert group.key_bias is None and group.rows == slice(0, 17)


@pytest.mark.parametrize("name", ["sdpa", "flash", "math"])
def test_some_rows_are_those_of_all_rows(name):
    q, k, v = projections()
    attention = Attention(BACKENDS[name], strength_groups(FULL, FULL, 1.3, "image", q), FULL)
    whole = attention(0, q, k, v)
    part = attention(0, q, k, v, FULL.target_rows)
    torch.testing.assert_close(part, whole[:, FULL.target_rows])
    assert restrict(attention.groups, slice(0, 0)) == ()


@pytest.mark.parametrize(("name", "strength"), [("flash", 1.0), ("math", 1.3), ("sdpa", 1.3)])
def test_gradients_flow_through(name, strength):
    given = [x.requires_grad_() for x in projections()]
    groups = strength_groups(FULL, FULL, strength, "text+image", given[0])
    wanted = expected(*given, FULL, FULL, strength, "text+image").sum()
    ours = torch.autograd.grad(BACKENDS[name](*given, groups).sum(), given)
    for got, right in zip(ours, torch.autograd.grad(wanted, given), strict=True):
        torch.testing.assert_close(got, right, rtol=0, atol=1e-5)


def test_a_wrong_gradient_is_refused():
    given = [x.requires_grad_() for x in projections()]
    groups = strength_groups(FULL, FULL, 1.3, "text+image", given[0])
    with pytest.raises(EditMGTError, match="trains at strength 1 only"):
        BACKENDS["flash"](*given, groups)


@pytest.mark.parametrize("name", ["flash", "math"])
def test_a_model_edits_with_the_back_end_it_was_loaded_with(tiny_checkpoint, name):
    models = [load(tiny_checkpoint, device="cpu", attention=n) for n in ("sdpa", name)]
    assert models[1].transformer.attention is BACKENDS[name]
    options = SamplingOptions(steps=3, guidance=2.0, strength=1.3)
    ids = [m.edit(picture(), PROMPT, options=options).tokens.ids for m in models]
    assert float((ids[0] == ids[1]).float().mean()) > 0.8  # equal but where rounding decides


def test_the_command_line_offers_every_back_end():
    assert set(choices.ATTENTIONS) == {"auto", *BACKENDS} and choices.ATTENTIONS[0] == "auto"


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps", "xpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_is_a_back_end_that_runs_there(kind, dtype):
    device = torch.device(kind)
    chosen = choose_attention("auto", device, dtype)
    name = next(name for name, function in BACKENDS.items() if function is chosen)
    assert choose_attention(name, device, dtype) is chosen


@pytest.mark.parametrize(
    ("name", "device", "match"),
    [
        ("fastest", CPU, "attention is 'fastest'; use one of auto, sdpa, flash"),
        ("xformers", CPU, "needs a CUDA device, not cpu"),
        ("flash", torch.device("mps"), "needs a CPU or a CUDA device, not mps"),
        ("flash", CUDA, "needs float16 or bfloat16, not cuda in torch.float32"),
    ],
)
def test_a_back_end_that_cannot_be_had_is_refused(name, device, match):
    with pytest.raises(InputError, match=match):
        choose_attention(name, device, torch.float32)
