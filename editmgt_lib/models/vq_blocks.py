"""Convolutional encoder, decoder and codebook of the picture tokenizer.

Layout and parameter names are those of the published VQModel (the aMUSEd family), so published
weights load strictly without renaming. All maps are [B, channels, height, width]; every GroupNorm
has eps 1e-6 and its statistics run over the whole map.

The decoder can work in bands of rows: each GroupNorm takes its statistics from the whole map, then
each convolution runs band by band with one halo row. Temporaries are as small as a band, and the
result differs only by rounding.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-6
DISTANCE_ROWS = 1024  # positions per block of the distance matrix: 32 MiB with 8,192 codes


def group_norm(groups: int, channels: int, operations: Any) -> nn.Module:
    """GroupNorm, or the identity if `groups` is 0."""
    return operations.GroupNorm(groups, channels, eps=NORM_EPS) if groups else nn.Identity()


def activated(norm: nn.Module, x: Tensor) -> Tensor:
    """SiLU(norm(x)), in place of norm(x) if no gradient is recorded."""
    y = norm(x)
    return F.silu(y, inplace=y is not x and not torch.is_grad_enabled())


class ResnetBlock(nn.Module):
    """Two normalized convolutions with a shortcut: [B, in, h, w] -> [B, out, h, w]."""

    def __init__(
        self, channels_in: int, channels_out: int, groups: int, operations: Any, kernel: int = 3
    ):
        super().__init__()
        pad = kernel // 2
        self.norm1 = group_norm(groups, channels_in, operations)
        self.conv1 = operations.Conv2d(channels_in, channels_out, kernel, padding=pad)
        self.norm2 = group_norm(groups, channels_out, operations)
        self.conv2 = operations.Conv2d(channels_out, channels_out, kernel, padding=pad)
        if channels_in != channels_out:
            self.conv_shortcut = operations.Conv2d(channels_in, channels_out, 1)
        else:
            self.conv_shortcut = nn.Identity()  # no parameters, hence no key

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(activated(self.norm1, x))
        h = self.conv2(activated(self.norm2, h))  # before the shortcut: fewer maps at once
        return self.conv_shortcut(x) + h

    def in_bands(self, x: Tensor, bands: "Bands") -> Tensor:
        """Compute in bands; without a shortcut convolution the result overwrites x."""
        h = bands.apply(self.conv1, x, bands.activated(self.norm1, x))
        if not isinstance(self.conv_shortcut, nn.Identity):
            x = bands.apply(self.conv_shortcut, x)
        return bands.apply(self.conv2, h, bands.activated(self.norm2, h), add_to=x)


class Downsample(nn.Module):
    """Halves both sides; zero padding on the right and the bottom only, as published."""

    def __init__(self, channels: int, operations: Any):
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles both sides (nearest), then a 3x3 convolution."""

    def __init__(self, channels: int, operations: Any):
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The residual blocks of one resolution, then the changes of resolution (at most one)."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        layers: int,
        groups: int,
        operations: Any,
        kernel: int = 3,
    ):
        super().__init__()
        widths = [channels_in] + [channels_out] * layers
        self.resnets = nn.ModuleList(
            ResnetBlock(widths[i], channels_out, groups, operations, kernel) for i in range(layers)
        )
        self.downsamplers = nn.ModuleList()
        self.upsamplers = nn.ModuleList()

    def steps(self) -> tuple[nn.Module, ...]:
        """Modules in order. Run by the caller, so that no frame keeps the level's input alive."""
        return (*self.resnets, *self.downsamplers, *self.upsamplers)


class Encoder(nn.Module):
    """[B, channels_in, h, w] -> [B, channels_out, h / 2^(levels-1), w / 2^(levels-1)].

    With `kernel` 1 and one level, an output depends on its own input cell only.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        widths: Sequence[int],
        layers: int,
        groups: int,
        operations: Any,
        kernel: int = 3,
    ):
        super().__init__()
        before = (widths[0], *widths)
        self.conv_in = operations.Conv2d(channels_in, widths[0], kernel, padding=kernel // 2)
        self.down_blocks = nn.ModuleList(
            Level(before[i], width, layers, groups, operations, kernel)
            for i, width in enumerate(widths)
        )
        for level, width in zip(self.down_blocks[:-1], widths, strict=False):
            level.downsamplers.append(Downsample(width, operations))
        self.mid_block = Level(widths[-1], widths[-1], 2, groups, operations, kernel)
        self.conv_norm_out = group_norm(groups, widths[-1], operations)
        self.conv_out = operations.Conv2d(widths[-1], channels_out, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in (*self.down_blocks, self.mid_block):
            for step in level.steps():
                x = step(x)
        return self.conv_out(activated(self.conv_norm_out, x))


class Decoder(nn.Module):
    """[B, channels_in, h, w] -> [B, channels_out, h * 2^(levels-1), w * 2^(levels-1)].

    `widths` is in the encoder's order, finest resolution first; each level has one more residual
    block than in the encoder.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        widths: Sequence[int],
        layers: int,
        groups: int,
        operations: Any,
    ):
        super().__init__()
        order = tuple(reversed(widths))
        before = (order[0], *order)
        self.conv_in = operations.Conv2d(channels_in, order[0], 3, padding=1)
        self.mid_block = Level(order[0], order[0], 2, groups, operations)
        self.up_blocks = nn.ModuleList(
            Level(before[i], width, layers + 1, groups, operations) for i, width in enumerate(order)
        )
        for level, width in zip(self.up_blocks[:-1], order, strict=False):
            level.upsamplers.append(Upsample(width, operations))
        self.conv_norm_out = group_norm(groups, order[-1], operations)
        self.conv_out = operations.Conv2d(order[-1], channels_out, 3, padding=1)

    def forward(self, x: Tensor, bands: "Bands | None" = None) -> Tensor:
        """Decode; bands: in bands of rows, equal up to rounding, without gradient."""
        if bands is not None:
            return self._in_bands(x, bands)
        x = self.conv_in(x)
        for level in (self.mid_block, *self.up_blocks):
            for step in level.steps():
                x = step(x)
        return self.conv_out(activated(self.conv_norm_out, x))

    @torch.no_grad()
    def _in_bands(self, x: Tensor, bands: "Bands") -> Tensor:
        x = bands.apply(self.conv_in, x)
        for level in (self.mid_block, *self.up_blocks):
            for block in level.resnets:
                x = block.in_bands(x, bands)
            for up in level.upsamplers:
                x = bands.apply(up, x, scale=2)
                bands = Bands(bands.rows * 2, bands.device, bands.storage)
        return bands.apply(self.conv_out, x, bands.activated(self.conv_norm_out, x))


