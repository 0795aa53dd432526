"""Reference methods that map the scan's intensities so that its histogram becomes the target's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
from intensity_normalization.normalizers.population.nyul import NyulNormalizer
from scipy import ndimage

from isochroma.evaluation.methods.base import Role, Uncorrected, register
from isochroma.evaluation.methods.packaged import PACKAGE, as_images
from isochroma.images.masked import scatter, smooth
from isochroma.images.preprocess import Prepared

PROBABILITIES = np.linspace(0, 1, 101)


@register("histogram-matching", Role.REFERENCE, quick=True)
class HistogramMatching:
    """Match the scan's histogram to the target's mean quantiles with `match_histogram`."""

    name = "histogram matching"
    version = 1

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"method": self.name, "version": self.version}

    def fit(self, target: Sequence[Prepared]) -> None:
        """Average the target's quantiles; see `Method.fit`."""
        self.quantiles = target_quantiles(target)

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        """Match the scan; see `Method.apply`."""
        return match_histogram(scan.image, scan.mask, self.quantiles)


@register("histogram-matching-no-n4", Role.REFERENCE)
class HistogramMatchingWithoutN4(HistogramMatching, Uncorrected):
    """Match the histogram of the scan without N4."""

    name = "histogram matching, no N4"


@register("nyul", Role.REFERENCE)
class Nyul:
    """Standardise the histogram by a piecewise linear map, with intensity-normalization.

    The ends of the standard scale are the means of the target scans' 1st and 99th percentiles, so
    the output's unit is the target's.

    References
    ----------
    Nyul and Udupa 1999,
    doi:10.1002/(SICI)1522-2594(199912)42:6<1072::AID-MRM11>3.0.CO;2-M.
    """

    name = "Nyul"
    version = 1

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {
            "method": self.name,
            "version": self.version,
            "package": PACKAGE,
        }

    def fit(self, target: Sequence[Prepared]) -> None:
        """Learn the standard scale; see `Method.fit`."""
        values = [scan.image[scan.mask] for scan in target]
        low, high = np.mean([np.percentile(brain, [1, 99]) for brain in values], axis=0)
        self.normalizer = NyulNormalizer(output_min_value=low, output_max_value=high)
        self.normalizer.fit_population(*as_images(values))

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        """Map the scan to the standard scale; see `Method.apply`."""
        (image,), (mask,) = as_images([scan.image[scan.mask]])
        return scatter(self.normalizer.transform(image, mask).get_data(), scan.mask)


@register("ssimh", Role.REFERENCE)
class SSIMHistogramMatching:
    """Specify the target's mean quantiles exactly, with `specify_histogram_by_ssim` (SSIMH).

    Parameters
    ----------
    iterations : int
        Steps of the ascent on SSIM.
    step : float
        Root-mean-square change of the first step, model units.
    """

    name = "SSIMH"
    version = 1

    def __init__(self, iterations: int = 10, step: float = 0.02) -> None:
        self.ascent: dict[str, Any] = {"iterations": iterations, "step": step}
        self.settings: dict[str, Any] = {
            "method": self.name,
            "version": self.version,
            **self.ascent,
        }

    def fit(self, target: Sequence[Prepared]) -> None:
        """Average the target's quantiles; see `Method.fit`."""
        self.quantiles = target_quantiles(target)

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        """Specify the scan's histogram; see `Method.apply`."""
        return specify_histogram_by_ssim(scan.image, scan.mask, self.quantiles, **self.ascent)


def target_quantiles(target: Sequence[Prepared]) -> np.ndarray:
    """Average the in-mask quantiles of the target scans.

    Parameters
    ----------
    target : sequence of Prepared
        Training scans of the target scanner.

    Returns
    -------
    quantiles : (101,) ndarray of float
        At the equally spaced `PROBABILITIES`, model units.
    """
    return np.mean([np.quantile(scan.image[scan.mask], PROBABILITIES) for scan in target], axis=0)


