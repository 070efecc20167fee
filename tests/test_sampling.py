"""Sampling: schedule, noise, draw, hold rules, and the loop."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editmgt_lib.errors import Cancelled, EditMGTError, InputError
from editmgt_lib.localization.maps import Localization, LocalizationOptions
from editmgt_lib.sampling.loop import sample_tokens
from editmgt_lib.sampling.noise import ItemNoise, SharedNoise, draw_tokens
from editmgt_lib.sampling.options import SamplingOptions
from editmgt_lib.sampling.step import guide, mask_ratio, n_masked, reveal_step

CODES, MASK, ROWS, COLS = 12, 15, 6, 5
SIZE = ROWS * COLS


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _rows(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Logits [B, n, V] of some positions, out of [B, V, H, W]."""
    return logits.flatten(2).mT.gather(1, rows[..., None].expand(-1, -1, CODES))


def _predict(batch: int, seeds: tuple[int, ...] | None = None, found=None):
    """A model whose logits for an item depend on its own seed, the step and its ids alone."""
    seeds = seeds or tuple(range(batch))

    def predict(ids, step, rows):
        each = [
            torch.randn(CODES, ROWS, COLS, generator=_generator(97 * s + step)) * 2 for s in seeds
        ]
        return _rows(torch.stack(each), rows), found

    return predict


def _masked(batch: int) -> torch.Tensor:
    return torch.full((batch, ROWS, COLS), MASK)


def _source(batch: int) -> torch.Tensor:
    return torch.randint(CODES, (batch, ROWS, COLS), generator=_generator(5))


def _half(batch: int) -> torch.Tensor:
    region = torch.zeros(batch, ROWS, COLS, dtype=torch.bool)
    region[:, :3] = True
    return region


def _expected_counts(free: int, steps: int = 6) -> list[int]:
    """Tokens still masked after each step when `free` start masked."""
    counts, left = [], free
    for step in range(steps - 1):
        left = max(1, min(left - 1, int(free * mask_ratio(step, steps))))
        counts.append(left)
    return [*counts, 0]


def _sample(batch=1, options=None, start=None, seeds=None, found=None, **rest):
    options = options or SamplingOptions(steps=6, seed=11)
    noise = rest.pop("noise", None) or ItemNoise(options.seeds(batch), options.draw)
    predict = rest.pop("predict", None) or _predict(batch, seeds, found)
    start = _masked(batch) if start is None else start
    return sample_tokens(
        predict, start, options=options, noise=noise, mask_id=MASK, codes=CODES, **rest
    )


# options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", 1001),
        ("steps", 4.0),
        ("steps", True),
        ("guidance", -1.0),
        ("guidance", float("inf")),
        ("strength", 0.0),
        ("strength", "1.1"),
        ("strength_scope", "text"),
        ("temperature", -1.0),
        ("temperature", (1.0,)),
        ("temperature", (2.0, float("nan"))),
        ("token_temperature", 0.0),
        ("token_temperature", True),
        ("schedule", "sqrt"),
        ("threshold", 1.5),
        ("threshold", None),
        ("hold_rule", "always"),
        ("draw", "argmax"),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", (1, -2)),
        ("seed", True),
    ],
)
def test_bad_options_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"{name} is"):
        SamplingOptions(**{name: value})


def test_numbers_of_numpy_and_lists_are_taken_as_pythons_own():
    options = SamplingOptions(
        steps=np.int64(4), guidance=np.float32(2.5), seed=[np.uint64(3), 4], temperature=[1, 0]
    )
    assert options == SamplingOptions(steps=4, guidance=2.5, seed=(3, 4), temperature=(1, 0))
    assert json.loads(json.dumps(dataclasses.asdict(options)))["seed"] == [3, 4]
    assert LocalizationOptions(layers=[np.int32(1), 2]).layers == (1, 2)
    with pytest.raises(InputError, match="steps is"):
        SamplingOptions(steps=np.float64(4))


def test_defaults_are_the_published_ones():
    options = SamplingOptions()
    assert (options.steps, options.guidance, options.strength) == (36, 6.0, 1.1)
    assert (options.threshold, options.temperature, options.schedule) == (0.0, (2.0, 0.0), "cosine")
    assert (options.hold_rule, options.strength_scope) == ("proposal", "text+image")
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.steps = 3


