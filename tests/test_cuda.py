"""On a CUDA device: the same pictures as on the CPU, and what only happens there."""

import copy

import pytest
import torch

from benchmarks import gpu_attention
from editmgt_lib import load
from editmgt_lib.models.attention import STRENGTH_SCOPES, Segments, strength_groups
from editmgt_lib.offload import onloaded
from editmgt_lib.precision import own_precision
from editmgt_lib.sampling.options import SamplingOptions

from .test_pipeline import PROMPT, picture

pytestmark = pytest.mark.cuda
OPTIONS = SamplingOptions(steps=3, guidance=2.0, strength=1.3, threshold=0.3)


def same(ids, others):
    return float((ids.cpu() == others.cpu()).float().mean())


@pytest.fixture(scope="module")
def on_cpu(tiny_checkpoint):
    model = load(tiny_checkpoint, device="cpu")
    return model.edit(picture(2), [PROMPT, "remove the ball"], options=OPTIONS)


@pytest.mark.parametrize(
    ("dtype", "least"), [("float32", 0.9), ("bfloat16", 0.4), ("float16", 0.4), ("auto", 0.4)]
)
@pytest.mark.parametrize("batched", [False, True])
def test_an_edit_gives_the_same_picture(tiny_checkpoint, on_cpu, dtype, least, batched):
    """Rounding decides a few tokens of random weights, more of them in half precision."""
    model = load(tiny_checkpoint, device="cuda", dtype=dtype)
    prompts = [PROMPT, "remove the ball"]
    edited = model.edit(picture(2), prompts, options=OPTIONS, batched=batched)
    assert same(edited.tokens.ids, on_cpu.tokens.ids) >= least
    assert edited.image.isfinite().all() and edited.image.shape == on_cpu.image.shape
    again = model.edit(picture(2), prompts, options=OPTIONS, batched=batched)
    assert torch.equal(again.image, edited.image)


def test_float32_products_are_exact_unless_the_loader_allows_tf32():
    """Which rounds factors to 11 bits, on cards that have it."""
    if torch.cuda.get_device_capability() < (8, 0) or torch.version.hip:
        pytest.skip("no TF32 here")
    layers = torch.nn.Linear(512, 512, device="cuda"), torch.nn.Conv2d(64, 64, 3, device="cuda")
    inputs = torch.randn(512, 512, device="cuda"), torch.randn(4, 64, 32, 32, device="cuda")
    for layer, x in zip(layers, inputs, strict=True):
        wanted = copy.deepcopy(layer).double()(x.double())
        for allowed in (False, True):
            layer.tf32 = allowed
            with own_precision(layer):
                error = (layer(x) - wanted).abs().max().item()
            assert (error > 1e-4) == allowed


def test_compiled_blocks_give_the_same_tokens(tiny_checkpoint, on_cpu):
    model = load(tiny_checkpoint, device="cuda", dtype="float32")
    model.transformer.compile_blocks()
    edited = model.edit(picture(2), [PROMPT, "remove the ball"], options=OPTIONS)
    assert same(edited.tokens.ids, on_cpu.tokens.ids) >= 0.9


@pytest.mark.parametrize("scope", STRENGTH_SCOPES)
@pytest.mark.parametrize("name", gpu_attention.CANDIDATES)
def test_every_candidate_computes_attention(name, scope):
    """Of a width and lengths that all kernels take; those that run nowhere here say so."""
    segments = Segments(32, 64, 64)
    like = torch.zeros(1, device="cuda", dtype=torch.bfloat16)
    given = gpu_attention.inputs(sum(segments), 2, 8, 128, like)
    groups = strength_groups(segments, segments, 1.1, scope, like)
    try:
        out = gpu_attention.CANDIDATES[name](*given, groups)
    except (RuntimeError, ImportError) as error:
        pytest.skip(f"{name}: {error}")
    assert gpu_attention.error(out, gpu_attention.definition(*given, groups)) < 0.01


def test_layers_copied_ahead_give_the_same_text(tiny_checkpoint):
    resident, ahead = (
        load(tiny_checkpoint, device="cuda", dtype="bfloat16", offload=mode)
        for mode in ("none", "layers")
    )
    weights = [*ahead.text_encoders.gemma.layers.parameters(), *ahead.vq.parameters()]
    assert all(weight.is_pinned() for weight in weights)
    for prompt in (PROMPT, "make the ball green", "remove the ball"):
        ours, theirs = (model.encode_instruction(prompt) for model in (ahead, resident))
        assert torch.equal(ours.states, theirs.states)


def test_at_most_two_layers_are_on_the_device():
    """Large enough to see, slow enough that copies could pile up."""
    from .test_offload import Tower

    tower = Tower(6, width=2048, device="cuda")
    plain = copy.deepcopy(torch.nn.Sequential(*tower.layers)).to("cuda")
    x = torch.randn(2048, 2048, device="cuda") / 8
    wanted = plain(x)
    del plain
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    with torch.no_grad(), onloaded(tower):
        out = tower(x)
    torch.cuda.synchronize()
    layer, rows = 2048 * 2049 * 4, x.nbytes
    assert torch.equal(out, wanted)
    assert torch.cuda.max_memory_allocated() - start < 2.5 * layer + 3 * rows
