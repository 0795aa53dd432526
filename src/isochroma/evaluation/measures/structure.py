"""Count structure that the output shows and no scan does, and what it no longer shows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np
from scipy import ndimage

from isochroma.evaluation.measures.registry import Part
from isochroma.evaluation.measures.sample import Sample
from isochroma.evaluation.tools.detail import STRONG, detail
from isochroma.images.masked import smoother
from isochroma.method.edges import CONNECT_26

WINDOW = 4.0  # voxels; Gaussian neighbourhood in which one volume is a curve of another
ORDER = 3  # of the curves, polynomials
RIDGE = 1e-3  # weight that keeps the curves determined, over their own variance
LEAST_VOXELS = 5  # of a region

part = Part(
    "structure",
    "Structure invented and lost",
    "Detail is the difference of a volume smoothed by 1 and by 2 voxels. In each neighbourhood "
    "(Gaussian, 4 voxels), a cubic curve of a scan's intensities explains what it can of the "
    "output's detail, whatever the contrast. Detail that is left unexplained by every scan of the "
    "person, and is stronger than 99 in 100 voxels of the target's training scans show, is "
    "invented. Lost is the reverse; noise that goes counts too. Regions of 5 mm³ or more. A blur "
    "invents little and loses much: read both. On core scans.",
)


@part.measure("invented", "Structure that no scan shows", unit="ml", better=-1, needs=("core",))
def invented(sample: Sample) -> float:
    """Return the volume where strong detail of the output is explained by no scan.

    Scans are all co-registered contrasts of the person, and the truth if there is one: the output
    may show what any of them shows.
    """
    regions = unexplained(sample.output, sample.shown, sample.mask, sample.tools.profile.strong)
    return float((regions > 0).sum() * sample.case.prepared.grid.voxel_ml)


@part.measure("lost", "Structure of the scan that is lost", unit="ml", better=-1, needs=("core",))
def lost(sample: Sample) -> float:
    """Return the volume where strong detail of the scan is not explained by the output.

    Strong is more than 99 in 100 of the scan's own voxels show.
    """
    found = np.abs(detail(sample.source, sample.mask))[sample.mask]
    strong = float(np.quantile(found, STRONG))
    regions = unexplained(sample.source, [sample.output], sample.mask, strong)
    return float((regions > 0).sum() * sample.case.prepared.grid.voxel_ml)


def unexplained(
    volume: np.ndarray, others: Sequence[np.ndarray], mask: np.ndarray, strong: float
) -> np.ndarray:
    """Find the regions where no other volume explains a volume's strong detail.

    Parameters
    ----------
    volume : (I, J, K) ndarray
        What is explained.
    others : sequence of (I, J, K) ndarray
        What explains it, each alone, on [-1, 1].
    mask : (I, J, K) ndarray of bool
        Brain mask.
    strong : float
        Least size of the detail, and of what is left of it.

    Returns
    -------
    regions : (I, J, K) ndarray of int32
        26-connected regions of 5 voxels or more, numbered from 1; 0 elsewhere.
    """
    wanted = detail(volume, mask)
    alone = mask & (np.abs(wanted) > strong)
    for other in others:
        left = np.zeros_like(mask)
        left[alone] = np.abs(residual(wanted, other, mask, alone)) > strong
        alone = left
    labels, _ = ndimage.label(alone, structure=CONNECT_26)
    large = np.bincount(labels.ravel()) >= LEAST_VOXELS
    large[0] = False
    return np.where(large, np.cumsum(large), 0)[labels].astype(np.int32)


def residual(
    wanted: np.ndarray, other: np.ndarray, mask: np.ndarray, where: np.ndarray
) -> np.ndarray:
    """Subtract from a volume's detail what a local curve of another volume explains.

    With d_n the detail of the other volume's n-th power, the coefficients c_n minimise the local
    average of (wanted - sum_n c_n d_n)^2.

    Parameters
    ----------
    wanted : (I, J, K) ndarray
        Detail.
    other : (I, J, K) ndarray
        On [-1, 1].
    mask, where : (I, J, K) ndarray of bool
        Brain mask, and the voxels that are asked for.

    Returns
    -------
    left : (N,) ndarray
        At the voxels of `where`.
    """
    parts = [detail(other**order, mask) for order in range(1, ORDER + 1)]
    average = smoother(mask, WINDOW)
    normal = np.zeros((int(where.sum()), ORDER, ORDER))
    for i, j in combinations_with_replacement(range(ORDER), 2):
        normal[:, i, j] = normal[:, j, i] = average(parts[i] * parts[j])[where]
    right = np.stack([average(part * wanted)[where] for part in parts], axis=-1)
    own = np.trace(normal, axis1=1, axis2=2)[:, None, None]
    normal += (RIDGE * own / ORDER + 1e-12) * np.eye(ORDER)
    curve = np.linalg.solve(normal, right[..., None])[..., 0]
    explained = sum(curve[:, n] * part[where] for n, part in enumerate(parts))
    return wanted[where] - explained
