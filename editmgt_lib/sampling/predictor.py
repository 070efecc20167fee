"""The transformer as a predictor: token ids in, guided logits and a relevance map out."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import InputError
from ..localization.maps import Localization, LocalizationOptions, consolidate, mean_scores
from ..models.attention import Attention, MeanOfRows
from ..models.conditioning import Conditioning, InjectionOptions, Prediction
from ..models.transformer import MaskedTransformer
from ..offload import execution
from ..pictures.canvas import Tokens
from ..text.instruction import Instruction
from .options import SamplingOptions
from .step import at, guide

Look = tuple[Tensor, Localization | None]

AESTHETIC_SCORE = 6.0  # the published fifth micro-condition


def micro_conditions(batch: int, height: int, width: int) -> Tensor:
    """Width, height, crop x, crop y and aesthetic score, [batch, 5] (published order)."""
    row = [float(width), float(height), 0.0, 0.0, AESTHETIC_SCORE]
    return torch.tensor(row, dtype=torch.float32, device="cpu").expand(batch, 5)


def row_weights(instruction: Instruction, options: LocalizationOptions) -> Tensor:
    """Weight of every text row in the map, [B, L], summing to one per item.

    Raises:
        InputError: words that are not in the prompt.
    """
    length = instruction.text_length
    all_rows = [list(range(length))] * instruction.batch
    rows: Sequence[Sequence[int]] = all_rows
    if options.words:
        rows = instruction.rows_of(options.words)
    elif options.rows == "content":
        rows = [r or a for r, a in zip(instruction.content_rows, all_rows, strict=True)]
    weights = torch.zeros(instruction.batch, length, dtype=torch.float32, device="cpu")
    for weight, chosen in zip(weights, rows, strict=True):
        weight[list(chosen)] = 1 / len(chosen)
    return weights


def fitting(localization: Localization, batch: int, grid: tuple[int, int]) -> Localization:
    """Expand a map to `batch` pictures of a token grid.

    Raises:
        InputError: a map of another grid or number of pictures.
    """
    shape = tuple(localization.relevance.shape)
    if len(shape) != 3 or shape[0] not in (1, batch) or shape[1] * grid[1] != shape[2] * grid[0]:
        raise InputError(
            f"the localization map is {shape}, the tokens are {(batch, *grid)}; "
            "read the map from the same tokens"
        )
    return replace(localization, relevance=localization.relevance.expand(batch, -1, -1))


class Predictor:
    """Conditioning of one run, with both halves of guidance; called once per step.

    Under guidance the batch is doubled: negative half first, then the conditional one, both with
    the reference (published code). The relevance map is read from the conditional half only.

    Args:
        tokens: those of a picture become the reference; blank ones have none.
        instruction: one prompt, or one for each picture.
        localization: options to read a map by at every step; a map to return as it is; or None.

    Raises:
        InputError: words that are not in the prompt, blocks that do not exist, or a map, grid or
        number of prompts that does not fit.
    """

    def __init__(
        self,
        transformer: MaskedTransformer,
        tokens: Tokens,
        instruction: Instruction,
        options: SamplingOptions,
        localization: LocalizationOptions | Localization | None = None,
    ) -> None:
        device, dtype = execution(transformer)
        self.transformer, self.options = transformer, options
        self.instruction = instruction.expand(tokens.canvas.batch).to(device, dtype)
        self.ready, self.reading, self.probe = None, None, None
        self.blocks: Sequence[int] = ()
        if isinstance(localization, Localization):
            grid = tokens.canvas.rows, tokens.canvas.cols
            ready = fitting(localization, tokens.canvas.batch, grid)
            self.ready = replace(ready, relevance=ready.relevance.to(device))
        elif localization is not None:
            config = transformer.config
            self.reading = localization
            self.blocks = localization.block_range(config.num_layers, config.num_single_layers)
            self.probe = MeanOfRows(row_weights(self.instruction, localization).to(device))
        self.conditioning = self._prepare(tokens)

    @torch.no_grad()
    def _prepare(self, tokens: Tokens) -> Conditioning:
        i, options, canvas = self.instruction, self.options, tokens.canvas
        states, pooled = i.states, i.pooled
        if options.guided:
            if not i.guided:
                raise InputError(
                    f"guidance is {options.guidance:g}, but the instruction was encoded without "
                    "its negative prompt; encode it with guided=True or use guidance 1"
                )
            states = torch.cat([i.negative_states, states])
            pooled = torch.cat([i.negative_pooled, pooled])
        reference = None
        if tokens.source_ids is not None:
            reference = tokens.ids.to(states.device).repeat(len(states) // i.batch, 1, 1)
        return self.transformer.prepare(
            states,
            pooled,
            micro_conditions(len(states), *canvas.size).to(states.device),
            range(options.steps - 1, -1, -1),  # published: step indices, the highest first
            (canvas.rows, canvas.cols),
            reference,
            InjectionOptions(options.strength, options.strength_scope),
        )

    @torch.no_grad()
    def __call__(
        self, ids: Tensor, step: int, rows: Tensor | None = None
    ) -> tuple[Tensor, Localization | None]:
        """Guided logits [B, n, V] float32, and the map, not checked for NaN.

        rows: positions [B, n] to compute logits of; all by default.
        """
        features, localization = self.look(ids, step)
        parts = features.flatten(1, 2).split(len(ids))
        parts = [(part if rows is None else at(part, rows)).float() for part in parts]
        # Logits are linear in the features, so guidance comes before the costly projection.
        mixed = guide(*parts, self.options.guidance) if len(parts) == 2 else parts[0]
        return self.transformer.logits(mixed).float(), localization

    @torch.no_grad()
    def read(self, ids: Tensor, step: int) -> Localization | None:
        """Run one step and return only its relevance map."""
        return self._localization(self.predict(ids, step), check=True)

    def look(self, ids: Tensor, step: int) -> Look:
        """Features of both halves, and the map; nothing here depends on which tokens are masked."""
        return self.looked(self.predict(ids, step))

    def looked(self, prediction: Prediction) -> Look:
        """What `look` returns, of a prediction."""
        return prediction.features, self._localization(prediction, check=False)

    def predict(self, ids: Tensor, step: int) -> Prediction:
        """Run the network on both halves, or on the conditional one if guidance is off."""
        return self.run(ids, step, self.conditioning, self.options.guided_at(step))

    def run(self, ids: Tensor, step: int, conditioning: Conditioning, guided: bool) -> Prediction:
        """As `predict`, with the given conditioning of both halves."""
        halves = 2 if guided else 1
        conditioning = conditioning.last(halves * len(ids))
        return self.transformer.step(
            ids.repeat(halves, 1, 1), step, conditioning, self.attention(conditioning)
        )

    def attention(self, conditioning: Conditioning) -> Attention:
        """Attention for one step, with this run's probe."""
        return self.transformer.attention_of(conditioning, self.probe, self.blocks)

    def _localization(self, prediction: Prediction, check: bool) -> Localization | None:
        if self.reading is None:
            return self.ready
        scores = mean_scores([prediction.scores[b] for b in self.blocks])
        return consolidate(scores, self.conditioning.grid, self.reading, check)
