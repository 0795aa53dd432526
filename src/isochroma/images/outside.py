"""What lies outside the brain: nothing, the source, or the source on the brain's scale."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage, stats

from isochroma.images.grid import bounding_box

RIM_MM = 4.0  # outside the mask, over which the output goes over into its surroundings
SAMPLE = 50_000  # voxels are enough for quantiles and ranks
ALIKE = 0.5  # rank correlation of source and output from which one curve maps both
AIR = 5  # percentile of what lies outside the brain
BRIGHTEST = 1.5  # times the output's largest value in the brain


def nothing(result: np.ndarray, source: np.ndarray, brain: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Leave zeros, whatever the source."""
    return np.where(brain, result, np.float32(0))


def as_it_was(
    result: np.ndarray, source: np.ndarray, brain: np.ndarray, _: np.ndarray
) -> np.ndarray:
    """Keep the source's own values."""
    return np.where(brain, result, source).astype(np.float32)


def matched(
    result: np.ndarray, source: np.ndarray, brain: np.ndarray, voxel_mm: np.ndarray
) -> np.ndarray:
    """Bring the source to the result's scale, so that other tools can use the head.

    Where the brain has like contrast in both (rank correlation 0.5 and more), the source's
    quantiles in the brain become the result's, air 0, and what is brighter than the brain follows
    the straight line through the upper half. Otherwise the source is scaled as a whole, by the
    brain's median, and keeps its contrast. Within 4 mm of the mask, the result's nearest values
    go over into this; what is exactly 0 in the source, cut off or empty, stays 0.

    Parameters
    ----------
    result, source : (I, J, K) ndarray
        On the scan's grid; the result counts in the brain alone.
    brain : (I, J, K) ndarray of bool
        Brain mask; not empty.
    voxel_mm : (3,) ndarray of float
        Edges of the voxels.

    Returns
    -------
    filled : (I, J, K) ndarray of float32
        The result's unit.
    """
    before, after = samples(source, brain), samples(result, brain)
    surroundings = source[~brain]
    air = float(np.percentile(surroundings, AIR)) if len(surroundings) else 0.0
    probabilities = (
        np.linspace(2, 98, 25) if rank_correlation(before, after) >= ALIKE else np.array([50])
    )
    known = np.unique(np.percentile(before, probabilities))
    shown = np.interp(
        known, np.percentile(before, probabilities), np.percentile(after, probabilities)
    )
    above_air = known > air
    known, shown = np.append(air, known[above_air]), np.append(0.0, shown[above_air])
    filled = np.interp(source, known, shown).astype(np.float32)
    slope = shown[-1] / max(known[-1] - air, 1e-6)
    filled += np.maximum(source - known[-1], 0) * np.float32(slope)
    np.clip(filled, 0, BRIGHTEST * after.max(), out=filled)

    box = bounding_box(brain, int(np.ceil(RIM_MM / voxel_mm.min())))
    away, nearest = ndimage.distance_transform_edt(
        ~brain[box], sampling=voxel_mm, return_indices=True
    )
    share = np.minimum(away / RIM_MM, 1).astype(np.float32)
    filled[box] = share * filled[box] + (1 - share) * result[box][tuple(nearest)]
    filled[~brain & (source == 0)] = 0
    return filled


FILLINGS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "zero": nothing,
    "source": as_it_was,
    "matched": matched,
}
"""What lies outside the brain, by name: (result, source, brain, voxel_mm) to a volume."""


def samples(volume: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Take at most 50,000 values of a brain, evenly, as float64."""
    values = volume[brain]
    return values[:: -(-len(values) // SAMPLE)].astype(np.float64)


def rank_correlation(before: np.ndarray, after: np.ndarray) -> float:
    """Return Spearman's rank correlation of values (V,) of source and result; 0 for constants."""
    if not (np.ptp(before) and np.ptp(after)):
        return 0.0
    return float(stats.spearmanr(before, after).statistic)
