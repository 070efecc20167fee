"""Which sample a number means: epochs, mixtures, ToyWorld; none depends on how it is asked for."""

from collections import Counter

import pytest
import torch

from editmgt_lib.data.mixed import Mixed
from editmgt_lib.data.orders import CYCLE, Mixture, Permutation
from editmgt_lib.data.source import TokenBatch
from editmgt_lib.data.toyworld import ToyWorldSource, draw_pair, draw_scene
from editmgt_lib.errors import InputError
from editmgt_lib.models.vq import VQModel
from editmgt_lib.toyworld.language import SPARE_COLOR
from editmgt_lib.toyworld.scenes import is_heldout

from . import tiny


@pytest.fixture(scope="module")
def vq():
    torch.manual_seed(0)
    return VQModel(tiny.VQ).requires_grad_(False)


def test_an_epoch_holds_every_row_once_and_the_next_another_order():
    order = Permutation(97, seed=3)
    epochs = [[order.locate(e * 97 + i)[0] for i in range(97)] for e in range(3)]
    assert all(sorted(epoch) == list(range(97)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert order.locate(97 + 5)[1] == 1


def test_a_position_means_the_same_row_whatever_was_asked_before():
    order, fresh = Permutation(50, seed=1), Permutation(50, seed=1)
    numbers = [499, 3, 120, 3, 0, 260]
    assert [order.locate(n) for n in numbers] == [fresh.locate(n) for n in numbers[::-1]][::-1]
    assert [order.locate(n) for n in range(50)] != [Permutation(50, 2).locate(n) for n in range(50)]


def test_no_rows_are_refused():
    with pytest.raises(InputError, match="no rows"):
        Permutation(0, seed=0)


def test_a_mixture_keeps_its_weights_exactly_and_reads_each_source_without_gaps():
    mixture = Mixture([9.2, 0.8], seed=0)
    located = [mixture.locate(n) for n in range(2 * CYCLE)]
    assert Counter(source for source, _ in located) == {0: 1840, 1: 160}
    for source, count in ((0, 1840), (1, 160)):
        assert [number for which, number in located if which == source] == list(range(count))
    first, second = located[:CYCLE], located[CYCLE:]
    assert [s for s, _ in first] != [s for s, _ in second]


def test_a_group_comes_from_one_source():
    mixture = Mixture([1, 1, 1], seed=0, group=8)
    located = [mixture.locate(n) for n in range(8 * 30)]
    groups = [located[i : i + 8] for i in range(0, len(located), 8)]
    for group in groups:
        start = group[0][1]
        assert start % 8 == 0
        assert group == [(group[0][0], start + i) for i in range(8)]
    assert len({group[0][0] for group in groups}) == 3


@pytest.mark.parametrize("weights", [[], [1, 0], [1, -1], [1, float("nan")], [1, "2"], [1, 1e-4]])
def test_weights_that_cannot_be_used_are_refused(weights):
    with pytest.raises(InputError, match="weights are"):
        Mixture(weights, seed=0)


class Numbers:
    """A source whose tokens are its numbers."""

    def __init__(self, name, edit=True, side=2):
        self.fingerprint, self.edit, self.side = name, edit, side

    def batch(self, numbers):
        ids = torch.tensor(list(numbers)).view(-1, 1, 1).expand(-1, self.side, self.side)
        prompts = [f"{self.fingerprint}{n}" for n in numbers]
        return TokenBatch(ids, ids if self.edit else None, prompts, torch.zeros(len(ids), 5))


def test_mixed_samples_keep_their_places():
    mixed = Mixed([Numbers("a"), Numbers("b")], [1, 1], seed=0)
    whole = mixed.batch(range(40))
    assert {prompt[0] for prompt in whole.prompts} == {"a", "b"}
    for k in (0, 7, 39):
        one = mixed.batch([k])
        assert one.prompts[0] == whole.prompts[k]
        assert int(one.target[0, 0, 0]) == int(whole.target[k, 0, 0]) == int(whole.prompts[k][1:])
    backwards = mixed.batch(range(39, -1, -1))
    assert list(backwards.prompts) == list(whole.prompts)[::-1]


@pytest.mark.parametrize("other", [Numbers("b", edit=False), Numbers("b", side=4)])
def test_kinds_and_grids_mix_by_groups_only(other):
    with pytest.raises(InputError, match="group"):
        Mixed([Numbers("a"), other], [1, 1], seed=0).batch(range(40))
    grouped = Mixed([Numbers("a"), other], [1, 1], seed=0, group=4)
    kinds = {grouped.batch(range(4 * k, 4 * k + 4)).prompts[0][0] for k in range(10)}
    assert kinds == {"a", "b"}


def test_a_mixture_is_told_apart_by_everything_that_decides_a_number():
    sources = [Numbers("a"), Numbers("b")]
    made = [Mixed(sources, [1, 1], 0), Mixed(sources, [2, 1], 0), Mixed(sources, [1, 1], 1),
            Mixed(sources, [1, 1], 0, group=2), Mixed(sources[::-1], [1, 1], 0)]  # fmt: skip
    assert len({mixed.fingerprint for mixed in made}) == len(made)
    with pytest.raises(InputError, match="1 weights for 2 sources"):
        Mixed(sources, [1], 0)


@pytest.mark.parametrize("task", ["edit", "generate"])
def test_toyworld_samples_do_not_depend_on_the_batch(vq, task):
    source = ToyWorldSource(vq, 128, seed=5, task=task)
    whole, parts = source.batch(range(10, 18)), [source.batch([n]) for n in range(10, 18)]
    assert torch.equal(whole.target, torch.cat([p.target for p in parts]))
    assert list(whole.prompts) == [p.prompts[0] for p in parts]
    assert (whole.source is None) == (task == "generate")
    if task == "edit":
        assert torch.equal(whole.source, torch.cat([p.source for p in parts]))
        assert (whole.source != whole.target).any()
    assert whole.micro_conditions.tolist() == [[128, 128, 0, 0, 6]] * 8
    assert ToyWorldSource(vq, 128, seed=6, task=task).batch([10]).prompts != whole.prompts[:1]


def test_toyworld_splits_share_no_scene(vq):
    pairs = [draw_pair(0, n) for n in range(60)]
    assert not any(is_heldout(p.source) or is_heldout(p.target) for p in pairs)
    assert all(is_heldout(draw_pair(0, n, heldout=True).source) for n in range(60))
    for task in ("spare", "bystander"):
        assert all(is_heldout(draw_pair(0, n, True, task).source) for n in range(20))
        drawn = [draw_pair(0, n, task=task) for n in range(20)]
        assert not any(is_heldout(p.source) or is_heldout(p.target) for p in drawn)
    assert all(is_heldout(draw_scene(0, n, heldout=True)[0]) for n in range(20))
    prompts = ToyWorldSource(vq, 128, 0, heldout=True).batch([3]).prompts
    assert prompts == [draw_pair(0, 3, heldout=True).instruction]


def test_a_bystander_has_the_spare_color_stays_and_is_not_named():
    for pair in (draw_pair(0, n, task="bystander") for n in range(40)):
        (pink,) = (thing for thing in pair.source.things if thing.color == SPARE_COLOR)
        assert pink in pair.target.things and SPARE_COLOR not in pair.instruction


def test_toyworld_is_told_apart_by_its_tokenizer_but_not_by_its_decoder(vq):
    before = ToyWorldSource(vq, 128, 0).fingerprint
    other = VQModel(tiny.VQ)
    other.load_state_dict(vq.state_dict())
    with torch.no_grad():
        next(other.decoder.parameters()).add_(1)
    assert ToyWorldSource(other, 128, 0).fingerprint == before
    with torch.no_grad():
        other.quantize.embedding.weight[3, 0] += 1
    assert ToyWorldSource(other, 128, 0).fingerprint != before
    assert ToyWorldSource(vq, 128, 0, "generate").fingerprint != before
    assert ToyWorldSource(vq, 128, 1).fingerprint != before
    with pytest.raises(InputError, match="task is 'both'"):
        ToyWorldSource(vq, 128, 0, "both")
