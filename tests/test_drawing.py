"""Relevance at picture size and as a heat map."""

import pytest
import torch

from editmgt_lib.pictures.drawing import heat_map, relevance_on_picture
from editmgt_lib.pictures.fitting import FitOptions, fit, project_mask


@pytest.mark.parametrize("fit_", ["pad", "native", "crop"])
def test_relevance_at_picture_size_is_that_of_the_tokens(fit_):
    mask = torch.zeros(1, 64, 96)
    mask[:, 8:20, 30:50] = 1
    image = torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(0))
    _, canvas = fit(image, FitOptions(fit_, resolution=64, factor=8), mask)
    relevance = torch.zeros(1, canvas.rows, canvas.cols)
    tokens = project_mask(mask, canvas)
    relevance[tokens] = 1
    drawn = relevance_on_picture(relevance, canvas)
    assert drawn.shape == (1, 64, 96) and (drawn[mask > 0] > 0.5).all()
    touched = project_mask(drawn, canvas)
    assert touched[tokens].all() and touched.sum() <= 2 * tokens.sum()


def test_the_heat_map_runs_from_cold_to_hot_over_any_picture():
    ramp = torch.linspace(-0.5, 1.5, 9)[None, None]
    for channels in (1, 3, 4):
        heat = heat_map(torch.full((1, 1, 9, channels), 0.5), ramp)
        assert heat.shape == (1, 1, 9, 3) and heat.min() >= 0 and heat.max() <= 1
        assert heat[0, 0, 0, 2] > heat[0, 0, 0, 0] and heat[0, 0, -1, 0] > heat[0, 0, -1, 2]
        assert torch.equal(heat[0, 0, 0], heat[0, 0, 2]), "clamped"
