"""BlindHarmony (Jeong et al., ICCV 2023, arXiv:2305.10732), rewritten at a small scale.

An unconditional flow f is trained on axial slices of the target domain: z = f(x) is standard
normal there. Starting from the target's mean image, two steps alternate:

    x <- x - gradient of D(x, s)         nearer to the source slice s
    z <- shrunk f(x), x <- f^-1(z)       nearer to the centre of the Gaussian

D is the negated correlation of x and s, and half the squared difference of their high spatial
frequencies. Step sizes, cutoff and shrinkage are those of the authors' public repository.

Departures from the authors' version, for compute and for this package's conventions:

- The flow is smaller (3 levels of 4 steps, width 32, one residual block and no batch norm; theirs
  4 levels of 7 steps, width 96, three blocks) and trained for less (1200 batches of 8 slices with
  a gradient clip; theirs 10000 of 256). It says so in `settings`.
- Dequantisation of 8 bits instead of 12 in training, and none when harmonizing: with few steps, a
  flow of finer dequantisation spends them on the constant background.
- Intensities are scaled once a scan (model units mapped to [0, 1]), not once a slice.
- The correlation is taken over the brain, not over the slice with its background.
- It starts from the mean head stretched to the scan's mask (`baselines.mean_head`), slice by
  slice, because our heads are in no common space; the background is set to 0 after every step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from normflows import MultiscaleFlow
from normflows.flows import ActNorm, Invertible1x1Conv, Merge, Squeeze
from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling
from normflows.nets.resnet import ConvResidualNet
from scipy import fft
from torch import Tensor

from isochroma.evaluation.methods import baselines
from isochroma.images.preprocess import Prepared, from_model_units

SLICES_AT_ONCE = 8


@dataclass(frozen=True)
class BlindHarmonySettings:
    """The flow, its training and the harmonization.

    levels, steps_per_level, width, bins
        Of the neural spline flow (Durkan et al. 2019, arXiv:1906.04032).
    bits
        Of the uniform dequantisation.
    train_steps, batch_size, learning_rate, seed
        Adam with a cosine schedule, on random slices.
    iterations
        Alternations when harmonizing.
    ncc_step
        Step along the gradient of the correlation, times the number of voxels.
    detail_step, cutoff
        Step along the high spatial frequencies, and where they begin (relative to Nyquist).
    shrink_deviation, shrink_mean
        Shares that the latent's deviation from its mean, and that mean, lose in an iteration.
    """

    levels: int = 3
    steps_per_level: int = 4
    width: int = 32
    bins: int = 8
    bits: int = 8
    train_steps: int = 1200
    batch_size: int = 8
    learning_rate: float = 1e-3
    seed: int = 0
    iterations: int = 5
    ncc_step: float = 0.04
    detail_step: float = 0.5
    cutoff: float = 0.05
    shrink_deviation: float = 0.001
    shrink_mean: float = 0.06


class SplineCoupling(PiecewiseRationalQuadraticCoupling):
    """A spline coupling whose closed form runs from image to latent, the direction of training."""

    def _coupling_transform_forward(
        self, inputs: Tensor, transform_params: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self._coupling_transform(inputs, transform_params, inverse=True)

    def _coupling_transform_inverse(
        self, inputs: Tensor, transform_params: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self._coupling_transform(inputs, transform_params, inverse=False)


def build_flow(settings: BlindHarmonySettings) -> MultiscaleFlow:
    """A multi-scale neural spline flow for slices (B, 1, H, W) whose sides are multiples of
    2^levels. Fully convolutional, so the size is free. Random weights by the settings' seed.
    """
    levels = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        for level in range(settings.levels):  # the coarsest first
            channels = 2 ** (settings.levels + 1 - level)
            half = torch.arange(channels) >= channels // 2
            flows: list[torch.nn.Module] = []
            for _ in range(settings.steps_per_level):
                coupling = SplineCoupling(
                    half.int(),
                    lambda given, wanted: ConvResidualNet(
                        given, wanted, settings.width, num_blocks=1
                    ),
                    num_bins=settings.bins,
                    tails="linear",
                    tail_bound=3.0,
                )
                flows += [coupling, Invertible1x1Conv(channels), ActNorm((channels, 1, 1))]
            levels.append([*flows, Squeeze()])
    bases = [torch.nn.Identity() for _ in levels]  # standard normal of any size, see `train_flow`
    return MultiscaleFlow(bases, levels, [Merge() for _ in levels[1:]], class_cond=False)


def train_flow(
    flow: MultiscaleFlow, scans: Sequence[Prepared], settings: BlindHarmonySettings
) -> list[float]:
    """Maximum likelihood on random axial slices of the scans; the loss of each step, nats a pixel.

    The likelihood is of slices in [0, 1] after dequantisation.
    """
    rng = np.random.default_rng(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    slices = [(n, k) for n, s in enumerate(scans) for k in np.flatnonzero(s.mask.any(axis=(0, 1)))]
    shape = padded_shape(np.max([scan.image.shape[:2] for scan in scans], axis=0), settings)
    optimizer = torch.optim.Adam(flow.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.train_steps)
    losses = []
    for _ in range(settings.train_steps):
        chosen = [slices[n] for n in rng.integers(len(slices), size=settings.batch_size)]
        batch = torch.stack(
            [
                to_slices(scans[n].image[..., [k]], scans[n].mask[..., [k]], shape)[0]
                for n, k in chosen
            ]
        )
        batch = batch + torch.rand(batch.shape, generator=generator) / 2**settings.bits
        latents, log_det = flow.inverse_and_log_det(batch - 0.5)
        squares = sum(latent.square().sum() for latent in latents)
        loss = (0.5 * squares - log_det.sum()) / batch.numel() + 0.5 * float(np.log(2 * np.pi))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def padded_shape(shape: Sequence[int], settings: BlindHarmonySettings) -> tuple[int, int]:
    """The sides, rounded up to multiples of 2^levels."""
    i, j = (int(-(-n // 2**settings.levels) * 2**settings.levels) for n in shape)
    return i, j


def to_slices(image: np.ndarray, mask: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """Axial slices (K, 1, H, W) in [0, 1] of a volume (I, J, K) in model units; 0 outside."""
    unit = np.where(mask, from_model_units(image, 0, 1), 0).astype(np.float32)
    i, j = (wanted - n for wanted, n in zip(shape, image.shape[:2], strict=True))
    return torch.from_numpy(np.pad(unit, ((0, i), (0, j), (0, 0)))).permute(2, 0, 1)[:, None]


@torch.inference_mode()
def shrink_latent(flow: MultiscaleFlow, x: Tensor, settings: BlindHarmonySettings) -> Tensor:
    """Slices (B, 1, H, W) in [0, 1] with their latents moved toward the Gaussian's centre."""
    half_level = 0.5 / 2**settings.bits
    latents, _ = flow.inverse_and_log_det(x - 0.5 + half_level)
    pixels = x[0].numel()
    mean = sum(latent.sum(dim=(1, 2, 3), keepdim=True) for latent in latents) / pixels
    kept = [
        (1 - settings.shrink_deviation) * (latent - mean) + (1 - settings.shrink_mean) * mean
        for latent in latents
    ]
    return (flow.forward_and_log_det(kept)[0] + 0.5 - half_level).clamp(0, 1)


