"""The transformer as the sampler sees it: token ids in, guided logits and a relevance map out."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import InputError
from ..localization.maps import Localization, LocalizationOptions, consolidate, mean_scores
from ..models.attention import MeanOfRows
from ..models.conditioning import Conditioning, InjectionOptions, KeysValues, Prediction
from ..models.embeddings import patches
from ..models.transformer import MaskedTransformer
from ..offload import execution
from ..pictures.canvas import Tokens
from ..text.instruction import Instruction
from .loop import SamplingOptions, guide

AESTHETIC_SCORE = 6.0  # the published fifth micro-condition


def micro_conditions(batch: int, height: int, width: int) -> Tensor:
    """Width, height, crop x, crop y and aesthetic score, [batch, 5] (published order)."""
    row = torch.tensor([width, height, 0.0, 0.0, AESTHETIC_SCORE], dtype=torch.float32)
    return row.expand(batch, 5)


def row_weights(instruction: Instruction, options: LocalizationOptions) -> Tensor:
    """Weight of every text row in the consolidated map, [B, L], each row summing to one.

    Raises:
        InputError: words that are not in the prompt.
    """
    length = instruction.text_length
    everything = [list(range(length))] * instruction.batch
    rows: Sequence[Sequence[int]] = everything
    if options.words:
        rows = instruction.rows_of(options.words)
    elif options.rows == "content":
        rows = [r or e for r, e in zip(instruction.content_rows, everything, strict=True)]
    weights = torch.zeros(instruction.batch, length)
    for weight, chosen in zip(weights, rows, strict=True):
        weight[list(chosen)] = 1 / len(chosen)
    return weights


def fitting(found: Localization, batch: int, grid: tuple[int, int]) -> Localization:
    """A ready map for `batch` pictures of a token grid; one map serves them all.

    Raises:
        InputError: a map of other pictures.
    """
    shape = tuple(found.relevance.shape)
    if len(shape) != 3 or shape[0] not in (1, batch) or shape[1] * grid[1] != shape[2] * grid[0]:
        raise InputError(
            f"the localization map is {shape}, the tokens are {(batch, *grid)}; "
            "read the map from the same tokens"
        )
    return replace(found, relevance=found.relevance.expand(batch, -1, -1))


def stale_rows(ids: Tensor, before: Tensor, mask_id: int, side: int) -> Tensor:
    """Positions whose tokens [B, H, W] are masked or not those of `before`, [B, n], n > 0.

    side: tokens along a position. An item with fewer of them than another repeats its first.
    """
    tokens = (ids == mask_id) | (ids != before)
    stale = patches(tokens, side).flatten(2).any(-1)
    counts = stale.sum(-1, keepdim=True)
    most = max(int(counts.max()), 1)
    rows = stale.byte().argsort(dim=-1, descending=True, stable=True)[:, :most]
    return rows.where(torch.arange(most, device=rows.device) < counts, rows[:, :1])


class Predictor:
    """One run's conditioning with the two halves of guidance; call it once per step.

    Under guidance the batch is doubled: negative half first, then the conditional one, both seeing
    the reference (published code). The relevance map reads the conditional half alone.

    Args:
        transformer: the network. instruction: of the batch B of the tokens.
        size: canvas height and width in pixels. grid: token rows and columns.
        reference_ids: [B, H, W] tokens to edit, or None (text to image).
        options: guidance and strength.
        localization: options to read a map at every step; a ready map, passed through; or None.

    Raises:
        InputError: words that are not in the prompt, blocks that do not exist, a map or grid that
        does not fit.
    """

    def __init__(
        self,
        transformer: MaskedTransformer,
        instruction: Instruction,
        *,
        size: tuple[int, int],
        grid: tuple[int, int],
        reference_ids: Tensor | None,
        options: SamplingOptions,
        localization: LocalizationOptions | Localization | None = None,
    ) -> None:
        device, dtype = execution(transformer)
        self.transformer, self.options = transformer, options
        self.instruction = instruction.to(device, dtype)
        self.halves = 2 if options.guided else 1
        self.conditioning = self._prepare(size, grid, reference_ids, device)
        self.ready, self.kept, self.seen = None, (), None
        if isinstance(localization, Localization):
            ready = fitting(localization, instruction.batch, grid)
            self.ready = replace(ready, relevance=ready.relevance.to(device))
        self.reading = localization if isinstance(localization, LocalizationOptions) else None
        self.probe, self.blocks = None, range(0)
        if self.reading is not None:
            config = transformer.config
            self.blocks = self.reading.block_range(config.num_layers, config.num_single_layers)
            self.probe = MeanOfRows(row_weights(instruction, self.reading).to(device))

    @classmethod
    def of(
        cls,
        transformer: MaskedTransformer,
        tokens: Tokens,
        instruction: Instruction,
        options: SamplingOptions,
        localization: LocalizationOptions | Localization | None = None,
    ) -> "Predictor":
        """For tokens: those of a picture are the reference, blank ones have none.

        Raises:
            InputError: as the constructor, and prompts that are neither one nor one per picture.
        """
        canvas = tokens.canvas
        return cls(
            transformer,
            instruction.expand(canvas.batch),
            size=canvas.size,
            grid=(canvas.rows, canvas.cols),
            reference_ids=None if tokens.source_ids is None else tokens.ids,
            options=options,
            localization=localization,
        )

    @torch.no_grad()
    def _prepare(
        self,
        size: tuple[int, int],
        grid: tuple[int, int],
        reference_ids: Tensor | None,
        device: torch.device,
    ) -> Conditioning:
        i = self.instruction
        states, pooled = i.states, i.pooled
        if self.options.guided:
            states = torch.cat([i.negative_states, states])
            pooled = torch.cat([i.negative_pooled, pooled])
        micro = micro_conditions(len(states), *size).to(device)
        injection = InjectionOptions(self.options.strength, self.options.strength_scope)
        if reference_ids is not None:
            reference_ids = reference_ids.to(device).repeat(self.halves, 1, 1)
        return self.transformer.prepare(states, pooled, micro, grid, reference_ids, injection)

    @torch.no_grad()
    def __call__(self, ids: Tensor, step: int, timestep: int) -> tuple[Tensor, Localization | None]:
        """For `sample_tokens`: guided logits [M, V] float32 of the M masked tokens, and the map."""
        prediction = self._step(ids, step, timestep)
        masked = ids == self.transformer.config.mask_token_id
        rows = [part[masked] for part in prediction.features.split(len(ids))]
        # Logits are linear in the features: guided before the one costly projection, not after two.
        features = guide(*rows, self.options.guidance) if len(rows) == 2 else rows[0]
        return self.transformer.logits(features).float(), self._found(prediction)

    @torch.no_grad()
    def read(self, ids: Tensor, timestep: int) -> Localization | None:
        """The map alone; as a last step, which keeps nothing for another."""
        return self._found(self._step(ids, self.options.steps - 1, timestep))

    def _step(self, ids: Tensor, step: int, timestep: int) -> Prediction:
        halves = 2 if self.options.guided_at(step) else 1
        ids = ids.repeat(halves, 1, 1)
        kept, rows = self._reusable(ids, step)
        prediction = self.transformer.step(
            ids,
            torch.full((len(ids),), timestep, device=ids.device),
            self.conditioning.last(len(ids)),
            self.probe,
            self.blocks,
            kept=kept,
            rows=rows,
            keep=self.options.reuses_at(step + 1),
        )
        self.kept, self.seen = prediction.kept, ids
        return prediction

    def _reusable(self, ids: Tensor, step: int) -> tuple[tuple[KeysValues, ...], Tensor | None]:
        """Keys and values of earlier steps, and the positions to compute nevertheless or None."""
        items, options = len(ids), self.options
        if not options.reuses_at(step) or not self.kept or len(self.seen) < items:
            return (), None
        kept = tuple((k[-items:], v[-items:]) for k, v in self.kept)
        if options.reuse == "reference":
            return kept, None
        config = self.transformer.config
        return kept, stale_rows(ids, self.seen[-items:], config.mask_token_id, config.stride)

    def _found(self, prediction: Prediction) -> Localization | None:
        if self.reading is None:
            return self.ready
        scores = mean_scores([prediction.scores[b] for b in self.blocks])
        return consolidate(scores, self.conditioning.grid, self.reading)
