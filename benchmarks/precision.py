"""`python -m benchmarks.precision`: what bfloat16 costs, choice by choice, on ToyWorld.

The shipped checkpoint in float32 against itself in bfloat16, with one thing at a time computed in
another format than the library does. From the same random numbers: how far the first step's logits
are off, and how many tokens are drawn differently, of the first step (when all are masked and the
model is least sure), of whole edits, and of pictures from text alone.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import editmgt_lib
from editmgt_lib import sampling
from editmgt_lib.evaluation.batches import PairBatch, seeded
from editmgt_lib.evaluation.tables import markdown
from editmgt_lib.models import blocks, embeddings
from editmgt_lib.models.transformer import MaskedTransformer
from editmgt_lib.pictures.fitting import Tokens
from editmgt_lib.pipeline import EditMGT
from editmgt_lib.sampling.options import SamplingOptions
from editmgt_lib.sampling.predictor import Predictor
from editmgt_lib.text.instruction import Instruction
from editmgt_lib.toyworld.world import caption

from . import held_out

LOW = torch.bfloat16
Choice = Callable[[], Iterator[None]]


@contextmanager
def patched(*changes: tuple[object, str, object]) -> Iterator[None]:
    """Attributes replaced for a while."""
    with ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(patch.object(owner, name, value))
        yield


def rotary_low() -> Iterator[None]:
    """Angles' cosines and sines, and the products with them."""
    rotate = blocks.rotate

    def low(x: Tensor, table: Tensor) -> Tensor:
        table = table.to(LOW)
        turned = rotate(x, torch.stack([torch.zeros_like(table[0]), torch.ones_like(table[0])]))
        return x * table[0] + turned * table[1]

    return patched((blocks, "rotate", low))


def timesteps_low() -> Iterator[None]:
    """The timestep times 1000, before its sines."""
    sinusoid = embeddings.sinusoid
    return patched((embeddings, "sinusoid", lambda v, *a, **k: sinusoid(v.to(LOW), *a, **k)))


def draw_low() -> Iterator[None]:
    """Probabilities, their running sum and the number drawn against it."""
    draw = sampling.draw_tokens

    def low(probs: Tensor, noise: Tensor) -> Tensor:
        return draw(probs.to(LOW), noise.to(LOW))

    return patched((sampling, "draw_tokens", low))


def modulation_high() -> Iterator[None]:
    """Shifts, scales and gates, and the layer norm they act on, in float32."""
    return patched(
        (blocks.ModulationLayer, "forward", _modulation), (blocks, "modulate", _modulate_high)
    )


def _modulation(self: blocks.ModulationLayer, embedding: Tensor) -> tuple[Tensor, ...]:
    layer = self.linear
    out = F.linear(F.silu(embedding.float()), layer.weight.float(), layer.bias.float())
    return out.to(LOW).chunk(self.parts, dim=-1)


