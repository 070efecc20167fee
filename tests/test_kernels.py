"""What a step costs a GPU, counted on meta tensors at the published size, cannot creep up."""

import pytest
import torch

from benchmarks import kernels
from benchmarks.cases import published

# Of a step, of one that also reads a map, and of one that is recorded. Measured: 1301, 1456, 58.
KERNELS, READING, LAUNCHES = 1350, 1500, 60


@pytest.fixture(scope="module")
def case():
    return published()


@pytest.fixture(scope="module")
def network(case):
    return kernels.build(case)


def test_a_step_takes_few_kernels_and_never_waits(case, network):
    _, second, third = kernels.steps(case, network)
    assert not second.syncs and not third.syncs
    assert 500 < second.launches <= KERNELS
    assert second.flops == pytest.approx(6.7e12, rel=0.05)


def test_a_recorded_step_is_a_few_launches_and_the_same_work(case, network):
    _, recorded, replayed = kernels.steps(case, network, graphs=True, read=True)
    assert not recorded.syncs and not replayed.syncs
    assert 500 < replayed.recorded + replayed.launches <= READING
    assert replayed.launches <= LAUNCHES and replayed.kernels["graph"] == 1
    assert replayed.flops == pytest.approx(6.7e12, rel=0.05)


WAITS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.any()),
    "float": lambda x: float(x.sum()),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "like": lambda x: x.to(torch.ones(1)),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "tolist": lambda x: x.tolist(),
    "upload": lambda x: torch.ones(3).to(x.device),
    "upload of a list": lambda x: torch.tensor([1, 2], device=x.device),
    "index by the host's": lambda x: x[torch.tensor([0, 1])],
    "assignment": lambda x: x.copy_(torch.ones(4, 4)),
}


@pytest.mark.parametrize("wait", WAITS)
def test_everything_that_waits_is_counted_or_raises(wait):
    laps, x = kernels.Laps(), torch.ones(4, 4, device="meta")
    with laps.counting():
        try:
            WAITS[wait](x)
        except (RuntimeError, NotImplementedError):
            return
    assert laps.current.syncs


def test_kernels_are_counted_and_views_are_not():
    laps, x = kernels.Laps(), torch.ones(4, 4, device="meta")
    with laps.counting():
        y = (x @ x).mT.reshape(2, 8)[0] + 1
        torch.zeros(3)  # the host's own
    tally = laps.current
    assert y.shape == (8,) and not tally.syncs
    assert tally.kernels == {"mm": 1, "clone": 1, "add": 1} and tally.views >= 2
    assert tally.flops == 2 * 4**3