def test_guidance_is_active_above_one():
    assert not SamplingOptions(guidance=1.0).guided and SamplingOptions(guidance=1.01).guided
    torch.testing.assert_close(guide(torch.tensor(1.0), torch.tensor(2.0), 6.0), torch.tensor(7.0))


def test_seeds_per_item():
    assert SamplingOptions(seed=7).seeds(3) == (7, 8, 9)
    assert SamplingOptions(seed=2**64 - 1).seeds(2) == (2**64 - 1, 0)
    assert SamplingOptions(seed=(4, 4)).seeds(2) == (4, 4)
    with pytest.raises(InputError, match="seed has 2 entries"):
        SamplingOptions(seed=(4, 4)).seeds(3)


def test_temperature_runs_from_first_to_last():
    pair = SamplingOptions(steps=5, temperature=(2.0, 0.0))
    assert [pair.temperature_at(k) for k in range(5)] == [2.0, 1.5, 1.0, 0.5, 0.0]
    one = SamplingOptions(steps=5, temperature=3.0)
    assert one.temperature_at(0) == 3.0 and one.temperature_at(4) == pytest.approx(0.01)


# schedule


def test_ratio_is_float32_as_published():
    ratio = mask_ratio(23, 36)
    assert n_masked(ratio, 1.0, torch.tensor([4096]), 4096).item() == 2047


@settings(deadline=None)
@given(st.integers(1, 300), st.sampled_from(["cosine", "linear"]))
def test_schedule_falls_from_one_to_zero(steps, schedule):
    ratios = [mask_ratio(k, steps, schedule) for k in range(steps)]
    assert all(a > b for a, b in zip(ratios, ratios[1:], strict=False))
    assert ratios[0] < 1 and abs(ratios[-1]) < 1e-6


@settings(deadline=None)
@given(
    st.floats(0, 1), st.floats(0, 1), st.lists(st.integers(0, 500), min_size=1), st.integers(1, 500)
)
def test_count_is_within_bounds(ratio, start, masked, positions):
    count = n_masked(ratio, start, torch.tensor(masked), positions)
    for n, m in zip(count.tolist(), masked, strict=True):
        assert n == max(1, min(m - 1, n)) and n <= max(1, positions)


@given(st.integers(1, 40), st.integers(0, 2**32), st.sampled_from(["cosine", "linear"]))
@settings(max_examples=20, deadline=None)
def test_every_step_reveals_and_none_is_masked_again(steps, seed, schedule):
    options = SamplingOptions(steps=steps, seed=seed, schedule=schedule, temperature=50.0)
    counts, before = [SIZE], _masked(1)

    def watch(event):
        nonlocal before
        known = before != MASK
        assert torch.equal(event.ids[known], before[known])
        assert torch.equal(event.pending, event.ids == MASK)
        assert not (event.proposal == MASK).any()
        counts.append(int(event.pending.sum()))
        before = event.ids

    ids = _sample(options=options, callback=watch).ids
    assert counts[-1] == 0 and 0 <= int(ids.min()) <= int(ids.max()) < CODES
    assert len(counts) == steps + 1
    assert all(b < a or a == 1 for a, b in zip(counts, counts[1:], strict=False))


# noise and draws


@pytest.mark.parametrize("draw", ["inverse", "race"])
def test_numbers_of_a_run_are_those_drawn_step_by_step(draw):
    for noise, same in [(ItemNoise((1, 2), draw), ItemNoise((1, 2), draw))] + [
        tuple(SharedNoise(_generator(3), draw) for _ in range(2))
    ]:
        run = noise.steps(3, 2, 5, 4, torch.device("cpu"))
        for step, numbers in enumerate(run):
            expected = same.draw(2, 5, 4, step == 2)
            assert all(map(torch.equal, numbers, expected))
        assert step == 2


