"""Downstream task 1, tissue segmentation: apply a tool that knows only the target scanner.

Two segmenters. The classical one needs no training and labels by brightness, so an image whose
contrast is inverted (T2w) gets CSF and white matter swapped: its known failing. The network has
seen target scans only: it fails where a scan does not look like them, which harmonization is to
mend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy import stats

from isochroma.evaluation.measures.registry import Part
from isochroma.evaluation.measures.sample import Sample
from isochroma.evaluation.tissues import CSF, GREY, NAMES, WHITE, classify

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


@part.measure(
    "dice mean, target's limits",
    "Dice, mean, target's limits",
    better=1,
    needs=("labels",),
    source=DICE,
)
def dice_limits(sample: Sample) -> float:
    """Return the mean overlap of classes between fixed limits of intensity with the study's labels.

    The limits are the same for all sites and methods: those that part the tissues of the target's
    training scans with the least balanced error.
    """
    limits = class_limits(sample.tools.profile.quantiles)
    labels = 1 + np.digitize(sample.output, limits)
    return mean_dice(labels, sample.labels, common(sample))


@part.measure(
    "auc",
    "Grey against white matter, AUC",
    better=1,
    needs=("labels",),
    source="Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747",
)
def separability(sample: Sample) -> float:
    """Return the area under the ROC curve of grey against white matter, whichever is brighter.

    No threshold is chosen: 1 if any parts the two, 0.5 if none is better than chance.
    """
    return area_under_curve(*grey_and_white(sample))


@part.measure(
    "dice, best threshold",
    "Dice of grey and white matter, best threshold",
    better=1,
    needs=("labels",),
    source=DICE,
)
def dice_best_threshold(sample: Sample) -> float:
    """Return the mean overlap of grey and white matter for the threshold that suits the scan best.

    Among voxels that the study labels as either; white matter may be brighter or darker.
    """
    return best_dice(*grey_and_white(sample))


@part.measure("contrast to noise", "Grey/white contrast to noise", better=1, needs=("labels",))
def contrast_to_noise(sample: Sample) -> float:
    """Return the distance of the means of grey and white matter over their spread.

    The spread is the root mean square of the two standard deviations.
    """
    grey, white = grey_and_white(sample)
    spread = np.sqrt((grey.var() + white.var()) / 2)
    return float(abs(white.mean() - grey.mean()) / spread) if spread > 0 else float("nan")


def grey_and_white(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Return the output's values where the study labels grey and white matter: two (V,)."""
    grey, white = (sample.output[common(sample) & (sample.labels == n)] for n in (GREY, WHITE))
    return grey.astype(float), white.astype(float)


def area_under_curve(a: np.ndarray, b: np.ndarray) -> float:
    """Return the area under the ROC curve that parts values a (N,) from b (M,), at least 0.5."""
    if not len(a) or not len(b):
        return float("nan")
    ranks = stats.rankdata(np.concatenate([a, b]))[: len(a)]
    area = (ranks.sum() - len(a) * (len(a) + 1) / 2) / (len(a) * len(b))
    return float(max(area, 1 - area))


def best_dice(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean Dice of two classes for the best threshold between values a (N,), b (M,)."""
    if not len(a) or not len(b):
        return float("nan")
    limits = np.unique(np.quantile(np.concatenate([a, b]), np.linspace(0, 1, 501)))
    below_a, below_b = (np.searchsorted(np.sort(each), limits) for each in (a, b))
    best = 0.0
    for low, high, low_size, high_size in (
        (below_a, below_b, len(a), len(b)),
        (below_b, below_a, len(b), len(a)),
    ):
        first = 2 * low / (low_size + low + high)
        second = 2 * (high_size - high) / (2 * high_size - high + low_size - low)
        best = max(best, float(((first + second) / 2).max()))
    return best


def class_limits(quantiles: Mapping[str, np.ndarray]) -> list[float]:
    """Find the intensities that part CSF, grey and white matter with the least balanced error.

    Parameters
    ----------
    quantiles : mapping of str to (Q,) ndarray
        Of each tissue, by name, at equal probabilities 0 to 1, model units.

    Returns
    -------
    limits : list of 2 floats
        Between CSF and grey matter, and between grey and white matter.
    """
    levels = np.linspace(-1, 1, 2001)
    below = {
        name: np.interp(levels, each, np.linspace(0, 1, len(each)), left=0, right=1)
        for name, each in quantiles.items()
    }
    darker_to_brighter = (NAMES[CSF], NAMES[GREY]), (NAMES[GREY], NAMES[WHITE])
    return [
        float(levels[np.argmin(1 - below[dark] + below[bright])])
        for dark, bright in darker_to_brighter
    ]


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