def toward_source(
    x: np.ndarray, source: np.ndarray, mask: np.ndarray, settings: BlindHarmonySettings
) -> np.ndarray:
    """One step down the gradient of D: slices (B, 1, H, W), 0 outside the mask."""
    axes = (2, 3)
    count = np.maximum(mask.sum(axes, keepdims=True), 1)

    def unit(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = (volume * mask).sum(axes, keepdims=True) / count
        centred = (volume - mean) * mask
        norm = np.sqrt((centred**2).sum(axes, keepdims=True)) + 1e-6
        return centred / norm, norm

    (x_unit, x_norm), (s_unit, _) = unit(x), unit(source)
    correlation = (x_unit * s_unit).sum(axes, keepdims=True)
    ncc = (s_unit - correlation * x_unit) / x_norm
    height, width = (np.linspace(0, 1, n) for n in x.shape[2:])
    high = np.hypot(height[:, None], width) > settings.cutoff
    detail = fft.idctn(high * fft.dctn(source - x, axes=axes), axes=axes)
    return (x + settings.ncc_step * count * ncc + settings.detail_step * detail) * mask


class BlindHarmony:
    """The method behind the common interface; `losses` are those of the flow's training.

    Parameters
    ----------
    options
        Fields of `BlindHarmonySettings`.
    """

    name = "BlindHarmony"

    def __init__(self, **options: Any) -> None:
        self.options = BlindHarmonySettings(**options)
        self.settings = {"method": self.name, **dataclasses.asdict(self.options)}

    def fit(self, target: Sequence[Prepared]) -> None:
        self.head = baselines.mean_head((scan.image, scan.mask) for scan in target)
        self.flow = build_flow(self.options)
        self.losses = train_flow(self.flow, target, self.options)

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        i, j, _ = scan.image.shape
        shape = padded_shape((i, j), self.options)
        volumes = (
            scan.image,
            baselines.place_head(self.head, scan.mask),
            scan.mask.astype(np.float32),
        )
        brain = np.flatnonzero(scan.mask.any(axis=(0, 1)))
        output = np.zeros(scan.image.shape, dtype=np.float32)
        for start in range(0, len(brain), SLICES_AT_ONCE):
            part = brain[start : start + SLICES_AT_ONCE]
            source, x, mask = (
                to_slices(volume[..., part], scan.mask[..., part], shape).numpy()
                for volume in volumes
            )
            x = toward_source(x, source, mask, self.options)
            for _ in range(self.options.iterations - 1):
                x = shrink_latent(self.flow, torch.from_numpy(x), self.options).numpy() * mask
                x = toward_source(x, source, mask, self.options)
            output[..., part] = np.moveaxis(x[:, 0, :i, :j], 0, 2)
        return np.where(scan.mask, 2 * output - 1, 0)
