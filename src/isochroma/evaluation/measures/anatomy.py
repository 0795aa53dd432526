"""Measure whether the anatomy, and above all a lesion, is still there in the output.

Every measure compares with a reference on the same grid: the source where nothing else is known,
the truth where there is one. A method that does nothing keeps everything; read with `closeness`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy import ndimage

from isochroma.errors import InputError
from isochroma.evaluation.measures.registry import Part
from isochroma.evaluation.measures.sample import Lesions, Sample, needed
from isochroma.evaluation.phantoms.lesions import SHELL_GAP, SHELL_WIDTH
from isochroma.evaluation.tissues import GREY, WHITE
from isochroma.method.edges import CONNECT_26

WINDOW = 9  # voxels, of the local correlation
SHELL_LEAST = 10  # voxels of white matter around a lesion
SEEN = 0.1  # a lesion must show this much in the reference to be missed in the output
KEPT = 0.5
RING_LEAST_MM3 = 100  # of a lesion with a core and a rim: a ball of 3 mm radius
LESIONS = ("tissues", "lesions")

part = Part("anatomy", "Anatomy kept", "Agreement with the source itself, and lesions.")


@part.measure("edges kept", "Source edges found in the output", unit="share", better=1)
def edges_kept(sample: Sample) -> float:
    """Return the share of the source's edge voxels within 1 voxel of an edge of the output.

    The edges are Canny's, as the models take them. A mirrored head's reach 0.6 by chance.
    """
    return share_near(sample.edges, sample.output_edges, sample.mask)


@part.measure("edges invented", "Output edges not in the source", unit="share", better=-1)
def edges_invented(sample: Sample) -> float:
    """Return the share of the output's edge voxels farther than 1 voxel from any of the source."""
    return 1 - share_near(sample.output_edges, sample.edges, sample.mask)


@part.measure(
    "local ncc",
    "Local correlation with the source, magnitude",
    better=1,
    source="cf. Cachier and Pennec 2000, doi:10.1109/MMBIA.2000.852376",
)
def local_correlation(sample: Sample) -> float:
    """Return the mean magnitude of the correlation with the source in windows of 9 voxels."""
    return local_ncc(sample.output, sample.source, sample.mask)


@part.measure(
    "lesion contrast", "Lesion contrast kept", unit="share", better=-1, ideal=1, needs=LESIONS
)
def lesion_contrast(sample: Sample) -> float:
    """Return the median over the lesions of the contrast that the output has kept.

    1 is kept exactly, 0 gone, above 1 exaggerated, below 0 inverted. The contrast is relative to
    the lesion in the truth or the T1w scan; in a raw T2w or FLAIR scan, whose contrast is another,
    a difference is no loss.
    """
    kept = contrast_kept(sample.output, needed(sample.lesions), needed(sample.tissues))
    return float(np.nanmedian(kept)) if np.isfinite(kept).any() else float("nan")


@part.measure(
    "lesion recall",
    "Lesions that keep half of their contrast",
    unit="share",
    better=1,
    needs=LESIONS,
)
def lesion_recall(sample: Sample) -> float:
    """Return the share of the lesions that keep half of their contrast or more."""
    return recall(contrast_kept(sample.output, needed(sample.lesions), needed(sample.tissues)))


@part.measure(
    "lesion ring",
    "Lesion rings: rim kept minus core kept",
    unit="share",
    better=-1,
    ideal=0,
    needs=LESIONS,
)
def lesion_ring(sample: Sample) -> float:
    """Return the median over larger lesions of the rim's contrast kept minus the core's.

    Lesions of 100 mm^3 or more. 0 is as in the reference; above 0 the core has faded and a ring is
    left, below 0 the rim has.
    """
    lesions, tissues = needed(sample.lesions), needed(sample.tissues)
    core, rim = (contrast_kept(sample.output, lesions, tissues, each) for each in (core_of, rim_of))
    large = np.bincount(lesions.labels.ravel())[1:] >= RING_LEAST_MM3
    apart = (rim - core)[large]
    return float(np.nanmedian(apart)) if np.isfinite(apart).any() else float("nan")


def share_near(edges: np.ndarray, others: np.ndarray, where: np.ndarray) -> float:
    """Return the share of the edge voxels that are, or touch by a face, one of the others.

    Parameters
    ----------
    edges, others : (I, J, K) ndarray of bool
        Two edge maps.
    where : (I, J, K) ndarray of bool
        The edge voxels outside it are not counted.

    Returns
    -------
    share : float
        0 to 1; NaN if no edge voxel is counted.
    """
    asked = edges & where
    return float(ndimage.binary_dilation(others)[asked].mean()) if asked.any() else float("nan")