class Bands:
    """Work in bands: `rows` rows at a time on `device`, whole maps on `storage`."""

    def __init__(self, rows: int, device: torch.device, storage: torch.device):
        self.rows, self.device, self.storage = rows, device, storage

    def activated(self, norm: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
        """SiLU(norm(.)) for bands of x, with statistics of all of x."""
        if isinstance(norm, nn.Identity):
            return F.silu
        b, channels = x.shape[:2]
        # var_mean needs no temporary of the size of x, unlike a sum of squares
        grouped = x.unflatten(1, (norm.num_groups, -1))
        var, mean = torch.var_mean(grouped, dim=(2, 3, 4), correction=0)
        per_group = channels // norm.num_groups
        mean = mean.to(self.device).repeat_interleave(per_group, dim=1)
        rstd = (var.to(self.device) + norm.eps).rsqrt().repeat_interleave(per_group, dim=1)
        gain = rstd * norm.weight.to(self.device, x.dtype)
        shift = (norm.bias.to(self.device, x.dtype) - mean * gain)[..., None, None]
        gain = gain[..., None, None]
        return lambda band: F.silu(torch.addcmul(shift, band, gain), inplace=True)

    def apply(
        self,
        conv: nn.Module,
        x: Tensor,
        prepare: Callable[[Tensor], Tensor] = lambda band: band,
        scale: int = 1,
        add_to: Tensor | None = None,
    ) -> Tensor:
        """conv(prepare(x)), for a conv that reaches one row up and down and enlarges `scale` times.

        The result is added to `add_to` in place, if given. Each band is padded with zeros; the rows
        this spoils are halo rows, which are dropped.
        """
        out, height = add_to, x.shape[2]
        for top in range(0, height, self.rows):
            bottom = min(top + self.rows, height)
            first, last = max(top - 1, 0), min(bottom + 1, height)
            y = conv(prepare(x[:, :, first:last].to(self.device)))
            y = y[:, :, (top - first) * scale : (bottom - first) * scale].to(self.storage)
            if out is None:
                out = y.new_empty(*y.shape[:2], height * scale, y.shape[3])
            target = out[:, :, top * scale : bottom * scale]
            target.copy_(y) if add_to is None else target.add_(y)
        return out


class Codebook(nn.Module):
    """The table of code vectors (key `quantize.embedding.weight`)."""

    def __init__(self, codes: int, width: int, operations: Any):
        super().__init__()
        self.embedding = operations.Embedding(codes, width)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)

    def forward(self, ids: Tensor) -> Tensor:
        """Code vectors [B, width, rows, cols] of ids [B, rows, cols]."""
        return self.embedding(ids).permute(0, 3, 1, 2).contiguous()

    def nearest(self, latents: Tensor) -> Tensor:
        """Nearest codes of latents [B, width, rows, cols]: int64 [B, rows, cols]."""
        _, width, rows, cols = latents.shape
        # Item by item, so that no distance depends on the rest of the batch.
        items = latents.permute(0, 2, 3, 1).reshape(-1, rows * cols, width)
        codes = self.embedding.weight.to(latents.device)
        return torch.stack([nearest_codes(item, codes) for item in items]).view(-1, rows, cols)


@torch.no_grad()
def nearest_codes(vectors: Tensor, codes: Tensor, rows: int = DISTANCE_ROWS) -> Tensor:
    """Index of each vector's nearest code.

    By |z|^2 + |e|^2 - 2 z.e in float32 (published code), whose two nearest are measured again as
    |z - e|^2: rounding of the sum tells codes closer than 1e-3 apart one way or the other, by
    processor and by the number of rows.

    vectors [N, D], codes [K, D] -> int64 [N]. At most `rows` x K distances exist at a time.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        codes = codes.float()
        code_norms = codes.square().sum(dim=1)
        parts = []
        for part in vectors.float().split(rows):
            norms = part.square().sum(dim=1, keepdim=True) + code_norms
            distances = torch.addmm(norms, part, codes.T, alpha=-2)
            near = distances.topk(min(2, len(codes)), dim=1, largest=False).indices  # [n, 2]
            exact = (codes[near] - part[:, None]).square().sum(dim=2)
            parts.append(near.gather(1, exact.argmin(dim=1, keepdim=True))[:, 0])
    return torch.cat(parts)
