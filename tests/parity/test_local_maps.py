"""Score maps against the golden arrays of the official localisation functions."""

import pytest

from editmgt_lib.localization.maps import (
    Localization,
    LocalizationOptions,
    consolidate,
    mean_scores,
    rescale,
    smooth,
)

from . import goldens

CASES = goldens.case_dirs("local_maps")
# Position grids by length. The 24 scores are one row: the official function filters any length
# other than 1024 and 4096 along one axis, which a map one position high amounts to.
GRIDS = {1024: (32, 32), 4096: (64, 64), 24: (1, 24)}
REL = 1e-5
# Filters of the official code that no published setting uses; ours are without them.
LEFT_OUT = ("bilateral", "morphology")


def _smoothing_settings() -> list:
    return [
        pytest.param(case, name, settings, id=f"{case.parent.name}-{name}")
        for case in CASES
        for name, settings in goldens.meta(case)["smoothing"].items()
        if settings["method"] not in LEFT_OUT
    ]


def test_goldens_are_there():
    assert CASES


@pytest.mark.parametrize("case", CASES, ids=goldens.case_id)
def test_every_golden_smoothing_is_compared(case):
    stored = {n for n in goldens.load(case / "outputs.safetensors") if n.startswith("smooth.")}
    assert stored == set(goldens.meta(case)["smoothing"])


@pytest.mark.parametrize(("case", "name", "settings"), _smoothing_settings())
def test_smooth(case, name, settings):
    field = goldens.load(case / "inputs.safetensors")[f"field.{settings['field']}"]
    expected = goldens.load(case / "outputs.safetensors")[name]
    maps = field.reshape(field.shape[0], *GRIDS[field.shape[1]])
    got = smooth(maps, settings["method"], settings["strength"], settings["preserve_peaks"])
    goldens.assert_close(got.flatten(1), expected, REL, name)


@pytest.mark.parametrize("case", CASES, ids=goldens.case_id)
@pytest.mark.parametrize("batch", ["b1", "b2"])
def test_mean_and_rescale(case, batch):
    stored = goldens.load(case / "outputs.safetensors")
    conditional = goldens.load(case / "inputs.safetensors")[f"maps_{batch}"].chunk(2, dim=1)[1]
    queries = goldens.meta(case)["query_positions"]
    got = mean_scores(list(conditional))
    goldens.assert_close(got, stored[f"mean_{batch}"], REL)
    goldens.assert_close(rescale(got), stored[f"rescaled_{batch}"], REL)
    of_words = mean_scores(list(conditional[..., queries, :]))
    goldens.assert_close(of_words, stored[f"mean_query_{batch}"], REL)
    reduced = mean_scores([m.mean((1, 2)) for m in conditional])
    goldens.assert_close(reduced, stored[f"mean_{batch}"], REL)


@pytest.mark.parametrize("case", CASES, ids=goldens.case_id)
def test_upsample(case):
    given = goldens.load(case / "inputs.safetensors")["upsample_in"].reshape(-1, 32, 32)
    expected = goldens.load(case / "outputs.safetensors")["upsample_out"]
    got = Localization(given, LocalizationOptions()).upsample(64, 64)
    goldens.assert_close(got.flatten(1), expected, REL)


@pytest.mark.parametrize("case", CASES, ids=goldens.case_id)
def test_consolidate_is_the_published_chain(case):
    maps = goldens.load(case / "inputs.safetensors")["maps_b1"]
    stored = goldens.load(case / "outputs.safetensors")
    scores = mean_scores(list(maps.chunk(2, dim=1)[1]))
    got = consolidate(scores, (32, 32), LocalizationOptions()).relevance
    goldens.assert_close(got.flatten(1), stored["smooth.attn_32.adaptive.1.0.peaks"], REL)
