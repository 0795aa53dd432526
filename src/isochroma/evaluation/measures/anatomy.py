"""Is the anatomy, and above all a lesion, still there in the output?

Every measure compares with a reference on the same grid: the source where nothing else is known,
the truth where there is one. A method that does nothing keeps everything; read with `closeness`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from isochroma.errors import InputError
from isochroma.evaluation.phantoms.lesions import SHELL_GAP, SHELL_WIDTH
from isochroma.evaluation.tissues import GREY, NAMES, WHITE
from isochroma.method.edges import CONNECT_26

SHELL_LEAST = 10  # voxels
SEEN = 0.1  # a lesion must show this much in the reference to be missed in the output
KEPT = 0.5


@dataclass(frozen=True)
class EdgeAgreement:
    """Shares in [0, 1]; higher is better. A mirrored head's edges reach 0.6 by chance
    (docs/experiments.md).

    kept
        Of the source's edge voxels, those that lie within 1 voxel of an edge of the output.
    supported
        Of the output's edge voxels, those within 1 voxel of an edge of the source: what is missing
        to 1 was invented.
    """

    kept: float
    supported: float


def edge_agreement(output: np.ndarray, source: np.ndarray, mask: np.ndarray) -> EdgeAgreement:
    """Agreement of the edges of output and source within 1 voxel (faces), both ways.

    Parameters
    ----------
    output, source
        (I, J, K) bool edge maps (`edges.canny`).
    mask
        (I, J, K) bool.
    """
    return EdgeAgreement(share_near(source, output, mask), share_near(output, source, mask))


def share_near(edges: np.ndarray, others: np.ndarray, where: np.ndarray) -> float:
    """Share of the edge voxels in `where` that are or touch (by a face) one of the others."""
    asked = edges & where
    return float(ndimage.binary_dilation(others)[asked].mean()) if asked.any() else float("nan")


def local_ncc(output: np.ndarray, source: np.ndarray, mask: np.ndarray, size: int = 9) -> float:
    """Mean magnitude of the correlation in windows around every voxel of the mask, in [0, 1].
    Higher is better.

    The magnitude, since a boundary that is inverted (T2w to T1w) is kept (cf. Cachier and Pennec
    2000, doi:10.1109/MMBIA.2000.852376, for the windowed correlation). It is not 0 by chance: a
    window has few independent voxels. Voxels outside the mask are left out of every window, windows
    without any contrast in the source are not counted, and such in the output alone count 0.

    Parameters
    ----------
    output, source
        (I, J, K).
    mask
        (I, J, K) bool.
    size
        Edge of the windows, voxels.
    """
    share = np.maximum(ndimage.uniform_filter(mask.astype(np.float64), size)[mask], 1e-6)

    def mean(volume: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(np.where(mask, volume, 0.0), size)[mask] / share

    a, b = (volume - volume[mask].mean(dtype=np.float64) for volume in (output, source))
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    textured = var_b > 1e-8
    both = np.where(var_a > 1e-8, var_a, np.inf)[textured] * var_b[textured]
    if not textured.any():
        return float("nan")
    return float(np.mean(np.minimum(np.abs(covariance[textured]) / np.sqrt(both), 1)))


def tissue_volumes(labels: np.ndarray, spacing_mm: float = 1.0) -> dict[str, float]:
    """Volume of each tissue, ml, from labels (I, J, K) as in `isochroma.tissues`."""
    return {
        name: float((labels == label).sum()) * spacing_mm**3 / 1000 for label, name in NAMES.items()
    }


def label_lesions(mask: np.ndarray, least_mm3: float = 10, spacing_mm: float = 1.0) -> np.ndarray:
    """26-connected lesions of a lesion mask (I, J, K), numbered from 1, without those that are
    smaller than `least_mm3`: (I, J, K) int32.
    """
    labels, _ = ndimage.label(mask, structure=CONNECT_26)
    large = np.bincount(labels.ravel()) * spacing_mm**3 >= least_mm3
    large[0] = False
    numbers = np.where(large, np.cumsum(large), 0)
    return numbers[labels].astype(np.int32)


def lesion_contrasts(volume: np.ndarray, labels: np.ndarray, tissues: np.ndarray) -> np.ndarray:
    """How much each lesion stands out from the white matter around it: (L,).

    Mean of a shell of white matter (2nd and 3rd voxel from it, other lesions left out) minus the
    mean of the lesion, over the volume's own difference of white and grey matter. 1 is grey matter
    in white. NaN where fewer than 10 voxels of the shell are white matter; 0 everywhere if the
    volume does not tell white from grey matter at all.

    Parameters
    ----------
    volume
        (I, J, K), any unit.
    labels
        (I, J, K) lesions numbered from 1.
    tissues
        (I, J, K) labels as in `isochroma.tissues`: one set for all the volumes that are compared.
    """
    healthy = labels == 0
    white = healthy & (tissues == WHITE)
    step = volume[white].mean() - volume[healthy & (tissues == GREY)].mean()
    found = []
    for box, inside in lesion_boxes(labels):
        near = ndimage.binary_dilation(inside, CONNECT_26, SHELL_GAP)
        far = ndimage.binary_dilation(inside, CONNECT_26, SHELL_GAP + SHELL_WIDTH)
        values = volume[box][far & ~near & white[box]]
        apart = values.mean() - volume[box][inside].mean() if len(values) >= SHELL_LEAST else np.nan
        found.append(apart / step if abs(step) > 1e-3 else 0 * apart)
    return np.array(found, dtype=np.float64)


def lesion_boxes(labels: np.ndarray) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """Each lesion's box with room for its shell, and the lesion in it."""
    margin = SHELL_GAP + SHELL_WIDTH
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            msg = f"lesion {number} has no voxels. Number the lesions without gaps."
            raise InputError(msg)
        wide = tuple(slice(max(0, s.start - margin), s.stop + margin) for s in box)
        yield wide, labels[wide] == number


def contrast_kept(
    output: np.ndarray,
    reference: np.ndarray,
    labels: np.ndarray,
    tissues: np.ndarray,
    healthy: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Each lesion's contrast in the output over that in the reference: (L,). Higher is better; 1 is
    kept exactly, 0 gone, above 1 exaggerated, below 0 inverted.

    Parameters
    ----------
    output, reference
        (I, J, K). The reference is the truth with the same lesions if they were planted, and the
        T1w source for lesions of a patient.
    labels, tissues
        As in `lesion_contrasts`.
    healthy
        For planted lesions: output and reference of the same head without them. What stands out
        there already, such as a vessel or a gradient, is then subtracted.

    Notes
    -----
    Lesions that show less than a tenth of the white/grey contrast in the reference are NaN.
    """
    after, before = (lesion_contrasts(volume, labels, tissues) for volume in (output, reference))
    if healthy is not None:
        after -= lesion_contrasts(healthy[0], labels, tissues)
        before -= lesion_contrasts(healthy[1], labels, tissues)
    return np.divide(after, before, out=np.full(len(before), np.nan), where=np.abs(before) >= SEEN)


def recall(kept: np.ndarray) -> float:
    """Share of the lesions that keep half of their contrast or more, in [0, 1]; NaN ones are not
    counted. Higher is better.
    """
    counted = kept[np.isfinite(kept)]
    return float(np.mean(counted >= KEPT)) if len(counted) else float("nan")
