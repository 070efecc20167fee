"""Stages three and four: the masked transformer, on text to image, then on edits.

Both stages train the same parameters; the edit stage only adds the reference stream (paper,
training section). Loss: cross-entropy on masked tokens, mask ratio cos(u pi/2) with u uniform
(published code).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.saving import save_module
from ..checks import require_number
from ..errors import InputError
from ..localization.maps import LocalizationOptions
from ..models.attention import MeanOfRows
from ..models.conditioning import InjectionOptions, Prediction
from ..models.config import TransformerConfig
from ..models.transformer import MaskedTransformer
from ..models.vq import VQModel
from ..pipeline import EditMGT
from ..sampling.options import SamplingOptions
from ..sampling.predictor import micro_conditions
from ..settings import Settings
from ..text.encoders import TextEncoders
from ..toyworld.batches import to_pixels, training_pair, training_scene
from ..toyworld.world import caption
from .loop import StepRandom
from .progress import draw_edits, draw_generated

# Reconstruction errors: up to 0.03 on held-out ToyWorld pictures of 64 to 512 pixels, 0.05 or more
# on photographs.
MAX_RECONSTRUCTION_ERROR = 0.04
GUIDANCE = 1.0  # of a ToyWorld checkpoint: more helped no edit


@dataclass(frozen=True)
class GenerationOptions:
    """How a generation stage trains. Raises InputError.

    Attributes:
        edit: train edits with a reference, else text to image.
        size: picture side in pixels.
        text_dropout: fraction of samples with an empty prompt, for guidance.
        steps: step count whose timesteps are trained. (The published code trains on the mask ratio
            times 1000 but samples with the step index; this trains what is sampled.)
        changed_weight: weight of tokens that differ from the reference if these are few, falling to
            1 if all do; 1 is the published loss.
        alignment: weight of a term that supervises the text-to-image attention of `aligned_blocks`,
            averaged over the prompt's rows, with the changed tokens. Not in the paper; 0 is off.
        strength: reference strength during training.
        first_step: fraction of samples with all tokens masked, as at the first sampling step, where
            the text alone decides; 0 is the published distribution.
        patches: fraction of samples whose masked tokens are contiguous instead of scattered.
        generate_share: fraction of edit-stage steps that train text to image instead, so that it is
            not forgotten.
    """

    edit: bool
    size: int = 128
    text_dropout: float = 0.1
    steps: int = 16
    changed_weight: float = 1.0
    alignment: float = 0.0
    aligned_blocks: tuple[int, ...] = ()
    strength: float = 1.0
    first_step: float = 0.0
    patches: float = 0.0
    generate_share: float = 0.0

    def __post_init__(self) -> None:
        for name in ("text_dropout", "first_step", "generate_share"):
            require_number(name, getattr(self, name), 0, 1)
        require_number("steps", self.steps, 1, 1000, whole=True)
        require_number("changed_weight", self.changed_weight, 0)
        require_number("alignment", self.alignment, 0)
        require_number("strength", self.strength, 0.01, 100)
        if self.alignment and not self.aligned_blocks:
            raise InputError("aligned_blocks is empty; name blocks to align, or use alignment 0")


@dataclass(frozen=True, repr=False)
class Batch:
    """Token ids [B, H, W] and prompts of a step; source is None for text to image."""

    target: Tensor
    source: Tensor | None
    prompts: Sequence[str]

    @property
    def changed(self) -> Tensor:
        """Where the target differs from the source, bool [B, H, W]; nowhere without a source."""
        if self.source is None:
            return torch.zeros_like(self.target, dtype=torch.bool)
        return self.target != self.source


def mask_tokens(
    target: Tensor,
    mask_id: int,
    generator: torch.Generator,
    first_step: float = 0.0,
    patches: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Mask a fraction cos(u pi/2) of each item's tokens, at least one; see `GenerationOptions`.

    The generator is on the CPU. Returns the masked ids [B, H, W] and u [B], the fraction of
    sampling done at that mask ratio.
    """
    batch, positions = len(target), target[0].numel()
    u = torch.rand(batch, generator=generator)
    if first_step:
        u = u * (torch.rand(batch, generator=generator) >= first_step)
    count = (torch.cos(u * torch.pi / 2) * positions).round().clamp(min=1)
    noise = torch.rand(target.shape, generator=generator)
    if patches:
        # The sampler reveals certain tokens first and leaves whole objects to the end.
        coarse = torch.rand(batch, 1, 5, 5, generator=generator)
        smooth = F.interpolate(coarse, target.shape[1:], mode="bilinear")[:, 0]
        chosen = torch.rand(batch, 1, 1, generator=generator) < patches
        noise = torch.where(chosen, smooth + 0.05 * noise, noise)
    order = noise.flatten(1).argsort(dim=1).argsort(dim=1)
    masked = (order < count[:, None]).view(target.shape).to(target.device)
    return target.masked_fill(masked, mask_id), u.to(target.device)


def alignment_loss(scores: Sequence[Tensor], changed: Tensor, stride: int) -> Tensor:
    """Cross-entropy between normalized score maps [B, N] and the changed positions.

    Args:
        scores: one map per block, N positions in reading order.
        changed: bool [B, H, W] on the token grid; items without changes count as 0.
        stride: tokens per position, along each side.
    """
    target = F.max_pool2d(changed.float()[:, None], stride).flatten(1)
    count = target.sum(dim=1)
    probs = [s / s.sum(dim=1, keepdim=True) for s in scores]
    loss = sum(-(target * (p + 1e-9).log()).sum(dim=1) for p in probs) / len(probs)
    return (loss / count.clamp(min=1) * (count > 0)).mean()