def local_ncc(
    output: np.ndarray, source: np.ndarray, mask: np.ndarray, size: int = WINDOW
) -> float:
    """Return the mean magnitude of the correlation in windows around every voxel of the mask.

    The magnitude, since a boundary that is inverted (T2w to T1w) is kept. It is not 0 by chance: a
    window has few independent voxels. Voxels outside the mask are left out of every window, windows
    without any contrast in the source are not counted, and such in the output alone count 0.

    Parameters
    ----------
    output, source : (I, J, K) ndarray
        Two volumes of any unit.
    mask : (I, J, K) ndarray of bool
        Brain mask.
    size : int
        Edge of the windows, voxels.

    Returns
    -------
    correlation : float
        0 to 1; NaN if the source has no contrast anywhere.

    References
    ----------
    Cachier and Pennec 2000, doi:10.1109/MMBIA.2000.852376, for the windowed correlation.
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


def whole_of(inside: np.ndarray) -> np.ndarray:
    """Take all of a lesion (I, J, K) bool."""
    return inside


def core_of(inside: np.ndarray) -> np.ndarray:
    """Take the voxels of a lesion that lie at least half as deep as its deepest."""
    depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1, 1:-1]
    return depth > depth.max() / 2


def rim_of(inside: np.ndarray) -> np.ndarray:
    """Take the voxels of a lesion that touch others by a face."""
    return inside & ~ndimage.binary_erosion(inside)


def lesion_contrasts(
    volume: np.ndarray,
    labels: np.ndarray,
    tissues: np.ndarray,
    choose: Callable[[np.ndarray], np.ndarray] = whole_of,
) -> np.ndarray:
    """Measure how much each lesion stands out from the white matter around it.

    Mean of a shell of white matter (2nd and 3rd voxel from it, other lesions left out) minus the
    mean of the lesion, over the volume's own difference of white and grey matter. 1 is grey matter
    in white. NaN where fewer than 10 voxels of the shell are white matter; 0 everywhere if the
    volume does not tell white from grey matter at all.

    Parameters
    ----------
    volume : (I, J, K) ndarray
        Any unit.
    labels : (I, J, K) ndarray of int
        Lesions numbered from 1 without gaps.
    tissues : (I, J, K) ndarray of uint8
        Tissue labels, one set for all the volumes that are compared.
    choose : callable
        Takes a lesion's voxels that are averaged.

    Returns
    -------
    contrasts : (L,) ndarray of float64
        One for each lesion, NaN where there is too little white matter around it.

    Raises
    ------
    InputError
        If the numbers of the lesions have a gap.
    """
    healthy = labels == 0
    white = healthy & (tissues == WHITE)
    step = volume[white].mean() - volume[healthy & (tissues == GREY)].mean()
    found = []
    for box, inside in lesion_boxes(labels):
        near = ndimage.binary_dilation(inside, CONNECT_26, SHELL_GAP)
        far = ndimage.binary_dilation(inside, CONNECT_26, SHELL_GAP + SHELL_WIDTH)
        values = volume[box][far & ~near & white[box]]
        middle = volume[box][choose(inside)].mean()
        apart = values.mean() - middle if len(values) >= SHELL_LEAST else np.nan
        found.append(apart / step if abs(step) > 1e-3 else 0 * apart)
    return np.array(found, dtype=np.float64)


def lesion_boxes(labels: np.ndarray) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """Yield each lesion's box with room for its shell, and the lesion's mask in it."""
    margin = SHELL_GAP + SHELL_WIDTH
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            msg = f"lesion {number} has no voxels. Number the lesions without gaps."
            raise InputError(msg)
        wide = tuple(slice(max(0, s.start - margin), s.stop + margin) for s in box)
        yield wide, labels[wide] == number


def contrast_kept(
    output: np.ndarray,
    lesions: Lesions,
    tissues: np.ndarray,
    choose: Callable[[np.ndarray], np.ndarray] = whole_of,
) -> np.ndarray:
    """Divide each lesion's contrast in the output by that in the reference.

    Parameters
    ----------
    output : (I, J, K) ndarray
        Any unit.
    lesions : Lesions
        Where there is the same head without the lesions, what stands out there already, such as a
        vessel or a gradient, is subtracted.
    tissues : (I, J, K) ndarray of uint8
        As in `lesion_contrasts`.
    choose : callable
        As in `lesion_contrasts`.

    Returns
    -------
    kept : (L,) ndarray
        One for each lesion: 1 is kept exactly, 0 gone, above 1 exaggerated, below 0 inverted. NaN
        for lesions with less than a tenth of the white/grey contrast in the reference.
    """
    labels = lesions.labels
    after = lesion_contrasts(output, labels, tissues, choose)
    before = lesion_contrasts(lesions.reference, labels, tissues, choose)
    if lesions.healthy is not None:
        after -= lesion_contrasts(lesions.healthy[0], labels, tissues, choose)
        before -= lesion_contrasts(lesions.healthy[1], labels, tissues, choose)
    return np.divide(after, before, out=np.full(len(before), np.nan), where=np.abs(before) >= SEEN)


def recall(kept: np.ndarray) -> float:
    """Return the share of the lesions that keep half of their contrast or more; NaN if none."""
    counted = kept[np.isfinite(kept)]
    return float(np.mean(counted >= KEPT)) if len(counted) else float("nan")
