"""Site effects on what studies measure: tissue volumes and grey/white contrast."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from isochroma.evaluation.measures.registry import TABLE, Part
from isochroma.evaluation.measures.sample import GroupValue

VALUES = ("grey matter, ml", "white matter, ml", "CSF, ml", "grey/white contrast")
ADJUSTED = ("age", "age squared", "sex")
SITE = "site"
LEAST_PERSONS = 5  # of a site
COHEN = "partial eta squared, Cohen 1973, Educational and Psychological Measurement 33"

part = Part(
    "sites",
    "Site effect on what studies measure",
    "Volumes of the tissues (the tissue network's) and the contrast of grey and white matter, by a "
    "linear model of age, age squared, sex and site over one T1w scan of each person. The target's "
    "scans are left as they are. ComBat (neuroHarmonize) works on the table of volumes, and with "
    "all sites' scans at once, which a blind method does not have: its site effect is near 0 by "
    "construction, on the scans that it was fitted to.",
)


def share_of(table: pd.DataFrame, value: str, terms: list[str]) -> float:
    """Return the share of variance that terms explain beyond the model's other ones.

    1 - RSS(full) / RSS(without the terms), partial eta squared.

    Parameters
    ----------
    table : DataFrame
        A row for each person: columns site, age, sex ("M" or "F") and `value`.
    value : str
        The column that is explained.
    terms : list of str
        Of site, age, age squared and sex.

    Returns
    -------
    share : float
        0 to 1; NaN if there is nothing to explain.
    """
    age = (table["age"] - table["age"].mean()) / 10
    known = {
        "age": age.to_numpy()[:, None],
        "age squared": np.square(age).to_numpy()[:, None],
        "sex": (table["sex"] == "F").to_numpy(np.float64)[:, None],
        SITE: pd.get_dummies(table["site"], drop_first=True).to_numpy(np.float64),
    }
    y = table[value].to_numpy(np.float64)

    def rest(names: list[str]) -> float:
        columns = np.concatenate([np.ones((len(y), 1)), *(known[name] for name in names)], axis=1)
        return float(np.square(y - columns @ np.linalg.lstsq(columns, y)[0]).sum())

    everything = [*ADJUSTED, SITE]
    without = rest([name for name in everything if name not in terms])
    return 1 - rest(everything) / without if without > 0 else float("nan")


def with_interval(
    table: pd.DataFrame, value: str, terms: list[str], rng: np.random.Generator, resamples: int
) -> GroupValue:
    """Return the share with its 95 % bootstrap interval over persons, drawn within sites."""
    places = [np.flatnonzero(table["site"] == site) for site in sorted(set(table["site"]))]
    draws = []
    for _ in range(resamples):
        drawn = np.concatenate([rng.choice(place, len(place)) for place in places])
        draws.append(share_of(table.iloc[drawn], value, terms))
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return GroupValue(share_of(table, value, terms), float(low), float(high), len(table))


Compute = Callable[[pd.DataFrame, np.random.Generator, int], GroupValue]


def site_effect(value: str) -> Compute:
    """Make the measure of the site's effect on one value."""

    def compute(table: pd.DataFrame, rng: np.random.Generator, resamples: int) -> GroupValue:
        """Return the share of variance that the site explains beyond age, age squared and sex.

        Also 0 effect gives about (sites - 1) / persons. The 95 % interval is a bootstrap over
        persons, drawn within sites; it lies above the value's expectation by as much again.
        """
        return with_interval(table, value, [SITE], rng, resamples)

    return compute


def age_effect(value: str) -> Compute:
    """Make the measure of the effect of age on one value."""

    def compute(table: pd.DataFrame, rng: np.random.Generator, resamples: int) -> GroupValue:
        """Return the share of variance that age and its square explain beyond sex and site.

        What a method should keep while it removes the site's effect.
        """
        return with_interval(table, value, ["age", "age squared"], rng, resamples)

    return compute


for _value in VALUES:
    part.measure(f"site, {_value}", f"Site effect on {_value}", better=-1, of=TABLE, source=COHEN)(
        site_effect(_value)
    )
for _value in VALUES:
    part.measure(f"age, {_value}", f"Age effect on {_value}", better=1, of=TABLE, source=COHEN)(
        age_effect(_value)
    )
