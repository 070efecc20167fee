"""How well the attention of each transformer block localises an edit.

The published range (blocks 28..36 of 42, all text rows, read while sampling) was chosen for the
published checkpoint; this table is how to choose one for another.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import choices
from ..errors import Cancelled
from ..localization.maps import Localization, LocalizationOptions, consolidate
from ..models.attention import MeanOfRows
from ..offload import onloaded
from ..pages.markdown import markdown, number
from ..sampling.loop import StepEvent
from ..sampling.options import SamplingOptions
from ..sampling.predictor import Predictor, row_weights
from .batches import PairBatch, batch_count, pair_batches, seeded
from .metrics import auc, mask_cells, mean
from .options import LOCAL, EvaluationOptions
from .pacing import Progress

if TYPE_CHECKING:
    from ..pipeline import EditMGT

STATES = ("masked", "halfway", "source")
"""Target tokens when a map is read: all masked (first step), the model's own half way through
sampling, or the source's (at the last step's timestep)."""
ROWS = (*choices.ROWS, "words")
"""Text rows averaged: all, those of prompt tokens, those of the words that say where to act."""
_DIGITS = 3  # of an AUC in the table


def weights_of_rows(batch: PairBatch) -> list[Tensor]:
    """Weights [B, T] of the text rows under each of ROWS."""
    instruction = batch.instruction
    chosen = [row_weights(instruction, LocalizationOptions(rows=rows)) for rows in choices.ROWS]
    words = [
        row_weights(instruction.item(k), LocalizationOptions(words=pair.words))
        for k, pair in enumerate(batch.pairs)
    ]
    return [*chosen, torch.cat(words)]


def block_maps(
    model: "EditMGT", batch: PairBatch, state: str, sampling: SamplingOptions
) -> tuple[Tensor, tuple[int, int]]:
    """Read the attention of every block in one of STATES: maps and their grid (h, w).

    Maps are float32 [blocks, B, len(ROWS), h * w] of the conditional half, neither rescaled nor
    filtered.
    """
    network, options = model.transformer, replace(sampling, guidance=1.0)
    ids, step = _target_stream(model, batch, state, sampling)
    probes = [MeanOfRows(weights.to(ids.device)) for weights in weights_of_rows(batch)]

    def probe(q_text: Tensor, k: Tensor) -> Tensor:
        return torch.stack([mean_of_rows(q_text, k) for mean_of_rows in probes], dim=1)

    blocks = range(len(network.blocks))
    with torch.no_grad(), onloaded(network):
        conditioning = Predictor(network, batch.tokens, batch.instruction, options).conditioning
        attention = network.attention_of(conditioning, probe, blocks)
        scores = network.step(ids, step, conditioning, attention).scores
    return torch.stack([scores[k].cpu() for k in blocks]), conditioning.grid


def _target_stream(
    model: "EditMGT", batch: PairBatch, state: str, sampling: SamplingOptions
) -> tuple[Tensor, int]:
    """Token ids [B, rows, cols] of a state and the step that goes with them."""
    source = batch.tokens.ids.to(model.device)
    half = sampling.steps // 2
    if state == "source":
        return source, sampling.steps - 1
    if state == "masked" or half == 0:
        masked = torch.full_like(source, model.transformer.config.mask_token_id)
        return masked, 0
    runs = [replace(sampling, seed=seed) for seed in sampling.seeds(len(source))]
    ids = [_sampled_up_to(half, model, batch, k, run) for k, run in enumerate(runs)]
    return torch.cat(ids), half


def _sampled_up_to(
    steps: int, model: "EditMGT", batch: PairBatch, k: int, sampling: SamplingOptions
) -> Tensor:
    """Token ids [1, rows, cols] of pair k after that many steps, the rest still masked."""
    events: list[StepEvent] = []

    def watch(event: StepEvent) -> bool:
        events.append(event)
        return event.step + 1 < steps

    with suppress(Cancelled):
        model.sample(batch.tokens.item(k), batch.instruction.item(k), sampling, callback=watch)
    return events[-1].ids


@dataclass(frozen=True)
class LayerPoint:
    """AUC of blocks `first`..`last`, read in `state` over `rows`, overall and per category.

    A single block is unfiltered; a range is consolidated with the report's filter.
    """

    state: str
    rows: str
    first: int
    last: int
    auc: float | None
    categories: dict[str, float | None]


@dataclass(frozen=True)
class LayerReport:
    """Localisation per block and per range of blocks, over `samples` pairs per local category.

    double: number of double-stream blocks. default_range: first and last of the model's options.
    """

    samples: int
    double: int
    filter: str
    default_range: tuple[int, int]
    blocks: tuple[LayerPoint, ...]
    ranges: tuple[LayerPoint, ...]

    def best(self, state: str, rows: str) -> LayerPoint:
        """The range with the highest AUC.

        AUCs are compared as the table shows them, so that rounding decides nothing; the first range
        wins a tie.
        """
        points = [p for p in self.ranges if (p.state, p.rows) == (state, rows)]
        return max(points, key=lambda point: round(point.auc or 0.0, _DIGITS))

    def default(self, state: str, rows: str) -> LayerPoint:
        """The range the model's options select."""
        key = (state, rows, *self.default_range)
        return next(p for p in self.ranges if (p.state, p.rows, p.first, p.last) == key)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON; of the ranges, the best and the default per reading."""
        readings = list(product(STATES, ROWS))
        return {
            "samples": self.samples,
            "double_blocks": self.double,
            "filter": self.filter,
            "default_range": list(self.default_range),
            "blocks": [asdict(point) for point in self.blocks],
            "best_ranges": [asdict(self.best(*reading)) for reading in readings],
            "default_ranges": [asdict(self.default(*reading)) for reading in readings],
        }

    def table(self) -> str:
        """Format the AUC of every block, and of the best and default ranges, as markdown."""
        by_block = {(p.state, p.rows, p.first): number(p.auc, _DIGITS) for p in self.blocks}
        readings = list(product(STATES, ROWS))
        numbers = sorted({p.first for p in self.blocks})
        lines = [
            (self._name(k), *(by_block[(*reading, k)] for reading in readings)) for k in numbers
        ]
        best = [self.best(*reading) for reading in readings]
        first, last = self.default_range
        lines.append(("best range", *(f"{p.first}..{p.last}" for p in best)))
        lines.append(("its AUC", *(number(p.auc, _DIGITS) for p in best)))
        default = (number(self.default(*reading).auc, _DIGITS) for reading in readings)
        lines.append((f"default {first}..{last}", *default))
        heading = ("block", *(f"{state}, {rows}" for state, rows in readings))
        note = (
            f"AUC of text-to-image attention, {self.samples} pairs per local category. Columns: "
            f"target tokens, text rows averaged; ranges of blocks use filter {self.filter}:"
        )
        return f"{note}\n\n{markdown(heading, lines)}"

    def _name(self, block: int) -> str:
        return f"{block} double" if block < self.double else f"{block} single"


def localization_by_layer(
    model: "EditMGT", options: EvaluationOptions, progress: Progress | None = None
) -> LayerReport | None:
    """Measure every block and every range of blocks, for all STATES and ROWS.

    AUC on the token grid, with maps upsampled as for region-hold. None without a local category.
    """
    local = tuple(name for name in options.categories if name in LOCAL)
    if not local:
        return None
    options = options.completed(model.settings)
    samples, reading = min(options.samples, options.study_samples), options.localization
    aucs: dict[tuple, dict[str, list[float | None]]] = {}
    total = batch_count(options, local, samples)
    for done, batch in enumerate(pair_batches(model, options, local, samples), 1):
        for key, values in _measure(model, batch, options):
            aucs.setdefault(key, {}).setdefault(batch.category, []).extend(values)
        if progress is not None:
            progress(f"layers, {batch.category}", done, total, 0)
    points = {False: [], True: []}
    for (is_range, *reading_of), values in aucs.items():
        overall = mean([value for some in values.values() for value in some])
        per_category = {name: mean(some) for name, some in values.items()}
        points[is_range].append(LayerPoint(*reading_of, overall, per_category))
    config = model.transformer.config
    chosen = reading.block_range(config.num_layers, config.num_single_layers)
    return LayerReport(
        samples,
        config.num_layers,
        reading.filter,
        (chosen[0], chosen[-1]),
        tuple(points[False]),
        tuple(points[True]),
    )


def _measure(
    model: "EditMGT", batch: PairBatch, options: EvaluationOptions
) -> Iterator[tuple[tuple, list[float | None]]]:
    """Yield (is a range, state, rows, first, last) and the AUC of each pair of the batch."""
    sampling = seeded(options.sampling, batch, options.seed, threshold=0.0)
    reading = options.localization
    raw = replace(reading, filter="none")
    for state in STATES:
        maps, grid = block_maps(model, batch, state, sampling)
        # In float64: differences of float32 sums would lose the digits that rank the cells.
        upto = torch.cat([torch.zeros_like(maps[:1]), maps]).double().cumsum(0)
        for choice, rows in enumerate(ROWS):
            for first in range(len(maps)):
                single = consolidate(maps[first, :, choice], grid, raw)
                yield (False, state, rows, first, first), _aucs(single, batch)
                for last in range(first, len(maps)):
                    scores = (upto[last + 1] - upto[first])[:, choice] / (last + 1 - first)
                    joint = consolidate(scores, grid, reading)
                    yield (True, state, rows, first, last), _aucs(joint, batch)


def _aucs(localization: Localization, batch: PairBatch) -> list[float | None]:
    canvas = batch.tokens.canvas
    maps = localization.upsample(canvas.rows, canvas.cols).numpy()
    masks = (mask_cells(changed, canvas.rows, canvas.cols) for changed in batch.changed)
    return [auc(scores, mask) for scores, mask in zip(maps, masks, strict=True)]