def match_histogram(image: np.ndarray, mask: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Match an in-mask histogram to given quantiles, with SimpleITK.

    Parameters
    ----------
    image : (I, J, K) ndarray
        Scan in any unit.
    mask : (I, J, K) ndarray of bool
        Brain mask.
    quantiles : (Q,) ndarray of float
        In-mask quantiles of the target domain at equally spaced probabilities from 0 to 1.

    Returns
    -------
    matched : (I, J, K) ndarray of float32
        In the unit of `quantiles`; 0 outside the mask.

    References
    ----------
    Nyul et al. 2000, doi:10.1109/42.836373.
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
    return scatter(sitk.GetArrayFromImage(matched)[0], mask)


def specify_histogram(image: np.ndarray, mask: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Give the in-mask voxel of each rank the target's value of that rank.

    Voxels of equal intensity are ranked by their neighbourhood: a Gaussian mean of sigma 1.

    Parameters
    ----------
    image : (I, J, K) ndarray
        Scan in any unit.
    mask : (I, J, K) ndarray of bool
        Brain mask.
    quantiles : (Q,) ndarray of float
        In-mask quantiles of the target domain at equally spaced probabilities from 0 to 1.

    Returns
    -------
    specified : (I, J, K) ndarray of float32
        In the unit of `quantiles`; 0 outside the mask.
    """
    values = image[mask]
    order = np.lexsort((smooth(image, mask, 1.0)[mask], values))
    wanted = np.interp(np.linspace(0, 1, len(values)), np.linspace(0, 1, len(quantiles)), quantiles)
    specified = np.empty(len(values), dtype=np.float32)
    specified[order] = wanted
    return scatter(specified, mask)


def ssim_gradient(
    y: np.ndarray, x: np.ndarray, mask: np.ndarray, data_range: float, sigma: float = 1.5
) -> tuple[float, np.ndarray]:
    """Compute `metrics.ssim` of two volumes and its gradient with respect to the first.

    With the local means a = m(x), b = m(y), c = m(y^2), d = m(x y) under the normalised Gaussian
    window, SSIM is a function of b, c and d at each voxel; the chain rule through the linear m,
    whose adjoint m* is the window applied to (. / weight), gives

        gradient = m*(dS/db) + 2 y m*(dS/dc) + x m*(dS/dd).

    Parameters
    ----------
    y, x : (I, J, K) ndarray
        Volumes in one unit whose zero is black.
    mask : (I, J, K) ndarray of bool
        Voxels that count.
    data_range : float
        Width of the unit's range.
    sigma : float
        Standard deviation of the window, voxels.

    Returns
    -------
    score : float
        Mean SSIM over the mask.
    gradient : (I, J, K) ndarray of float32
        Derivative of the score; 0 outside the mask.
    """
    x, y = (np.where(mask, volume, 0).astype(np.float32) for volume in (x, y))
    weight = np.maximum(ndimage.gaussian_filter(mask.astype(np.float32), sigma), 1e-6)

    def mean(volume: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(volume, sigma) / weight  # `smooth`, weight computed once

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
    """Specify a histogram exactly, with the greatest structural similarity to the source.

    Gradient ascent on SSIM, with an exact specification again after each step.

    Parameters
    ----------
    image : (I, J, K) ndarray
        Scan in model units.
    mask : (I, J, K) ndarray of bool
        Brain mask.
    quantiles : (Q,) ndarray of float
        In-mask quantiles of the target domain, model units.
    iterations : int
        Number of steps.
    step : float
        Root-mean-square change of the voxels in the first step, model units. Later steps keep its
        proportion to the gradient.

    Returns
    -------
    specified : (I, J, K) ndarray of float32
        The iterate of the highest SSIM, model units; 0 outside the mask.

    References
    ----------
    Avanaki 2009, doi:10.1007/s10043-009-0119-z.
    """
    current = best = specify_histogram(image, mask, quantiles)
    # Model units are shifted by 1, so that black is 0 and the range 2.
    highest, gradient = ssim_gradient(current + 1, image + 1, mask, 2)
    scale = step / max(float(np.sqrt(np.mean(gradient[mask] ** 2))), 1e-12)
    for _ in range(iterations):
        current = specify_histogram(current + scale * gradient, mask, quantiles)
        score, gradient = ssim_gradient(current + 1, image + 1, mask, 2)
        if score > highest:
            highest, best = score, current
    return best
