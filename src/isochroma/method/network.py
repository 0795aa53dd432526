"""The velocity network v(x_t, t, e): a 3D U-Net that is told the time.

Two configurations share this code:

- `PAPER` is the paper's (Jeong et al. 2025, arXiv:2505.00133): width 64, multipliers 1-2-4-8, two
  residual blocks a level, linear attention at every level and full attention innermost; 98.5 M
  parameters.
- `COMPACT` has 4.5 M parameters and runs on a laptop. It moves blocks of 2 x 2 x 2 voxels into
  channels before the first convolution (space to depth), so that its widest feature maps hold an
  eighth of the voxels, and it predicts a preconditioned velocity (`precondition`).

Activations are normalised per voxel over channels, never over space: statistics over space differ
between training patches and whole heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from isochroma.settings import settings

IN_CHANNELS = 5  # state, edges, three coordinates


@settings
class NetworkSettings:
    """Shape of the U-Net.

    Attributes
    ----------
    width : int
        Channels of the first level, at least 4.
    multipliers : tuple of int
        Channels of each level, as multiples of `width`.
    blocks : int
        Residual blocks a level, on the way down and on the way up.
    space_to_depth : int
        Edge of the voxel blocks that are moved into channels first; 1 for none.
    attention : bool
        Use linear attention at every level and full attention innermost.
    kernel : int
        Edge of the first convolution.
    data_std : float or None
        Standard deviation of the images in model units, for preconditioning; None for the plain
        velocity of the paper.
    """

    width: Annotated[int, Field(ge=4, le=512)] = 32
    multipliers: Annotated[
        tuple[Annotated[int, Field(ge=1, le=32)], ...], Field(min_length=1, max_length=6)
    ] = (1, 2, 4)
    blocks: Annotated[int, Field(ge=1, le=8)] = 1
    space_to_depth: Annotated[int, Field(ge=1, le=8)] = 2
    attention: bool = False
    kernel: Literal[1, 3, 5, 7, 9] = 3
    data_std: Annotated[float, Field(gt=0, le=10)] | None = 0.5

    @property
    def divisor(self) -> int:
        """Number of voxels that the edges of a volume must be multiples of."""
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
NETWORKS = {"compact": COMPACT, "paper": PAPER}
"""Configurations of the network by name."""


class ChannelNorm(nn.Module):
    """Normalise each voxel over its channels, then apply a learned gain and bias.

    This is layer normalisation (Ba et al. 2016, arXiv:1607.06450). Its centring, which RMS
    normalisation leaves out, kept the gradients smaller in our trials (docs/experiments.md).

    Parameters
    ----------
    channels : int
        Channels of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, I, J, K) activations."""
        channels_last = x.permute(0, 2, 3, 4, 1)
        gain, bias = self.gain.view(-1), self.bias.view(-1)
        normed = functional.layer_norm(channels_last, gain.shape, gain, bias, eps=1e-3)
        return normed.permute(0, 4, 1, 2, 3)


class ResidualBlock(nn.Module):
    """Add two normalised convolutions to the input.

    x + conv(silu(modulate(norm(conv(silu(norm(x))))))): the time embedding scales and shifts
    (modulates) the second normalisation. Where the width changes, x passes a 1 x 1 x 1 convolution.

    Parameters
    ----------
    channels_in, channels : int
        Channels of input and output.
    time_channels : int
        Length of the time embedding.
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
        zero_init(self.conv2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (B, C, I, J, K) activations and a (B, T) time embedding to (B, C', I, J, K)."""
        scale, shift = self.time(time)[:, :, None, None, None].chunk(2, dim=1)
        h = self.conv1(functional.silu(self.norm1(x), inplace=True))
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.conv2(functional.silu(h, inplace=True)).add_(self.shortcut(x))


def zero_init(layer: nn.Conv3d) -> None:
    """Set a layer's weights and biases to zero, so that its output is zero before training."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class Attention(nn.Module):
    """Add self-attention over voxels to the input.

    Parameters
    ----------
    channels : int
        Channels of input and output.
    linear : bool
        Use linear attention (Shen et al. 2021, arXiv:1812.01243), whose cost is proportional to the
        number of voxels, instead of full (softmax) attention, where it is to their square.
    heads, head_channels : int
        Number of heads, and channels of each.
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
        """Attend over the voxels of (B, C, I, J, K) activations."""
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
    """Embed times: sines and cosines at frequencies 1 to 100, then two linear layers.

    Parameters
    ----------
    width : int
        Number of sines and cosines; the embedding is four times as long.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width), nn.SiLU()
        )
        frequencies = torch.exp(torch.linspace(0, math.log(100), width // 2))
        self.frequencies: Tensor
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Map (B,) times to (B, T) embeddings."""
        angles = t[:, None] * self.frequencies
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))


