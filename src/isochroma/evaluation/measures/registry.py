"""The registry of measures: each part of the report holds the measures that belong to it.

A measure is registered where it is written, by the decorator `Part.measure`. The report's tables,
the summary and docs/measures.md are made from what is registered here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pandas as pd

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T", float, pd.Series)

# What a measure is computed of, and the argument that it is called with.
OUTPUT = "one output"  # Sample
PAIR = "two outputs of one person"  # Pair
GROUP = "the outputs of one group of scans"  # Group, Generator
RUN = "one run of a method"  # Output
PAIR_LABELS = "the labels of two outputs of one person"  # Regions
RAW_LABELS = "the labels of an output and of the raw T1w scan"  # Regions
GIVEN_LABELS = "the labels of an output and those of the study"  # Regions
RESCANS = "the volumes of the regions of people scanned twice"  # (P, 2, R), Generator, resamples
SEEDS = "runs of a method with different seeds"  # list of Output
AGE = "one predicted age"  # predicted and true age, years
AGES = "the predicted ages of one group"  # Predicted, Generator
TABLE = "a table of values, a row for each person"  # DataFrame, Generator, bootstrap samples
SITES = "the outputs of all T1w scans"  # computed together: `audit.audit`

DIGITS = {"dB": 1, "s": 1, "MB": 1, "years": 1, "%": 1}  # of a unit's values in tables; else 3


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes
    ----------
    name : str
        Name in results.csv, unique in its part.
    title : str
        Title in the report.
    unit : str
        Unit, empty for pure numbers.
    better : {1, -1, 0}
        1 if higher is better, -1 if lower is better, 0 if neither.
    ideal : float or None
        The best value of a measure that can be too low and too high. Methods are then compared by
        their distances to it, and `better` is -1.
    of : str
        What it is computed of, one of the constants of this module.
    needs : tuple of str
        What must be known of a scan, keys of `isochroma.evaluation.measures.sample.NEEDS`.
    source : str
        Citation.
    version : int
        To be raised when the same input gives another value.
    shown : bool
        Whether it is in the report and the summary, not only in results.csv.
    compute : callable
        The function; its docstring is the definition in the documentation.
    """

    name: str
    title: str
    unit: str
    better: int
    ideal: float | None
    of: str
    needs: tuple[str, ...]
    source: str
    version: int
    shown: bool
    compute: Callable[..., Any]

    def score(self, value: T) -> T:
        """Return what methods are compared by: the value, or its distance to the ideal."""
        return value if self.ideal is None else abs(value - self.ideal)

    @property
    def label(self) -> str:
        """The title with the unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def direction(self) -> str:
        """What is better, in words; empty if nothing is."""
        if self.ideal is not None:
            return f"nearer to {self.ideal:g}"
        return {1: "higher", -1: "lower", 0: ""}[self.better]

    @property
    def digits(self) -> int:
        """Decimal digits in tables."""
        return DIGITS.get(self.unit, 3)


@dataclass(frozen=True)
class Part:
    """One part of the report.

    Attributes
    ----------
    name : str
        Name in results.csv.
    title, about : str
        Heading and introduction in the report.
    measures : dict of str to Measure
        The registered measures by name, in the order of the report.
    """

    name: str
    title: str
    about: str
    measures: dict[str, Measure] = field(default_factory=dict)

    def measure(
        self,
        name: str,
        title: str,
        *,
        unit: str = "",
        better: int = 0,
        ideal: float | None = None,
        of: str = OUTPUT,
        needs: tuple[str, ...] = (),
        source: str = "",
        version: int = 1,
        shown: bool = True,
    ) -> Callable[[F], F]:
        """Register the decorated function as a measure; arguments as in `Measure`."""

        def register(compute: F) -> F:
            if name in self.measures:
                msg = f"the measure {name!r} is registered twice in {self.name!r}."
                raise ValueError(msg)
            self.measures[name] = Measure(
                name, title, unit, better, ideal, of, needs, source, version, shown, compute
            )
            return compute

        return register

    def of(self, kind: str) -> list[Measure]:
        """Return the measures that are computed of this kind of input."""
        return [measure for measure in self.measures.values() if measure.of == kind]
