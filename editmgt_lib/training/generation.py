"""Stages two and three: the masked transformer, first from text, then by attention injection.

Both stages train the same parameters; the edit stage only adds the reference stream (paper, training
section). Loss: cross-entropy on masked tokens, mask ratio cos(u pi/2) with u uniform (published code).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.saving import save_module
from ..models.attention import MeanOfRows
from ..models.config import TransformerConfig
from ..models.text import TextTowers
from ..models.transformer import InjectionOptions, MaskedTransformer, Prediction
from ..models.vq import VQModel
from ..toyworld.text_towers import save_text_folders
from ..toyworld.world import EditPair, caption, sample_pair
from .loop import StepRandom
from .pictures import to_pixels, training_scene


@dataclass(frozen=True)
class GenerationOptions:
    """What a generation stage optimises besides plain cross-entropy.

    Attributes:
        edit: train edits with a reference; else text to image.
        size: picture side in pixels.
        text_dropout: share of samples whose prompt is replaced by the empty one, for guidance.
        steps: the sampler's step count whose timesteps are trained. (The published code feeds the
            mask ratio times 1000 in training but the step index in sampling; we train what we use.)
        changed_weight: weight of tokens that differ from the reference; 1 is the published loss.
        alignment: weight of a term that draws the mean text-to-image attention of `aligned_blocks`
            to the tokens that change. Not in the paper; 0 turns it off.
        strength: reference strength during training.
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
    generate_share: float = 0.0


@dataclass(frozen=True, repr=False)
class Batch:
    """Token ids [B, H, W] and prompts of one step."""

    target: Tensor
    source: Tensor | None
    prompts: Sequence[str]


def mask_tokens(target: Tensor, mask_id: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mask a share cos(u pi/2) of each item's tokens, at least one.

    Returns the masked ids [B, H, W] and u [B], the share of sampling that is over at that ratio.
    """
    batch, positions = len(target), target[0].numel()
    u = torch.rand(batch, generator=generator)
    count = (torch.cos(u * torch.pi / 2) * positions).round().clamp(min=1)
    order = torch.rand(batch, positions, generator=generator).argsort(dim=1)
    masked = (order < count[:, None]).view_as(target)
    return target.masked_fill(masked, mask_id), u


def alignment_loss(scores: Sequence[Tensor], changed: Tensor, stride: int) -> Tensor:
    """Cross-entropy between the normalised score maps [B, N] and the changed positions.

    Args:
        changed: bool [B, H, W] on the token grid; items where nothing changes are left out.
    """
    wanted = F.max_pool2d(changed.float()[:, None], stride).flatten(1)
    total = wanted.sum(dim=1, keepdim=True)
    shares = [s / s.sum(dim=1, keepdim=True) for s in scores]
    loss = sum(-(wanted * (s + 1e-9).log()).sum(dim=1) for s in shares) / len(shares)
    return (loss / total[:, 0].clamp(min=1) * (total[:, 0] > 0)).mean()


class GenerationStage:
    """Text-to-image or edit training of the transformer together with the small text encoders."""

    def __init__(
        self,
        transformer: MaskedTransformer,
        towers: TextTowers,
        vq: VQModel,
        options: GenerationOptions,
    ) -> None:
        self.options, self.towers, self.vq = options, towers, vq.requires_grad_(False)
        clip, gemma = towers.modules_to_train()
        self.modules = nn.ModuleDict({"transformer": transformer, "clip": clip, "gemma": gemma})

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
        if not self.options.edit or random.data.random() < self.options.generate_share:
            scenes = [training_scene(random.data) for _ in range(batch)]
            prompts = [caption(s, random.data) for s in scenes]
            return Batch(self.vq.encode(to_pixels(scenes, self.options.size)), None, prompts)
        pairs: list[EditPair] = [sample_pair(random.data) for _ in range(batch)]
        scenes = [p.source for p in pairs] + [p.target for p in pairs]
        source, target = self.vq.encode(to_pixels(scenes, self.options.size)).chunk(2)
        return Batch(target, source, [p.instruction for p in pairs])

    def loss(self, random: StepRandom, batch: int) -> tuple[Tensor, dict[str, float]]:
        """Weighted cross-entropy on masked tokens, plus the alignment term where asked for."""
        o, data = self.options, self.draw(random, batch)
        drop = torch.rand(batch, generator=random.masks) < o.text_dropout
        prompts = ["" if d else p for p, d in zip(data.prompts, drop.tolist(), strict=True)]
        ids, u = mask_tokens(data.target, self.config.mask_token_id, random.masks)
        timestep = ((1 - u) * o.steps).floor().clamp(max=o.steps - 1)
        prediction = self._predict(ids, timestep, prompts, data.source)
        masked = ids == self.config.mask_token_id
        changed = torch.zeros_like(masked) if data.source is None else data.target != data.source
        logits = prediction.logits.permute(0, 2, 3, 1)[masked].float()
        losses = F.cross_entropy(logits, data.target[masked], reduction="none")
        weights = 1 + (o.changed_weight - 1) * changed[masked].float()
        loss = (losses * weights).sum() / weights.sum()
        figures = {"nll": losses.mean().item()}
        if data.source is not None:
            figures["new"] = losses[changed[masked]].mean().nan_to_num().item()
        if prediction.scores and data.source is not None:
            told = changed & ~drop[:, None, None]
            aligned = alignment_loss(
                [prediction.scores[i] for i in o.aligned_blocks], told, self.config.stride
            )
            figures["align"] = aligned.item()
            loss = loss + o.alignment * aligned
        return loss, figures

    def _predict(
        self, ids: Tensor, timestep: Tensor, prompts: Sequence[str], source: Tensor | None
    ) -> Prediction:
        size = float(self.options.size)
        micro = torch.tensor([[size, size, 0.0, 0.0, 6.0]]).expand(len(ids), 5)
        blocks = self.options.aligned_blocks if self.options.alignment else ()
        rows = torch.full((len(ids), self.towers.text_length), 1 / self.towers.text_length)
        injection = InjectionOptions(strength=self.options.strength)
        # The CPU has fast bfloat16 products; weights, optimiser and loss stay in float32.
        with torch.autocast("cpu", torch.bfloat16):
            states, pooled = self.towers.encode_ids(*self.towers.tokenize(prompts))
            return self.transformer(
                ids, timestep, states, pooled, micro, source, injection,
                probe=MeanOfRows(rows), probed_blocks=blocks,
            )  # fmt: skip

    def after_step(self, step: int) -> None:
        """Nothing to do."""

    def sheet(self, path: Path) -> None:
        """Pictures of what the stage can do now; drawn by the evaluation room's sampler."""
        from .progress import draw_progress

        draw_progress(self, path)

    def export(self, folder: Path) -> None:
        """Write `editmgt/` and the text folders."""
        save_module(folder / "editmgt", self.transformer, self.config.to_dict())
        save_text_folders(folder, self.towers)
