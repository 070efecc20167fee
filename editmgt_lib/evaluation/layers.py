"""How well each transformer block knows where an instruction acts.

The published choice (blocks 28..36 of 42, all text rows, read while sampling) belongs to the
published checkpoint; the table made here is what another checkpoint's defaults follow from.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import Cancelled
from ..localization.maps import Localization, LocalizationOptions, consolidate
from ..models.attention import text_to_image
from ..offload import onloaded
from ..sampling.loop import SamplingOptions, StepEvent
from ..sampling.predictor import Predictor, row_weights
from .batches import PairBatch, batch_count, pair_batches, seeded
from .metrics import auc, mask_cells, mean
from .options import LOCAL, EvaluationOptions, Progress
from .tables import markdown, number

if TYPE_CHECKING:
    from ..pipeline import EditMGT

STATES = ("masked", "halfway", "source")
"""What stands in the target stream when a map is read: nothing known yet (first step), the model's
own tokens half way through sampling, or the source's tokens (read at the last step's timestep)."""
ROWS = ("all", "content", "words")
"""Text rows averaged: all, those of prompt tokens, those of the words that say where to act."""
DEFAULT_SAMPLES = 10


class RowChoices:
    """A probe: mean over heads, weighted mean over text rows, for several choices of rows at once.

    weights: [B, choices, T], each row summing to one. Gives scores [B, choices, N].
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def __call__(self, q_text: Tensor, k: Tensor) -> Tensor:
        probabilities = text_to_image(q_text, k).mean(dim=1)
        return self.weights.to(probabilities) @ probabilities


def choice_weights(batch: PairBatch) -> Tensor:
    """Weights [B, 3, T] of the text rows under each of ROWS."""
    instruction = batch.instruction
    chosen = [row_weights(instruction, LocalizationOptions(rows=rows)) for rows in ROWS[:2]]
    words = [
        row_weights(instruction.item(k), LocalizationOptions(words=pair.words))
        for k, pair in enumerate(batch.pairs)
    ]
    return torch.stack([*chosen, torch.cat(words)], dim=1)


def block_maps(
    model: "EditMGT", batch: PairBatch, state: str, sampling: SamplingOptions
) -> tuple[Tensor, tuple[int, int]]:
    """Attention maps of every block read in one of STATES, and their grid (h, w).

    float32 [blocks, B, choices, N], not rescaled nor filtered, N = h * w; choices as ROWS. Of the
    conditional half alone, as in sampling.
    """
    network, options = model.transformer, replace(sampling, guidance=1.0)
    ids, timestep = _target_stream(model, batch, state, sampling)
    probe = RowChoices(choice_weights(batch).to(ids.device))
    times = torch.full((len(ids),), timestep, device=ids.device)
    blocks = range(len(network.blocks))
    with torch.no_grad(), onloaded(network):
        conditioning = Predictor.of(network, batch.tokens, batch.instruction, options).conditioning
        read = network.step(ids, times, conditioning, probe, blocks).scores
    return torch.stack([read[k].cpu() for k in blocks]), conditioning.grid


def _target_stream(
    model: "EditMGT", batch: PairBatch, state: str, sampling: SamplingOptions
) -> tuple[Tensor, int]:
    """Token ids [B, rows, cols] of a state, and the timestep they would be seen at."""
    source = batch.tokens.ids.to(model.device)
    half = sampling.steps // 2
    if state == "source":
        return source, 0
    if state == "masked" or half == 0:
        masked = torch.full_like(source, model.transformer.config.mask_token_id)
        return masked, sampling.steps - 1
    seen: list[Tensor] = []

    def stop_half_way(event: StepEvent) -> bool:
        seen.append(event.ids)
        return event.step + 1 < half

    with suppress(Cancelled):
        model.sample(batch.tokens, batch.instruction, sampling, callback=stop_half_way)
    return seen[-1], sampling.steps - 1 - half


