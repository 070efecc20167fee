"""Layers in training compute what torch's own do, in another order."""

import pytest
import torch

from editmgt_lib.data.toyworld import ToyWorldSource, draw_pair
from editmgt_lib.models.vq import VQModel
from editmgt_lib.models.vq_config import VQConfig
from editmgt_lib.toyworld.batches import to_pixels
from editmgt_lib.training import layers


@pytest.mark.parametrize(
    ("name", "sizes", "stride"),
    [("Conv2d", (6, 5, 1), 1), ("Conv2d", (6, 5, 2), 2), ("Conv2d", (6, 5, 3), 1),
     ("ConvTranspose2d", (6, 5, 2), 2)],
)  # fmt: skip
def test_convolutions_equal_those_of_torch(name, sizes, stride):
    torch.manual_seed(0)
    ours = getattr(layers, name)(*sizes, stride=stride, bias=name == "Conv2d")
    theirs = getattr(torch.nn, name)(*sizes, stride=stride, bias=name == "Conv2d")
    theirs.load_state_dict(ours.state_dict())
    inputs = [torch.randn(2, 6, 8, 8).requires_grad_() for _ in range(1)] * 2
    results = []
    for layer, x in zip((ours, theirs), inputs, strict=True):
        y = layer(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, layer.weight))))
    for one, other in zip(*results, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [0, 4], ids=["by cell", "whole pictures"])
def test_ids_of_toyworld_are_those_of_its_pictures(groups):
    torch.manual_seed(0)
    config = VQConfig(
        block_out_channels=(8,), layers_per_block=1, latent_channels=4, num_vq_embeddings=64,
        norm_num_groups=groups, patch_size=4, encoder_kernel_size=1,
    )  # fmt: skip
    vq = VQModel(config)
    batch = ToyWorldSource(vq, 64, seed=1).batch(range(3))
    pictures = to_pixels([draw_pair(1, number).source for number in range(3)], 64)
    expected = torch.cat([vq.encode(picture[None]) for picture in pictures])
    assert (batch.source != expected).float().mean() < 0.005  # ties may fall either way
