"""`python -m benchmarks.training`: one optimizer step of an edit beside the official one.

Same random weights, pictures and prompt, float32, AdamW and gradient clipping on both sides; with
token ids and text states given, and with the frozen encoders making them. The official side follows
its `train/train.py` with its default options, short of the 8-bit optimizer, which needs CUDA. Masks
are random on both sides, which matters to ours only: it computes logits of masked tokens alone.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from editmgt_lib.data.source import TokenBatch
from editmgt_lib.loader import load_tokenizer, load_transformer
from editmgt_lib.sampling.predictor import micro_conditions
from editmgt_lib.settings import Settings
from editmgt_lib.text.encoders import TextEncoders
from editmgt_lib.toyworld.language import corpus
from editmgt_lib.toyworld.text_encoders import build_text_encoders
from editmgt_lib.training.generation import GenerationStage
from editmgt_lib.training.objective import PUBLISHED

from . import records
from .cases import PROMPT, Case, mid, random_inputs, write_checkpoint
from .clock import machine, measured
from .compare import Row, compare
from .official import opened
from .table import render

RATE, DECAY, CLIP = 1e-4, 1e-2, 10.0  # published


def rows(batch: int) -> list[Row]:
    """The step alone, and with what the frozen encoders do for it."""
    return [
        Row("step, tokens and text given", "train", {"encoders": False, "batch": batch}),
        Row("step with frozen encoders", "train", {"encoders": True, "batch": batch}),
    ]


def case(side: int = 32) -> Case:
    """The mid-size weights on a smaller grid, with text encoders of the published widths.

    These have ToyWorld's vocabulary and few layers, so text costs less than it would.
    """
    small = mid()
    wide, pooled = small.transformer.joint_attention_dim, small.transformer.pooled_projection_dim

    def encoders() -> TextEncoders:
        return build_text_encoders(
            corpus(), text_length=small.text_length, width=wide, pooled=pooled
        )

    return replace(small, name="training", side=side, text_encoders=encoders)


class GivenText:
    """In place of text encoders: ready states and vectors, whatever the prompt."""

    def __init__(self, states: Tensor, vector: Tensor) -> None:
        self._given = states, vector
        self.gemma_tokenizer = SimpleNamespace(pad_token_id=0)

    def to(self, device: torch.device) -> "GivenText":
        self._given = tuple(tensor.to(device) for tensor in self._given)
        return self

    def tokenize(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return (torch.ones(len(prompts), 1, dtype=torch.int64),) * 2

    def padding_prefix(self) -> "GivenText":
        return self

    def states(self, ids: Tensor) -> Tensor:
        return self._given[0].expand(len(ids), -1, -1)

    def pooled(self, ids: Tensor) -> Tensor:
        return self._given[1].expand(len(ids), -1)


class Pictures:
    """A source whose every sample is the same edit; `encode`: tokenize its pictures each time."""

    fingerprint = "benchmark"

    def __init__(self, side: Any, encode: bool) -> None:
        self._side, self._encode = side, encode

    def batch(self, numbers: Sequence[int]) -> TokenBatch:
        """One edit, as often as there are numbers."""
        ids, picture = (self._side.inputs[name] for name in ("reference", "picture"))
        source = target = ids.expand(len(numbers), -1, -1)
        if self._encode:
            pixels = picture.expand(len(numbers), -1, -1, -1)
            source, target = (self._side.vq.encode(pixels) for _ in range(2))
        micro = micro_conditions(len(numbers), *picture.shape[-2:])
        return TokenBatch(target, source, [PROMPT] * len(numbers), micro)


class Ours:
    """Our training step. precision: of the products, as in a run's config."""

    def __init__(
        self, of: Case, folder: Path, inputs: dict[str, Tensor], device: str,
        precision: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.device, place = device, torch.device(device)
        self.inputs = {name: tensor.to(place) for name, tensor in inputs.items()}
        self.vq = load_tokenizer(folder / "vqvae", place)
        transformer = load_transformer(folder / "editmgt", place, torch.float32)
        transformer.requires_grad_(True)
        self.parameters = list(transformer.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, RATE, weight_decay=DECAY)
        texts: dict[bool, Any] = {False: GivenText(inputs["states"], inputs["pooled"])}
        if (folder / "llm_encoder").exists():
            texts[True] = TextEncoders.from_folder(folder, place, torch.float32, of.text_length)
        settings = Settings(resolution=of.side * of.vq.factor, text_length=of.text_length)
        self.stages = {
            encode: GenerationStage(
                transformer, text, Pictures(self, encode), PUBLISHED,
                settings=settings, device=device, precision=precision,
            )
            for encode, text in texts.items()
        }  # fmt: skip
        self._numbers = count()

    def measure(self, stage: str, encoders: bool, batch: int) -> dict[str, Any]:
        """One step; the masks are other ones each time."""
        call = partial(self._step, self.stages[encoders], batch)
        return measured(call, self.device, memory=True)

    def _step(self, stage: GenerationStage, batch: int) -> None:
        prepared = stage.prepare([next(self._numbers) for _ in range(batch)])
        loss, _ = stage.loss(prepared, prepared.counts)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def run(
    of: Case, rounds: int, batch: int, device: str, official: Path | None, python: str
) -> dict[str, Any]:
    """Measure; the result is what the JSON file holds."""
    about, inputs = machine(device), random_inputs(of)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        write_checkpoint(of, folder)
        save_file(inputs, folder / "inputs.safetensors")
        sides: dict[str, Any] = {"ours": Ours(of, folder, inputs, device)}
        if official is not None:
            sides["official"] = stack.enter_context(
                opened(of, folder, official, python, device, "float32", "")
            )
        found = compare(rows(batch), sides, rounds)
    for row in found:
        row["tokens"] = batch * of.side**2
    lacks = ["the 8-bit optimizer of the official script, which needs CUDA"]
    lacks += [] if official else ["the official side: no checkout was given (--official)"]
    return {
        "config": f"training on {of.side} x {of.side} tokens with a reference, batch {batch}",
        "machine": about,
        "lacks": lacks,
        "precisions": {"float32": {"rows": found}},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    p.add_argument("--official", type=Path, help="checkout of the official code")
    p.add_argument("--official-python", default=sys.executable)
    p.add_argument("--device", default="cpu")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--side", type=int, default=32, help="token rows and columns")
    p.add_argument("--json", type=Path)
    given = p.parse_args(arguments)
    torch.set_num_threads(given.threads)
    result = run(case(given.side), given.rounds, given.batch, given.device, given.official,
                 given.official_python)  # fmt: skip
    if given.json:
        records.write(given.json, result)
    print(render(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