@pytest.mark.parametrize("draw", ["inverse", "race"])
def test_draw_follows_the_distribution(draw):
    probs = torch.tensor([0.0, 0.5, 0.25, 0.0, 0.2, 0.05, 0.0])
    trials = 20000
    numbers = ItemNoise((3,), draw).draw(1, trials, len(probs), last=False).tokens[0]
    drawn = draw_tokens(probs.expand(trials, -1), numbers)
    counts = torch.bincount(drawn, minlength=len(probs)).double()
    possible = probs > 0
    assert counts[~possible].sum() == 0
    expected = probs[possible].double() * trials
    assert ((counts[possible] - expected) ** 2 / expected).sum() < 16.3  # p = 0.001, 3 degrees


@pytest.mark.parametrize(
    ("token_temperature", "share"), [(1.0, 4 / 5), (0.5, 16 / 17), (2.0, 2 / 3)]
)
def test_token_temperature_makes_likely_tokens_likelier(token_temperature, share):
    """Of two codes, four to one: sixteen to one at 0.5, two to one at 2."""
    logits = torch.full((CODES,), -torch.inf)
    logits[:2] = torch.tensor([4.0, 1.0]).log()

    def predict(ids, step, rows):
        return logits.expand(*rows.shape, CODES), None

    options = SamplingOptions(steps=1, seed=1, token_temperature=token_temperature)
    drawn = _sample(1, options, torch.full((1, 100, 100), MASK), predict=predict).ids
    # Within four standard deviations of 10,000 draws.
    assert (drawn == 0).float().mean() == pytest.approx(share, abs=0.02)


def test_inverse_draw_never_meets_impossible_tokens():
    probs = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 3e-8, 1.0, 0.0]])
    for u in (0.0, 1.0 - 2.0**-24):
        assert (probs.gather(1, draw_tokens(probs, torch.tensor([u, u]))[:, None]) > 0).all()


def test_race_is_torch_multinomial():
    numbers = SharedNoise(_generator(8)).draw(1, 40, 9, last=False)
    generator = _generator(8)
    if not torch.equal(numbers.tokens[0], torch.empty(40, 9).exponential_(1, generator=generator)):
        pytest.skip("this build of torch draws its exponentials with MKL")
    probs = torch.rand(1, 40, 9, generator=_generator(1)).softmax(-1)
    expected = torch.multinomial(probs[0], 1, generator=generator.manual_seed(8))[:, 0]
    assert torch.equal(draw_tokens(probs[0], numbers.tokens[0]), expected)
    assert torch.equal(numbers.ranking, torch.rand(1, 40, generator=generator))


def test_noise_needs_one_seed_per_item():
    with pytest.raises(InputError, match="2 seeds for 3 items"):
        ItemNoise((1, 2)).draw(3, 4, 5, last=False)


@pytest.mark.parametrize("draw", ["inverse", "race"])
@pytest.mark.parametrize("rule", ["proposal", "restore"])
def test_item_does_not_depend_on_its_batch(draw, rule):
    options = SamplingOptions(steps=6, seed=(3, 4, 5), draw=draw, threshold=0.3, hold_rule=rule)
    maps = torch.rand(3, ROWS, COLS, generator=_generator(2))
    region = _half(3)
    region[1, 4, 2] = True
    found = Localization(maps, LocalizationOptions())
    rest = {"options": options, "found": found, "source": _source(3), "region": region}
    together = _sample(3, **rest).ids
    for k in range(3):
        alone = _sample(
            1,
            dataclasses.replace(options, seed=(3 + k,)),
            seeds=(k,),
            found=Localization(maps[k : k + 1], LocalizationOptions()),
            source=_source(3)[k : k + 1],
            region=region[k : k + 1],
        ).ids
        assert torch.equal(together[k], alone[0])


def test_same_seed_same_tokens_and_global_generator_untouched():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = _sample(2).ids
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(_sample(2).ids, first)
    assert not torch.equal(_sample(2, SamplingOptions(steps=6, seed=12)).ids, first)


# one step


@pytest.mark.parametrize("step", [0, 3])
def test_nothing_masked_is_nothing_to_do(step):
    ids = _source(2)
    logits, rows = torch.empty(2, 0, CODES), torch.empty(2, 0, dtype=torch.int64)
    noise = ItemNoise((1, 2)).draw(2, SIZE, CODES, last=False)
    options = SamplingOptions(steps=4)
    result = reveal_step(logits, ids, rows, noise, step=step, options=options, mask_id=MASK)
    assert torch.equal(result.ids, ids)


