"""Histograms of in-mask values, and what they say without tissue labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

BINS = 64
LOWEST, HIGHEST = -1.1, 1.1  # model units; the ends take what lies beyond


def bin_centres() -> np.ndarray:
    """Return the middles (64,) of the bins, model units."""
    edges = np.linspace(LOWEST, HIGHEST, BINS + 1)
    return (edges[1:] + edges[:-1]) / 2


def density(values: np.ndarray) -> np.ndarray:
    """Compute a histogram of values in model units.

    Parameters
    ----------
    values : (V,) ndarray
        Model units; not empty.

    Returns
    -------
    share : (64,) ndarray of float
        Share of the values in each bin; sums to 1.
    """
    inside = np.clip(values, LOWEST, HIGHEST)
    return np.histogram(inside, BINS, (LOWEST, HIGHEST))[0] / len(values)


def density_of_quantiles(quantiles: Sequence[float]) -> np.ndarray:
    """Compute the histogram that quantiles stand for.

    Parameters
    ----------
    quantiles : sequence of float
        At equal probabilities from 0 to 1, model units, increasing.

    Returns
    -------
    share : (64,) ndarray of float
        Share in each bin; sums to 1.

    Examples
    --------
    >>> bool(np.isclose(density_of_quantiles([-1, 0, 1]).sum(), 1))
    True
    """
    edges = np.linspace(LOWEST, HIGHEST, BINS + 1)
    below = np.interp(edges, quantiles, np.linspace(0, 1, len(quantiles)), left=0, right=1)
    return np.diff(below)


def smoothed(share: np.ndarray) -> np.ndarray:
    """Smooth a histogram for drawing, by a Gaussian of one bin: integer scans leave empty bins."""
    return ndimage.gaussian_filter1d(share, 1.0, mode="constant")


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the earth mover's distance of two histograms.

    Parameters
    ----------
    a, b : (64,) ndarray of float
        From `density` or `density_of_quantiles`.

    Returns
    -------
    distance : float
        Mean shift of intensities that makes one the other, model units.

    Examples
    --------
    >>> a, b = np.eye(64)[[10, 14]]
    >>> round(distance(a, b) / (2.2 / 64), 6)
    4.0
    """
    return float(np.abs(np.cumsum(a - b)).sum() * (HIGHEST - LOWEST) / BINS)


def three_classes(values: np.ndarray, bins: int = 128) -> tuple[float, float]:
    """Find the two thresholds that part values into three classes (Otsu).

    Parameters
    ----------
    values : (V,) ndarray
        Any unit; not constant.
    bins : int
        Resolution of the search.

    Returns
    -------
    lower, upper : float
        The thresholds with the greatest variance between the classes.

    References
    ----------
    Otsu 1979, doi:10.1109/TSMC.1979.4310076.
    """
    counts, edges = np.histogram(values, bins)
    centres = (edges[1:] + edges[:-1]) / 2
    weight = np.concatenate([[0], np.cumsum(counts)]).astype(float)
    moment = np.concatenate([[0], np.cumsum(counts * centres)])

    def between(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        held = weight[stop] - weight[start]
        return (moment[stop] - moment[start]) ** 2 / np.maximum(held, 1e-9)

    first, second = np.triu_indices(bins + 1, 1)
    inner = (first > 0) & (second < bins)
    first, second = first[inner], second[inner]
    spread = (
        between(np.zeros_like(first), first)
        + between(first, second)
        + between(second, np.full_like(second, bins))
    )
    best = int(spread.argmax())
    return float(edges[first[best]]), float(edges[second[best]])
