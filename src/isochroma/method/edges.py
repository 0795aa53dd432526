"""D: the scan's contrast-free view, a 3D Canny edge map with a threshold solved for each subject.

The paper takes edges from a 3D Canny detector "with thresholds determined per subject" (Jeong et
al. 2025, arXiv:2505.00133) and publishes neither sigma nor the rule. Our reading: Gaussian
smoothing of 1 mm, non-maximum suppression along the interpolated gradient, hysteresis with
low = 0.5 high, and `high` solved so that edge voxels are a fixed fraction of the brain. Gain and
offset then change nothing, whatever the scanner.

The fraction is 0.16. At 0.08, a number in a file name of the paper's code, hysteresis percolates:
whether the folds form one connected component flips with small changes. Under a gamma of 0.6 or
1.6, 46 to 65 % of edge voxels stay where they were at 0.08, and 71 to 79 % at 0.16, where 92 to
99 % stay within 1 voxel (5 training scans; docs/experiments.md).

Only voxels that can be edges are visited, so a 256 x 256 x 180 head takes seconds on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
from pydantic import Field, field_validator
from scipy import ndimage

from isochroma.images.masked import smooth
from isochroma.images.preprocess import Prepared
from isochroma.settings import choose, settings

CONNECT_26 = np.ones((3, 3, 3), dtype=bool)
WEAKEST = 0.3  # share of in-mask voxels whose gradient is too small for an edge at any threshold


@settings
class EdgeSettings:
    """Parameters of the edge detector.

    Attributes
    ----------
    sigma : float
        Gaussian smoothing before differentiation, voxels of the model grid.
    fraction : float
        Edge voxels over brain voxels, met by solving for the high threshold.
    low_ratio : float
        Low over high hysteresis threshold.
    detector : str
        Name in `DETECTORS`.
    """

    sigma: Annotated[float, Field(ge=0.3, le=5)] = 1.0
    fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.16
    low_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    detector: str = "canny"

    @field_validator("detector")
    @classmethod
    def _known(cls, value: str) -> str:
        return choose(value, DETECTORS)


def detect_edges(source: Prepared, settings: EdgeSettings) -> np.ndarray:
    """Detect the edges of a prepared scan with the detector that the settings name.

    Parameters
    ----------
    source : Prepared
        The scan on the model grid.
    settings : EdgeSettings
        Detector and its parameters.

    Returns
    -------
    edges : (I, J, K) ndarray of bool
        Edge map inside the mask.
    """
    return DETECTORS[settings.detector](source.image, source.mask, settings)


def canny(image: np.ndarray, mask: np.ndarray, settings: EdgeSettings) -> np.ndarray:
    """Detect edges inside a mask by Canny's method in 3D.

    Parameters
    ----------
    image : (I, J, K) ndarray of float
        Any unit; isotropic voxels.
    mask : (I, J, K) ndarray of bool
        Voxels outside are never read, so the mask's rim is no edge by itself.
    settings : EdgeSettings
        Parameters of the detector.

    Returns
    -------
    edges : (I, J, K) ndarray of bool

    References
    ----------
    Canny 1986, doi:10.1109/TPAMI.1986.4767851.
    """
    gradient = np.stack(np.gradient(smooth(image, mask, settings.sigma, truncate=3)))
    ridges, strength = nonmax_suppression(gradient, mask)
    target = round(settings.fraction * int(mask.sum()))
    kept = solve_hysteresis(ridges, strength, mask.shape, settings.low_ratio, target)
    edges = np.zeros(mask.shape, dtype=bool)
    edges[tuple(axis[kept] for axis in ridges)] = True
    return edges


DETECTORS: dict[str, Callable[[np.ndarray, np.ndarray, EdgeSettings], np.ndarray]] = {
    "canny": canny
}
"""Edge detectors by name: (image, mask, settings) to an edge map."""


def nonmax_suppression(
    gradient: np.ndarray, mask: np.ndarray
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Find ridges of the gradient magnitude: voxels no smaller than both neighbours along it.

    The neighbours, one voxel up and one down the gradient, are interpolated trilinearly.

    Parameters
    ----------
    gradient : (3, I, J, K) ndarray of float
        Gradient of the smoothed image.
    mask : (I, J, K) ndarray of bool
        Where to look.

    Returns
    -------
    ridges : tuple of 3 (N,) ndarrays of int
        Voxel indices.
    strength : (N,) ndarray of float
        Gradient magnitudes there.
    """
    magnitude = np.sqrt(np.einsum("aijk,aijk->ijk", gradient, gradient))
    inner = ndimage.binary_erosion(mask)
    floor = np.quantile(magnitude[inner], WEAKEST) if inner.any() else 0.0
    candidates = np.nonzero(inner & (magnitude > floor))
    centre = magnitude[candidates]
    direction = np.stack([axis[candidates] for axis in gradient]) / centre
    position = np.stack(candidates).astype(np.float32)
    keep = np.ones(len(centre), dtype=bool)
    for sign in (1.0, -1.0):
        where = position[:, keep] + sign * direction[:, keep]
        beside = ndimage.map_coordinates(magnitude, where, order=1, mode="nearest")
        keep[keep] = centre[keep] >= beside
    return tuple(axis[keep] for axis in candidates), centre[keep]


def solve_hysteresis(
    ridges: tuple[np.ndarray, ...],
    strength: np.ndarray,
    shape: tuple[int, ...],
    low_ratio: float,
    target: int,
) -> np.ndarray:
    """Choose the hysteresis threshold that leaves a given number of edge voxels.

    An edge is a 26-connected set of ridge voxels above low = `low_ratio` * high that holds at
    least one voxel above high. The number of edge voxels falls as `high` rises, so `high` is
    bisected until it is within 0.5 % of `target`; where a large edge comes or goes as a whole, the
    nearest number is taken.

    Parameters
    ----------
    ridges : tuple of 3 (N,) ndarrays of int
        Voxel indices of the ridges.
    strength : (N,) ndarray of float
        Gradient magnitudes there.
    shape : tuple of int
        Shape of the volume.
    low_ratio : float
        Low over high threshold.
    target : int
        Wanted number of edge voxels.

    Returns
    -------
    kept : (N,) ndarray of bool
        Which ridge voxels are edges.
    """
    if len(strength) <= target:
        return np.ones(len(strength), dtype=bool)
    volume = np.zeros(shape, dtype=np.float32)
    volume[ridges] = strength

    def edges_at(high: float) -> np.ndarray:
        labels, count = ndimage.label(volume >= low_ratio * high, structure=CONNECT_26)
        at_ridge = labels[ridges]
        strong = np.zeros(count + 1, dtype=bool)
        strong[at_ridge[strength >= high]] = True
        strong[0] = False
        return strong[at_ridge]

    # `target` ridge voxels lie above `least`: with high = least there are too many edge voxels,
    # with low = least too few.
    least = float(np.quantile(strength, 1 - target / len(strength)))
    bounds = [least, least / low_ratio]
    kept = edges_at(least)
    for _ in range(20):
        high = 0.5 * sum(bounds)
        found = edges_at(high)
        surplus = int(found.sum()) - target
        if abs(surplus) < abs(int(kept.sum()) - target):
            kept = found
        if abs(surplus) <= 0.005 * target:
            break
        bounds[0 if surplus > 0 else 1] = high
    return kept