def test_one_position_is_enough():
    logits, rows = torch.zeros(1, 1, CODES), torch.zeros(1, 1, dtype=torch.int64)
    noise = ItemNoise((1,)).draw(1, 1, CODES, last=False)
    options = SamplingOptions(steps=4)
    start = torch.full((1, 1, 1), MASK)
    result = reveal_step(logits, start, rows, noise, step=0, options=options, mask_id=MASK)
    assert 0 <= result.ids.item() < CODES


@pytest.mark.parametrize("draw", ["inverse", "race"])
@pytest.mark.parametrize("broken", [0, 2, 5])
def test_broken_logits_are_reported_once_the_run_is_over(draw, broken):
    base, seen = _predict(1), []

    def predict(ids, step, rows):
        logits, found = base(ids, step, rows)
        return torch.where(torch.tensor(step >= broken), torch.nan, logits), found

    options = SamplingOptions(steps=6, draw=draw)
    with pytest.raises(EditMGTError, match=f"step {broken} are not finite"):
        _sample(1, options, predict=predict, callback=seen.append)
    assert len(seen) == 6


def test_a_broken_map_is_reported_though_it_holds_nothing():
    found = Localization(torch.full((1, ROWS, COLS), torch.nan), LocalizationOptions())
    with pytest.raises(EditMGTError, match="step 0 are not finite"):
        _sample(1, SamplingOptions(steps=6, threshold=0.3), found=found, source=_source(1))


def test_equal_confidence_masks_fewer_tokens_and_all_are_drawn():
    """Published: only tokens strictly below the cut are masked again."""
    options, pending = SamplingOptions(steps=6, temperature=(0.0, 0.0)), []

    def predict(ids, step, rows):
        return torch.zeros(*rows.shape, CODES), None

    ids = _sample(
        1, options, predict=predict, callback=lambda event: pending.append(event.pending.sum())
    ).ids
    assert pending == [0] * 6 and (ids < CODES).all()


def test_no_more_tokens_are_masked_than_will_be_drawn():
    """On a GPU the count may round up where the host's, which the next step goes by, does not."""
    noise, rows = ItemNoise((1,)).draw(1, SIZE, CODES, last=False), torch.arange(SIZE)[None]
    for most, expected in ((None, 28), (3, 3)):
        result = reveal_step(
            torch.zeros(1, SIZE, CODES), _masked(1), rows, noise, step=0, most=most,
            options=SamplingOptions(steps=6), mask_id=MASK,
        )  # fmt: skip
        masked = (result.ids == MASK).flatten()
        assert masked.sum() == expected and masked[result.order[0, :expected]].all()


def test_inputs_are_not_written():
    start, source, region = _masked(1), _source(1), _half(1)
    copies = [t.clone() for t in (start, source, region)]
    _sample(1, start=start, source=source, region=region)
    for tensor, copy in zip((start, source, region), copies, strict=True):
        assert torch.equal(tensor, copy)


# holding


def test_outside_the_region_is_the_source_from_the_start():
    source, region, seen = _source(2), _half(2), []
    base = _predict(2)

    def predict(ids, step, rows):
        seen.append((step, ids.clone()))
        return base(ids, step, rows)

    ids = _sample(2, source=source, region=region, predict=predict).ids
    assert [step for step, _ in seen] == list(range(6))
    assert all(torch.equal(i[~region], source[~region]) for _, i in seen)
    assert torch.equal(ids[~region], source[~region])
    assert (ids[region] != source[region]).any()


def test_region_counts_are_per_item():
    region = torch.zeros(2, ROWS, COLS, dtype=torch.bool)
    region[0, :4], region[1, :1] = True, True
    counts = []
    _sample(
        2,
        source=_source(2),
        region=region,
        callback=lambda event: counts.append(event.pending.sum((1, 2)).tolist()),
    )
    assert [first for first, _ in counts] == _expected_counts(20)
    assert [second for _, second in counts] == _expected_counts(5)


