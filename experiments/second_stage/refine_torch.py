"""The local refinement and SSIM on tensors, for a GPU.

Functions have the names of those in `isochroma.method.refinement` and `isochroma.images.metrics`
that they reproduce, and mean the same.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from isochroma.method.refinement import (
    CELL,
    FINE,
    LEVELS,
    MISMATCH,
    OUTLIER,
    PRIOR_VOXELS,
    SIGMA,
    STRUCTURE,
    SURPRISE,
)


@functools.lru_cache(maxsize=512)
def gaussian_matrix(n: int, sigma: float, device: str) -> Tensor:
    """Return the (n, n) matrix of scipy's Gaussian filter along an axis of n voxels."""
    matrix = ndimage.gaussian_filter1d(np.eye(n), sigma, axis=0)
    return torch.from_numpy(matrix).float().to(device)


def gaussian(volume: Tensor, sigma: float) -> Tensor:
    """Filter the last three axes as `ndimage.gaussian_filter`, float32."""
    device = str(volume.device)
    i, j, k = (gaussian_matrix(n, sigma, device) for n in volume.shape[-3:])
    volume = volume @ k.T
    volume = j @ volume
    return (i @ volume.flatten(-2)).view(volume.shape)


class Comparison(NamedTuple):
    """Hold what `refinement.Comparison` holds; `levels` (V, L) is the curve at each voxel."""

    output: Tensor
    source: Tensor
    residual: Tensor
    slope: Tensor
    typical: Tensor
    levels: Tensor


def to_level(values: Tensor) -> Tensor:
    """Map model units to levels in [0, LEVELS - 1]."""
    return (values.clamp(-1, 1) + 1) / 2 * (LEVELS - 1)


def deposit(level: Tensor, values: Tensor, cell: Tensor, cells: int) -> Tensor:
    """Sum values by level and cell: (LEVELS, cells), float64."""
    lower = level.long().clamp(max=LEVELS - 2)
    share = level - lower
    total = torch.zeros(LEVELS * cells, dtype=torch.float64, device=level.device)
    for step, part in ((0, 1 - share), (1, share)):
        total.index_add_(0, (lower + step) * cells + cell, (part * values).double())
    return total.view(LEVELS, cells)


def whole_curve(count: Tensor, total: Tensor, voxels: Tensor) -> Tensor:
    """Average by level over the whole brain, from deposits (LEVELS,)."""
    there = (count > 0.001 * voxels).cpu().numpy()
    mean = (total / count.clamp(min=1e-9)).cpu().numpy()
    filled = np.interp(np.arange(LEVELS), np.flatnonzero(there), mean[there])
    return torch.from_numpy(filled).to(count.device)


def interpolate(levels: Tensor, x: Tensor) -> Tensor:
    """Evaluate curves (V, L), or one curve (L,), at intensities x (V,)."""
    level = to_level(x)
    lower = level.long().clamp(max=LEVELS - 2)
    share = level - lower
    if levels.ndim == 1:
        return levels[lower] * (1 - share) + levels[lower + 1] * share
    low = levels.gather(1, lower[:, None])[:, 0]
    return low + share * (levels.gather(1, lower[:, None] + 1)[:, 0] - low)


