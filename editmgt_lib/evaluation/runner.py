"""Edit held-out pairs with and without region-hold, and measure both."""

from dataclasses import fields
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .batches import Edited, PairBatch, batch_count, edit_batch, pair_batches, seeded
from .layers import localization_by_layer
from .metrics import mask_cells, outside_error, overlap
from .options import LOCAL, EvaluationOptions, Progress
from .report import Outcome, PairResult, Report, Row, Setting
from .success import judge
from .sweep import sweep_threshold

if TYPE_CHECKING:
    from ..pipeline import EditMGT


def evaluate(
    model: "EditMGT", options: EvaluationOptions | None = None, progress: Progress | None = None
) -> Report:
    """Evaluate a model on ToyWorld: success, outside error and localisation per category.

    Every pair is edited twice from the same random numbers: without region-hold (threshold 0) and
    with it. Localisation compares the map of `model.localize`, upsampled to the token grid, with
    the token cells that contain a changed pixel. Figures repeat for the same model, options and
    processor; only the seconds do not.

    model: a ToyWorld checkpoint; `model.settings.resolution` is the size of the pictures.
    progress: may raise to stop.
    Raises InputError for an option that does not suit the model.
    """
    options = (options or EvaluationOptions()).completed(model.settings)
    setting = _setting(model, options)
    results: list[PairResult] = []
    rows: list[Row] = []
    seconds = 0.0
    total = batch_count(options, options.categories, options.samples)
    batches = pair_batches(model, options, options.categories, options.samples)
    for number, batch in enumerate(batches, 1):
        measured = _measure(model, batch, options, setting)
        results += measured.results
        rows += measured.rows
        seconds += measured.seconds
        if progress is not None:
            progress(number, total, batch.category)
    return Report(
        setting,
        tuple(results),
        tuple(rows),
        sweep_threshold(model, options, progress) if options.sweep else None,
        localization_by_layer(model, options, progress) if options.layers else None,
        seconds / len(results),
    )


def _setting(model: "EditMGT", options: EvaluationOptions) -> Setting:
    shared = {f.name for f in fields(Setting)} & {f.name for f in fields(options)}
    values = {name: getattr(options, name) for name in shared}
    return Setting(resolution=model.settings.resolution, **values)


class _Measured(NamedTuple):
    """Contribution of one batch to the report."""

    results: list[PairResult]
    rows: list[Row]
    seconds: float


def _measure(
    model: "EditMGT", batch: PairBatch, options: EvaluationOptions, setting: Setting
) -> _Measured:
    free_run, held_run = (
        seeded(setting.sampling, batch, setting.seed, threshold=threshold)
        for threshold in (0.0, setting.threshold)
    )
    start = perf_counter()
    free = edit_batch(model, batch, free_run)
    seconds = perf_counter() - start
    localization = model.localize(batch.tokens, batch.instruction, setting.localization, held_run)
    held = edit_batch(model, batch, held_run, localization)
    relevance = localization.upsample(*held.held.shape[1:]).cpu().numpy()
    results = [
        _result(batch, k, (free, held), relevance[k], setting) for k in range(len(batch.pairs))
    ]
    shown = held if batch.category in LOCAL else free  # global edits hold nothing
    rows = [
        Row(
            pair=batch.pairs[k],
            source=batch.sources[k],
            relevance=relevance[k],
            held=shown.held[k],
            result=shown.pictures[k],
            verdict=(results[k].held if shown is held else results[k].free).verdict,
        )
        for k, rank in enumerate(batch.ranks)
        if rank < options.rows
    ]
    return _Measured(results, rows, seconds)


def _result(
    batch: PairBatch,
    k: int,
    edited: tuple[Edited, Edited],
    relevance: np.ndarray,
    setting: Setting,
) -> PairResult:
    """Measure pair k, edited without and with region-hold."""
    free, held = edited
    truth = mask_cells(batch.changed[k], *relevance.shape)
    return PairResult(
        category=batch.category,
        index=batch.indices[k],
        instruction=batch.pairs[k].instruction,
        free=_outcome(batch, k, free, setting.tolerance),
        held=_outcome(batch, k, held, setting.tolerance),
        held_share=float(held.held[k].mean()),
        overlap=overlap(relevance, truth, setting.threshold),
    )


def _outcome(batch: PairBatch, k: int, edited: Edited, tolerance: float) -> Outcome:
    verdict = judge(edited.pictures[k], batch.pairs[k])
    outside = outside_error(edited.pictures[k], batch.sources[k], batch.changed[k], tolerance)
    return Outcome(verdict, outside)