def test_proposal_rule_holds_masked_tokens_only():
    """Published code: a token already revealed is never put back."""
    low = Localization(torch.zeros(1, ROWS, COLS), LocalizationOptions())
    high = Localization(torch.ones(1, ROWS, COLS), LocalizationOptions())
    base, source = _predict(1), _source(1)
    options = SamplingOptions(steps=6, threshold=0.5)
    revealed = {}

    def predict(ids, step, rows):
        if step == 3:
            revealed["ids"] = ids.clone()
        return base(ids, step, rows)[0], low if step >= 3 else high

    ids = _sample(1, options, predict=predict, source=source).ids
    early = revealed["ids"] != MASK
    assert torch.equal(ids[early], revealed["ids"][early])
    assert torch.equal(ids[~early], source[~early])
    assert (ids[early] != source[early]).any()


def test_restore_rule_puts_every_held_token_back():
    """Paper: after each step every token below lambda is the source token."""
    maps = torch.rand(1, ROWS, COLS, generator=_generator(3))
    found = Localization(maps, LocalizationOptions())
    source, held = _source(1), maps < 0.6
    counts = []

    def watch(event):
        assert torch.equal(event.held, held)
        assert torch.equal(event.ids[held], source[held])
        counts.append(int(event.pending.sum()))

    options = SamplingOptions(steps=6, threshold=0.6, hold_rule="restore")
    start = _masked(1)
    start[0, 0] = 1  # known already, and partly held
    ids = _sample(1, options, start, found=found, source=source, callback=watch).ids
    assert torch.equal(ids[held], source[held])
    free = int((~held & (start == MASK)).sum())
    assert counts == _expected_counts(free)


@pytest.mark.parametrize("rule", ["proposal", "restore"])
def test_a_region_and_the_threshold_both_hold(rule):
    region = torch.ones(1, ROWS, COLS, dtype=torch.bool)
    region[:, :, 0] = False
    maps = torch.ones(1, ROWS, COLS)
    maps[:, :, 1] = 0.0
    found = Localization(maps, LocalizationOptions())
    options = SamplingOptions(steps=6, threshold=0.1, hold_rule=rule)
    source = _source(1)
    result = _sample(1, options, found=found, source=source, region=region)
    assert torch.equal(result.ids[:, :, :2], source[:, :, :2])
    assert (result.ids[:, :, 2:] != source[:, :, 2:]).any()
    assert result.localization is found


def test_threshold_zero_holds_nothing():
    found = Localization(torch.full((1, ROWS, COLS), -1.0), LocalizationOptions())
    assert torch.equal(_sample(found=found, source=_source(1)).ids, _sample().ids)


def test_everything_held_gives_the_source():
    everything = Localization(torch.ones(1, ROWS, COLS), LocalizationOptions())
    for rule in ("proposal", "restore"):
        options = SamplingOptions(steps=6, hold_rule=rule, threshold=1.0)
        source = _source(1)
        assert torch.equal(_sample(1, options, source=source, found=everything).ids, source)


def test_empty_region_needs_no_forward_pass():
    def predict(ids, step, rows):
        raise AssertionError("called")

    nothing = torch.zeros(1, ROWS, COLS, dtype=torch.bool)
    result = _sample(1, predict=predict, source=_source(1), region=nothing)
    assert torch.equal(result.ids, _source(1)) and result.localization is None


@pytest.mark.parametrize("what", ["region", "threshold"])
def test_keeping_needs_a_source(what):
    rest = {what: _half(1)} if what != "threshold" else {}
    options = SamplingOptions(threshold=0.1 if what == "threshold" else 0.0)
    with pytest.raises(InputError, match="source is None"):
        _sample(1, options, **rest)


def test_source_with_masks_is_refused():
    with pytest.raises(InputError, match="outside 0..11"):
        _sample(1, source=_masked(1), region=_half(1))


# callback


def test_event_fields_and_short_repr():
    events = []
    _sample(callback=events.append)
    assert [e.step for e in events] == list(range(6)) and {e.steps for e in events} == {6}
    assert events[0].held is None and len(repr(events[0])) < 80


def test_false_cancels_and_nothing_is_left_behind():
    before = _sample().ids
    with pytest.raises(Cancelled, match="step 3 of 6"):
        _sample(callback=lambda event: event.step < 2)
    assert torch.equal(_sample().ids, before)


def test_an_error_of_the_callback_passes_through():
    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _sample(callback=stop)
