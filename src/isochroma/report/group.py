"""The page of all scans: a table to sort, outliers, and the sites before and after."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from scipy import stats

from isochroma.files import write_atomically
from isochroma.images.histogram import bin_centres, distance, smoothed
from isochroma.report.pages import curves, render

OUTLIER = 3.5  # robust standard deviations
FEWEST = 8  # scans of a contrast among which outliers are looked for
FEWEST_PEOPLE = 3  # of a site, for the probe
MOST_PAIRS = 300  # scans whose distances are measured
RESAMPLES = 1000


@dataclass(frozen=True)
class Row:
    """A scan in the table.

    Attributes
    ----------
    participant, site, modality, status, warnings, failure : str
        As in group.tsv; empty where there is none.
    title : str
        Session, contrast and what else tells the participant's scans apart.
    page : str
        Link to its place on the participant's page.
    sidecar : dict
        Of the harmonized image; empty if there is none.
    report : dict
        From `scan.measures`, with "Agreement"; empty if there is none.
    """

    participant: str
    title: str = ""
    site: str = ""
    modality: str = ""
    status: str = ""
    warnings: str = ""
    failure: str = ""
    page: str = ""
    sidecar: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)


def numbers_of(row: Row) -> dict[str, float | None]:
    """Collect the numbers of a scan that the table shows."""
    report, sidecar = row.report, row.sidecar
    known = [value for value in report.get("Agreement", {}).values() if value is not None]
    found: dict[str, float | None] = {
        "brain, ml": sidecar.get("BrainVolumeMl"),
        "explained": sidecar.get("ExplainedShare"),
        "expected error": sidecar.get("ExpectedError"),
    }
    for label, key in (
        ("to target", "DistanceToTarget"),
        ("contrast", "GreyWhiteContrast"),
        ("noise", "Noise"),
    ):
        for when, name in (("before", "Source"), ("after", "Output")):
            found[f"{label}, {when}"] = report[name][key] if report else None
    found["agreement, least"] = min(known) if known else None
    return found


def outliers(rows: Sequence[Row]) -> list[set[str]]:
    """Mark the numbers of each scan that are far from the others of its contrast.

    Parameters
    ----------
    rows : sequence of Row
        All scans.

    Returns
    -------
    marked : list of set of str
        Names of the numbers, for each row.
    """
    marked: list[set[str]] = [set() for _ in rows]
    numbers = [numbers_of(row) for row in rows]
    for modality in {row.modality for row in rows}:
        own = [n for n, row in enumerate(rows) if row.modality == modality]
        for name in numbers[0]:
            known = [(n, value) for n in own if (value := numbers[n][name]) is not None]
            if len(known) < FEWEST:
                continue
            values = np.array([value for _, value in known])
            spread = 1.4826 * np.median(np.abs(values - np.median(values)))
            far = np.abs(values - np.median(values)) > OUTLIER * max(spread, 1e-9)
            for (n, _), is_far in zip(known, far, strict=True):
                if is_far:
                    marked[n].add(name)
    return marked


def write_page(path: Path, title: str, rows: Sequence[Row]) -> Path:
    """Write the page of all scans.

    Parameters
    ----------
    path : Path
        The HTML file.
    title : str
        Its heading.
    rows : sequence of Row
        All scans; not empty.

    Returns
    -------
    path : Path
    """
    counted = {status: sum(row.status == status for row in rows) for status in ("done", "failed")}
    warned = sum(bool(row.warnings) for row in rows)
    summary = (
        f"{len(rows)} scans of {len({row.participant for row in rows})} people: {counted['done']} "
        f"done, {warned} of them with warnings; {counted['failed']} failed."
    )
    page = render(
        "group.html.j2", title=title, summary=summary, parts=_parts(rows), data=_table(rows)
    )
    return write_atomically(path, lambda to: to.write_text(page, encoding="utf-8"))


def _table(rows: Sequence[Row]) -> Markup:
    texts = ("participant", "scan", "site", "status", "warnings")
    names = list(numbers_of(rows[0]))
    columns = [{"name": name, "text": True} for name in texts]
    columns += [{"name": name, "text": False} for name in names]
    lines = []
    for row, far in zip(rows, outliers(rows), strict=True):
        status = f"{row.status}: {row.failure}" if row.failure else row.status
        line: list[list[Any]] = [[row.participant, row.page, False]]
        line += [[text, "", False] for text in (row.title, row.site, status, row.warnings)]
        line += [[value, "", name in far] for name, value in numbers_of(row).items()]
        lines.append(line)
    text = json.dumps({"columns": columns, "rows": lines}, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _parts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    known = [row for row in rows if row.report]
    return [
        _part(modality, [row for row in known if row.modality == modality])
        for modality in dict.fromkeys(row.modality for row in known)
    ]


def _part(modality: str, rows: list[Row]) -> dict[str, Any]:
    sites: dict[str, list[Row]] = {}
    for row in rows:
        sites.setdefault(row.site or "no site", []).append(row)
    charts = {}
    for key, label in (("Source", "before"), ("Output", "after")):
        shown = {
            site: smoothed(np.mean([row.report["Histogram"][key] for row in own], axis=0))
            for site, own in sites.items()
        }
        if key == "Output" and rows[0].report["Histogram"]["Target"]:
            shown["target"] = smoothed(np.array(rows[0].report["Histogram"]["Target"]))
        charts[label] = curves(bin_centres(), shown, f"intensity, {label}")
    columns = {
        "histogram to target's": "DistanceToTarget",
        "grey/white contrast": "GreyWhiteContrast",
        "noise": "Noise",
    }
    lines = []
    for site, own in sites.items():
        cells = [
            " → ".join(
                interval([(row.participant, row.report[when][key]) for row in own])
                for when in ("Source", "Output")
            )
            for key in columns.values()
        ]
        cells += [
            interval([(row.participant, row.report["ClassVolumesMl"][place]) for row in own], 0)
            for place in range(3)
        ]
        people = len({row.participant for row in own})
        lines.append({"site": site, "people": people, "cells": cells})
    classes = ["dark class, ml", "grey class, ml", "white class, ml"]
    return {
        "modality": modality,
        "scans": len(rows),
        "people": len({row.participant for row in rows}),
        **charts,
        "columns": [*columns, *classes],
        "rows": lines,
        "lines": [*_distances(rows), *_probes(rows)],
    }


def interval(values: Sequence[tuple[str, float | None]], digits: int = 3) -> str:
    """Write the mean over people with its bootstrap interval.

    Parameters
    ----------
    values : sequence of (str, float or None)
        Person and value; None is left out.
    digits : int
        After the point.

    Returns
    -------
    text : str
        Without an interval for one person.

    Examples
    --------
    >>> interval([("a", 1.0), ("a", 3.0)], 1)
    '2.0'
    """
    people: dict[str, list[float]] = {}
    for person, value in values:
        if value is not None:
            people.setdefault(person, []).append(value)
    if not people:
        return "-"
    means = np.array([np.mean(each) for each in people.values()])
    text = f"{means.mean():.{digits}f}"
    if len(means) < 2:
        return text
    drawn = np.random.default_rng(0).choice(means, (RESAMPLES, len(means))).mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def _distances(rows: list[Row]) -> list[str]:
    """Compare histograms of scans of different people, within sites and between them."""
    step = -(-len(rows) // MOST_PAIRS)
    chosen = rows[::step]
    found: dict[tuple[str, bool], list[float]] = {}
    for key in ("Source", "Output"):
        shares = [np.array(row.report["Histogram"][key]) for row in chosen]
        for n, row in enumerate(chosen):
            for m in range(n):
                if chosen[m].participant != row.participant:
                    apart = distance(shares[n], shares[m]) / 2
                    found.setdefault((key, chosen[m].site == row.site), []).append(apart)
    lines = []
    for same, label in ((True, "of one site"), (False, "of two sites")):
        if ("Source", same) in found:
            before, after = (float(np.mean(found[key, same])) for key in ("Source", "Output"))
            count = len(found["Source", same])
            lines.append(
                f"Histograms of two people {label} are {before:.3f} of the range apart before and "
                f"{after:.3f} after (mean; pairs: {count})."
            )
    return lines


def _probes(rows: list[Row]) -> list[str]:
    """Say how well the site is guessed from histogram, contrast and noise, before and after."""
    people: dict[str, set[str]] = {}
    for row in rows:
        people.setdefault(row.site, set()).add(row.participant)
    sites = sorted(site for site, own in people.items() if site and len(own) >= FEWEST_PEOPLE)
    if len(sites) < 2:
        return [
            f"Whether the site can be guessed was not tried: it takes two sites of {FEWEST_PEOPLE} "
            "people or more."
        ]
    rows = [row for row in rows if row.site in sites]
    labels = np.array([sites.index(row.site) for row in rows])
    persons = np.array([row.participant for row in rows])
    chance = np.bincount(labels).max() / len(labels)
    said = []
    for key in ("Source", "Output"):
        features = np.array(
            [
                [
                    *np.reshape(row.report["Histogram"][key], (16, -1)).sum(1),
                    row.report[key]["GreyWhiteContrast"],
                    row.report[key]["Noise"],
                ]
                for row in rows
            ]
        )
        right = int((guess_sites(features, labels, persons) == labels).sum())
        low, high = stats.binomtest(right, len(labels)).proportion_ci(method="wilson")
        said.append(f"{right / len(labels):.0%} [{low:.0%}, {high:.0%}]")
    return [
        f"The site is guessed right for {said[0]} of {len(labels)} scans before and {said[1]} "
        f"after; always naming the largest site is right for {chance:.0%}. (The nearest site mean "
        "of standardised histogram, contrast and noise, without the person's own scans; Wilson "
        f"intervals, which take scans for independent; {len(sites)} sites, {len(set(persons))} "
        "people.)"
    ]


def guess_sites(features: np.ndarray, labels: np.ndarray, persons: np.ndarray) -> np.ndarray:
    """Guess the site of each scan from the others: nearest mean, leaving the person out.

    Parameters
    ----------
    features : (N, F) ndarray of float
        Of each scan.
    labels : (N,) ndarray of int
        Sites, from 0.
    persons : (N,) ndarray of str
        Whose scan it is.

    Returns
    -------
    guessed : (N,) ndarray of int
    """
    guessed = np.full(len(labels), -1)
    for person in np.unique(persons):
        own = persons == person
        rest, known = features[~own], labels[~own]
        middle, spread = rest.mean(0), rest.std(0) + 1e-9
        present = np.unique(known)
        means = np.array([((rest - middle) / spread)[known == site].mean(0) for site in present])
        apart = ((features[own] - middle) / spread)[:, None] - means
        guessed[own] = present[np.square(apart).sum(-1).argmin(1)]
    return guessed
