"""Edit held-out pairs with and without region-hold, and measure both."""

from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .batches import Edited, PairBatch, batch_count, edit_batch, pair_batches, seeded
from .layers import localization_by_layer
from .metrics import mask_cells, outside_error, overlap
from .options import FALLBACK_THRESHOLD, LOCAL, EvaluationOptions, Progress
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
    with it. Localisation compares the map `model.localize` gives, upsampled to the token grid, with
    the token cells that hold a changed pixel. The figures depend on model and options alone; only
    the seconds do not repeat.

    model: a loaded ToyWorld checkpoint (`model.settings.resolution` says how large to draw).
    progress: called with (batches done, batches in all, what is going on); what it raises ends the
    evaluation.
    Raises InputError where an option does not suit the model.
    """
    options = options or EvaluationOptions()
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
    sampling = options.sampling or model.settings.sampling
    return Setting(
        samples=options.samples,
        seed=options.seed,
        resolution=model.settings.resolution,
        threshold=options.threshold or sampling.threshold or FALLBACK_THRESHOLD,
        tolerance=options.tolerance,
        sampling=sampling,
        localization=options.localization or model.settings.localization,
    )


class _Measured(NamedTuple):
    """What one batch adds to the report."""

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
    found = model.localize(batch.tokens, batch.instruction, setting.localization, held_run)
    held = edit_batch(model, batch, held_run, found)
    relevance = found.upsample(*held.held.shape[1:]).cpu().numpy()
    results = [
        _result(batch, k, (free, held), relevance[k], setting) for k in range(len(batch.pairs))
    ]
    shown = held if batch.category in LOCAL else free  # a whole picture leaves nothing to hold
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
    """Figures of pair k, edited without and with region-hold."""
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
