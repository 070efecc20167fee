"""ToyWorld as an endless source of training samples, tokenized as they are drawn."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import require_choice
from ..models.vq import VQModel
from ..offload import execution_device
from ..sampling.predictor import micro_conditions
from ..toyworld.batches import to_pixels, training_pair, training_scene
from ..toyworld.scenes import EditPair, Scene
from ..toyworld.world import caption, sample_pair, sample_scene
from .draws import draws
from .fingerprints import digest, tokenizer_fingerprint
from .source import TokenBatch

TASKS = ("edit", "generate")


class ToyWorldSource:
    """A TokenSource of ToyWorld pictures; a number's scenes and words follow from (seed, number).

    Args:
        vq: the tokenizer, on the device where it is to run.
        size: picture side in pixels.
        task: "edit" for pairs with instructions, "generate" for pictures with captions.
        heldout: draw from the held-out split, for validation.
    """

    def __init__(
        self, vq: VQModel, size: int, seed: int, task: str = "edit", heldout: bool = False
    ) -> None:
        require_choice("task", task, TASKS)
        self.vq, self.size, self.seed, self.task, self.heldout = vq, size, seed, task, heldout
        settings = ("toyworld", size, seed, task, heldout)
        self.fingerprint = digest(*settings, tokenizer_fingerprint(vq))

    def batch(self, numbers: Sequence[int]) -> TokenBatch:
        """Samples with these numbers, on the tokenizer's device."""
        if self.task == "generate":
            drawn = [self.scene(number) for number in numbers]
            target, source = self._encode([scene for scene, _ in drawn]), None
            prompts = [text for _, text in drawn]
        else:
            pairs = [self.pair(number) for number in numbers]
            both = self._encode([p.source for p in pairs] + [p.target for p in pairs])
            source, target = both.chunk(2)
            prompts = [pair.instruction for pair in pairs]
        micro = micro_conditions(len(numbers), self.size, self.size)
        return TokenBatch(target, source, prompts, micro)

    def pair(self, number: int) -> EditPair:
        """Edit pair of a number."""
        rng = draws(self.seed, number, "pair")
        return sample_pair(rng, heldout=True) if self.heldout else training_pair(rng)

    def scene(self, number: int) -> tuple[Scene, str]:
        """Scene of a number, and its caption."""
        rng = draws(self.seed, number, "scene")
        scene = sample_scene(rng, heldout=True) if self.heldout else training_scene(rng)
        return scene, caption(scene, rng)

    def _encode(self, scenes: Sequence[Scene]) -> Tensor:
        """Ids [B, H, W]; together on a GPU, where many small calls would take longest."""
        device = execution_device(self.vq)
        pixels = to_pixels(scenes, self.size, device)
        if device.type != "cpu":
            return self.vq.encode(pixels)
        return torch.cat([self.vq.encode(picture[None]) for picture in pixels])