class GenerationStage:
    """Text-to-image or edit training of the transformer.

    Args:
        encoders, vq: the trained text encoders and tokenizer; both are frozen.
        device: where all networks are moved.
    """

    def __init__(
        self,
        transformer: MaskedTransformer,
        encoders: TextEncoders,
        vq: VQModel,
        options: GenerationOptions,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.options, self.text_encoders = options, encoders.to(self.device)
        self.vq = vq.requires_grad_(False).to(self.device)
        self.modules = nn.ModuleDict({"transformer": transformer}).to(self.device)

    @property
    def transformer(self) -> MaskedTransformer:
        """The transformer being trained."""
        return self.modules["transformer"]

    @property
    def config(self) -> TransformerConfig:
        return self.transformer.config

    def draw(self, random: StepRandom, batch: int) -> Batch:
        """Draw pictures or edit pairs of the training split and tokenize them."""
        size = self.options.size
        if not self.options.edit or random.data.random() < self.options.generate_share:
            scenes = [training_scene(random.data) for _ in range(batch)]
            prompts = [caption(s, random.data) for s in scenes]
            return Batch(self.vq.encode(to_pixels(scenes, size, self.device)), None, prompts)
        pairs = [training_pair(random.data) for _ in range(batch)]
        scenes = [p.source for p in pairs] + [p.target for p in pairs]
        source, target = self.vq.encode(to_pixels(scenes, size, self.device)).chunk(2)
        return Batch(target, source, [p.instruction for p in pairs])

    def loss(self, random: StepRandom, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted cross-entropy on masked tokens, plus the alignment term."""
        o, data = self.options, self.draw(random, batch)
        drop = torch.rand(batch, generator=random.masks) < o.text_dropout
        prompts = ["" if d else p for p, d in zip(data.prompts, drop.tolist(), strict=True)]
        mask_id = self.config.mask_token_id
        ids, u = mask_tokens(data.target, mask_id, random.masks, o.first_step, o.patches)
        timestep = ((1 - u) * o.steps).floor().clamp(max=o.steps - 1)
        prediction = self._predict(ids, timestep, prompts, data.source)
        masked, changed = ids == mask_id, data.changed
        with torch.autocast(self.device.type, torch.bfloat16):
            logits = self.transformer.logits(prediction.features[masked]).float()
        losses = F.cross_entropy(logits, data.target[masked], reduction="none")
        few = 1 - changed.float().mean(dim=(1, 2), keepdim=True)
        weights = (1 + (o.changed_weight - 1) * few * changed)[masked]
        loss = (losses * weights).sum() / weights.sum()
        figures = {"nll": losses.detach().mean()}
        if data.source is None:
            return loss, figures
        figures["new"] = losses.detach()[changed[masked]].mean().nan_to_num()
        if prediction.scores:
            # An empty prompt does not say where to act.
            prompted = changed & ~drop.to(self.device)[:, None, None]
            scores = [prediction.scores[i] for i in o.aligned_blocks]
            aligned = alignment_loss(scores, prompted, self.config.stride)
            figures["align"] = aligned.detach()
            loss = loss + o.alignment * aligned
        return loss, figures

    def _predict(
        self, ids: Tensor, timestep: Tensor, prompts: Sequence[str], source: Tensor | None
    ) -> Prediction:
        o, batch = self.options, len(ids)
        micro = micro_conditions(batch, o.size, o.size).to(self.device)
        injection = InjectionOptions(strength=o.strength)
        clip_ids, text_ids = self.text_encoders.tokenize(prompts)
        with torch.no_grad():
            states, pooled = self.text_encoders.encode_ids(clip_ids, text_ids)
        said = (text_ids != self.text_encoders.gemma_tokenizer.pad_token_id).float().to(self.device)
        rows = said / said.sum(dim=1, keepdim=True)
        # For fast bfloat16 products; weights, optimizer and loss stay in float32.
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.transformer(
                ids, timestep, states, pooled, micro, source, injection,
                probe=MeanOfRows(rows), probed=o.aligned_blocks if o.alignment else (),
            )  # fmt: skip

    def after_step(self) -> None:
        """Nothing to do."""

    @property
    def settings(self) -> Settings:
        """Default settings of a checkpoint this stage exports."""
        o = self.options
        sampling = SamplingOptions(steps=o.steps, guidance=GUIDANCE, strength=o.strength)
        localization = LocalizationOptions(rows="content")
        if o.aligned_blocks:
            layers = min(o.aligned_blocks), max(o.aligned_blocks)
            localization = replace(localization, layers=layers)
        length = self.text_encoders.text_length
        return Settings(o.size, length, "", sampling, localization, MAX_RECONSTRUCTION_ERROR)

    def sheet(self, path: Path) -> None:
        """Draw held-out edits, or pictures of held-out captions."""
        model = EditMGT(self.transformer, self.vq, self.text_encoders, self.settings)
        (draw_edits if self.options.edit else draw_generated)(model, path)

    def export(self, folder: Path) -> None:
        """Write `editmgt/`."""
        save_module(folder / "editmgt", self.transformer, self.config.to_dict())
