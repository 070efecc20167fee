"""The masked generative transformer with attention injection (paper section 3).

`step` is the architecture: embed, double blocks, join, single blocks, unembed the target. `prepare`
computes once per run what does not depend on tokens.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import InputError
from .adapters import block_updates, nothing_of
from .attention import (
    Attention,
    AttentionFunction,
    Probe,
    grid_positions,
    rotary_table,
    strength_groups,
)
from .backends import sdpa
from .blocks import DoubleBlock, SingleBlock, compiled
from .conditioning import Conditioning, InjectionOptions, Prediction
from .config import MICRO_CONDITIONS, MICRO_WIDTH, TransformerConfig
from .embeddings import (
    Connector,
    DownBlock,
    TimeTextEmbedding,
    TokenEmbedding,
    TokenHead,
    TwoLayer,
    UpBlock,
    sinusoid,
)

TIME_SCALE = 1000  # factor on timesteps, in training and in sampling


class MaskedTransformer(nn.Module):
    """Predicts the codes of masked tokens from text, known tokens and an optional reference.

    Args:
        config: sizes.
        operations: namespace of layer classes (`torch.nn`, or ComfyUI's).
        attention: a back end, see `backends`.

    Attributes:
        adapters: low-rank updates of the blocks' layers, applied as they run; see `lora`.
        records: whether runs record their steps as CUDA graphs; see `sampling.recording`. For
            weights that stay on a CUDA device.
    """

    def __init__(
        self, config: TransformerConfig, operations=nn, attention: AttentionFunction = sdpa
    ) -> None:
        super().__init__()
        self.config = config
        self.attention = attention
        self.records = False
        width, heads = config.width, config.num_attention_heads
        pooled = config.pooled_projection_dim + MICRO_CONDITIONS * MICRO_WIDTH
        self.time_text_embed = TimeTextEmbedding(width, operations)
        self.context_embedder = operations.Linear(width, width)
        self.transformer_blocks = nn.ModuleList(
            DoubleBlock(width, heads, operations) for _ in range(config.num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            SingleBlock(width, heads, operations) for _ in range(config.num_single_layers)
        )
        self.embed = TokenEmbedding(config.vocab_size, width, operations)
        self.mlm_layer = TokenHead(width, config.codebook_size, operations)
        self.cond_embed = TwoLayer(pooled, width, bias=False, operations=operations)
        self.encoder_proj_layer_norm = operations.RMSNorm(width, eps=1e-6)
        self.project_to_hidden_norm = operations.RMSNorm(width, eps=1e-6)
        self.project_to_hidden = operations.Linear(width, width, bias=False)
        self.project_from_hidden_norm = operations.RMSNorm(width, eps=1e-6)
        self.project_from_hidden = operations.Linear(width, width, bias=False)
        self.down_block = DownBlock(width, config.downsample, operations)
        self.up_block = UpBlock(width, config.upsample, operations)
        self.connector = None
        if config.connector_type == "linear":
            self.connector = Connector(config.joint_attention_dim, width, operations)
        self.adapters = nn.ModuleList()

    @property
    def blocks(self) -> list[nn.Module]:
        """Double-stream, then single-stream blocks: the numbering of localization layers."""
        return [*self.transformer_blocks, *self.single_transformer_blocks]

    @property
    def block_names(self) -> list[str]:
        """Names of `blocks` in this module."""
        stacks = "transformer_blocks", "single_transformer_blocks"
        return [f"{stack}.{i}" for stack in stacks for i in range(len(getattr(self, stack)))]

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Embed token ids [B, H, W] as part of an image stream [B, positions, C]."""
        x = rearrange(self.down_block(self.embed(ids)), "b c h w -> b (h w) c")
        return self.project_to_hidden(self.project_to_hidden_norm(x))

    def embed_conditions(self, pooled: Tensor, micro_conditions: Tensor) -> Tensor:
        """Embed pooled text [B, P] and micro-conditions [B, 5] as a vector [B, C]."""
        micro = rearrange(sinusoid(micro_conditions.flatten(), MICRO_WIDTH), "(b m) w -> b (m w)",
                          m=MICRO_CONDITIONS)  # fmt: skip
        return self.cond_embed(torch.cat([pooled, micro.to(pooled.dtype)], dim=1))

    def embed_text(self, text: Tensor) -> Tensor:
        """Embed text states [B, T, D] as the text stream's input [B, T, C]."""
        if self.connector is not None:
            text = self.connector(text)
        return self.encoder_proj_layer_norm(self.context_embedder(text))

    def prepare(
        self,
        text: Tensor,
        pooled: Tensor,
        micro_conditions: Tensor,
        timesteps: Tensor | Sequence[float],
        grid: tuple[int, int],
        reference_ids: Tensor | None = None,
        injection: InjectionOptions | None = None,
    ) -> Conditioning:
        """Compute what all steps of a run share.

        Args:
            text: [B, T, D] states. pooled: [B, P]. micro_conditions: [B, 5].
            timesteps: [S] or [S, B], one for each `step`, before `TIME_SCALE`.
            grid: rows and columns of target tokens; even numbers where the config downsamples.
            reference_ids: [B, H', W'] tokens of the picture to edit, on any grid.
            injection: how the reference is injected.

        Raises:
            InputError: a token grid that does not divide into positions.
        """
        injection = injection or InjectionOptions()
        vector = self.embed_conditions(pooled, micro_conditions)
        embedding = self._embed_time(timesteps, vector)  # [S, B, C]
        target, reference, still = self._positions(grid), None, ()
        origin = torch.zeros(text.shape[1], 3, dtype=torch.float32, device="cpu")
        positions = [origin, grid_positions(*target)]
        if reference_ids is not None:
            reference = self.embed_tokens(reference_ids)
            fixed = self._embed_time([injection.timestep], vector)[0]  # [B, C]
            still = tuple(block.modulation(fixed) for block in self.blocks)
            positions.append(grid_positions(*self._positions(tuple(reference_ids.shape[-2:]))))
        rotary = rotary_table(torch.cat(positions), self.config.axes_dims_rope)
        updates = block_updates(self.adapters, self.block_names, like=text)
        return Conditioning(
            text=self.embed_text(text),
            reference=reference,
            modulations=tuple(b.modulation(embedding) for b in self.blocks),
            text_modulations=tuple(b.text_modulation(embedding) for b in self.transformer_blocks),
            reference_modulations=still,
            rotary=rotary.to(text.device),
            grid=target,
            injection=injection,
            updates=updates,
            joined=tuple(b.joined(u, text) for b, u in zip(self.blocks, updates, strict=True)),
        )

    def step(
        self,
        ids: Tensor,
        step: int,
        conditioning: Conditioning,
        attention: Attention | None = None,
    ) -> Prediction:
        """Predict every token.

        Args:
            ids: [B, H, W] tokens, `config.mask_token_id` where masked.
            step: index into the timesteps given to `prepare`.
            conditioning: from `prepare`, for the same batch and grid.
            attention: from `attention_of`; by default without a probe.
        """
        c, attention = conditioning, attention or self.attention_of(conditioning)
        words, image, doubles = c.text, self.embed_tokens(ids), len(self.transformer_blocks)
        if c.reference is not None:
            image = torch.cat([image, c.reference], dim=1)  # [B, target + reference, C]
        for i, block in enumerate(self.transformer_blocks):
            modulation = c.modulation(i, step, image.shape[1])
            words, image = block(
                words, image, c.text_modulation(i, step), modulation, c.rotary, attention.of(i),
                c.joined[i],
            )  # fmt: skip
        x = torch.cat([words, image], dim=1)  # [B, text + target + reference, C]
        for i, block in enumerate(self.single_transformer_blocks, doubles):
            # The last block computes only the target; nothing else is read.
            rows = c.segments.target_rows if i == len(self.blocks) - 1 else None
            modulation = c.modulation(i, step, x.shape[1])
            x = block(x, modulation, c.rotary, attention.of(i), c.joined[i], rows)
        return Prediction(self._unembed(x, c.grid), attention.scores)

    def attention_of(
        self, conditioning: Conditioning, probe: Probe | None = None, probed: Collection[int] = ()
    ) -> Attention:
        """Attention for one `step`; `probe` reads scores of the blocks numbered in `probed`."""
        lengths, i = conditioning.segments, conditioning.injection
        groups = strength_groups(lengths, lengths, i.strength, i.scope, conditioning.text)
        return Attention(self.attention, groups, lengths, probe, probed)

    def compile_blocks(self, **options: Any) -> None:
        """Use the blocks' `compiled_halves`."""
        for block, halves in zip(self.blocks, self.compiled_halves(**options), strict=True):
            block.halves = halves

    def compiled_halves(self, **options: Any) -> list[tuple[Callable[..., Any], ...]]:
        """Both halves of every block, compiled on first use with `torch.compile(**options)`.

        Results differ by rounding. Sizes are dynamic, so other batches and grids do not recompile.
        Calls raise EditMGTError if compiling fails.
        """
        kinds = {
            kind: tuple(compiled(half, options) for half in (kind.before, kind.after))
            for kind in (DoubleBlock, SingleBlock)
        }
        return [kinds[type(block)] for block in self.blocks]

    def recompute_blocks(self) -> None:
        """Recompute a block's activations in the backward pass instead of keeping them."""
        for block in self.blocks:
            block.forward = partial(checkpoint, type(block).forward, block, use_reentrant=False)

    def logits(self, features: Tensor) -> Tensor:
        """Features [..., C] of a `Prediction`, or a linear mix of them -> logits [..., V]."""
        return self.mlm_layer.logits(features.flatten(0, -2)).unflatten(0, features.shape[:-1])

    def _embed_time(self, timesteps: Tensor | Sequence[float], vector: Tensor) -> Tensor:
        time = torch.as_tensor(timesteps, dtype=torch.float32, device=vector.device)
        return self.time_text_embed(time * TIME_SCALE, vector)

    def _positions(self, grid: tuple[int, int]) -> tuple[int, int]:
        stride = self.config.stride
        if any(side <= 0 or side % stride for side in grid):
            raise InputError(
                f"token grid is {grid[0]}x{grid[1]}; both sides must be multiples of {stride}"
            )
        return grid[0] // stride, grid[1] // stride

    def _unembed(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Target stream [B, N, C] -> features [B, H, W, C]."""
        x = self.project_from_hidden(self.project_from_hidden_norm(x))
        x = rearrange(x, "b (h w) c -> b c h w", h=grid[0], w=grid[1])
        return self.mlm_layer(self.up_block(x))

    def forward(
        self,
        ids: Tensor,
        timestep: Tensor,
        text: Tensor,
        pooled: Tensor,
        micro_conditions: Tensor,
        reference_ids: Tensor | None = None,
        injection: InjectionOptions | None = None,
        probe: Probe | None = None,
        probed: Collection[int] = (),
    ) -> Prediction:
        """`prepare` and one `step`, with a timestep [B] per item; used in training."""
        c = self.prepare(
            text, pooled, micro_conditions, timestep[None], tuple(ids.shape[-2:]), reference_ids,
            injection,
        )  # fmt: skip
        prediction = self.step(ids, 0, c, self.attention_of(c, probe, probed))
        return replace(prediction, features=prediction.features + nothing_of(self.adapters))
