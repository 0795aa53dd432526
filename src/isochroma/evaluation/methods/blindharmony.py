"""BlindHarmony (Jeong et al., ICCV 2023, arXiv:2305.10732), rewritten at a small scale.

An unconditional flow f is trained on axial slices of the target domain: z = f(x) is standard
normal there. Starting from the target's mean image, two steps alternate:

    x <- x - gradient of D(x, s)         nearer to the source slice s
    z <- shrunk f(x), x <- f^-1(z)       nearer to the centre of the Gaussian

D is the negated correlation of x and s, and half the squared difference of their high spatial
frequencies. Step sizes, cutoff and shrinkage are those of the authors' public repository.

Departures from the authors' version, to save computation and to follow this package's conventions:

- The flow is smaller (3 levels of 4 steps, width 32, one residual block and no batch norm; theirs
  4 levels of 7 steps, width 96, three blocks) and trained for less (1200 batches of 8 slices with
  gradient clipping; theirs 10000 of 256). The settings record this.
- Dequantisation of 8 bits instead of 12 in training, and none when harmonizing: with few steps, a
  flow of finer dequantisation spends them on the constant background.
- Intensities are scaled once a scan (model units mapped to [0, 1]), not once a slice.
- The correlation is taken over the brain, not over the slice with its background.
- It starts from the mean head stretched to the scan's mask (`place_head`), slice by slice, because
  our heads are not in a common space; the background is set to 0 after every step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from normflows import MultiscaleFlow
from normflows.flows import ActNorm, Invertible1x1Conv, Merge, Squeeze
from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling
from normflows.nets.resnet import ConvResidualNet
from pydantic import Field
from scipy import fft
from torch import Tensor

from isochroma.evaluation.methods.base import Role, register
from isochroma.evaluation.methods.mean_head import average_heads, place_head
from isochroma.images.preprocess import Prepared, from_model_units
from isochroma.settings import settings

SLICES_AT_ONCE = 8  # bounds memory

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


@settings
class BlindHarmonySettings:
    """The flow, its training and the harmonization.

    Attributes
    ----------
    levels, steps_per_level, width, bins : int
        Size of the neural spline flow (Durkan et al. 2019, arXiv:1906.04032).
    bits : int
        Precision of the uniform dequantisation.
    train_steps, batch_size, learning_rate, seed
        Adam with a cosine schedule, on random slices.
    iterations : int
        Alternations when harmonizing.
    ncc_step : float
        Step along the gradient of the correlation, times the number of voxels.
    detail_step, cutoff : float
        Step along the high spatial frequencies, and the frequency from which they are high
        (relative to Nyquist).
    shrink_deviation, shrink_mean : float
        Shares that the latent's deviation from its mean, and that mean, lose in an iteration.
    """

    levels: Count = 3
    steps_per_level: Count = 4
    width: Count = 32
    bins: Count = 8
    bits: Count = 8
    train_steps: Count = 1200
    batch_size: Count = 8
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    seed: int = 0
    iterations: Count = 5
    ncc_step: float = 0.04
    detail_step: float = 0.5
    cutoff: float = 0.05
    shrink_deviation: Share = 0.001
    shrink_mean: Share = 0.06


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
    """Build a multi-scale neural spline flow for slices of any size.

    Parameters
    ----------
    settings : BlindHarmonySettings
        Size of the flow, and the seed of its random weights.

    Returns
    -------
    flow : MultiscaleFlow
        Fully convolutional; takes slices (B, 1, H, W) whose sides are multiples of 2^levels.
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
    """Train a flow by maximum likelihood on random axial slices.

    Parameters
    ----------
    flow : MultiscaleFlow
        Changed in place.
    scans : sequence of Prepared
        Training scans of the target scanner.
    settings : BlindHarmonySettings
        Number of steps, batch size, learning rate and seed.

    Returns
    -------
    losses : list of float
        Negative log-likelihood of each step's slices, scaled to [0, 1] and dequantised, nats a
        pixel.
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
    """Round sides up to multiples of 2^levels.

    Parameters
    ----------
    shape : sequence of 2 ints
        Sides of a slice, voxels.
    settings : BlindHarmonySettings
        Number of levels.

    Returns
    -------
    height, width : int
    """
    i, j = (int(-(-n // 2**settings.levels) * 2**settings.levels) for n in shape)
    return i, j


def to_slices(image: np.ndarray, mask: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """Cut a volume into axial slices.

    Parameters
    ----------
    image : (I, J, K) ndarray
        Model units.
    mask : (I, J, K) ndarray of bool
        Brain mask.
    shape : tuple of 2 ints
        Height H and width W to pad the slices to.

    Returns
    -------
    slices : (K, 1, H, W) Tensor
        In [0, 1]; 0 outside the mask.
    """
    unit = np.where(mask, from_model_units(image, 0, 1), 0).astype(np.float32)
    i, j = (wanted - n for wanted, n in zip(shape, image.shape[:2], strict=True))
    return torch.from_numpy(np.pad(unit, ((0, i), (0, j), (0, 0)))).permute(2, 0, 1)[:, None]


@torch.inference_mode()
def shrink_latent(flow: MultiscaleFlow, x: Tensor, settings: BlindHarmonySettings) -> Tensor:
    """Move the latents of slices toward the centre of the Gaussian.

    Parameters
    ----------
    flow : MultiscaleFlow
        A trained flow.
    x : (B, 1, H, W) Tensor
        Slices in [0, 1].
    settings : BlindHarmonySettings
        Shares by which the latents shrink.

    Returns
    -------
    slices : (B, 1, H, W) Tensor
        In [0, 1].
    """
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
    """Take one step down the gradient of D, the distance to the source.

    Parameters
    ----------
    x, source, mask : (B, 1, H, W) ndarray of float
        Current slices, source slices and their mask.
    settings : BlindHarmonySettings
        Step sizes and cutoff.

    Returns
    -------
    slices : (B, 1, H, W) ndarray
        0 outside the mask.
    """
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


@register("blindharmony", Role.REFERENCE)
class BlindHarmony:
    """Harmonize by a flow trained on the target's slices.

    Parameters
    ----------
    **options
        Fields of `BlindHarmonySettings`.

    Attributes
    ----------
    losses : list of float
        Loss of each training step, once fitted.
    """

    name = "BlindHarmony"
    version = 1

    def __init__(self, **options: Any) -> None:
        self.options = BlindHarmonySettings(**options)
        self.settings: dict[str, Any] = {
            "method": self.name,
            "version": self.version,
            **dataclasses.asdict(self.options),
        }

    def fit(self, target: Sequence[Prepared]) -> None:
        """Average the target's heads and train the flow; see `Method.fit`."""
        self.head = average_heads(target)
        self.flow = build_flow(self.options)
        self.losses = train_flow(self.flow, target, self.options)

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        """Harmonize the scan, a few slices at a time; see `Method.apply`."""
        i, j, _ = scan.image.shape
        shape = padded_shape((i, j), self.options)
        volumes = (scan.image, place_head(self.head, scan.mask), scan.mask.astype(np.float32))
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
