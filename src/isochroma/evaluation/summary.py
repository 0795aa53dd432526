"""Means with intervals and paired differences, from the rows of results.csv.

The unit that is resampled is the person: scans of one person are averaged first, since they are
not independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from isochroma.evaluation.measures import find
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
    reference, ours : str
        The method that all are compared with, and the one whose losses are listed.
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
    rows: pd.DataFrame, reference: str = REFERENCE, resamples: int = 2000
) -> list[dict[str, Any]]:
    """Summarise the rows by part, group, measure and method.

    Parameters
    ----------
    rows : DataFrame
        The table of results.csv. Values with an interval (low, high) already describe a whole
        group; their interval is taken as it is. Measures that are not shown are left out.
    reference : str
        Method that the others are compared with, scan by scan. The difference is method minus
        reference over the scans that both have.
    resamples : int
        Bootstrap samples.

    Returns
    -------
    records : list of dict
        Part, group, measure, method; mean, low, high, scans, persons; and, beside the reference,
        difference, difference_low, difference_high, difference_scans. None for NaN.
    """
    records = []
    for keys, of_measure in rows.groupby(["part", "group", "measure"], sort=False):
        part, _, name = keys
        if not find(part, name).shown:
            continue
        known = of_measure[of_measure["method"] == reference].set_index("scan")["value"]
        for method, values in of_measure.groupby("method", sort=False):
            record: dict[str, Any] = dict(zip(("part", "group", "measure"), keys, strict=True))
            record["method"] = method
            whole = values.iloc[0]
            if len(values) == 1 and np.isfinite(whole["low"]):
                found = Estimate(whole["value"], whole["low"], whole["high"], 1, 1)
            else:
                found = estimate(values, resamples)
            record.update(
                mean=found.mean,
                low=found.low,
                high=found.high,
                scans=int(values["scans"].sum()),
                persons=found.persons,
            )
            paired = values[values["scan"].isin(known.index)]
            if method != reference and len(paired):
                change = paired.assign(
                    value=paired["value"].to_numpy() - known[paired["scan"]].to_numpy()
                )
                gap = estimate(change, resamples)
                record.update(
                    difference=gap.mean,
                    difference_low=gap.low,
                    difference_high=gap.high,
                    difference_scans=gap.scans,
                )
            records.append(
                {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in record.items()}
            )
    return records
