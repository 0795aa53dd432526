"""Downstream task 2, age: apply a predictor made from the target's scans to other scanners'."""

from __future__ import annotations

import numpy as np

from isochroma.evaluation.measures.registry import GROUP, Part
from isochroma.evaluation.measures.sample import Group, GroupValue, Sample
from isochroma.evaluation.tools.age import r_squared

FRANKE = "predictor after Franke et al. 2010, doi:10.1016/j.neuroimage.2010.01.005"
LEAST_PERSONS = 5  # of a group whose R2 is given

part = Part(
    "age", "Age prediction", "Ridge regression on tissue maps, fitted on target scans only."
)


@part.measure(
    "predicted", "Predicted age", unit="years", needs=("age",), source=FRANKE, shown=False
)
def predicted(sample: Sample) -> float:
    """Return the age that is predicted from the output."""
    return sample.predicted_age


@part.measure("error", "Age, error", unit="years", needs=("age",), source=FRANKE)
def error(sample: Sample) -> float:
    """Return predicted minus true age: positive where the scan looks older than it is."""
    return sample.predicted_age - sample.case.scan.age


@part.measure(
    "absolute error", "Age, absolute error", unit="years", better=-1, needs=("age",), source=FRANKE
)
def absolute_error(sample: Sample) -> float:
    """Return the absolute difference of predicted and true age."""
    return abs(error(sample))


@part.measure("r2", "Age, R²", better=1, of=GROUP, needs=("age",), source=FRANKE)
def r2(group: Group, rng: np.random.Generator) -> GroupValue:
    """Return 1 - sum((predicted - age)^2) / sum((age - mean age)^2) of a group.

    1 is perfect, 0 no better than the group's mean age, negative worse. The 95 % interval is a
    bootstrap over persons; groups of fewer than five persons have no value.
    """
    scans = [scan for scan in group.scans if scan.scan in group.predicted]
    persons = np.array([scan.person for scan in scans])
    truth = np.array([scan.age for scan in scans])
    guess = np.array([group.predicted[scan.scan] for scan in scans])
    names = np.unique(persons)
    if len(names) < LEAST_PERSONS or not np.ptp(truth) > 0:
        return GroupValue(np.nan, np.nan, np.nan, len(scans))
    draws = []
    for _ in range(group.resamples):
        drawn = rng.choice(names, len(names))
        index = np.concatenate([np.flatnonzero(persons == name) for name in drawn])
        if np.ptp(truth[index]) > 0:
            draws.append(r_squared(truth[index], guess[index]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return GroupValue(r_squared(truth, guess), float(low), float(high), len(scans))
