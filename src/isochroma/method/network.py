"""The velocity network v(x_t, t, e): a 3D U-Net with time modulation.

Two configurations share this code. `PAPER` is the paper's: width 64, multipliers 1-2-4-8, two
residual blocks a level, linear attention at every level and full attention innermost, 98.5 M
parameters. `COMPACT` moves 2 x 2 x 2 voxels into channels before the first convolution (space to
depth), so that its widest maps hold an eighth of the voxels, and predicts a preconditioned
velocity; it is small enough for a laptop.

Activations are normalised per voxel over channels, never over space: statistics over space differ
between training patches and whole heads. Centring the channels, which RMS normalisation leaves out,
kept the gradients smaller in our trials (docs/experiments.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

IN_CHANNELS = 5  # state, edges, three coordinates


@dataclass(frozen=True)
class NetworkSettings:
    """Shape of the U-Net.

    width, multipliers
        Channels of the first level, and of each level relative to it.
    blocks
        Residual blocks a level, on the way down and on the way up.
    space_to_depth
        Edge of the voxel block that becomes channels first (1: none).
    attention
        Linear attention at every level, full attention innermost.
    kernel
        Edge of the first convolution.
    data_std
        Standard deviation of the image in model units, for preconditioning; None for the plain
        velocity of the paper.
    """

    width: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 1
    space_to_depth: int = 2
    attention: bool = False
    kernel: int = 3
    data_std: float | None = 0.5

    @property
    def divisor(self) -> int:
        """Volume edges must be multiples of this many voxels."""
        return self.space_to_depth * 2 ** (len(self.multipliers) - 1)


COMPACT = NetworkSettings()
PAPER = NetworkSettings(
    width=64,
    multipliers=(1, 2, 4, 8),
    blocks=2,
    space_to_depth=1,
    attention=True,
    kernel=7,
    data_std=None,
)


class ChannelNorm(nn.Module):
    """Zero mean and unit variance over the channels of each voxel, then a learned gain and bias
    (layer normalisation, Ba et al. 2016, arXiv:1607.06450).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, I, J, K) to the same."""
        x = x - x.mean(1, keepdim=True)
        return x * (torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-3) * self.gain) + self.bias


class ResidualBlock(nn.Module):
    """x + conv(silu(modulate(norm(conv(silu(norm(x))))))), with a 1 x 1 x 1 shortcut where the
    width changes; the time embedding scales and shifts the second normalisation.
    """

    def __init__(self, channels_in: int, channels: int, time_channels: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels_in)
        self.conv1 = nn.Conv3d(channels_in, channels, 3, padding=1)
        self.time = nn.Linear(time_channels, 2 * channels)
        self.norm2 = ChannelNorm(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        same = channels_in == channels
        self.shortcut = nn.Identity() if same else nn.Conv3d(channels_in, channels, 1)
        silence(self.conv2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, C, I, J, K) and (B, T) to (B, C', I, J, K)."""
        scale, shift = self.time(time)[:, :, None, None, None].chunk(2, dim=1)
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.norm2(h) * (1 + scale) + shift
        return self.shortcut(x) + self.conv2(functional.silu(h))


def silence(layer: nn.Conv3d) -> None:
    """Let a layer start from zero output."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class Attention(nn.Module):
    """Residual self-attention over voxels: full (softmax) or linear (Shen et al. 2021,
    arXiv:1812.01243), whose cost grows with the number of voxels, not its square.
    """

    def __init__(
        self, channels: int, linear: bool, heads: int = 4, head_channels: int = 32
    ) -> None:
        super().__init__()
        self.linear = linear
        self.heads = heads
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Conv3d(channels, 3 * heads * head_channels, 1, bias=False)
        self.out = nn.Conv3d(heads * head_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, I, J, K) to the same."""
        batch, _, *shape = x.shape
        q, k, v = self.qkv(self.norm(x)).view(batch, 3, self.heads, -1, math.prod(shape)).unbind(1)
        if self.linear:
            q = q.softmax(dim=2) * q.shape[2] ** -0.5
            context = k.softmax(dim=3) @ v.transpose(2, 3)  # (B, heads, D, D)
            y = context.transpose(2, 3) @ q
        else:
            q, k, v = (a.transpose(2, 3) for a in (q, k, v))
            y = functional.scaled_dot_product_attention(q, k, v).transpose(2, 3)
        return x + self.out(y.reshape(batch, -1, *shape))


