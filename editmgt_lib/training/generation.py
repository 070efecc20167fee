"""Training of the masked transformer, on text to image and on edits.

All stages of the paper are this one, over different sources: the parameters are the same, an edit
only adds the reference stream (paper, training section).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.saving import save_module
from ..data.draws import draws
from ..data.source import TokenBatch, TokenSource
from ..models.attention import MeanOfRows
from ..models.conditioning import InjectionOptions, Prediction
from ..models.config import TransformerConfig
from ..models.transformer import MaskedTransformer
from ..models.vq import VQModel
from ..pipeline import EditMGT
from ..settings import Settings
from ..text.encoders import TextEncoders
from ..text.prefix import PaddingPrefix
from .objective import (
    BINS,
    ObjectiveOptions,
    alignment_losses,
    binned,
    changed_tokens,
    draw_dropped,
    draw_mask,
    draw_ratio,
    normalized,
    timestep_of,
    token_losses,
    token_weights,
)
from .stage import Prepared

RATIO_FIGURES = tuple(f"nll {low:g}-{min(high, 1):g}" for low, high in pairwise(BINS))
FIGURES = ("nll", "new", "align", *RATIO_FIGURES)
ROWS = 256  # the head's rows come in blocks of so many
TERMS = ("loss", *FIGURES)  # what `Prepared.counts` counts


@dataclass(frozen=True, repr=False)
class Masked:
    """Samples with their draws, on one device.

    Attributes:
        target, source: token ids [B, H, W] and [B, H', W'] or None.
        masked: which target tokens are hidden, bool [B, H, W].
        ratio, timestep: float32 [B].
        clip_ids, text_ids: tokenized prompts, empty where dropped.
        pooled: cached CLIP vectors [B, P]; None: encode `clip_ids`.
        prompted: whether the prompt was kept, bool [B]; referenced: whether the reference was.
        micro_conditions: [B, 5].
    """

    target: Tensor
    source: Tensor | None
    masked: Tensor
    ratio: Tensor
    timestep: Tensor
    clip_ids: Tensor
    text_ids: Tensor
    pooled: Tensor | None
    prompted: Tensor
    referenced: Tensor
    micro_conditions: Tensor

    def __len__(self) -> int:
        return len(self.target)

    @property
    def changed(self) -> Tensor:
        """Tokens that differ from the reference, bool [B, H, W]; none without it."""
        return changed_tokens(self.target, self.source) & self.referenced[:, None, None]

    def map(self, action: Callable[[Tensor], Tensor]) -> "Masked":
        """Apply to every tensor."""
        given = {k: v for k, v in vars(self).items() if v is not None}
        return replace(self, **{name: action(tensor) for name, tensor in given.items()})

    def parts(self) -> "list[Masked]":
        """Items with a reference and items without, each in one pass of the network."""
        kept, count = self.referenced, int(self.referenced.sum())
        if count in (0, len(self)):
            return [self if count else replace(self, source=None)]
        bare = self.map(lambda tensor: tensor[~kept])
        return [self.map(lambda tensor: tensor[kept]), replace(bare, source=None)]


class GenerationStage:
    """Text-to-image or edit training of the transformer, depending on the source.

    Args:
        transformer: what requires gradients in it is trained: all, or an adapter.
        encoders: text encoders; frozen.
        source: samples by number.
        vq: the tokenizer, only for `sheet`.
        options: the objective.
        settings: defaults of an exported checkpoint; `sampling.steps` and `trained_time` are
            replaced with those of the objective.
        seed: of masks and dropout.
        precision: of the network's products; parameters, logits and loss are float32.
        draw_sheet: draws a picture of what a model can do.
    """

    def __init__(
        self,
        transformer: MaskedTransformer,
        encoders: TextEncoders,
        source: TokenSource,
        options: ObjectiveOptions,
        *,
        vq: VQModel | None = None,
        settings: Settings | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        precision: torch.dtype = torch.bfloat16,
        draw_sheet: Callable[[EditMGT, Path], None] | None = None,
    ) -> None:
        self.device, self.precision, self.seed = torch.device(device), precision, seed
        self.options, self.source, self.draw_sheet = options, source, draw_sheet
        self.fingerprint = source.fingerprint
        self.text_encoders = encoders.to(self.device)
        self.vq = vq and vq.requires_grad_(False).to(self.device)
        self.modules = nn.ModuleDict({"transformer": transformer}).to(self.device)
        self._settings = settings or Settings()

    @property
    def transformer(self) -> MaskedTransformer:
        """The transformer being trained."""
        return self.modules["transformer"]

    @property
    def config(self) -> TransformerConfig:
        return self.transformer.config

    def prepare(self, numbers: Sequence[int]) -> Prepared:
        """Read and mask samples; counts are those of `TERMS`."""
        batch, o = self.source.batch(numbers), self.options
        ratios = [draw_ratio(draws(self.seed, n, "ratio"), o) for n in numbers]
        grid = tuple(batch.target.shape[1:])
        masks = [
            draw_mask(draws(self.seed, n, "mask"), grid, ratio, o.patches)
            for n, ratio in zip(numbers, ratios, strict=True)
        ]
        dropped = [draw_dropped(draws(self.seed, n, "dropout"), o) for n in numbers]
        masked = self.masked(batch, torch.stack(masks), ratios, *zip(*dropped, strict=True))
        return Prepared(masked, self._counts(masked))

    def masked(
        self,
        batch: TokenBatch,
        masks: Tensor,
        ratios: Sequence[float],
        silent: Sequence[bool],
        bare: Sequence[bool],
    ) -> Masked:
        """Put a batch and its draws together.

        Args:
            masks: bool [B, H, W]. ratios: fraction masked.
            silent: whose prompt is dropped. bare: whose reference is.
        """
        prompts = ["" if s else p for p, s in zip(batch.prompts, silent, strict=True)]
        clip_ids, text_ids = self.text_encoders.tokenize(prompts)
        times = [timestep_of(ratio, self.options) for ratio in ratios]
        prompted, pooled = ~torch.tensor(silent), batch.pooled
        if pooled is not None:
            pooled = pooled.where(prompted[:, None].to(pooled.device), self._blank.to(pooled))
        return Masked(
            target=batch.target,
            source=batch.source,
            masked=masks.to(batch.target.device),
            ratio=torch.tensor(ratios, dtype=torch.float32),
            timestep=torch.tensor(times, dtype=torch.float32),
            clip_ids=clip_ids,
            text_ids=text_ids,
            pooled=pooled,
            prompted=prompted,
            referenced=~torch.tensor(bare) & (batch.source is not None),
            micro_conditions=batch.micro_conditions,
        ).map(lambda tensor: tensor.to(self.device, non_blocking=True))

    def loss(self, prepared: Prepared, counts: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Share of the loss: masked cross-entropy, plus alignment where it is trained.

        The figures are plain means over tokens, 0 where the global batch has none of the kind.
        """
        sums = torch.stack([self._sums(part) for part in prepared.data.parts()]).sum(dim=0)
        counts = counts.to(sums)
        shares = sums / counts.where(counts > 0, 1.0)
        named = dict(zip(TERMS, shares, strict=True))
        loss = named.pop("loss") + self.options.alignment * named["align"]
        if not loss.requires_grad:  # an adapter on the reference, and no item has one
            loss = loss + sum(0 * p.sum() for p in self.modules.parameters() if p.requires_grad)
        return loss, {name: share.detach() for name, share in named.items()}

    def predict(self, masked: Masked, aligned: Sequence[int] = ()) -> Prediction:
        """Run the network; every item has a reference, or none has.

        aligned: blocks whose attention, averaged over the prompt's words, is read.
        """
        encoders, ids = self.text_encoders, masked.target
        with torch.no_grad():
            states, pooled = self._prefix.states(masked.text_ids), masked.pooled
            if pooled is None:
                pooled = encoders.pooled(masked.clip_ids)
        probe = None
        if aligned:
            said = (masked.text_ids != encoders.gemma_tokenizer.pad_token_id).float()
            probe = MeanOfRows(said / said.sum(dim=1, keepdim=True).clamp(min=1))
        with self._autocast():
            return self.transformer(
                ids.masked_fill(masked.masked, self.config.mask_token_id),
                masked.timestep, states, pooled, masked.micro_conditions, masked.source,
                InjectionOptions(strength=self.options.strength), probe=probe, probed=aligned,
            )  # fmt: skip

    def logits(self, masked: Masked, prediction: Prediction) -> Tensor:
        """Logits [M, V] float32 of the masked tokens only: the head is the costliest layer."""
        rows = prediction.features[masked.masked]
        # In whole blocks: CPUs keep a kernel for every number of rows, gigabytes in an hour.
        whole = F.pad(rows, (0, 0, 0, -len(rows) % ROWS))
        with self._autocast():
            return self.transformer.logits(whole).float()[: len(rows)]

    def _autocast(self) -> torch.autocast:
        # For fast bfloat16 products; parameters, optimizer and loss stay in float32.
        enabled = self.precision != torch.float32
        return torch.autocast(self.device.type, self.precision, enabled=enabled)

    def _sums(self, part: Masked) -> Tensor:
        """What this part adds to the sum of each of `TERMS`, float32 [T]."""
        o, changed = self.options, part.changed
        aligned = o.aligned_blocks if o.alignment and part.source is not None else ()
        prediction = self.predict(part, aligned)
        logits = self.logits(part, prediction)
        losses = token_losses(logits, part.target, part.masked, o.label_smoothing)
        nll = losses.detach()
        if o.label_smoothing:
            nll = token_losses(logits.detach(), part.target, part.masked)
        total = normalized(losses, self._weights(part), o.normalization)[0]
        align = torch.zeros_like(total)
        if aligned:
            scores = [prediction.scores[block] for block in aligned]
            where = changed & part.prompted[:, None, None]  # an empty prompt says nothing
            align = alignment_losses(scores, where, self.config.stride).sum()
        by_ratio = binned(nll.sum(dim=(1, 2)), part.ratio)
        return torch.stack([total, nll.sum(), (nll * changed).sum(), align, *by_ratio])

    def _counts(self, masked: Masked) -> Tensor:
        """What the sums of `TERMS` are divided by, float64 [T]."""
        changed, hidden = masked.changed, masked.masked
        weights = self._weights(masked).double()
        total = normalized(torch.zeros_like(weights), weights, self.options.normalization)[1]
        alignable = (changed & masked.prompted[:, None, None]).any(dim=2).any(dim=1)
        by_ratio = binned(hidden.sum(dim=(1, 2)), masked.ratio)
        counts = [total, hidden.sum(), (hidden & changed).sum(), alignable.sum(), *by_ratio]
        return torch.stack([count.double() for count in counts])

    def _weights(self, masked: Masked) -> Tensor:
        return token_weights(masked.changed, self.options.changed_weight) * masked.masked

    @cached_property
    def _blank(self) -> Tensor:
        """Vector of the empty prompt, which a cache of pooled text does not hold."""
        with torch.no_grad():
            return self.text_encoders.pooled(self.text_encoders.tokenize([""])[0])

    @cached_property
    def _prefix(self) -> PaddingPrefix:
        return self.text_encoders.padding_prefix()

    def after_step(self) -> None:
        """Nothing to do."""

    @property
    def settings(self) -> Settings:
        """Default settings of a checkpoint this stage exports."""
        o = self.options
        sampling = replace(self._settings.sampling, steps=o.steps)
        return replace(self._settings, sampling=sampling, trained_time=o.time)

    def sheet(self, path: Path) -> None:
        """Draw what the model can do, where a way to do so was given."""
        if self.draw_sheet and self.vq is not None:
            model = EditMGT(self.transformer, self.vq, self.text_encoders, self.settings)
            self.draw_sheet(model, path)

    def export(self, folder: Path) -> None:
        """Write `editmgt/`."""
        save_module(folder / "editmgt", self.transformer, self.config.to_dict())
