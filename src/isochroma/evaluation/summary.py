"""Means with intervals and paired differences, from the rows of results.csv.

The unit that is resampled is the person: scans of one person are averaged first, since they are
not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from isochroma.evaluation.measures import Measure, find
from isochroma.evaluation.methods import HistogramMatching
from isochroma.evaluation.results import Failure

REFERENCE = HistogramMatching.name


@dataclass(frozen=True)
class Summary:
    """The outcome of an evaluation, as summary.json has it.

    Attributes
    ----------
    study : str
        The study file or folder.
    scans, persons, sites : int
        How many, without the target's training scans.
    target : str
        The target site.
    fitted : int
        Training scans of the target.
    command, versions, date : str
        How, with what, and when it was computed.
    notes : list of str
        What to beware of.
    failures : list of Failure
        What failed and was left out.
    methods : dict of str to dict
        Settings by the methods' names.
    reference : str
        The method that the tables compare all with.
    ours : str
        The method that the verdict is about.
    others : list of str
        What the verdict compares it with: no negative controls, no other modes of isochroma.
    records : list of dict
        See `summarise`.
    """

    study: str
    scans: int
    persons: int
    sites: int
    target: str
    fitted: int
    command: str
    versions: str
    date: str
    notes: list[str]
    failures: list[Failure]
    methods: dict[str, dict[str, Any]]
    reference: str
    ours: str
    others: list[str]
    records: list[dict[str, Any]]


@dataclass(frozen=True)
class Estimate:
    """A mean over persons, its 95 % bootstrap interval, and the scans and persons behind it."""

    mean: float
    low: float
    high: float
    scans: int
    persons: int


def estimate(values: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Return the mean of the persons' means and its percentile interval over persons.

    Parameters
    ----------
    values : DataFrame
        Columns person and value.
    resamples : int
        Bootstrap samples.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    estimate : Estimate
        With an interval of NaN for one person.
    """
    persons = values.groupby("person")["value"].mean().to_numpy()
    low = high = float("nan")
    if len(persons) > 1:
        found = stats.bootstrap(
            (persons,), np.mean, n_resamples=resamples, method="percentile", rng=seed
        )
        low, high = found.confidence_interval
    return Estimate(float(persons.mean()), float(low), float(high), len(values), len(persons))


def summarise(
    rows: pd.DataFrame, references: Sequence[str] = (REFERENCE,), resamples: int = 2000
) -> list[dict[str, Any]]:
    """Summarise the rows by part, group, measure and method.

    Parameters
    ----------
    rows : DataFrame
        The table of results.csv. Values with an interval (low, high) already describe a whole
        group; their interval is taken as it is. Measures that are not shown are left out.
    references : sequence of str
        Methods that the others are compared with, scan by scan.
    resamples : int
        Bootstrap samples.

    Returns
    -------
    records : list of dict
        Part, group, measure, method; mean, low, high, scans, persons; and differences, by the
        references' names: see `compare`. None for NaN.
    """
    records = []
    for keys, of_measure in rows.groupby(["part", "group", "measure"], sort=False):
        part, _, name = keys
        measure = find(part, name)
        if not measure.shown:
            continue
        by_method = dict(list(of_measure.groupby("method", sort=False)))
        for method, values in by_method.items():
            whole = values.iloc[0]
            if len(values) == 1 and np.isfinite(whole["low"]):
                found = Estimate(whole["value"], whole["low"], whole["high"], 1, 1)
            else:
                found = estimate(values, resamples)
            compared = {
                other: compare(measure, values, by_method[other], resamples)
                for other in references
                if other != method and other in by_method
            }
            records.append(
                {
                    **dict(zip(("part", "group", "measure"), keys, strict=True)),
                    "method": method,
                    "mean": known(found.mean),
                    "low": known(found.low),
                    "high": known(found.high),
                    "scans": int(values["scans"].sum()),
                    "persons": found.persons,
                    "differences": {other: gap for other, gap in compared.items() if gap},
                }
            )
    return records


def compare(
    measure: Measure, values: pd.DataFrame, reference: pd.DataFrame, resamples: int = 2000
) -> dict[str, Any] | None:
    """Compare a method with another over the scans that both have.

    Parameters
    ----------
    measure : Measure
        What is compared.
    values, reference : DataFrame
        Rows of this measure, one group and one method each.
    resamples : int
        Bootstrap samples.

    Returns
    -------
    gap : dict or None
        The means over these scans (mean, reference), the mean difference of the scores, method
        minus reference (difference) with its interval (low, high; None for one person), and how
        many scans they are. None if there are none.
    """
    both = values.merge(reference[["scan", "value"]], on="scan", suffixes=("", " of reference"))
    if both.empty:
        return None
    theirs = both["value of reference"]
    change = measure.score(both["value"]) - measure.score(theirs)
    gap = estimate(both.assign(value=change), resamples)
    means = both.groupby("person")[["value", "value of reference"]].mean().mean()
    return {
        "mean": known(means["value"]),
        "reference": known(means["value of reference"]),
        "difference": known(gap.mean),
        "low": known(gap.low),
        "high": known(gap.high),
        "scans": int(both["scans"].sum()),
    }


def known(value: float) -> float | None:
    """Return None for NaN."""
    return None if np.isnan(value) else float(value)
