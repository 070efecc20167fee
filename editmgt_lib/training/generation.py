"""Stages three and four: the masked transformer, first from text, then by attention injection.

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
from ..toyworld.world import caption
from .loop import StepRandom
from .pictures import to_pixels, training_pair, training_scene
from .progress import draw_edits, draw_generated

# Held-out ToyWorld pictures of 64 to 512 pixels are reproduced within 0.03, photographs within 0.05
# or worse.
MAX_RECONSTRUCTION_ERROR = 0.04
GUIDANCE = 1.0  # what a ToyWorld checkpoint is sampled with: more than that helped no edit


@dataclass(frozen=True)
class GenerationOptions:
    """What a generation stage optimises besides plain cross-entropy. Raises InputError.

    Attributes:
        edit: train edits with a reference; else text to image.
        size: picture side in pixels.
        text_dropout: share of samples whose prompt is replaced by the empty one, for guidance.
        steps: the sampler's step count whose timesteps are trained. (The published code feeds the
            mask ratio times 1000 in training but the step index in sampling; we train what we use.)
        changed_weight: weight of tokens that differ from the reference where these are few, falling
            to 1 where all do; 1 is the published loss.
        alignment: weight of a term that draws the text-to-image attention of `aligned_blocks`, mean
            over the prompt's rows, to the tokens that change. Not in the paper; 0 turns it off.
        strength: reference strength during training.
        first_step: share of samples with everything masked, as at the sampler's first step, where
            the text alone decides; 0 is the published law.
        patches: share of samples whose masked tokens lie together instead of being scattered.
        generate_share: share of edit-stage steps that generate from a caption instead, so that
            text to image is not forgotten.
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
            raise InputError("aligned_blocks is empty; name the blocks that alignment is about")


@dataclass(frozen=True, repr=False)
class Batch:
    """Token ids [B, H, W] and prompts of one step; source is None for text to image."""

    target: Tensor
    source: Tensor | None
    prompts: Sequence[str]

    @property
    def changed(self) -> Tensor:
        """bool [B, H, W]: where the target differs from the source; nowhere without one."""
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
    """Mask a share cos(u pi/2) of each item's tokens, at least one; all for `first_step` of them.

    The generator is on the CPU. Returns the masked ids [B, H, W] and u [B], the share of sampling
    that is over at that ratio.
    """
    batch, positions = len(target), target[0].numel()
    u = torch.rand(batch, generator=generator)
    if first_step:
        u = u * (torch.rand(batch, generator=generator) >= first_step)
    count = (torch.cos(u * torch.pi / 2) * positions).round().clamp(min=1)
    noise = torch.rand(target.shape, generator=generator)
    if patches:
        # The sampler reveals what is certain first and leaves whole objects to the end.
        coarse = torch.rand(batch, 1, 5, 5, generator=generator)
        smooth = F.interpolate(coarse, target.shape[1:], mode="bilinear")[:, 0]
        chosen = torch.rand(batch, 1, 1, generator=generator) < patches
        noise = torch.where(chosen, smooth + 0.05 * noise, noise)
    order = noise.flatten(1).argsort(dim=1).argsort(dim=1)
    masked = (order < count[:, None]).view(target.shape).to(target.device)
    return target.masked_fill(masked, mask_id), u.to(target.device)


def alignment_loss(scores: Sequence[Tensor], changed: Tensor, stride: int) -> Tensor:
    """Cross-entropy between the normalised score maps [B, N] and the changed positions.

    Args:
        scores: one map per block, N positions in reading order.
        changed: bool [B, H, W] on the token grid; items where nothing changes add 0 to the mean.
        stride: tokens per position, along each side.
    """
    wanted = F.max_pool2d(changed.float()[:, None], stride).flatten(1)
    total = wanted.sum(dim=1, keepdim=True)
    shares = [s / s.sum(dim=1, keepdim=True) for s in scores]
    loss = sum(-(wanted * (s + 1e-9).log()).sum(dim=1) for s in shares) / len(shares)
    return (loss / total[:, 0].clamp(min=1) * (total[:, 0] > 0)).mean()


class GenerationStage:
    """Text-to-image or edit training of the transformer.

    Args:
        encoders, vq: the trained text encoders and tokenizer; both stay as they are.
        device: where everything is moved to and trains.
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
        """The transformer under training."""
        return self.modules["transformer"]

    @property
    def config(self) -> TransformerConfig:
        """Its sizes."""
        return self.transformer.config

    def draw(self, random: StepRandom, batch: int) -> Batch:
        """Sample pictures or edit pairs of the training split and tokenize them."""
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
        """Weighted cross-entropy on masked tokens, plus the alignment term where asked for."""
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
            # A dropped prompt says nothing about where to act.
            told = changed & ~drop.to(self.device)[:, None, None]
            scores = [prediction.scores[i] for i in o.aligned_blocks]
            aligned = alignment_loss(scores, told, self.config.stride)
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
        # CPUs and GPUs have fast bfloat16 products; weights, optimiser and loss stay in float32.
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.transformer(
                ids, timestep, states, pooled, micro, source, injection,
                probe=MeanOfRows(rows), probed=o.aligned_blocks if o.alignment else (),
            )  # fmt: skip

    def after_step(self) -> None:
        """Nothing to do."""

    @property
    def settings(self) -> Settings:
        """How a checkpoint of this stage wants to be used."""
        o = self.options
        sampling = SamplingOptions(steps=o.steps, guidance=GUIDANCE, strength=o.strength)
        localization = LocalizationOptions(rows="content")
        if o.aligned_blocks:
            layers = min(o.aligned_blocks), max(o.aligned_blocks)
            localization = replace(localization, layers=layers)
        length = self.text_encoders.text_length
        return Settings(o.size, length, "", sampling, localization, MAX_RECONSTRUCTION_ERROR)

    def sheet(self, path: Path) -> None:
        """Held-out edits, or pictures of held-out captions, as the stage makes them now."""
        model = EditMGT(self.transformer, self.vq, self.text_encoders, self.settings)
        (draw_edits if self.options.edit else draw_generated)(model, path)

    def export(self, folder: Path) -> None:
        """Write `editmgt/`."""
        save_module(folder / "editmgt", self.transformer, self.config.to_dict())
