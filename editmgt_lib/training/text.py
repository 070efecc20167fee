"""Stage one: small text encoders that know the toy language as the published ones know English.

Later stages freeze them, as in the paper: encoders trained along with the transformer forget words
and retain only the kind of edit.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.draws import draws
from ..text.encoders import TextEncoders
from ..toyworld.batches import training_pair, training_scene
from ..toyworld.text_encoders import save_text_folders
from ..toyworld.world import caption, in_spare_color
from .stage import Prepared

SPARE = 0.1  # share of instructions with the spare colour
OFFSETS = (-6, -5, -4, -3, -2, -1, 0, 1)
"""Words a text row has to tell, relative to its own: what led to it, itself, and what may follow.

The transformer sees the rows of a prompt as a set, so a row has to carry its context with it.
"""


def training_prompt(rng: np.random.Generator) -> str:
    """Draw an instruction or a caption of the training split, equally likely.

    A tenth of the instructions that can says the spare colour.
    """
    if rng.random() < 0.5:
        pair = training_pair(rng)
        spare = in_spare_color(pair) if rng.random() < SPARE else None
        return (spare or pair).instruction
    return caption(training_scene(rng), rng)


class TextStage:
    """Train Gemma to predict the words around each row, and CLIP the words a prompt holds.

    Args:
        encoders: trained in place.
        seed: of prompts, and of the heads, which are discarded.
    """

    def __init__(
        self, encoders: TextEncoders, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self.text_encoders, self.seed, self.device = encoders, seed, torch.device(device)
        self.fingerprint = f"toyworld prompts, seed {seed}"
        clip, gemma = encoders.modules_to_train()
        width, pooled = gemma.config.hidden_size, clip.config.projection_dim
        words = len(encoders.gemma_tokenizer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            around = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, words * len(OFFSETS)))
            contents = nn.Linear(pooled, words)
        self.modules = nn.ModuleDict(
            {"clip": clip, "gemma": gemma, "around": around, "contents": contents}
        ).to(self.device)

    def prepare(self, numbers: Sequence[int]) -> Prepared:
        """Draw and tokenize prompts; counts: real (row, word) pairs per offset, and prompts."""
        prompts = [training_prompt(draws(self.seed, n, "prompt")) for n in numbers]
        clip_ids, ids = self.text_encoders.tokenize(prompts)
        real = ids != self.text_encoders.gemma_tokenizer.pad_token_id
        pairs = [_shifted(real, real, offset) for offset in OFFSETS]
        counts = [float((rows & words).sum()) for rows, words in pairs]
        data = clip_ids, ids.to(self.device), real.to(self.device)
        return Prepared(data, torch.tensor([*counts, len(prompts)], dtype=torch.float64))

    def loss(self, prepared: Prepared, counts: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the words around each row and of the prompt's set of words."""
        clip_ids, ids, real = prepared.data
        states, pooled = self.text_encoders.encode_ids(clip_ids, ids)
        logits = self.modules["around"](states).unflatten(-1, (len(OFFSETS), -1))
        counts = counts.clamp(min=1).tolist()
        wrong = [
            _shifted_loss(logits[:, :, i], ids, real, offset) / counts[i]
            for i, offset in enumerate(OFFSETS)
        ]
        held = self.modules["contents"](pooled)
        said = torch.zeros_like(held).scatter_(1, ids, 1.0)
        contents = F.binary_cross_entropy_with_logits(held, said, reduction="sum")
        contents = contents / (counts[-1] * held.shape[1])
        recall = sum(wrong[:-1]) / len(wrong[:-1])
        figures = {"recall": recall, "next": wrong[-1], "contents": contents}
        return sum(wrong) + 10 * contents, {name: f.detach() for name, f in figures.items()}

    def after_step(self) -> None:
        """Nothing to do."""

    def sheet(self, path: Path) -> None:
        """Nothing to draw."""

    def export(self, folder: Path) -> None:
        """Write the folders of the text encoders."""
        save_text_folders(folder, self.text_encoders)


def _shifted_loss(logits: Tensor, ids: Tensor, real: Tensor, offset: int) -> Tensor:
    """Summed cross-entropy of rows [B, L, V] with words `offset` rows later, without padding."""
    rows, words = _shifted(logits, ids, offset)
    both = torch.logical_and(*_shifted(real, real, offset))
    return F.cross_entropy(rows[both], words[both], reduction="sum")


def _shifted(rows: Tensor, words: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """Pair rows [B, L, ...] with the words `offset` rows later."""
    length = words.shape[1]
    first, last = max(0, -offset), length - max(0, offset)
    return rows[:, first:last], words[:, first + offset : last + offset]
