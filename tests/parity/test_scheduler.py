"""Sampling steps against the golden runs of the official scheduler: draws, ids and masks equal."""

import pytest
import torch

from editmgt_lib.localization.maps import Localization, LocalizationOptions
from editmgt_lib.sampling.noise import SharedNoise, draw_tokens
from editmgt_lib.sampling.options import SamplingOptions
from editmgt_lib.sampling.step import masked_first, reveal_step

from . import goldens

CASES = goldens.case_dirs("scheduler")
RUNS = [
    pytest.param(case, name, run, id=f"{case.parent.name}-{name}")
    for case in CASES
    for name, run in goldens.meta(case)["runs"].items()
]


def test_goldens_are_there():
    assert CASES


@pytest.mark.parametrize("case", CASES, ids=goldens.case_id)
def test_every_golden_run_is_compared(case):
    assert {p.stem for p in case.glob("*.safetensors")} == set(goldens.meta(case)["runs"])


def _options(run: dict) -> SamplingOptions:
    heat = run["temperature"]
    return SamplingOptions(
        steps=run["num_inference_steps"],
        temperature=tuple(map(float, heat)) if isinstance(heat, list) else float(heat),
        schedule=run["masking_schedule"],
        threshold=run["local_guidance"],
        draw="race",
    )


def _held(scores: torch.Tensor | None, threshold: float, rows: int, cols: int):
    if scores is None:
        return None
    grid = (rows, cols) if scores.shape[1] == rows * cols else (rows // 2, cols // 2)
    maps = Localization(scores.reshape(-1, *grid), LocalizationOptions())
    return maps.held(threshold, rows, cols)


@pytest.mark.parametrize(("case", "name", "run"), RUNS)
def test_run(case, name, run):
    arrays = goldens.load(case / f"{name}.safetensors")
    options, mask_id = _options(run), run["mask_token_id"]
    noise = SharedNoise(torch.Generator().manual_seed(run["generator_seed"]))
    ids = arrays["sample_in"][0].long()
    source = arrays["reference_tokens"].long() if "reference_tokens" in arrays else None
    for step in range(run["steps_run"]):
        logits, last = arrays["logits"][step], step == options.steps - 1
        batch, codes, rows, cols = logits.shape
        numbers = noise.draw(batch, rows * cols, codes, last)
        if not last:
            assert torch.equal(numbers.ranking, arrays["draw_uniform"][step])
        by_row = logits.flatten(2).transpose(1, 2)
        drawn = draw_tokens(by_row.softmax(-1).flatten(0, 1), numbers.tokens.flatten(0, 1))
        assert torch.equal(drawn.view(batch, -1), arrays["draw_token"][step].long())
        scores = arrays["local_scores"][step] if "local_scores" in arrays else None
        assert torch.equal(ids, arrays["sample_in"][step].long())
        places = masked_first(ids, mask_id)[:, : int((ids == mask_id).sum((1, 2)).max())]
        result = reveal_step(
            by_row.gather(1, places[..., None].expand(-1, -1, codes)),
            ids,
            places,
            numbers,
            step=step,
            options=options,
            mask_id=mask_id,
            start_ratio=run["starting_mask_ratio"],
            source=source,
            held=_held(scores, options.threshold, rows, cols),
        )
        assert torch.equal(result.proposal, arrays["pred_original_sample"][step].long())
        assert torch.equal(result.ids, arrays["prev_sample"][step].long())
        masked = (result.ids == mask_id).flatten(1)
        assert torch.equal(masked, arrays["remasked"][step])
        assert int(masked.sum()) == run["remasked_per_step"][step]
        ids = result.ids
