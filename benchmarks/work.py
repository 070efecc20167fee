"""The arithmetic and memory traffic an edit needs, counted from sizes alone.

A multiply and an add are two operations, as in torch's `FlopCounterMode`; only products count
(linear layers, convolutions, attention). Traffic, in elements, is that of every product reading its
inputs and writing its result once.
"""

from dataclasses import dataclass

from editmgt_lib.models.config import MICRO_CONDITIONS, MICRO_WIDTH, TransformerConfig
from editmgt_lib.models.vq import VQConfig
from editmgt_lib.sampling.step import mask_ratio

TIME_WIDTH = 256


@dataclass(frozen=True)
class Work:
    """Operations and elements moved."""

    flops: int = 0
    elements: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.elements + other.elements)

    def __mul__(self, times: int) -> "Work":
        return Work(self.flops * times, self.elements * times)


def linear(rows: int, into: int, out: int) -> Work:
    """[rows, into] times [into, out]."""
    return Work(2 * rows * into * out, rows * into + into * out + rows * out)


def attention(batch: int, queries: int, keys: int, width: int) -> Work:
    """Scores and weighted values of all heads, the score matrix never leaving the chip."""
    return Work(4 * batch * queries * keys * width, 2 * batch * (queries + keys) * width)


def conv(pixels: int, into: int, out: int, kernel: int) -> Work:
    """A convolution that makes `pixels` outputs; its input is read once."""
    flops = 2 * pixels * into * out * kernel * kernel
    return Work(flops, pixels * (into + out) + into * out * kernel * kernel)


@dataclass(frozen=True)
class Sizes:
    """Sizes of one run of the transformer.

    batch: twice the pictures under guidance. text: text rows. tokens, reference: tokens of target
    and reference. steps: timesteps prepared. probed: blocks read for localization, of one picture.
    """

    batch: int
    text: int
    tokens: int
    reference: int
    steps: int = 1
    probed: int = 0


def preparation(c: TransformerConfig, s: Sizes) -> Work:
    """Text, conditions, modulations of every timestep, and the reference with its own."""
    w, rows = c.width, s.batch * s.text
    work = linear(rows, w, w)
    if c.connector_type == "linear":
        work += linear(rows, c.joint_attention_dim, w)
    pooled = c.pooled_projection_dim + MICRO_CONDITIONS * MICRO_WIDTH
    work += linear(s.batch, pooled, w) + linear(s.batch, w, w)
    work += _time(c, s, s.steps)
    work += linear(s.steps * s.batch, w, w) * (12 * c.num_layers + 3 * c.num_single_layers)
    if s.reference:
        work += _time(c, s, 1)
        work += linear(s.batch, w, w) * (6 * c.num_layers + 3 * c.num_single_layers)
        work += _embedding(c, s.batch * s.reference)
    return work


def step(c: TransformerConfig, s: Sizes, drawn: int) -> Work:
    """One step; `drawn` tokens are projected to the codebook, once for both halves."""
    w, stride = c.width, c.stride**2
    target, reference = s.tokens // stride, s.reference // stride
    length = s.text + target + reference
    rows = s.batch * length
    double = linear(rows, w, w) * 4 + linear(rows, w, 4 * w) * 2
    double += attention(s.batch, length, length, w)
    probe = Work(2 * s.text * (s.text + target) * w) * s.probed
    work = _embedding(c, s.batch * s.tokens) + probe + double * c.num_layers
    if c.num_single_layers:  # of the last block only the target is read
        work += _single(c, s, length) * (c.num_single_layers - 1) + _single(c, s, target)
    return work + _unembedding(c, s.batch * s.tokens) + linear(drawn, w, c.codebook_size)


def _single(c: TransformerConfig, s: Sizes, queries: int) -> Work:
    """A single-stream block that all positions enter and `queries` of them leave."""
    w, length = c.width, s.text + (s.tokens + s.reference) // c.stride**2
    rows = s.batch * queries
    into = linear(s.batch * length, w, w) * 3 + attention(s.batch, queries, length, w)
    return into + linear(rows, w, 4 * w) + linear(rows, 5 * w, w)


def _time(c: TransformerConfig, s: Sizes, timesteps: int) -> Work:
    """Embeddings of the timesteps and of the conditions, which are added."""
    w = c.width
    return linear(timesteps, TIME_WIDTH, w) + linear(timesteps, w, w) + linear(s.batch, w, w) * 2


def _embedding(c: TransformerConfig, tokens: int) -> Work:
    """Token ids to an image stream."""
    w, positions = c.width, tokens // c.stride**2
    down = linear(positions, w * c.stride**2, w) if c.downsample else Work()
    return linear(tokens, w, w) + down + linear(positions, w, w)


def _unembedding(c: TransformerConfig, tokens: int) -> Work:
    """An image stream to features on the token grid, up to the last projection."""
    w, positions = c.width, tokens // c.stride**2
    up = linear(positions, w, w * c.stride**2) if c.upsample else Work()
    return linear(positions, w, w) + up + linear(tokens, w, w)


def encoding(c: VQConfig, tokens: int) -> Work:
    """A picture to its tokens."""
    widths = c.block_out_channels
    kernel = c.encoder_kernel_size
    pixels = tokens * (c.factor // c.patch_size) ** 2
    work = conv(pixels, c.in_channels * c.patch_size**2, widths[0], kernel)
    before = widths[0]
    for level, width in enumerate(widths):
        work += _resnets(pixels, before, width, c.layers_per_block, kernel)
        if level < len(widths) - 1:
            pixels //= 4
            work += conv(pixels, width, width, 3)
        before = width
    work += _resnets(pixels, before, before, 2, kernel)
    work += conv(pixels, before, c.latent_channels, kernel)
    quantised = linear(pixels, c.latent_channels, c.num_vq_embeddings)
    return work + linear(pixels, c.latent_channels, c.latent_channels) + quantised


def decoding(c: VQConfig, tokens: int) -> Work:
    """Tokens to a picture."""
    widths = c.block_out_channels[::-1]
    pixels, before = tokens, widths[0]
    work = linear(pixels, c.latent_channels, c.latent_channels)
    work += conv(pixels, c.latent_channels, before, 3) + _resnets(pixels, before, before, 2, 3)
    for level, width in enumerate(widths):
        work += _resnets(pixels, before, width, c.layers_per_block + 1, 3)
        if level < len(widths) - 1:
            pixels *= 4
            work += conv(pixels, width, width, 3)
        before = width
    return work + conv(pixels, before, c.out_channels * c.patch_size**2, 3)


def _resnets(pixels: int, into: int, out: int, count: int, kernel: int) -> Work:
    """Residual blocks of one level, the first of which may change the width."""
    first = conv(pixels, into, out, kernel) + conv(pixels, out, out, kernel)
    shortcut = linear(pixels, into, out) if into != out else Work()
    return first + shortcut + conv(pixels, out, out, kernel) * (2 * (count - 1))


def pending(tokens: int, steps: int) -> list[int]:
    """Tokens still masked when each step begins (cosine schedule)."""
    return [tokens, *(int(tokens * mask_ratio(i, steps)) for i in range(steps - 1))]


def sampling(c: TransformerConfig, s: Sizes) -> Work:
    """A whole run under guidance: preparation, and steps that draw the tokens still masked."""
    work = preparation(c, s)
    for masked in pending(s.tokens, s.steps):
        work += step(c, s, drawn=s.batch // 2 * masked)
    return work
