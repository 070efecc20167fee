"""Pictures of a generation stage at work, drawn with the library's own sampler."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..models.transformer import InjectionOptions
from ..sampling import ItemNoise, SamplingOptions, guide, sample_tokens
from ..toyworld.world import CATEGORIES, caption, pair_at
from .loop import StepRandom
from .pictures import save_grid, to_pixels, training_scene

if TYPE_CHECKING:
    from .generation import GenerationStage

GUIDANCE = 3.0
PICTURES = 14


@torch.no_grad()
def draw_progress(stage: "GenerationStage", path: Path) -> None:
    """Write a grid: held-out sources, results and targets; or, without edits, generated pictures."""
    size = stage.options.size
    if not stage.options.edit:
        rng = StepRandom.of(7, 0).data
        scenes = [training_scene(rng) for _ in range(PICTURES)]
        ids = sample(stage, [caption(s, rng) for s in scenes], None)
        save_grid([to_pixels(scenes, size), stage.vq.decode(ids)], path)
        return
    pairs = [pair_at(7, i, True, CATEGORIES[i % len(CATEGORIES)]) for i in range(PICTURES)]
    before, wanted = (to_pixels([getattr(p, k) for p in pairs], size) for k in ("source", "target"))
    ids = sample(stage, [p.instruction for p in pairs], stage.vq.encode(before))
    save_grid([before, stage.vq.decode(ids), wanted], path)


def sample(stage: "GenerationStage", prompts: list[str], source: Tensor | None) -> Tensor:
    """Token ids [B, H, W] for prompts, at the stage's step count."""
    o, count, config = stage.options, len(prompts), stage.config
    grid = (o.size // stage.vq.config.factor,) * 2
    micro = torch.tensor([[float(o.size)] * 2 + [0.0, 0.0, 6.0]]).expand(2 * count, 5)
    states, pooled = stage.towers.encode_ids(*stage.towers.tokenize([""] * count + prompts))
    reference = None if source is None else source.repeat(2, 1, 1)
    injection = InjectionOptions(strength=o.strength)
    prepared = stage.transformer.prepare(states, pooled, micro, grid, reference, injection)

    def predict(ids: Tensor, step: int, timestep: int) -> tuple[Tensor, None]:
        times = torch.full((2 * count,), timestep)
        logits = stage.transformer.step(ids.repeat(2, 1, 1), times, prepared).logits
        return guide(*logits.chunk(2), GUIDANCE), None

    start = torch.full((count, *grid), config.mask_token_id)
    options = SamplingOptions(steps=o.steps, guidance=GUIDANCE)
    noise = ItemNoise(range(count))
    return sample_tokens(
        predict, start, options=options, noise=noise, mask_id=config.mask_token_id
    ).ids