@dataclass(frozen=True)
class LayerPoint:
    """AUC of blocks `first`..`last`, read in `state` over `rows`, and the same per category.

    A single block is taken as it is; a range is consolidated with the filter of the report.
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

    double: how many blocks are double-stream ones. default_range: those the model's options choose.
    """

    samples: int
    double: int
    filter: str
    default_range: tuple[int, int]
    blocks: tuple[LayerPoint, ...]
    ranges: tuple[LayerPoint, ...]

    def best(self, state: str | None = None, rows: str | None = None) -> LayerPoint:
        """The range with the highest AUC, of one state and choice of rows where they are given."""
        found = [p for p in self.ranges if state in (None, p.state) and rows in (None, p.rows)]
        return max(found, key=lambda point: point.auc or 0.0)

    def default(self, state: str, rows: str) -> LayerPoint:
        """The range the model's options choose."""
        wanted = (state, rows, *self.default_range)
        return next(p for p in self.ranges if (p.state, p.rows, p.first, p.last) == wanted)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; of the ranges, the best and the default of every reading."""
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
        """AUC of every block in every reading, and of the best and default ranges, as markdown."""
        by_block = {(p.state, p.rows, p.first): number(p.auc, 3) for p in self.blocks}
        readings = list(product(STATES, ROWS))
        numbers = sorted({p.first for p in self.blocks})
        lines = [
            (self._name(k), *(by_block[(*reading, k)] for reading in readings)) for k in numbers
        ]
        best = [self.best(*reading) for reading in readings]
        first, last = self.default_range
        lines.append(("best range", *(f"{p.first}..{p.last}" for p in best)))
        lines.append(("its AUC", *(number(p.auc, 3) for p in best)))
        default = (number(self.default(*reading).auc, 3) for reading in readings)
        lines.append((f"default {first}..{last}", *default))
        heading = ("block", *(f"{state}, {rows}" for state, rows in readings))
        note = (
            f"AUC of text-to-image attention, {self.samples} pairs per local category. Columns: "
            "what stands in the target stream, which text rows are averaged; ranges of blocks with "
            f"filter {self.filter}:"
        )
        return f"{note}\n\n{markdown(heading, lines)}"

    def _name(self, block: int) -> str:
        return f"{block} double" if block < self.double else f"{block} single"


def localization_by_layer(
    model: "EditMGT", options: EvaluationOptions, progress: Progress | None = None
) -> LayerReport | None:
    """Measure every block, and every range of blocks, in every state and for every choice of rows.

    AUC on the token grid, the maps upsampled as for region-hold. None where no local category is
    evaluated.
    """
    local = tuple(name for name in options.categories if name in LOCAL)
    if not local:
        return None
    samples = options.layer_samples or min(options.samples, DEFAULT_SAMPLES)
    reading = options.localization or model.settings.localization
    found: dict[tuple, dict[str, list[float | None]]] = {}
    total = batch_count(options, local, samples)
    for done, batch in enumerate(pair_batches(model, options, local, samples), 1):
        for key, values in _measure(model, batch, options, reading):
            found.setdefault(key, {}).setdefault(batch.category, []).extend(values)
        if progress is not None:
            progress(done, total, f"layers, {batch.category}")
    points = {False: [], True: []}
    for (ranged, *place), values in found.items():
        every = [value for some in values.values() for value in some]
        per_category = {name: mean(some) for name, some in values.items()}
        points[ranged].append(LayerPoint(*place, mean(every), per_category))
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
    model: "EditMGT", batch: PairBatch, options: EvaluationOptions, reading: LocalizationOptions
) -> Iterator[tuple[tuple, list[float | None]]]:
    """(is a range, state, rows, first, last) and the AUC of each pair of the batch."""
    sampling = seeded(
        options.sampling or model.settings.sampling, batch, options.seed, threshold=0.0
    )
    raw = replace(reading, filter="none")
    for state in STATES:
        maps, grid = block_maps(model, batch, state, sampling)
        upto = torch.cat([torch.zeros_like(maps[:1]), maps.cumsum(0)])
        for choice, rows in enumerate(ROWS):
            for first in range(len(maps)):
                single = consolidate(maps[first, :, choice], grid, raw)
                yield (False, state, rows, first, first), _aucs(single, batch)
                for last in range(first, len(maps)):
                    scores = (upto[last + 1] - upto[first])[:, choice] / (last + 1 - first)
                    found = consolidate(scores, grid, reading)
                    yield (True, state, rows, first, last), _aucs(found, batch)


def _aucs(found: Localization, batch: PairBatch) -> list[float | None]:
    canvas = batch.tokens.canvas
    maps = found.upsample(canvas.rows, canvas.cols).numpy()
    masks = (mask_cells(changed, canvas.rows, canvas.cols) for changed in batch.changed)
    return [auc(scores, mask) for scores, mask in zip(maps, masks, strict=True)]
