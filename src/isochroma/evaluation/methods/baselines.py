"""What a user would do without a model, and what no score should reward: pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from isochroma.images.masked import extend_outside


def match_histogram(image: np.ndarray, mask: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Histogram matching to the target domain (Nyul et al. 2000, doi:10.1109/42.836373), by
    SimpleITK, inside the mask.

    Parameters
    ----------
    image
        (I, J, K) scan, any unit.
    mask
        (I, J, K) bool.
    quantiles
        (Q,) in-mask quantiles of the target domain at equal probabilities 0 to 1.

    Returns
    -------
    (I, J, K) float32 in the unit of `quantiles`, 0 outside the mask.
    """
    grid = np.linspace(0, 1, len(quantiles))
    reference = np.interp(np.linspace(0, 1, 20001), grid, quantiles).astype(np.float32)
    source = image[mask].astype(np.float32)
    matched = sitk.HistogramMatching(
        sitk.GetImageFromArray(source[None]),
        sitk.GetImageFromArray(reference[None]),
        numberOfHistogramLevels=1024,
        numberOfMatchPoints=100,
        thresholdAtMeanIntensity=False,
    )
    output = np.zeros(image.shape, dtype=np.float32)
    output[mask] = sitk.GetArrayFromImage(matched)[0]
    return output


