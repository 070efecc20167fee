"""The masked generative transformer with attention injection (paper section 3).

`forward` reads as the architecture: embed, double blocks, join, single blocks, drop text, project.
What does not depend on the step is computed once by `prepare` and passed to every step.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ..errors import InputError
from .attention import (
    STRENGTH_SCOPES,
    AttentionFunction,
    Probe,
    grid_positions,
    rotary_table,
    sdpa,
    strength_groups,
)
from .blocks import AttentionContext, DoubleBlock, KeysValues, Modulation, SingleBlock
from .config import MICRO_CONDITIONS, MICRO_WIDTH, TransformerConfig
from .connectors import build_connector
from .embeddings import (
    DownBlock,
    TimeTextEmbedding,
    TokenEmbedding,
    TokenHead,
    TwoLayer,
    UpBlock,
    sinusoid,
)

TIME_SCALE = 1000  # the model multiplies its timestep by this, in training and in sampling


@dataclass(frozen=True, repr=False)
class Conditioning:
    """The step-independent inputs of one run; made by `MaskedTransformer.prepare`.

    Attributes:
        text: states [B, T, D] as the text side gives them.
        text_in: the text stream's input [B, T', C]; None where the connector depends on the step.
        vector: embedded pooled text and micro-conditions [B, C].
        reference: the reference stream's input [B, R, C], or None (text to image).
        reference_modulations: one per block, at the fixed reference timestep.
        context: everything attention needs.
        grid: rows and columns of positions inside the transformer.
    """

    text: Tensor
    text_in: Tensor | None
    vector: Tensor
    reference: Tensor | None
    reference_modulations: tuple[Modulation, ...]
    context: AttentionContext
    grid: tuple[int, int]

    def __repr__(self) -> str:
        return f"Conditioning(batch={len(self.text)}, grid={self.grid})"

    def last(self, items: int) -> "Conditioning":
        """That of the last items of the batch."""
        if items == len(self.text):
            return self
        return replace(
            self,
            text=self.text[-items:],
            text_in=None if self.text_in is None else self.text_in[-items:],
            vector=self.vector[-items:],
            reference=None if self.reference is None else self.reference[-items:],
            reference_modulations=tuple(
                tuple(part[-items:] for part in m) for m in self.reference_modulations
            ),
        )


@dataclass(frozen=True)
class InjectionOptions:
    """How the reference takes part.

    Attributes:
        strength: gamma > 0; 1 adds no bias.
        scope: `"text+image"` (published code) or `"image"` (paper).
        timestep: the reference's fixed timestep; 0 in paper and code.
    """

    strength: float = 1.0
    scope: str = STRENGTH_SCOPES[0]
    timestep: float = 0.0


@dataclass(frozen=True, repr=False)
class Prediction:
    """One step's result.

    Attributes:
        features: [B, H, W, C], see `MaskedTransformer.logits`.
        scores: what the probe read, by block.
        reference: keys and values of the reference stream in every block, where asked for.
    """

    features: Tensor
    scores: Mapping[int, Tensor] = field(default_factory=dict)
    reference: tuple[KeysValues, ...] = ()


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
        self.connector = build_connector(config, operations)

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

    def embed_text(self, text: Tensor, timestep: Tensor) -> Tensor:
        """Text states [B, T, D], scaled timesteps [B] -> the text stream's input [B, T', C]."""
        if self.connector is not None:
            text = self.connector(text, timestep)
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
        timed = self.config.connector_type == "qformer"
        text_in = None if timed else self.embed_text(text, still)
        positions = self._positions(grid)
        reference, modulations, reference_grid = None, (), (0, 0)
        if reference_ids is not None:
            reference_grid = self._positions(tuple(reference_ids.shape[-2:]))
            reference = self.embed_tokens(reference_ids)
            embedding = self.time_text_embed(still, vector)
            modulations = tuple(b.modulations((embedding,))[0] for b in self.blocks)
        text_length = self.config.qformer_latents if timed else text.shape[1]
        context = self._context(text_length, positions, reference_grid, injection, text.device)
        return Conditioning(text, text_in, vector, reference, modulations, context, positions)

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
        return AttentionContext(self.attention, groups, tuple(tables), joint, text_length)

    def step(
        self,
        ids: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        probe: Probe | None = None,
        probed_blocks: Iterable[int] = (),
        kept: tuple[KeysValues, ...] = (),
        keep: bool = False,
    ) -> Prediction:
        """One prediction.

        Args:
            ids: [B, H, W] tokens, unknown ones being `config.mask_token_id`.
            timestep: [B] as the sampler counts it; multiplied by `TIME_SCALE` here.
            conditioning: from `prepare`, for the same batch and grid.
            probe: reads text queries and text+target keys of the probed blocks.
            probed_blocks: numbers counted through double then single blocks.
            kept: `Prediction.reference` of an earlier step, used in place of the reference stream,
                which is then not computed. An approximation: the reference sees the target too.
            keep: return the reference's keys and values for later steps.
        """
        probes = dict.fromkeys(probed_blocks, probe)
        c = conditioning
        time = timestep.float() * TIME_SCALE  # float16 ends at 65,504, bfloat16 rounds
        embedding = self.time_text_embed(time, c.vector)
        text = self.embed_text(c.text, time) if c.text_in is None else c.text_in
        streams = (self.embed_tokens(ids),)
        streams += () if c.reference is None or kept else (c.reference,)
        scores, reference, blocks = {}, [], self.blocks

        def shared(i: int) -> tuple:
            own = blocks[i].modulations((embedding,))
            modulations = (own + c.reference_modulations[i : i + 1])[: len(streams)]
            return modulations, c.context, probes.get(i), kept[i] if kept else None

        for i, block in enumerate(self.transformer_blocks):
            text, streams, scores[i], last = block(text, streams, embedding, *shared(i))
            reference += [last] if keep else []
        streams = (torch.cat([text, streams[0]], dim=1), *streams[1:])
        for i, block in enumerate(self.single_transformer_blocks, len(self.transformer_blocks)):
            end = i == len(blocks) - 1
            streams, scores[i], last = block(streams, *shared(i), target_only=end)
            reference += [last] if keep else []
        target = streams[0][:, -c.grid[0] * c.grid[1] :]
        read = {i: s for i, s in scores.items() if s is not None}
        features = self.mlm_layer(self._unembed(target, c.grid))
        return Prediction(features, read, tuple(reference))

    def logits(self, features: Tensor) -> Tensor:
        """Features of any tokens [..., C], of a `Prediction` or a linear mix -> logits [..., V]."""
        return self.mlm_layer.logits(features.flatten(0, -2)).unflatten(0, features.shape[:-1])

    def _unembed(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """An image stream [B, positions, C] -> features [B, C, H, W] on the token grid."""
        x = self.project_from_hidden(self.project_from_hidden_norm(x))
        return self.up_block(x.transpose(1, 2).unflatten(2, grid))

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
