"""q, k and v of a stream in one product: when, and that it is the same product."""

import pytest
import torch
from torch import nn

from benchmarks.cases import random_network
from editmgt_lib.lora import attach
from editmgt_lib.models import projections
from editmgt_lib.models.conditioning import InjectionOptions
from editmgt_lib.models.transformer import MaskedTransformer

from .test_lora import random_lora
from .tiny import CODES, MASK, TRANSFORMER


@pytest.fixture
def network():
    return random_network(lambda: MaskedTransformer(TRANSFORMER), 1)


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(projections, "SEPARATE", ())


def prepared(network):
    generator = torch.Generator().manual_seed(0)
    text, pooled = (torch.randn(2, *s, 16, generator=generator) for s in ((6,), ()))
    like = next(network.parameters())
    ids = torch.randint(CODES, (2, 4, 4), generator=generator)
    return network.prepare(
        text.to(like), pooled.to(like), torch.zeros(2, 5), [1.0, 0.0], (4, 4), ids,
        InjectionOptions(1.3),
    )  # fmt: skip


def features(network):
    with torch.no_grad():
        return network.step(torch.full((2, 4, 4), MASK), 1, prepared(network)).features.float()


def is_joined(network):
    with torch.no_grad():
        return [pair is not None for pair in prepared(network).joined]


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)]
)
def test_one_product_gives_what_three_give(network, dtype, error, monkeypatch):
    network = network.to(dtype)
    assert all(is_joined(network))
    joined = features(network)
    monkeypatch.setattr(projections, "SEPARATE", ("cpu",))
    assert not any(is_joined(network))
    separate = features(network)
    assert float((joined - separate).abs().max()) < error * float(separate.abs().max())


def test_joined_layers_compile(network):
    plain = features(network)
    network.compile_blocks(backend="eager")
    torch.testing.assert_close(features(network), plain)


@pytest.mark.parametrize("scope", ["both", "reference"])
def test_layers_with_updates_are_called(network, scope, monkeypatch):
    attach(network, random_lora(network, ["to_q"], scope=scope))
    assert not any(is_joined(network))
    updated = features(network)
    network.adapters = nn.ModuleList()
    assert not torch.allclose(updated, features(network), atol=1e-4)


def test_weights_changed_between_runs_count(network):
    before = features(network)
    with torch.no_grad():
        network.transformer_blocks[0].attn.to_k.weight.mul_(2)
    assert not torch.allclose(before, features(network), atol=1e-4)


def test_layers_of_a_host_are_called(network):
    class Cast(nn.Linear):
        pass

    first, second, third = network.blocks
    first.attn.add_q_proj.__class__ = Cast
    second.attn.to_v.register_forward_hook(lambda *_: None)
    third.attn.to_q.to("meta")
    assert is_joined(network) == [False, False, False]


def test_training_calls_the_layers(network):
    assert all(pair is None for pair in prepared(network).joined)
