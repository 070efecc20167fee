"""The masked generative transformer with attention injection (paper section 3).

`step` reads as the architecture: embed, double blocks, join, single blocks, unembed the target.
What does not depend on the tokens is computed once per run by `prepare`.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import InputError
from .attention import (
    Attention,
    AttentionFunction,
    Probe,
    grid_positions,
    rotary_table,
    strength_groups,
)
from .backends import sdpa
from .blocks import DoubleBlock, SingleBlock
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

TIME_SCALE = 1000  # the model multiplies its timestep by this, in training and in sampling


class MaskedTransformer(nn.Module):
    """Predicts the codes of masked tokens from text, known tokens and an optional reference.

    Args:
        config: sizes.
        operations: namespace the layers are built from (`torch.nn`, or ComfyUI's).
        attention: a back end, see `backends`; PyTorch's scaled dot-product attention by default.
    """

    def __init__(
        self, config: TransformerConfig, operations=nn, attention: AttentionFunction = sdpa
    ) -> None:
        super().__init__()
        self.config = config
        self.attention = attention
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

    @property
    def blocks(self) -> list[nn.Module]:
        """Double-stream then single-stream blocks, in the numbering of localisation layers."""
        return [*self.transformer_blocks, *self.single_transformer_blocks]

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Token ids [B, H, W] -> their part of an image stream [B, positions, C]."""
        x = rearrange(self.down_block(self.embed(ids)), "b c h w -> b (h w) c")
        return self.project_to_hidden(self.project_to_hidden_norm(x))

    def embed_conditions(self, pooled: Tensor, micro_conditions: Tensor) -> Tensor:
        """Pooled text [B, P] and micro-conditions [B, 5] -> vector [B, C]."""
        micro = rearrange(sinusoid(micro_conditions.flatten(), MICRO_WIDTH), "(b m) w -> b (m w)",
                          m=MICRO_CONDITIONS)  # fmt: skip
        return self.cond_embed(torch.cat([pooled, micro.to(pooled.dtype)], dim=1))

    def embed_text(self, text: Tensor) -> Tensor:
        """Text states [B, T, D] -> the text stream's input [B, T, C]."""
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
        """Compute what the steps of a run have in common.

        Args:
            text: [B, T, D] states. pooled: [B, P]. micro_conditions: [B, 5].
            timesteps: [S] or [S, B], one for each `step`, as the sampler counts them (multiplied
                by `TIME_SCALE` here).
            grid: rows and columns of target tokens; even numbers where the config downsamples.
            reference_ids: [B, H', W'] tokens of the picture to edit; any grid.
            injection: how strongly the reference takes part.

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
        return Conditioning(
            text=self.embed_text(text),
            reference=reference,
            modulations=tuple(b.modulation(embedding) for b in self.blocks),
            text_modulations=tuple(b.text_modulation(embedding) for b in self.transformer_blocks),
            reference_modulations=still,
            rotary=rotary.to(text.device),
            grid=target,
            injection=injection,
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
            ids: [B, H, W] tokens, unknown ones being `config.mask_token_id`.
            step: which of the timesteps given to `prepare`.
            conditioning: from `prepare`, for the same batch and grid.
            attention: see `attention_of`, whose result without a probe is the default.
        """
        c, attention = conditioning, attention or self.attention_of(conditioning)
        words, image, doubles = c.text, self.embed_tokens(ids), len(self.transformer_blocks)
        if c.reference is not None:
            image = torch.cat([image, c.reference], dim=1)  # [B, target + reference, C]
        for i, block in enumerate(self.transformer_blocks):
            modulation = c.modulation(i, step, image.shape[1])
            words, image = block(
                words, image, c.text_modulation(i, step), modulation, c.rotary, attention.of(i)
            )
        x = torch.cat([words, image], dim=1)  # [B, text + target + reference, C]
        for i, block in enumerate(self.single_transformer_blocks, doubles):
            # Of the last block only the target is computed, as nothing else is read.
            rows = c.segments.target_rows if i == len(self.blocks) - 1 else None
            x = block(x, c.modulation(i, step, x.shape[1]), c.rotary, attention.of(i), rows)
        return Prediction(self._unembed(x, c.grid), attention.scores)

    def attention_of(
        self, conditioning: Conditioning, probe: Probe | None = None, probed: Collection[int] = ()
    ) -> Attention:
        """The attention of one `step`; `probe` reads the blocks of the numbers `probed`."""
        lengths, i = conditioning.segments, conditioning.injection
        groups = strength_groups(lengths, lengths, i.strength, i.scope, conditioning.text)
        return Attention(self.attention, groups, lengths, probe, probed)

    def compile_blocks(self, **options: Any) -> None:
        """Compile both halves of every block with `torch.compile(**options)`, at their first call.

        The same up to rounding. Sizes are dynamic: other batches and grids do not compile again.
        A call raises EditMGTError where there is no compiler, or it fails.
        """
        for block in self.blocks:
            block.compile_halves(**options)

    def logits(self, features: Tensor) -> Tensor:
        """Features of any tokens [..., C], of a `Prediction` or a linear mix -> logits [..., V]."""
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
        """The target's stream [B, N, C] -> features [B, H, W, C]."""
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
        """`prepare` and one `step`, at a timestep [B] per item; what training calls."""
        c = self.prepare(
            text, pooled, micro_conditions, timestep[None], tuple(ids.shape[-2:]), reference_ids,
            injection,
        )  # fmt: skip
        return self.step(ids, 0, c, self.attention_of(c, probe, probed))