class Level(nn.Module):
    """Hold one resolution of the U-Net, on the way down or up.

    Parameters
    ----------
    blocks : list of ResidualBlock
        Applied first.
    attention : torch.nn.Module
        Applied after the blocks.
    resample : torch.nn.Module
        Applied last; changes to the next level's resolution.
    """

    def __init__(
        self, blocks: list[ResidualBlock], attention: nn.Module, resample: nn.Module
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attention = attention
        self.resample = resample


class VelocityNetwork(nn.Module):
    """Predict the velocity of the flow with a U-Net.

    The output of every residual block on the way down is concatenated on the way up.

    Parameters
    ----------
    settings : NetworkSettings
        Shape of the network.
    """

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
        zero_init(self.out)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predict the velocity at x_t.

        Parameters
        ----------
        x : (B, 1, I, J, K) Tensor
            State x_t; the edges of the volume are multiples of `settings.divisor`.
        t : (B,) Tensor
            Times in [0, 1].
        condition : (B, 4, I, J, K) Tensor
            Edges and coordinates, see `condition.condition_channels`.

        Returns
        -------
        velocity : (B, 1, I, J, K) Tensor
            In model units.
        """
        if self.settings.data_std is None:
            return self.unet(x, t, condition)
        keep, gain, shrink = precondition(t, self.settings.data_std)
        return keep * x + gain * self.unet(shrink * x, t, condition)

    def unet(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Apply the U-Net without preconditioning to a (B, 1, I, J, K) state."""
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
                x = torch.cat([x, skips.pop()], dim=1)  # frees the smaller x
                x = block(x, time)
            x = level.resample(level.attention(x))
        x = torch.cat([x, first], dim=1)
        del first
        return depth_to_space(self.out(self.head(x, time)), self.settings.space_to_depth)


def precondition(t: Tensor, data_std: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the factors that scale the U-Net's input and output.

    The velocity is keep * x_t + gain * F(shrink * x_t) with the U-Net F. For images of variance s^2
    and noise of variance 1, x_t has the variance w = t^2 s^2 + (1 - t)^2, and

    - keep = (t s^2 - (1 - t)) / w makes keep * x_t the best linear estimate of the velocity;
    - gain = s / sqrt(w) is the standard deviation of what that estimate leaves to F;
    - shrink = t s / w makes shrink * x_t the best linear estimate of the image, divided by s.

    At t = 0, where x_t is noise, F therefore sees the edges alone and predicts the posterior mean:
    one step from any noise gives the same image. At t = 1, F predicts the noise.

    Parameters
    ----------
    t : (B,) Tensor
        Times in [0, 1].
    data_std : float
        S, the standard deviation of the images.

    Returns
    -------
    keep, gain, shrink : (B, 1, 1, 1, 1) Tensor
        The factors.

    References
    ----------
    Karras et al. 2022 (EDM), arXiv:2206.00364, section 5; here for the straight path.
    """
    t = t.view(-1, 1, 1, 1, 1)
    variance = (t * data_std).square() + (1 - t).square()
    keep = (t * data_std**2 - (1 - t)) / variance
    return keep, data_std * variance.rsqrt(), t * data_std / variance


def loss_weight(t: Tensor, data_std: float | None) -> Tensor:
    """Return the weight of the squared velocity error at each time.

    Parameters
    ----------
    t : (B,) Tensor
        Times in [0, 1].
    data_std : float or None
        As in `NetworkSettings`.

    Returns
    -------
    weight : (B,) Tensor
        1 / gain^2 of `precondition`, which gives the U-Net's error unit scale at every t; 1 for the
        plain velocity (`data_std` None).
    """
    if data_std is None:
        return torch.ones_like(t)
    return ((t * data_std).square() + (1 - t).square()) / data_std**2


def space_to_depth(x: Tensor, block: int) -> Tensor:
    """Move each block of b^3 voxels into channels: (B, C, I, J, K) to (B, C b^3, I/b, J/b, K/b)."""
    if block == 1:
        return x
    batch, channels, i, j, k = x.shape
    x = x.view(batch, channels, i // block, block, j // block, block, k // block, block)
    x = x.permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(batch, channels * block**3, i // block, j // block, k // block)


def depth_to_space(x: Tensor, block: int) -> Tensor:
    """Move channels back into blocks of voxels; the inverse of `space_to_depth`."""
    if block == 1:
        return x
    batch, channels, i, j, k = x.shape
    x = x.reshape(batch, channels // block**3, block, block, block, i, j, k)
    x = x.permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(batch, channels // block**3, i * block, j * block, k * block)
