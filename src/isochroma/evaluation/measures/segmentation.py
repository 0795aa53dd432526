"""Downstream task 1, tissue segmentation: apply a tool that knows only the target scanner.

Two segmenters. The classical one needs no training and labels by brightness, so an image whose
contrast is inverted (T2w) gets CSF and white matter swapped: its known failing. The network has
seen target scans only: it fails where a scan does not look like them, which harmonization is to
mend.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isochroma.evaluation.measures.registry import Part
from isochroma.evaluation.measures.sample import Sample
from isochroma.evaluation.tissues import NAMES, classify

DICE = "Dice 1945, doi:10.2307/1932409"

part = Part(
    "segmentation",
    "Tissue segmentation",
    "A U-Net that knows only target scans, and a classical segmenter that knows none, against "
    "given labels in the same mask for all methods.",
)


def dice_of(label: int) -> Callable[[Sample], float]:
    """Make the measure of one tissue's overlap."""

    def overlap(sample: Sample) -> float:
        """Return the overlap of one tissue, as the network finds it, with the study's labels."""
        return dice(sample.segmented[0], sample.labels, common(sample), label)

    return overlap


for _label, _name in NAMES.items():
    part.measure(
        f"dice {_name}", f"Dice, {_name}, network", better=1, needs=("labels",), source=DICE
    )(dice_of(_label))


@part.measure("dice mean", "Dice, mean, network", better=1, needs=("labels",), source=DICE)
def dice_mean(sample: Sample) -> float:
    """Return the mean over the tissues of the network's overlap with the study's labels."""
    return mean_dice(sample.segmented[0], sample.labels, common(sample))


@part.measure(
    "dice mean, classical",
    "Dice, mean, classical",
    better=1,
    needs=("labels", "core"),
    source=f"{DICE}; segmenter: Zhang et al. 2001, doi:10.1109/42.906424",
)
def dice_classical(sample: Sample) -> float:
    """Return the mean overlap of the classical segmenter's labels with the study's."""
    labels = classify(sample.output, sample.mask)[0]
    return mean_dice(labels, sample.labels, common(sample))


def common(sample: Sample) -> np.ndarray:
    """Return the voxels that count, in the mask and labelled in the study: (I, J, K) bool."""
    return sample.mask & (sample.labels > 0)


def dice(a: np.ndarray, b: np.ndarray, mask: np.ndarray, label: int) -> float:
    """Return the overlap of one label in the mask, 2 |A and B| / (|A| + |B|).

    Parameters
    ----------
    a, b : (I, J, K) ndarray of int
        Labels.
    mask : (I, J, K) ndarray of bool
        The voxels that count.
    label : int
        The label.

    Returns
    -------
    overlap : float
        0 to 1; NaN where both lack the label.

    References
    ----------
    Dice 1945, doi:10.2307/1932409.
    """
    in_a, in_b = a[mask] == label, b[mask] == label
    size = np.sum(in_a) + np.sum(in_b)
    return float(2 * np.sum(in_a & in_b) / size) if size else float("nan")


def mean_dice(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """Return the mean of `dice` over the three tissues, those left out that both lack."""
    overlaps = [dice(a, b, mask, label) for label in NAMES]
    known = [overlap for overlap in overlaps if not np.isnan(overlap)]
    return float(np.mean(known)) if known else float("nan")
