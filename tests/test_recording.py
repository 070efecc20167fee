"""Recorded steps: the same kernels on the same places, so the same tokens."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from editmgt_lib import load
from editmgt_lib.errors import InputError
from editmgt_lib.localization.maps import LocalizationOptions
from editmgt_lib.sampling.options import SamplingOptions
from editmgt_lib.sampling.recording import RecordingPredictor

OPTIONS = SamplingOptions(steps=5, guidance=3.0, seed=4)


class Graph(TorchDispatchMode):
    """What a CUDA graph is: operations and their tensors, whatever Python does meanwhile."""

    made = 0

    def __init__(self, call):
        super().__init__()
        self.operations, type(self).made = [], self.made + 1
        with self:
            self.result = call()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket is not torch.ops.aten._local_scalar_dense, "waits for the device"
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        for func, args, kwargs, out in self.operations:
            if not func.is_view:
                for old, new in zip(*map(tree_leaves, (out, func(*args, **kwargs))), strict=True):
                    if isinstance(old, torch.Tensor) and old is not new:
                        old.copy_(new)


@pytest.fixture
def model(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(RecordingPredictor, "graph", Graph)
    monkeypatch.setattr(Graph, "made", 0)
    return load(tiny_checkpoint, device="cpu")


@pytest.mark.parametrize(
    ("options", "graphs"),
    [
        (OPTIONS, 1),
        (replace(OPTIONS, strength=1.3, guidance_interval=(0.0, 0.5)), 2),
        (replace(OPTIONS, threshold=0.4, hold_rule="restore"), 1),
        (replace(OPTIONS, steps=1), 0),
        (replace(OPTIONS, reuse="known"), 0),
    ],
)
def test_recorded_steps_draw_the_same_tokens(model, options, graphs):
    image = torch.rand(2, 128, 128, 3, generator=torch.Generator().manual_seed(2))
    tokens, instruction = model.encode_image(image), model.encode_instruction("make it red")
    reading, given = LocalizationOptions(), {"batched": True}
    if options.threshold:
        given["localization"] = reading
    plain, plain_map = model.sample(tokens, instruction, options, **given)
    model.transformer.records = True
    recorded, recorded_map = model.sample(tokens, instruction, options, **given)
    assert torch.equal(plain.ids, recorded.ids) and Graph.made == graphs
    if options.threshold:
        assert torch.equal(plain_map.relevance, recorded_map.relevance)


def test_recording_needs_cuda(tiny_checkpoint):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    model = load(tiny_checkpoint, device="cpu")
    model.transformer.records = True
    with pytest.raises(InputError, match="CUDA"):
        model.generate("a star", options=OPTIONS)
