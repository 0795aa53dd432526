"""What a run collects: one row for each value, and what failed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from isochroma.errors import one_line

logger = logging.getLogger(__name__)


class Row(NamedTuple):
    """One value: a row of results.csv.

    Attributes
    ----------
    part, group, scan, person, method, measure : str
        Where it belongs. Values of a whole group have its name as scan and person.
    value : float
        The value.
    low, high : float
        95 % interval of a value that describes a whole group, else NaN.
    scans : int
        How many scans are behind the value.
    """

    part: str
    group: str
    scan: str
    person: str
    method: str
    measure: str
    value: float
    low: float = np.nan
    high: float = np.nan
    scans: int = 1


@dataclass(frozen=True)
class Failure:
    """Something that failed: the scan, pair or group, the method, and the error in one line."""

    scan: str
    method: str
    error: str


@dataclass(frozen=True)
class Results:
    """Rows and failures, of a step or of a whole run; a sum joins them."""

    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def __add__(self, other: Results) -> Results:
        return Results(self.rows + other.rows, self.failures + other.failures)


def attempt(scan: str, method: str, make: Callable[[], Iterable[Row]]) -> Results:
    """Run a step and turn its failure into a result, so that the rest can go on.

    Parameters
    ----------
    scan, method : str
        What the step is about, for the failure.
    make : callable
        Computes the rows. Rows whose value is not finite are left out.

    Returns
    -------
    results : Results
        The rows, or the failure.
    """
    try:
        return Results([row for row in make() if np.isfinite(row.value)])
    except Exception as error:
        return Results([], [failure_of(scan, method, error)])


def failure_of(scan: str, method: str, error: Exception) -> Failure:
    """Log an exception and return it as a failure."""
    text = one_line(error)
    logger.warning("%s, %s: %s", scan, method, text)
    logger.debug("failure", exc_info=error)
    return Failure(scan, method, text)


def table_of(rows: Iterable[Row]) -> pd.DataFrame:
    """Return the rows as the table of results.csv."""
    return pd.DataFrame(list(rows), columns=Row._fields)
