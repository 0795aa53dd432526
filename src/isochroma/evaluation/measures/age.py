"""Downstream task 2, age: learned from one site's outputs, tried on the others'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from isochroma.evaluation.measures.registry import AGE, AGES, Part
from isochroma.evaluation.measures.sample import GroupValue

FRANKE = "after Franke et al. 2010, doi:10.1016/j.neuroimage.2010.01.005"
LEAST_PERSONS = 5  # of a group whose R2 and slope are given
FEATURES = ("tissue maps", "intensities")

part = Part(
    "age",
    "Age prediction across sites",
    "A regressor learns ages from one site's scans, as each method makes them, and predicts those "
    "of another site's. The target's scans are left as they are. Cross-validated: learned from and "
    "tried on different people of one site, which shows what skill there is to lose. From maps of "
    "grey and white matter (the tissue network's), or from the intensities themselves, both "
    "smoothed in a common space onto which each scan is aligned once for all methods.",
)


@dataclass(frozen=True)
class Predicted:
    """Ages of the scans of one group, as predicted by one regressor.

    Attributes
    ----------
    persons : (N,) ndarray of str
        Who was scanned.
    ages, predicted : (N,) ndarray
        Years.
    resamples : int
        Bootstrap samples.
    """

    persons: np.ndarray
    ages: np.ndarray
    predicted: np.ndarray
    resamples: int


def error(predicted: float, age: float) -> float:
    """Return predicted minus true age: positive where the scan looks older than it is."""
    return predicted - age


def absolute_error(predicted: float, age: float) -> float:
    """Return the absolute difference of predicted and true age."""
    return abs(predicted - age)


def predicted(predicted: float, age: float) -> float:
    """Return the predicted age."""
    return predicted


def r_squared(age: np.ndarray, predicted: np.ndarray) -> float:
    """Return the coefficient of determination of predicted ages.

    1 - sum((predicted - age)^2) / sum((age - mean age)^2): 1 is perfect, 0 no better than these
    scans' mean age, negative worse.

    Parameters
    ----------
    age, predicted : (N,) ndarray
        Years.

    Returns
    -------
    r2 : float
        At most 1; NaN if all scans are of one age.
    """
    age, predicted = np.asarray(age, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if not np.ptp(age) > 0:
        return float("nan")
    return float(1 - np.mean((predicted - age) ** 2) / age.var())


def slope(age: np.ndarray, predicted: np.ndarray) -> float:
    """Return the slope of predicted over true age; NaN if all scans are of one age."""
    return float(stats.linregress(age, predicted).slope) if np.ptp(age) > 0 else float("nan")


def with_interval(
    group: Predicted,
    rng: np.random.Generator,
    statistic: Callable[[np.ndarray, np.ndarray], float],
) -> GroupValue:
    """Return a statistic of a group with its 95 % bootstrap interval over persons."""
    names, number = np.unique(group.persons, return_inverse=True)
    if len(names) < LEAST_PERSONS or not np.ptp(group.ages) > 0:
        return GroupValue(np.nan, np.nan, np.nan, len(group.ages))
    of_person = [np.flatnonzero(number == n) for n in range(len(names))]
    draws = []
    for _ in range(group.resamples):
        index = np.concatenate([of_person[n] for n in rng.integers(len(names), size=len(names))])
        draws.append(statistic(group.ages[index], group.predicted[index]))
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return GroupValue(
        statistic(group.ages, group.predicted), float(low), float(high), len(group.ages)
    )


def r2(group: Predicted, rng: np.random.Generator) -> GroupValue:
    """Return 1 - sum((predicted - age)^2) / sum((age - mean age)^2) of a group.

    1 is perfect, 0 no better than the group's mean age, negative worse. The 95 % interval is a
    bootstrap over persons, the regressor fixed; groups of fewer than five persons have no value.
    """
    return with_interval(group, rng, r_squared)


def years_a_year(group: Predicted, rng: np.random.Generator) -> GroupValue:
    """Return the slope of predicted over true age of a group.

    1 is unbiased over age; below 1 the young are taken for older and the old for younger, as every
    regressor with errors does, also at home. The interval is as for R².
    """
    return with_interval(group, rng, slope)


for _features in FEATURES:
    for _name, _title, _compute, _options in (
        ("absolute error", "Age, absolute error", absolute_error, {"better": -1}),
        ("error", "Age, error", error, {}),
        ("predicted", "Predicted age", predicted, {"shown": False}),
    ):
        part.measure(
            f"{_name}, {_features}",
            f"{_title}, {_features}",
            unit="years",
            of=AGE,
            source=FRANKE,
            **_options,
        )(_compute)
    part.measure(f"r2, {_features}", f"Age, R², {_features}", better=1, of=AGES, source=FRANKE)(r2)
    part.measure(
        f"slope, {_features}",
        f"Predicted years for a year of age, {_features}",
        better=-1,
        ideal=1,
        of=AGES,
        source=FRANKE,
    )(years_a_year)
