"""The masked generative transformer with attention injection (paper section 3).

`forward` reads as the architecture: embed, double blocks, join, single blocks, drop text, project.
What does not depend on the step is computed once by `prepare` and passed to every step.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import EditMGTError, InputError
from .attention import (
    AttentionFunction,
    Probe,
    grid_positions,
    rotary_table,
    sdpa,
    strength_groups,
)
from .blocks import DoubleBlock, SingleBlock
from .conditioning import (
    AttentionContext,
    Conditioning,
    InjectionOptions,
    KeysValues,
    Prediction,
)
from .config import MICRO_CONDITIONS, MICRO_WIDTH, TransformerConfig
from .embeddings import (
    Connector,
    DownBlock,
    TimeTextEmbedding,
    TokenEmbedding,
    TokenHead,
    TwoLayer,
    UpBlock,
    from_patches,
    patches,
    sinusoid,
)

TIME_SCALE = 1000  # the model multiplies its timestep by this, in training and in sampling


class MaskedTransformer(nn.Module):
    """Predicts the codes of masked tokens from text, known tokens and an optional reference.

    Args:
        config: sizes.
        operations: namespace the layers are built from (`torch.nn`, or ComfyUI's).
        attention: `(q, k, v, key_bias) -> out`, scaled dot-product attention by default.
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
        """Token ids [B, H, W] -> an image stream [B, positions, C]."""
        x = self.down_block(self.embed(ids)).flatten(2).transpose(1, 2)
        return self.project_to_hidden(self.project_to_hidden_norm(x))

    def embed_conditions(self, pooled: Tensor, micro_conditions: Tensor) -> Tensor:
        """Pooled text [B, P] and micro-conditions [B, 5] -> vector [B, C]."""
        micro = sinusoid(micro_conditions.flatten(), MICRO_WIDTH).reshape(len(pooled), -1)
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
        grid: tuple[int, int],
        reference_ids: Tensor | None = None,
        injection: InjectionOptions | None = None,
    ) -> Conditioning:
        """Compute all that does not depend on the step.

        Args:
            text: [B, T, D] states. pooled: [B, P]. micro_conditions: [B, 5].
            grid: rows and columns of target tokens; even numbers where the config downsamples.
            reference_ids: [B, H', W'] tokens of the picture to edit; any grid.
            injection: how strongly the reference takes part.

        Raises:
            InputError: a token grid that does not divide into positions.
        """
        injection = injection or InjectionOptions()
        vector = self.embed_conditions(pooled, micro_conditions)
        still = torch.full((len(text),), TIME_SCALE * injection.timestep, device=text.device)
        text_in = self.embed_text(text)
        positions = self._positions(grid)
        reference, modulations, reference_grid = None, (), (0, 0)
        if reference_ids is not None:
            reference_grid = self._positions(tuple(reference_ids.shape[-2:]))
            reference = self.embed_tokens(reference_ids)
            embedding = self.time_text_embed(still, vector)
            modulations = tuple(b.modulations((embedding,))[0] for b in self.blocks)
        context = self._context(text.shape[1], positions, reference_grid, injection, text.device)
        return Conditioning(text_in, vector, reference, modulations, context, positions)

    def _positions(self, grid: tuple[int, int]) -> tuple[int, int]:
        stride = self.config.stride
        if any(side <= 0 or side % stride for side in grid):
            raise InputError(
                f"token grid is {grid[0]}x{grid[1]}; both sides must be multiples of {stride}"
            )
        return grid[0] // stride, grid[1] // stride

    def _context(
        self,
        text_length: int,
        grid: tuple[int, int],
        reference_grid: tuple[int, int],
        injection: InjectionOptions,
        device: torch.device,
    ) -> AttentionContext:
        axes = self.config.axes_dims_rope
        image = rotary_table(grid_positions(*grid), axes).to(device)
        text = rotary_table(torch.zeros(text_length, 3), axes).to(device)
        tables = [image]
        if reference_grid != (0, 0):
            tables.append(rotary_table(grid_positions(*reference_grid), axes).to(device))
        lengths = (text_length, grid[0] * grid[1], reference_grid[0] * reference_grid[1])
        groups = strength_groups(lengths, injection.strength, injection.scope, device)
        joint = torch.cat([text, image], dim=1)
        return AttentionContext(
            self.attention, groups, tuple(tables), joint, text_length, lengths[1]
        )

    def step(
        self,
        ids: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        probe: Probe | None = None,
        probed_blocks: Iterable[int] = (),
        kept: tuple[KeysValues, ...] = (),
        rows: Tensor | None = None,
        keep: bool = False,
    ) -> Prediction:
        """One prediction.

        Args:
            ids: [B, H, W] tokens, unknown ones being `config.mask_token_id`.
            timestep: [B] as the sampler counts it; multiplied by `TIME_SCALE` here.
            conditioning: from `prepare`, for the same batch and grid.
            probe: reads text queries and text+target keys of the probed blocks.
            probed_blocks: numbers counted through double then single blocks.
            kept: `Prediction.kept` of an earlier step, used in place of the reference, which is
                then not computed. An approximation: every stream sees every other.
            rows: [B, n] positions of the target, computed alone; the others are in `kept`.
            keep: return keys and values for later steps.
        """
        probes = dict.fromkeys(probed_blocks, probe)
        c = conditioning.beside(rows) if kept else conditioning
        time = timestep.float() * TIME_SCALE  # float16 ends at 65,504, bfloat16 rounds
        embedding = self.time_text_embed(time, c.vector)
        text = c.text
        streams = (self.embed_tokens(ids if rows is None else self._tokens_of(ids, rows)),)
        streams += () if c.reference is None else (c.reference,)
        scores, seen, blocks = {}, [], self.blocks

        def shared(i: int) -> tuple:
            own = blocks[i].modulations((embedding,))
            modulations = own + c.reference_modulations[i : i + 1]
            return modulations, c.context, probes.get(i), kept[i] if kept else None

        for i, block in enumerate(self.transformer_blocks):
            text, streams, scores[i], last = block(text, streams, embedding, *shared(i))
            seen += [last] if keep else []
        streams = (torch.cat([text, streams[0]], dim=1), *streams[1:])
        for i, block in enumerate(self.single_transformer_blocks, len(self.transformer_blocks)):
            end = i == len(blocks) - 1
            streams, scores[i], last = block(streams, *shared(i), target_only=end)
            seen += [last] if keep else []
        computed = c.context.positions if rows is None else rows.shape[1]
        read = {i: s for i, s in scores.items() if s is not None}
        features = self._unembed(streams[0][:, -computed:], c.grid, rows)
        return Prediction(features, read, tuple(seen))

    def compile_step(self, **options: Any) -> None:
        """From now on run `step` through `torch.compile(**options)`; compiled at its first call.

        The same up to rounding. `mode="reduce-overhead"` records CUDA graphs; not with `kept`,
        whose tensors the next replay would overwrite. Raises, at that call, EditMGTError: no
        compiler, or it failed.
        """
        compiled = torch.compile(self.step, **options)

        def step(*args: Any, **kwargs: Any) -> Prediction:
            try:
                return compiled(*args, **kwargs)
            except torch._dynamo.exc.TorchDynamoException as error:
                raise EditMGTError(f"torch.compile failed, do without: {error}") from error

        self.step = step

    def logits(self, features: Tensor) -> Tensor:
        """Features of any tokens [..., C], of a `Prediction` or a linear mix -> logits [..., V]."""
        return self.mlm_layer.logits(features.flatten(0, -2)).unflatten(0, features.shape[:-1])

    def _tokens_of(self, ids: Tensor, rows: Tensor) -> Tensor:
        """The tokens [B, H, W] of positions [B, n], as a picture of n x 1 positions."""
        parts = patches(ids, self.config.stride)
        index = rows[..., None, None].expand(-1, -1, *parts.shape[2:])
        return parts.gather(1, index).flatten(1, 2)

    def _unembed(self, x: Tensor, grid: tuple[int, int], rows: Tensor | None) -> Tensor:
        """An image stream [B, n, C] -> features [B, H, W, C]; those of other rows are zero."""
        x = self.project_from_hidden(self.project_from_hidden_norm(x))
        shape = grid if rows is None else (x.shape[1], 1)
        features = self.mlm_layer(self.up_block(x.transpose(1, 2).unflatten(2, shape)))
        if rows is None:
            return features
        parts = features.unflatten(1, (-1, self.config.stride))
        every = parts.new_zeros(len(x), grid[0] * grid[1], *parts.shape[2:])
        index = rows[..., None, None, None].expand_as(parts)
        return from_patches(every.scatter(1, index, parts), grid)

    def forward(
        self,
        ids: Tensor,
        timestep: Tensor,
        text: Tensor,
        pooled: Tensor,
        micro_conditions: Tensor,
        reference_ids: Tensor | None = None,
        injection: InjectionOptions | None = None,
        **probing,
    ) -> Prediction:
        """`prepare` and one `step`; what training calls. Shapes as there."""
        grid = tuple(ids.shape[-2:])
        conditioning = self.prepare(text, pooled, micro_conditions, grid, reference_ids, injection)
        return self.step(ids, timestep, conditioning, **probing)