class TimeEmbedding(nn.Module):
    """Sines and cosines of t at frequencies 1 to 100, then two linear layers: (B,) to (B, T)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width), nn.SiLU()
        )
        frequencies = torch.exp(torch.linspace(0, math.log(100), width // 2))
        self.frequencies: Tensor
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))


class Level(nn.Module):
    """One resolution of the U-Net, down or up: residual blocks, attention, resampling."""

    def __init__(
        self, blocks: list[ResidualBlock], attention: nn.Module, resample: nn.Module
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attention = attention
        self.resample = resample


class VelocityNetwork(nn.Module):
    """The U-Net. Every residual block's output on the way down is joined on the way up."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        widths = [settings.width * m for m in settings.multipliers]
        voxels = settings.space_to_depth**3
        time = 4 * settings.width

        def attention(channels: int, linear: bool = True) -> nn.Module:
            return Attention(channels, linear) if settings.attention else nn.Identity()

        self.time = TimeEmbedding(settings.width)
        self.stem = nn.Conv3d(
            IN_CHANNELS * voxels, widths[0], settings.kernel, padding=settings.kernel // 2
        )
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for depth, (above, width) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            last = depth == len(widths) - 1
            shrink = nn.Conv3d(above, width, 3, padding=1)
            if not last:
                shrink = nn.Conv3d(above, width, 2, stride=2)
            grow: nn.Module = nn.Conv3d(width, above, 3, padding=1)
            if depth > 0:
                grow = nn.Sequential(grow, nn.Upsample(scale_factor=2))
            down = [ResidualBlock(above, above, time) for _ in range(settings.blocks)]
            up = [ResidualBlock(width + above, width, time) for _ in range(settings.blocks)]
            self.down.append(Level(down, attention(above), shrink))
            self.up.insert(0, Level(up, attention(width), grow))
        self.middle1 = ResidualBlock(widths[-1], widths[-1], time)
        self.middle_attention = attention(widths[-1], linear=False)
        self.middle2 = ResidualBlock(widths[-1], widths[-1], time)
        self.head = ResidualBlock(2 * widths[0], widths[0], time)
        self.out = nn.Conv3d(widths[0], voxels, 1)
        silence(self.out)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Velocity at x_t.

        Parameters
        ----------
        x
            (B, 1, I, J, K) state; edges of the volume are multiples of `settings.divisor`.
        t
            (B,) in [0, 1].
        condition
            (B, 4, I, J, K) edge map (see `patches.condition_channels`) and coordinates.

        Returns
        -------
        (B, 1, I, J, K) velocity.
        """
        if self.settings.data_std is None:
            return self.unet(x, t, condition)
        keep, gain, shrink = precondition(t, self.settings.data_std)
        return keep * x + gain * self.unet(shrink * x, t, condition)

    def unet(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """The bare U-Net, (B, 1, I, J, K) to the same."""
        time = self.time(t)
        x = space_to_depth(torch.cat([x, condition], dim=1), self.settings.space_to_depth)
        x = first = self.stem(x.contiguous(memory_format=torch.channels_last_3d))
        skips = []
        for level in cast("Iterable[Level]", self.down):
            for block in level.blocks:
                x = block(x, time)
                skips.append(x)
            x = skips[-1] = level.attention(x)
            x = level.resample(x)
        x = self.middle2(self.middle_attention(self.middle1(x, time)), time)
        for level in cast("Iterable[Level]", self.up):
            for block in level.blocks:
                x = block(torch.cat([x, skips.pop()], dim=1), time)
            x = level.resample(level.attention(x))
        x = self.out(self.head(torch.cat([x, first], dim=1), time))
        return depth_to_space(x, self.settings.space_to_depth)


def precondition(t: Tensor, data_std: float) -> tuple[Tensor, Tensor, Tensor]:
    """Factors that let the network see what x_t tells about the image, and predict the rest.

    With Var x = s^2 and unit noise, Var x_t = t^2 s^2 + (1 - t)^2 =: w. The best linear guess of
    the velocity from x_t is keep * x_t with keep = (t s^2 - (1 - t)) / w, and what it leaves has
    standard deviation gain = s / sqrt(w). The network is shown the best linear guess of the
    image, over s: shrink * x_t with shrink = t s / w. So at t = 0, where x_t is noise, it sees
    the edges alone and predicts the posterior mean: one step from any noise gives the same image.
    At t = 1 it predicts the noise. After Karras et al. 2022 (EDM, arXiv:2206.00364, section 5),
    worked out for the straight path.

    Returns
    -------
    keep, gain, shrink
        (B, 1, 1, 1, 1) each; velocity = keep * x_t + gain * F(shrink * x_t).
    """
    t = t.view(-1, 1, 1, 1, 1)
    variance = (t * data_std).square() + (1 - t).square()
    keep = (t * data_std**2 - (1 - t)) / variance
    return keep, data_std * variance.rsqrt(), t * data_std / variance


def loss_weight(t: Tensor, data_std: float | None) -> Tensor:
    """Weight (B,) that gives the preconditioned network's squared error unit scale at every t:
    1 / gain^2; 1 for the plain velocity.
    """
    if data_std is None:
        return torch.ones_like(t)
    return ((t * data_std).square() + (1 - t).square()) / data_std**2


def space_to_depth(x: Tensor, block: int) -> Tensor:
    """(B, C, I, J, K) to (B, C b^3, I/b, J/b, K/b): each b^3 block of voxels becomes channels."""
    if block == 1:
        return x
    batch, channels, i, j, k = x.shape
    x = x.view(batch, channels, i // block, block, j // block, block, k // block, block)
    x = x.permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(batch, channels * block**3, i // block, j // block, k // block)


def depth_to_space(x: Tensor, block: int) -> Tensor:
    """The inverse of `space_to_depth`."""
    if block == 1:
        return x
    batch, channels, i, j, k = x.shape
    x = x.reshape(batch, channels // block**3, block, block, block, i, j, k)
    x = x.permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(batch, channels // block**3, i * block, j * block, k * block)
