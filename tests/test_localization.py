"""Localisation: options, consolidation and smoothing on grids the published code cannot take."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editmgt_lib.choices import FILTERS
from editmgt_lib.errors import EditMGTError, InputError
from editmgt_lib.localization import filters
from editmgt_lib.localization.maps import (
    Localization,
    LocalizationOptions,
    consolidate,
    default_layers,
    mean_scores,
    rescale,
    smooth,
)

SMOOTHING = tuple(name for name in FILTERS if name != "none")


def _maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers", (3, 2)),
        ("layers", (-1, 2)),
        ("layers", (1,)),
        ("layers", (True, 2)),
        ("words", ("",)),
        ("words", "dog"),
        ("rows", "some"),
        ("filter", "median"),
        ("filter", "bilateral"),
        ("filter", "morphology"),
    ],
)
def test_bad_options_name_option_and_value(name, value):
    with pytest.raises(InputError, match=name) as error:
        LocalizationOptions(**{name: value})
    assert repr(value) in str(error.value)


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LocalizationOptions().rows = "content"


def test_published_depth_gives_published_layers():
    assert default_layers(14, 28) == (28, 36)
    assert list(LocalizationOptions().block_range(14, 28)) == list(range(28, 37))


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 60))
def test_default_layers_fit_any_depth(double, single):
    if double + single == 0:
        return
    first, last = default_layers(double, single)
    assert 0 <= first <= last < double + single
    assert single == 0 or first >= double


def test_layers_beyond_the_model_are_refused():
    assert list(LocalizationOptions(layers=(0, 1)).block_range(1, 1)) == [0, 1]
    with pytest.raises(InputError, match="0 to 1"):
        LocalizationOptions(layers=(0, 2)).block_range(1, 1)


@pytest.mark.parametrize("grid", [(5, 9), (12, 7), (8, 8), (1, 24), (40, 24)])
@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_gaussian_is_scipy_on_any_grid(grid, strength):
    ndimage = pytest.importorskip("scipy.ndimage")
    field = _maps(1, *grid)
    expected = ndimage.gaussian_filter(field[0].double().numpy(), 2 * strength, mode="reflect")
    _compare(smooth(field, "gaussian", strength, False), field, expected)


@pytest.mark.parametrize("grid", [(5, 9), (12, 7), (8, 8), (1, 24)])
def test_adaptive_is_scipy_on_any_grid(grid):
    ndimage = pytest.importorskip("scipy.ndimage")
    field = _maps(1, *grid)
    raw = field[0].double().numpy()
    variance = ndimage.generic_filter(raw, np.var, size=5)
    variance = (variance - variance.min()) / (variance.max() - variance.min() + 1e-8)
    weight = 1 - 0.7 * variance
    expected = weight * ndimage.gaussian_filter(raw, 1.5) + (1 - weight) * raw
    _compare(smooth(field, "adaptive", 1.0, False), field, expected)


def _compare(got: torch.Tensor, field: torch.Tensor, expected: np.ndarray) -> None:
    span = expected.max() - expected.min()
    if span > 0:
        low, high = float(field.min()), float(field.max())
        expected = (expected - expected.min()) / span * (high - low) + low
    assert np.abs(got[0].numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("kind", SMOOTHING)
@pytest.mark.parametrize("peaks", [True, False])
def test_items_of_a_batch_are_smoothed_alone(kind, peaks):
    field = _maps(3, 12, 20)
    together = smooth(field, kind, 1.0, peaks)
    assert together.shape == field.shape and together.dtype == torch.float32
    for k in range(3):
        assert torch.equal(together[k : k + 1], smooth(field[k : k + 1], kind, 1.0, peaks))


@pytest.mark.parametrize("kind", SMOOTHING)
def test_smoothing_keeps_range_and_input(kind):
    field = _maps(2, 16, 16)
    before = field.clone()
    got = smooth(field, kind)
    assert torch.equal(field, before)
    torch.testing.assert_close(got.amin((1, 2)), field.amin((1, 2)))
    torch.testing.assert_close(got.amax((1, 2)), field.amax((1, 2)))


@pytest.mark.parametrize("kind", SMOOTHING)
def test_flat_map_stays_flat(kind):
    field = torch.full((1, 8, 8), 0.25)
    got = smooth(field, kind, preserve_peaks=False)
    assert float(got.amax() - got.amin()) < 1e-6


def test_no_filter_returns_the_scores():
    field = _maps(2, 6, 5)
    assert torch.equal(smooth(field, "none"), field)


def test_isolated_speck_is_smoothed_and_block_stays():
    field = torch.zeros(1, 32, 32)
    field[0, 4, 4] = 1.0
    field[0, 16:26, 16:26] = 1.0
    got = smooth(field, "gaussian", preserve_peaks=False)
    assert got[0, 20, 20] > 0.9 > 0.2 > got[0, 4, 4]


@given(st.integers(0, 1000), st.integers(2, 9), st.integers(2, 9))
@settings(max_examples=25, deadline=None)
def test_transpose_commutes_with_smoothing(seed, rows, cols):
    field = _maps(1, rows, cols, seed=seed)
    for kind in SMOOTHING:
        turned = smooth(field.transpose(1, 2), kind).transpose(1, 2)
        torch.testing.assert_close(turned, smooth(field, kind), rtol=0, atol=1e-6)


def test_mean_is_over_blocks_heads_and_rows():
    maps = [_maps(2, 3, 4, 6, seed=k) for k in range(5)]
    expected = torch.stack(maps).mean((0, 2, 3))
    torch.testing.assert_close(mean_scores(maps), expected)
    torch.testing.assert_close(mean_scores([m.mean((1, 2)) for m in maps]), expected)
    half = mean_scores([m.bfloat16() for m in maps])
    assert half.dtype == torch.float32
    with pytest.raises(InputError, match="at least one block"):
        mean_scores([])


def test_rescale_is_per_item():
    got = rescale(torch.tensor([[1.0, 2.0, 3.0], [10.0, 30.0, 20.0]]))
    torch.testing.assert_close(got, torch.tensor([[0, 0.5, 1], [0, 1, 0.5]]))
    assert rescale(torch.ones(1, 4)).abs().max() == 0


@pytest.mark.parametrize("kind", FILTERS)
def test_consolidated_relevance_is_in_unit_range_on_any_grid(kind):
    options = LocalizationOptions(filter=kind)
    localization = consolidate(_maps(2, 48 * 20) * 1e-3, (48, 20), options)
    assert localization.relevance.shape == (2, 48, 20) and localization.options is options
    assert localization.relevance.min() >= 0 and localization.relevance.max() <= 1 + 1e-6
    assert len(repr(localization)) < 250


def test_consolidate_refuses_wrong_grid_and_broken_numbers():
    with pytest.raises(InputError, match="4 x 6"):
        consolidate(torch.rand(1, 25), (4, 6), LocalizationOptions())
    with pytest.raises(EditMGTError, match="not finite"):
        consolidate(torch.full((1, 24), torch.nan), (4, 6), LocalizationOptions())


def test_held_is_below_the_threshold_on_the_token_grid():
    localization = Localization(_maps(2, 4, 6), LocalizationOptions())
    assert localization.upsample(4, 6) is localization.relevance
    assert localization.upsample(8, 12).shape == (2, 8, 12)
    assert torch.equal(localization.held(0.5, 8, 12), localization.upsample(8, 12) < 0.5)


def test_nothing_is_held_at_0_and_everything_at_1_despite_overshoot():
    localization = Localization(torch.eye(8)[None], LocalizationOptions())
    upsampled = localization.upsample(16, 16)
    assert upsampled.min() < 0 and upsampled.max() > 1
    assert not localization.held(0, 16, 16).any()
    assert localization.held(1, 16, 16).all()


def test_item_is_one_map_of_the_batch():
    localization = Localization(_maps(3, 4, 6), LocalizationOptions(words=("sky",)))
    for k in (0, 2, -1):
        item = localization.item(k)
        assert torch.equal(item.relevance, localization.relevance[k][None])
        assert item.options is localization.options
    with pytest.raises(IndexError):
        localization.item(3)


class OnDevice(torch.Tensor):
    """Stands in for MPS, Arc and DirectML: float64 fails until the tensor is on the CPU."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
            if func is torch.Tensor.cpu:
                return result.as_subclass(torch.Tensor)
        if getattr(result, "dtype", None) == torch.float64:
            raise TypeError(f"{func} makes float64 on a device that has none")
        return result


@pytest.mark.parametrize("kind", FILTERS)
def test_no_float64_on_a_device_that_has_none(kind, monkeypatch):
    monkeypatch.setattr(filters, "FLOAT64", ())
    scores, options = _maps(2, 48), LocalizationOptions(filter=kind)
    with pytest.raises(TypeError, match="float64"):
        scores.as_subclass(OnDevice).double()
    relevance = consolidate(scores.as_subclass(OnDevice), (6, 8), options).relevance
    expected = consolidate(scores, (6, 8), options).relevance
    assert torch.equal(relevance.as_subclass(torch.Tensor), expected)


def test_rounding_of_the_scores_stays_rounding_of_the_map():
    """Scores differ in their last bits between processors; the map may differ by 1e-5."""
    scores = _maps(1, 32 * 32)
    nudged = scores * (1 + 2e-7 * (2 * _maps(1, 32 * 32, seed=1) - 1))
    maps = [consolidate(s, (32, 32), LocalizationOptions()).relevance for s in (scores, nudged)]
    torch.testing.assert_close(*maps, rtol=0, atol=1e-5)
