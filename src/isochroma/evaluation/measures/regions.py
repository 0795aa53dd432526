"""Regions that a user's own segmenter finds in the outputs: an outside judge of all methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from isochroma.evaluation.measures.pairs import RESCAN, same_person
from isochroma.evaluation.measures.registry import (
    GIVEN_LABELS,
    PAIR_LABELS,
    RAW_LABELS,
    RESCANS,
    Part,
)
from isochroma.evaluation.measures.sample import GroupValue
from isochroma.evaluation.study import Scan

LEAST_ML = 0.05  # regions that are smaller in all scans compared are left out
LEAST_PERSONS = 5  # of an intraclass correlation
DICE = "Dice 1945, doi:10.2307/1932409"

Volumes = dict[int, float]  # of regions, ml, by their labels

part = Part(
    "regions",
    "Regions by an outside segmenter",
    "A program of the user's own labels the outputs. Regions below 50 mm³ in all scans compared "
    "are left out. Agreement of two outputs is no proof: the target's mean head agrees best. "
    "Read it beside the agreement with the raw T1w scan, which a program that is robust to "
    "contrast should give for any contrast.",
)


@dataclass(frozen=True)
class Regions:
    """The regions in two label volumes of one person.

    Attributes
    ----------
    first, second : (V,) ndarray of int
        Labels of the voxels where both brains are, 0 for none.
    labels : (R,) ndarray of int
        The labels that count.
    volumes : (R, 2) ndarray
        Their volumes in the whole of either scan, ml.
    """

    first: np.ndarray
    second: np.ndarray
    labels: np.ndarray
    volumes: np.ndarray


def mean_dice(regions: Regions) -> float:
    """Return the mean over the regions of 2 |A and B| / (|A| + |B|), where both brains are.

    A region that only one of both has gives 0.
    """
    a, b = regions.first, regions.second
    both, *each = (count(labels, regions.labels) for labels in (a[a == b], a, b))
    size = np.sum(each, axis=0)
    return float(np.mean(2 * both[size > 0] / size[size > 0])) if size.any() else float("nan")


for _name, _title, _of in (
    ("dice", "Dice of the regions of two scans of one person", PAIR_LABELS),
    ("dice raw T1w", "Dice of the regions with those of the raw T1w scan", RAW_LABELS),
    ("dice given", "Dice of the regions with the study's", GIVEN_LABELS),
):
    part.measure(_name, _title, better=1, of=_of, source=DICE)(mean_dice)


@part.measure(
    "cv", "Coefficient of variation of the regions' volumes", unit="%", better=-1, of=PAIR_LABELS
)
def variation(regions: Regions) -> float:
    """Return the median over the regions of the standard deviation of both volumes by their mean.

    Volumes are those of the whole scans. A region that only one of both has gives 141 %.
    """
    if not len(regions.labels):
        return float("nan")
    ratios = regions.volumes.std(axis=1, ddof=1) / regions.volumes.mean(axis=1)
    return float(100 * np.median(ratios))


@part.measure(
    "icc",
    "Intraclass correlation of the regions' volumes in rescans, ICC(2,1)",
    better=1,
    of=RESCANS,
    source="Shrout and Fleiss 1979, doi:10.1037/0033-2909.86.2.420",
)
def median_icc(volumes: np.ndarray, rng: np.random.Generator, resamples: int) -> GroupValue:
    """Return the median over the regions of ICC(2,1) of their volumes in two scans of each person.

    Two-way random effects, absolute agreement, one measurement. Only where at least 5 people of a
    site were scanned twice. The 95 % interval is a bootstrap over persons.
    """
    persons = len(volumes)
    draws = [middle(icc(volumes[rng.choice(persons, persons)])) for _ in range(resamples)]
    known = [draw for draw in draws if np.isfinite(draw)]
    low, high = np.percentile(known, [2.5, 97.5]) if known else (np.nan, np.nan)
    return GroupValue(middle(icc(volumes)), float(low), float(high), 2 * persons)


def middle(values: np.ndarray) -> float:
    """Return the median of the finite values, NaN if there is none."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def icc(values: np.ndarray) -> np.ndarray:
    """Compute the intraclass correlation ICC(2,1): two-way random effects, absolute agreement.

    Parameters
    ----------
    values : (P, K, R) ndarray
        Of P persons, measured K times each, for R quantities.

    Returns
    -------
    icc : (R,) ndarray
        At most 1; NaN where all values are the same.

    References
    ----------
    Shrout and Fleiss 1979, doi:10.1037/0033-2909.86.2.420
    """
    n, k = values.shape[:2]
    mean = values.mean(axis=(0, 1))
    persons, times = values.mean(axis=1) - mean, values.mean(axis=0) - mean
    error = values - mean - persons[:, None] - times[None]
    between = k * np.square(persons).sum(axis=0) / (n - 1)
    time = n * np.square(times).sum(axis=0) / (k - 1)
    rest = np.square(error).sum(axis=(0, 1)) / ((n - 1) * (k - 1))
    whole = between + (k - 1) * rest + k * (time - rest) / n
    return np.divide(between - rest, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def count(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count the voxels of each label: (R,) int."""
    return np.bincount(values, minlength=int(labels.max(initial=0)) + 1)[labels]


def large_regions(volumes: Sequence[Volumes]) -> tuple[np.ndarray, np.ndarray]:
    """List the regions that are large enough in any of several scans.

    Parameters
    ----------
    volumes : sequence of N dict of int to float
        Volumes of a scan's regions by their labels, ml.

    Returns
    -------
    labels : (R,) ndarray of int
        The regions, in the order of their labels.
    volumes : (R, N) ndarray
        Their volumes, ml; 0 where a scan has none.
    """
    labels = sorted({label for each in volumes for label, ml in each.items() if ml >= LEAST_ML})
    table = [[each.get(label, 0.0) for each in volumes] for label in labels]
    return np.array(labels, dtype=int), np.reshape(table, (len(labels), len(volumes)))


def volumes_of(labels: np.ndarray, voxel_ml: float) -> Volumes:
    """Return the volume of each region of a label volume, ml, by its label."""
    counts = np.bincount(labels.ravel())
    return {
        int(label): float(counts[label] * voxel_ml) for label in np.flatnonzero(counts) if label
    }


def pairs_to_judge(scans: Sequence[Scan]) -> Iterator[tuple[str, Scan, Scan]]:
    """List the pairs of `same_person` that a segmenter is run on: core contrasts, and rescans."""
    for group, a, b in same_person(scans):
        if group == RESCAN or (a.core and b.core):
            yield group, a, b


def judged(scans: Sequence[Scan]) -> list[Scan]:
    """List the scans whose outputs the segmenter labels, since it can be judged there.

    Parameters
    ----------
    scans : sequence of Scan
        All scans.

    Returns
    -------
    judged : list of Scan
        Those of `pairs_to_judge`, and real core scans with region labels in the study.
    """
    paired = {scan.scan for _, *both in pairs_to_judge(scans) for scan in both}
    return [
        scan
        for scan in scans
        if scan.scan in paired or (scan.regions and scan.core and not scan.preset)
    ]
