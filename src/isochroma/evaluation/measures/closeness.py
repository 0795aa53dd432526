"""Closeness of an output to the target domain: histograms, contrast, and features of patches.

None of these asks whether the anatomy is still the same: a target scan of somebody else is perfect
here. Read them beside `anatomy` and `truth`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import integrate

from isochroma.errors import InputError
from isochroma.evaluation.measures.registry import GROUP, Part
from isochroma.evaluation.measures.sample import Group, GroupValue, Sample, needed
from isochroma.evaluation.tissues import NAMES
from isochroma.evaluation.tools.features import pool
from isochroma.evaluation.tools.profile import BRAIN, contrast_ratio, region

PATCHES = 500  # of each scan, for the Frechet distance
DRAWS = 100  # bootstrap samples of the Frechet distance, each of which takes seconds
PANARETOS = "Panaretos and Zemel 2019, doi:10.1146/annurev-statistics-030718-104938"
UNIT = "model units"

part = Part(
    "closeness",
    "Closeness to the target domain",
    "Distances to the target's training scans. A method can come close by erasing anatomy: read it "
    "beside the next part.",
)


def distance_in(name: str) -> Callable[[Sample], float]:
    """Make the measure of the brain's or one tissue's distance."""

    def distance(sample: Sample) -> float:
        """Return the 1-Wasserstein distance of the intensities to the target's mean quantiles.

        Histogram matching makes that of the brain 0 by construction, whatever the image shows.
        Tissues are those of the source or the truth.
        """
        inside = region(name, sample.mask, sample.tissues)
        return wasserstein(sample.output, inside, sample.tools.profile.quantiles.get(name))

    return distance


for _name in (BRAIN, *NAMES.values()):
    part.measure(
        "wasserstein" if _name == BRAIN else f"wasserstein {_name}",
        f"Wasserstein distance, {_name}",
        unit=UNIT,
        better=-1,
        needs=() if _name == BRAIN else ("tissues",),
        source=PANARETOS,
    )(distance_in(_name))


@part.measure("change", "RMS change of the image", unit=UNIT)
def change(sample: Sample) -> float:
    """Return the root mean square difference of output and source in the mask.

    Neither way is better: 0 means that the method did nothing.
    """
    mask = sample.mask
    apart = sample.output[mask].astype(np.float64) - sample.source[mask]
    return float(np.sqrt(np.mean(np.square(apart))))


@part.measure(
    "contrast", "Grey/white contrast, distance to the target's", better=-1, needs=("tissues",)
)
def contrast(sample: Sample) -> float:
    """Return the absolute difference of the output's and the target's grey/white contrast.

    The contrast is (W - G) / (W + G) of the tissues' means on [0, 1]. A difference, not a ratio, so
    that an inverted contrast counts as further away than none.
    """
    return abs(
        contrast_ratio(sample.output, needed(sample.tissues)) - sample.tools.profile.contrast
    )


@part.measure(
    "frechet",
    "Frechet distance of features",
    better=-1,
    of=GROUP,
    source="Dowson and Landau 1982, doi:10.1016/0047-259X(82)90077-X; Heusel et al. 2017, "
    "arXiv:1706.08500",
)
def group_frechet(group: Group, rng: np.random.Generator) -> GroupValue:
    """Return the Frechet distance of a group's patch features to those of as many target scans.

    The 95 % interval is a bootstrap over the group's scans, none for fewer than three. Every scan
    counts with 500 patches. The features are the first layers of deepbet's network.
    """
    scans = [group.features(scan) for scan in group.scans]
    known = pool(group.target_features[: len(scans)], PATCHES)
    value = frechet(pool(scans, PATCHES), known)
    if len(scans) < 3:
        return GroupValue(value, np.nan, np.nan, len(scans))
    drawn = [
        frechet(pool([scans[i] for i in rng.integers(len(scans), size=len(scans))], PATCHES), known)
        for _ in range(DRAWS)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return GroupValue(value, float(low), float(high), len(scans))


def wasserstein(
    output: np.ndarray, mask: np.ndarray, target_quantiles: Sequence[float] | np.ndarray | None
) -> float:
    """Return the 1-Wasserstein distance of the in-mask intensities to given quantiles.

    The mean distance between quantiles of equal probability, int |F^-1(p) - G^-1(p)| dp.

    Parameters
    ----------
    output : (I, J, K) ndarray
        Model units.
    mask : (I, J, K) ndarray of bool
        The brain or one tissue.
    target_quantiles : (Q,) ndarray or None
        At equal probabilities 0 to 1, as in `TargetProfile`; None if the target has none.

    Returns
    -------
    distance : float
        Model units; NaN if the mask is empty or there are no quantiles.

    References
    ----------
    Panaretos and Zemel 2019, doi:10.1146/annurev-statistics-030718-104938.
    """
    if target_quantiles is None or not mask.any():
        return float("nan")
    probabilities = np.linspace(0, 1, len(target_quantiles))
    apart = np.abs(np.quantile(output[mask], probabilities) - target_quantiles)
    return float(integrate.trapezoid(apart, probabilities))


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Frechet distance of two sets of features, taken as Gaussians.

    |m_a - m_b|^2 + tr(A + B - 2 (A B)^1/2), a squared distance. The estimate is biased upwards, the
    more the fewer samples there are, and patches of one scan are no independent samples: compare
    methods on the same scans, and with the distance of held-out target scans.

    Parameters
    ----------
    a : (N, D) ndarray
        Rows are samples.
    b : (M, D) ndarray
        Rows are samples.

    Returns
    -------
    distance : float
        0 or more; 0 if the Gaussians are the same.

    Raises
    ------
    InputError
        If a set has fewer than 2 D samples.

    References
    ----------
    Dowson and Landau 1982, doi:10.1016/0047-259X(82)90077-X; for images Heusel et al. 2017,
    arXiv:1706.08500.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if min(len(a), len(b)) < 2 * a.shape[1]:
        msg = f"{min(len(a), len(b))} samples are too few for {a.shape[1]} features. Give more."
        raise InputError(msg)
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # (A B)^1/2 has the trace of (A^1/2 B A^1/2)^1/2, which is symmetric.
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    apart = np.square(a.mean(0) - b.mean(0)).sum()
    return float(max(apart + np.trace(cov_a) + np.trace(cov_b) - 2 * shared, 0.0))