def compare(output: Tensor, source: Tensor, mask: Tensor) -> Comparison:
    """Estimate the local curve and compare the source with it."""
    y, s = output[mask].clamp(-1, 1), source[mask].clamp(-1, 1)
    where = mask.nonzero()
    shape = [-(-n // CELL) for n in mask.shape]
    cells = shape[0] * shape[1] * shape[2]
    each = where // CELL
    cell = (each[:, 0] * shape[1] + each[:, 1]) * shape[2] + each[:, 2]
    level = to_level(y)
    kept = torch.ones_like(y)
    for number in range(4):
        count = deposit(level, kept, cell, cells)
        total = deposit(level, kept * s, cell, cells)
        mean = whole_curve(count.sum(1), total.sum(1), kept.sum())
        if number == 3:
            break
        squares = (s - interpolate(mean.float(), y)) ** 2
        spread = (squares * kept).sum() / kept.sum()
        kept = (squares <= OUTLIER**2 * spread.clamp(min=MISMATCH)).to(y)
    count, total = (
        gaussian(volume.view(LEVELS, *shape).float(), SIGMA / CELL) for volume in (count, total)
    )
    local = total + PRIOR_VOXELS * mean.float()[:, None, None, None]
    curves = (local / (count + PRIOR_VOXELS)).flatten(1).T.contiguous()  # (cells, L)
    place = (where.float() - (CELL - 1) / 2) / CELL
    limits = torch.tensor(shape, device=place.device) - 1
    place = torch.minimum(place.clamp(min=0), limits.float())
    lower = torch.minimum(place.long(), (limits - 1).clamp(min=0))
    share = place - lower
    levels = torch.zeros(len(y), LEVELS, device=y.device)
    for corner in range(8):
        steps = torch.tensor([corner >> 2 & 1, corner >> 1 & 1, corner & 1], device=y.device)
        at = torch.minimum(lower + steps, limits)
        weight = torch.where(steps.bool(), share, 1 - share).prod(1)
        levels += weight[:, None] * curves[(at[:, 0] * shape[1] + at[:, 1]) * shape[2] + at[:, 2]]
    step = 2 / (LEVELS - 1)
    above, below = (y + step).clamp(max=1), (y - step).clamp(min=-1)
    slope = (interpolate(levels, above) - interpolate(levels, below)) / (above - below)
    return Comparison(y, s, s - interpolate(levels, y), slope, kept.bool(), levels)


def limit_influence(seen: Comparison, error: Tensor, variance: Tensor) -> Comparison:
    """Apply Hampel's redescending influence to the residuals."""
    limit = OUTLIER * (SURPRISE * (seen.slope * error) ** 2 + variance).sqrt()
    size = seen.residual.abs()
    size = torch.minimum(size, (2 * limit - size).clamp(min=0))
    return seen._replace(residual=torch.copysign(size, seen.residual))


def move_towards_source(seen: Comparison, doubt: Tensor, variance: Tensor) -> Tensor:
    """Move the output by d P / (d^2 P + R) times the residual."""
    gain = seen.slope * doubt / (seen.slope**2 * doubt + variance)
    return (seen.output + gain * seen.residual).clamp(-1, 1)


def erode(mask: Tensor) -> Tensor:
    """Erode by the six neighbours; outside the volume is outside the mask."""
    padded = torch.nn.functional.pad(mask, (1, 1, 1, 1, 1, 1))
    i, j, k = (slice(1, -1),) * 3
    inside = mask.clone()
    for step in (slice(0, -2), slice(2, None)):
        inside &= padded[step, j, k] & padded[i, step, k] & padded[i, j, step]
    return inside


def noise_variance(image: Tensor, mask: Tensor) -> Tensor:
    """Estimate the variance of the noise from differences between neighbouring voxels."""
    inside = erode(erode(mask))
    near = sum(torch.roll(image, step, axis) for axis in range(3) for step in (1, -1)) / 6
    difference = (image - near)[inside].abs()
    return (((1.4826 * difference.median()) ** 2) / (1 + 1 / 6)).clamp(min=1e-5)


class Draft(NamedTuple):
    """Hold what the refinement makes of a first pass.

    Attributes
    ----------
    draft : (I, J, K) Tensor
        Model units, 0 outside the mask.
    slope, residual : (I, J, K) Tensor
        Of the source's curve at the first pass, 0 outside the mask.
    variance, error : Tensor
        R and P^(1/2), scalars.
    """

    draft: Tensor
    slope: Tensor
    residual: Tensor
    variance: Tensor
    error: Tensor


def placed(values: Tensor, mask: Tensor) -> Tensor:
    """Put values (V,) into the mask, 0 elsewhere."""
    volume = torch.zeros(mask.shape, device=values.device)
    volume[mask] = values.float()
    return volume


def follow_source(first: Tensor, source: Tensor, mask: Tensor, errors: Tensor) -> Draft:
    """Compute the maximum a posteriori image, and what is found on the way."""
    seen = compare(first, source, mask)
    position = (first[mask].clamp(-1, 1) + 1) / 2 * (len(errors) - 1)
    lower = position.long().clamp(max=len(errors) - 2)
    expected = (errors[lower] + (position - lower) * (errors[lower + 1] - errors[lower])) ** 2
    error = expected.mean().sqrt()
    explained = seen.slope**2 * expected
    variance = (seen.residual**2).mean()
    for _ in range(10):
        kept = (seen.residual**2 <= OUTLIER**2 * (explained + variance)).to(explained)
        rest = ((seen.residual**2 - explained) * kept).sum() / kept.sum()
        variance = rest.clamp(min=0)
    variance = torch.maximum(variance, noise_variance(source, mask) + MISMATCH)
    known = limit_influence(seen, error, variance)
    surprise = known.residual**2 / (explained + variance)
    doubt = torch.maximum((surprise * expected).clamp(max=SURPRISE * error**2), expected)
    x = move_towards_source(known, doubt, variance)
    far = (~seen.typical).nonzero()[:, 0]
    x[far] = explain(known, far, x[far], error, variance)
    shown = (placed(each, mask) for each in (x, seen.slope, seen.residual))
    return Draft(*shown, variance, error)


def explain(
    seen: Comparison, far: Tensor, otherwise: Tensor, error: Tensor, variance: Tensor
) -> Tensor:
    """Search the whole curve at voxels far from it."""
    grid = torch.linspace(-1, 1, FINE, device=far.device)
    level = to_level(grid)
    lower = level.long().clamp(max=LEVELS - 2)
    share = level - lower
    curves = seen.levels[far]
    shown = curves[:, lower] * (1 - share) + curves[:, lower + 1] * share  # (F, FINE)
    misfit = (seen.source[far, None] - shown) ** 2
    change = (grid - seen.output[far, None]) ** 2
    best = (misfit / variance + change / (SURPRISE * error**2)).argmin(1)
    explained = misfit.gather(1, best[:, None])[:, 0] <= OUTLIER**2 * variance
    return torch.where(explained, grid[best], otherwise)


def keep_structure(
    output: Tensor, source: Tensor, mask: Tensor, error: Tensor, variance: Tensor
) -> Tensor:
    """Restore the structure that the second pass removed beside noise."""
    seen = limit_influence(compare(output, source, mask), error, variance)

    def around(values: Tensor) -> Tensor:
        return gaussian(placed(values, mask), STRUCTURE)[mask]

    power = around(seen.slope**2).clamp(min=1e-6)
    squares = (4 * np.pi * STRUCTURE**2) ** -1.5
    excess = (around(seen.slope * seen.residual) / power) ** 2 - variance * squares / power
    doubt = torch.minimum(excess.clamp(min=0), SURPRISE * error**2)
    return torch.where(mask, placed(move_towards_source(seen, doubt, variance), mask), output)


def ssim_map(a: Tensor, b: Tensor, inside: Tensor, sigma: float = 1.5) -> Tensor:
    """Compute the SSIM at each voxel.

    Parameters
    ----------
    a, b : (..., I, J, K) Tensor
        Model units: the range is 2, and -1 is black.
    inside : (..., I, J, K) Tensor
        Mask, 0 or 1.
    sigma : float
        Of the Gaussian window, voxels.

    Returns
    -------
    ssim : (..., I, J, K) Tensor
    """
    weight = gaussian(inside, sigma).clamp(min=1e-6)
    a, b = (a + 1) * inside, (b + 1) * inside
    parts = gaussian(torch.stack([a, b, a * a, b * b, a * b]), sigma) / weight
    mean_a, mean_b = parts[0], parts[1]
    var_a, var_b = (parts[2] - mean_a**2).clamp(min=0), (parts[3] - mean_b**2).clamp(min=0)
    covariance = parts[4] - mean_a * mean_b
    c1, c2 = 0.02**2, 0.06**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance * (2 * covariance + c2) / (var_a + var_b + c2)


def ssim(a: Tensor, b: Tensor, mask: Tensor) -> float:
    """Compute the mean SSIM over a mask of volumes in model units."""
    return float(ssim_map(a, b, mask.float())[mask].mean())