def blur(image: np.ndarray, mask: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of `sigma` voxels over the mask alone (normalised convolution): (I, J, K)
    float32, 0 outside.
    """
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    inside = np.where(mask, image, 0).astype(np.float32)
    return np.where(mask, ndimage.gaussian_filter(inside, sigma) / np.maximum(weight, 1e-6), 0)


def specify_histogram(image: np.ndarray, mask: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Exact histogram specification: the in-mask voxel of rank r gets the target's value of rank
    r. Voxels of one value are ranked by their neighbourhood (Gaussian of sigma 1).

    Parameters and result as for `match_histogram`.
    """
    values = image[mask]
    order = np.lexsort((blur(image, mask, 1.0)[mask], values))
    wanted = np.interp(np.linspace(0, 1, len(values)), np.linspace(0, 1, len(quantiles)), quantiles)
    specified = np.empty(len(values), dtype=np.float32)
    specified[order] = wanted
    output = np.zeros(image.shape, dtype=np.float32)
    output[mask] = specified
    return output


def ssim_gradient(
    y: np.ndarray, x: np.ndarray, mask: np.ndarray, data_range: float, sigma: float = 1.5
) -> tuple[float, np.ndarray]:
    """`metrics.ssim` of y with x, and its gradient with respect to y.

    With the local means a = m(x), b = m(y), c = m(y^2), d = m(x y) under the normalised Gaussian
    window, SSIM is a function of b, c and d at each voxel; the chain rule through the linear m,
    whose adjoint is the window applied to (. / weight), gives

        gradient = m*(dS/db) + 2 y m*(dS/dc) + x m*(dS/dd).

    Parameters
    ----------
    y, x
        (I, J, K) volumes in one unit whose zero is black.
    mask
        (I, J, K) bool.
    data_range
        Width of the unit's range.

    Returns
    -------
    The mean SSIM over the mask, and (I, J, K) float32, 0 outside the mask.
    """
    x, y = (np.where(mask, volume, 0).astype(np.float32) for volume in (x, y))
    weight = np.maximum(ndimage.gaussian_filter(mask.astype(np.float32), sigma), 1e-6)

    def mean(volume: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(volume, sigma) / weight

    def adjoint(volume: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(np.where(mask, volume / weight, 0), sigma)

    a, b = mean(x), mean(y)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = 2 * a * b + c1
    structure = 2 * (mean(x * y) - a * b) + c2
    brightness = a**2 + b**2 + c1
    variance = np.maximum(mean(x * x) - a**2, 0) + np.maximum(mean(y * y) - b**2, 0) + c2
    score = luminance * structure / (brightness * variance)
    by_product = 2 * luminance / (brightness * variance)
    by_square = -score / variance
    by_mean = (
        2 * a * structure / (brightness * variance)
        - a * by_product
        - 2 * b * score / brightness
        - 2 * b * by_square
    )
    gradient = adjoint(by_mean) + 2 * y * adjoint(by_square) + x * adjoint(by_product)
    return float(score[mask].mean()), np.where(mask, gradient / mask.sum(), 0).astype(np.float32)


def specify_histogram_by_ssim(
    image: np.ndarray,
    mask: np.ndarray,
    quantiles: np.ndarray,
    iterations: int = 10,
    step: float = 0.02,
) -> np.ndarray:
    """Exact histogram specification optimised for structural similarity with the source
    (Avanaki 2009, doi:10.1007/s10043-009-0119-z): gradient ascent on SSIM, and exact
    specification again after each step.

    Parameters
    ----------
    image
        (I, J, K) scan in model units.
    mask
        (I, J, K) bool.
    quantiles
        (Q,) in-mask quantiles of the target domain, model units.
    iterations
        Number of steps.
    step
        Root-mean-square change of the voxels in the first step, model units. The later steps
        keep its proportion to the gradient.

    Returns
    -------
    (I, J, K) float32, the iterate of the highest SSIM; 0 outside the mask.
    """
    current = best = specify_histogram(image, mask, quantiles)
    highest, gradient = ssim_gradient(current + 1, image + 1, mask, 2)
    scale = step / max(float(np.sqrt(np.mean(gradient[mask] ** 2))), 1e-12)
    for _ in range(iterations):
        current = specify_histogram(current + scale * gradient, mask, quantiles)
        score, gradient = ssim_gradient(current + 1, image + 1, mask, 2)
        if score > highest:
            highest, best = score, current
    return best


class MeanHead(NamedTuple):
    """A mean image (I, J, K) and its frame: centre (3,) and spread (3,) of the brain, voxels."""

    image: np.ndarray
    centre: np.ndarray
    spread: np.ndarray


def brain_frame(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centroid and standard deviation of the mask's voxels along each axis: (3,) and (3,)."""
    centre, spread = [], []
    for axis, size in enumerate(mask.shape):
        profile = mask.sum(axis=tuple({0, 1, 2} - {axis}))
        middle = np.average(np.arange(size), weights=profile)
        centre.append(middle)
        spread.append(np.sqrt(np.average((np.arange(size) - middle) ** 2, weights=profile)))
    return np.array(centre), np.array(spread)


def mean_head(scans: Iterable[tuple[np.ndarray, np.ndarray]]) -> MeanHead:
    """Mean of aligned (image, mask) pairs on the model grid.

    Alignment is a shift and a scale along each axis that give every mask the same centroid and
    spread; heads lie upright on the model grid, so nothing is turned.
    """
    pairs = [(np.asarray(image, np.float32), np.asarray(mask)) for image, mask in scans]
    frames = [brain_frame(mask) for _, mask in pairs]
    spread = np.mean([frame[1] for frame in frames], axis=0)
    centre = np.ceil(3 * spread)  # of an ellipsoid, 2.24 spreads reach the surface
    shape = tuple((2 * centre + 1).astype(int))
    total, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for (image, mask), (middle, width) in zip(pairs, frames, strict=True):
        scale = width / spread
        for volume, into in ((np.where(mask, image, 0), total), (mask.astype(np.float32), weight)):
            into += ndimage.affine_transform(
                volume, scale, middle - scale * centre, shape, order=1, prefilter=False
            )
    mean = total / np.maximum(weight, 1e-6)
    return MeanHead(extend_outside(mean, weight > len(pairs) / 2), centre, spread)


def place_head(head: MeanHead, mask: np.ndarray) -> np.ndarray:
    """The mean head moved onto a brain mask (I, J, K) by the same alignment: float32, 0 outside."""
    centre, spread = brain_frame(mask)
    scale = head.spread / spread
    placed = ndimage.affine_transform(
        head.image, scale, head.centre - scale * centre, mask.shape, order=1, mode="nearest"
    )
    return np.where(mask, placed, 0).astype(np.float32)