def _modulate_high(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    normed = F.layer_norm(x.float(), x.shape[-1:], eps=1e-6)
    return (normed * (1 + scale.float()[:, None]) + shift.float()[:, None]).to(LOW)


def residual_high() -> Iterator[None]:
    """The sums that run through all blocks."""
    tokens, text, unembed = (
        getattr(MaskedTransformer, n) for n in ("embed_tokens", "embed_text", "_unembed")
    )
    return patched(
        (MaskedTransformer, "embed_tokens", lambda *a: tokens(*a).float()),
        (MaskedTransformer, "embed_text", lambda *a: text(*a).float()),
        (MaskedTransformer, "_unembed", lambda self, x, *a: unembed(self, x.to(LOW), *a)),
        (blocks, "modulate", _modulate_high),
    )


def logits_high() -> Iterator[None]:
    """The projection onto the codebook."""

    def logits(self: MaskedTransformer, features: Tensor) -> Tensor:
        weight = self.mlm_layer.conv2.weight.flatten(1)
        return features.float() @ weight.float().T

    return patched((MaskedTransformer, "logits", logits))


@contextmanager
def everything_low() -> Iterator[None]:
    """The three together."""
    with rotary_low(), timesteps_low(), draw_low():
        yield


CHOICES: dict[str, tuple[torch.dtype, Choice]] = {
    "bfloat16, as the library has it": (LOW, patched),
    "and rotary positions": (LOW, rotary_low),
    "and timesteps": (LOW, timesteps_low),
    "and the token draw": (LOW, draw_low),
    "and all three": (LOW, everything_low),
    "but modulation and norms float32": (LOW, modulation_high),
    "but the residual stream float32": (LOW, residual_high),
    "but the codebook projection float32": (LOW, logits_high),
    "float16": (torch.float16, patched),
}


def first_step(
    model: EditMGT, tokens: Tokens, text: Instruction, options: SamplingOptions
) -> tuple[Tensor, Tensor]:
    """Logits [M, V] and proposed ids with everything masked."""
    mask_id = model.transformer.config.mask_token_id
    masked = torch.full_like(tokens.ids, mask_id)
    predictor = Predictor(model.transformer, tokens, text, options)
    logits, _ = predictor(masked, 0, options.steps - 1)
    noise = sampling.ItemNoise(options.seeds(len(masked)), options.draw)
    drawn = noise.draw(len(masked), masked[0].numel(), logits.shape[1], last=False)
    step = sampling.reveal_step(logits, masked, drawn, step=0, options=options, mask_id=mask_id)
    return logits, step.proposal


def outcome(model: EditMGT, batch: PairBatch, seed: int) -> dict[str, Tensor]:
    """What is compared."""
    options = seeded(model.settings.sampling, batch, seed)
    blank = model.blank_tokens(1, batch.tokens.canvas.size)
    words = caption(batch.pairs[0].source, np.random.default_rng(seed))
    described = model.encode_instruction(words)
    logits, proposal = first_step(model, batch.tokens, batch.instruction, options)
    _, from_text = first_step(model, blank, described, options)
    edited, _ = model.sample(batch.tokens, batch.instruction, options)
    made, _ = model.sample(blank, described, options)
    return {
        "logits": logits, "first step": proposal, "edit": edited.ids,
        "first step, text alone": from_text, "text alone": made.ids,
    }  # fmt: skip


def compare(
    models: dict[torch.dtype, EditMGT], batches: list[PairBatch], seed: int
) -> list[dict[str, float | str]]:
    """One row per choice: error of the logits, and shares of equal tokens."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CHOICES}
    for batch in tqdm(batches, disable=None):
        want = outcome(models[torch.float32], batch, seed)
        for name, (dtype, choice) in CHOICES.items():
            with choice():
                got = outcome(models[dtype], batch, seed)
            off = (got["logits"] - want["logits"]).norm() / want["logits"].norm()
            ids = [k for k in want if k != "logits"]
            same = {k: float((got[k] == want[k]).float().mean()) for k in ids}
            found[name].append({"logits off by": float(off)} | same)
    return [
        {"choice": name} | {k: sum(r[k] for r in rows) / len(rows) for k in rows[0]}
        for name, rows in found.items()
    ]


def tokenizer_low(exact: EditMGT, batches: list[PairBatch]) -> dict[str, float]:
    """Share of equal tokens, and the mean pixel difference, with the tokenizer in bfloat16."""
    low = copy.deepcopy(exact.vq).to(LOW)
    same, pixels = [], []
    with torch.no_grad():
        for batch in batches:
            picture = batch.tokens.canvas.source.permute(0, 3, 1, 2)
            same.append((low.encode(picture.to(LOW)) == batch.tokens.ids).float().mean())
            a, b = exact.vq.decode(batch.tokens.ids), low.decode(batch.tokens.ids).float()
            pixels.append((a - b).abs().mean())
    count = len(batches)
    return {"equal tokens": float(sum(same)) / count, "pixels": float(sum(pixels)) / count}


def table(rows: list[dict]) -> str:
    """Markdown."""
    lines = [
        [str(r["choice"]), f"{r['logits off by']:.2e}",
         *(f"{share:.2%}" for k, share in r.items() if k not in ("choice", "logits off by"))]
        for r in rows
    ]  # fmt: skip
    return markdown([k if k != "choice" else "" for k in rows[0]], lines)


def main() -> None:
    """Read the command line, measure, print, write."""
    given = held_out.options("precision", __doc__, samples=4, seed=2)
    kinds = {dtype for dtype, _ in CHOICES.values()} | {torch.float32}
    models = {d: editmgt_lib.load("toyworld", device="cpu", dtype=d) for d in kinds}
    exact = models[torch.float32]
    batches = held_out.edits(exact, given.samples, given.seed)
    rows = compare(models, batches, given.seed)
    tokenizer = tokenizer_low(exact, batches)
    print(table(rows))
    print("tokenizer in bfloat16:", tokenizer)
    held_out.write(given.json, {"rows": rows, "tokenizer": tokenizer})


if __name__ == "__main__":
    main()
