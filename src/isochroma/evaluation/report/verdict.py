"""The verdict: one method against the best of the others, part by part, from the summary alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from isochroma.evaluation.measures import PARTS, find
from isochroma.evaluation.measures.registry import Measure

Record = dict[str, Any]

WORSE, UNDECIDED, BETTER = -1, 0, 1


@dataclass(frozen=True)
class Comparison:
    """One measure in one group: a method against another, on the scans that both have.

    Attributes
    ----------
    measure : Measure
        The measure.
    group, other : str
        The group, and what the method is compared with.
    ours, theirs : float
        The means.
    difference : float
        Of the scores (`Measure.score`), ours minus theirs.
    low, high : float or None
        Its 95 % interval; None where there is none.
    scans : int
        How many scans, or pairs of scans, the means rest on.
    """

    measure: Measure
    group: str
    other: str
    ours: float
    theirs: float
    difference: float
    low: float | None
    high: float | None
    scans: int

    @property
    def gain(self) -> float:
        """The difference, positive where ours is better."""
        return self.measure.better * self.difference

    @property
    def tested(self) -> bool:
        """Whether the difference has an interval."""
        return self.low is not None

    @property
    def outcome(self) -> int:
        """`BETTER`, `WORSE`, or `UNDECIDED`.

        Undecided if the interval holds 0, or the digits shown are the same. Without an interval
        the means decide.
        """
        same = round(abs(self.gain), self.measure.digits) == 0
        if same or (self.low is not None and self.high is not None and self.low <= 0 <= self.high):
            return UNDECIDED
        return BETTER if self.gain > 0 else WORSE

    def __str__(self) -> str:
        digits = self.measure.digits
        gap = "difference" if self.measure.ideal is None else "difference of distances"
        gap += f" {self.difference:+.{digits}f}"
        gap += f" [{self.low:+.{digits}f}, {self.high:+.{digits}f}]" if self.tested else ""
        count = f"n\u00a0=\u00a0{self.scans}"
        if not self.tested and self.scans > 1:
            count += ", no interval"
        return (
            f"{self.measure.label}, {self.group}: {self.ours:.{digits}f} against "
            f"{self.other} {self.theirs:.{digits}f} ({gap}, {count})"
        )


@dataclass(frozen=True)
class Verdict:
    """What one part of the report says of a method.

    Attributes
    ----------
    name, title : str
        Of the part.
    comparisons : tuple of Comparison
        One for each group and measure, the largest loss first and the largest gain last.
    """

    name: str
    title: str
    comparisons: tuple[Comparison, ...]

    @property
    def losses(self) -> list[Comparison]:
        """The comparisons that it is worse in, the largest loss first."""
        return [each for each in self.comparisons if each.outcome == WORSE]

    @property
    def gains(self) -> list[Comparison]:
        """The comparisons that it is better in, the largest gain first."""
        return [each for each in reversed(self.comparisons) if each.outcome == BETTER]

    @property
    def tendency(self) -> str:
        """What there is more of, "better" or "worse"; with an interval if any has one."""
        tested = [each for each in self.comparisons if each.tested]
        more = sum(each.outcome for each in tested or self.comparisons)
        return "better" if more > 0 else "worse" if more < 0 else ""

    @property
    def counts(self) -> str:
        """The counts in words, apart for comparisons with an interval and without."""
        tested = [each for each in self.comparisons if each.tested]
        others = [each for each in self.comparisons if not each.tested]
        said = [tally(tested)] if tested else []
        if others:
            said.append(f"by the mean alone, without an interval, {tally(others)}")
        text = "; ".join(said)
        return text[0].upper() + text[1:] + "."

    @property
    def extremes(self) -> list[str]:
        """The largest loss and the largest gain in words, as far as there are any."""
        found = {"Largest loss": self.losses, "Largest gain": self.gains}
        return [f"{name}: {rows[0]}." for name, rows in found.items() if rows]


def tally(comparisons: Sequence[Comparison]) -> str:
    """Count outcomes in words, the more frequent first, and the scans that they rest on."""
    outcomes = [each.outcome for each in comparisons]
    scans = sorted({each.scans for each in comparisons})
    span = " to ".join(str(count) for count in dict.fromkeys((scans[0], scans[-1])))
    about = f"{len(outcomes)} comparison{'s' if len(outcomes) > 1 else ''}"
    about += f" (n\u00a0=\u00a0{span})"
    worse, better, undecided = (outcomes.count(kind) for kind in (WORSE, BETTER, UNDECIDED))
    if undecided == len(outcomes):
        return f"undecided in {undecided} of {about}"
    text = (
        f"better in {better} of {about}, worse in {worse}"
        if better > worse
        else f"worse in {worse} of {about}, better in {better}"
    )
    return f"{text}, undecided in {undecided}" if undecided else text


def verdicts(records: Sequence[Record], ours: str, others: Sequence[str]) -> list[Verdict]:
    """Compare a method with the best of the others, part by part.

    In each group and measure it is better if it is better than each of the others, and worse if it
    is worse than one of them. The comparison that is kept is the one with the worst outcome, and of
    these the one with the largest loss. Others that can only be compared without an interval count
    where none has one.

    Parameters
    ----------
    records : sequence of dict
        From `summary.summarise`, with `ours` among the references. Measures without a better
        direction are left out.
    ours : str
        The method.
    others : sequence of str
        What it is compared with.

    Returns
    -------
    verdicts : list of Verdict
        In the order of the report. Gains and losses are sorted as shares of the measure's range,
        which is its largest mean of any method in any group, controls included, minus the smallest.
    """
    found: dict[str, list[Comparison]] = {}
    scores: dict[Measure, list[float]] = {}
    rows: dict[tuple[str, str, str], list[Comparison]] = {}
    for record in records:
        measure = find(record["part"], record["measure"])
        if not measure.better or record["mean"] is None:
            continue
        scores.setdefault(measure, []).append(measure.score(record["mean"]))
        if record["method"] in others and ours in record["differences"]:
            key = record["part"], record["group"], record["measure"]
            rows.setdefault(key, []).append(comparison(record, ours))
    for (part, _, _), against in rows.items():
        tested = [each for each in against if each.tested]
        hardest = min(tested or against, key=lambda each: (each.outcome, each.gain))
        found.setdefault(part, []).append(hardest)

    def share(each: Comparison) -> float:
        span = max(scores[each.measure]) - min(scores[each.measure])
        return each.gain / span if span else 0.0

    return [
        Verdict(name, part.title, tuple(sorted(found[name], key=share)))
        for name, part in PARTS.items()
        if name in found
    ]


def comparison(record: Record, ours: str) -> Comparison:
    """Return ours against the method of a record, from the difference that the record has."""
    gap = record["differences"][ours]
    return Comparison(
        find(record["part"], record["measure"]),
        record["group"],
        record["method"],
        gap["reference"],
        gap["mean"],
        -gap["difference"],
        None if gap["high"] is None else -gap["high"],
        None if gap["low"] is None else -gap["low"],
        gap["scans"],
    )


def unjudged(records: Sequence[Record]) -> list[str]:
    """List the titles of the parts in which no measure has a better direction."""
    directions: dict[str, set[int]] = {}
    for record in records:
        better = find(record["part"], record["measure"]).better
        directions.setdefault(record["part"], set()).add(better)
    return [PARTS[name].title for name, found in directions.items() if found == {0}]
