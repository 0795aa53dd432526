"""Tables from the summary's records: groups down, methods across."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isochroma.evaluation.measures import PARTS, find
from isochroma.evaluation.measures.registry import Measure

Record = dict[str, Any]


def measure_of(record: Record) -> Measure:
    """Return the registered measure of a record."""
    return find(record["part"], record["measure"])


def tables(records: Sequence[Record], first: Sequence[str] = ()) -> list[Record]:
    """Make one table for each measure.

    Parameters
    ----------
    records : sequence of dict
        Of one part, from `summary.summarise`.
    first : sequence of str
        Methods to begin with; the others follow in the records' order.

    Returns
    -------
    tables : list of dict
        Title, unit, better, methods, and rows of a group, its scans and cells each.
    """
    found = []
    for name in dict.fromkeys(record["measure"] for record in records):
        chosen = [record for record in records if record["measure"] == name]
        measure = measure_of(chosen[0])
        there = list(dict.fromkeys(record["method"] for record in chosen))
        methods = sorted(there, key=[*first, *there].index)
        cells = {(record["group"], record["method"]): cell(record) for record in chosen}
        empty = {"mean": None, "kind": "", "difference": ""}
        rows = [
            {
                "group": group,
                "scans": max(r["scans"] for r in chosen if r["group"] == group),
                "cells": [cells.get((group, method), empty) for method in methods],
            }
            for group in dict.fromkeys(record["group"] for record in chosen)
        ]
        found.append(
            {
                "title": measure.title,
                "unit": measure.unit,
                "better": measure.better,
                "methods": methods,
                "rows": rows,
            }
        )
    return found


def cell(record: Record) -> Record:
    """Format what one cell shows: mean, interval, scans, difference, and better or worse."""
    digits = measure_of(record).digits
    low, high = record["low"], record["high"]
    below, above = record.get("difference_low"), record.get("difference_high")
    shown: Record = {
        "mean": f"{record['mean']:.{digits}f}" if record["mean"] is not None else None,
        "interval": f"[{low:.{digits}f}, {high:.{digits}f}]" if low is not None else "",
        "scans": record["scans"],
        "kind": verdict(record),
        "difference": "",
    }
    if record.get("difference") is not None:
        shown["difference"] = f"{record['difference']:+.{digits}f}"
        if below is not None:
            shown["difference"] += f" [{below:+.{digits}f}, {above:+.{digits}f}]"
    return shown


def verdict(record: Record) -> str:
    """Return "better" or "worse", or "" where the paired interval covers 0 or there is none."""
    better = measure_of(record).better
    low, high = record.get("difference_low"), record.get("difference_high")
    if not better or low is None or high is None or low <= 0 <= high:
        return ""
    return "better" if (low > 0) == (better > 0) else "worse"


def losses(records: Sequence[Record], ours: str) -> list[str]:
    """List in words where a method is worse than the reference, by what the digits shown show."""
    return [
        in_words(record)
        for record in records
        if record["method"] == ours and verdict(record) == "worse" and is_visible(record)
    ]


def in_words(record: Record) -> str:
    """Name a measure and group, with the value and the paired difference to the reference."""
    shown = cell(record)
    measure = measure_of(record)
    value = f"{shown['mean']} {measure.unit}".strip()
    return (
        f"{measure.title}, {record['group']}: {value}, difference {shown['difference']} "
        f"(n = {record['difference_scans']})"
    )


def is_visible(record: Record) -> bool:
    """Tell whether the difference to the reference is more than 0 in the digits shown."""
    return bool(round(record["difference"], measure_of(record).digits))


def verdicts(records: Sequence[Record], ours: str) -> list[Record]:
    """Count where a method is better and worse than the reference, part by part.

    Parameters
    ----------
    records : sequence of dict
        From `summary.summarise`.
    ours : str
        The method.

    Returns
    -------
    lines : list of dict
        Part, better, worse, undecided; gain and loss: the rows, in words, whose difference is
        largest for its interval, or empty.
    """
    lines = []
    for part in PARTS:
        own = [
            record
            for record in records
            if record["part"] == part
            and record["method"] == ours
            and measure_of(record).better
            and record.get("difference_low") is not None
        ]
        found = {kind: [r for r in own if verdict(r) == kind] for kind in ("better", "worse", "")}
        clearest = {
            kind: in_words(max(rows, key=clearness)) if rows else "" for kind, rows in found.items()
        }
        if own:
            lines.append(
                {
                    "part": PARTS[part].title,
                    "better": len(found["better"]),
                    "worse": len(found["worse"]),
                    "undecided": len(found[""]),
                    "gain": clearest["better"],
                    "loss": clearest["worse"],
                }
            )
    return lines


def clearness(record: Record) -> float:
    """Return the magnitude of a difference over the width of its interval."""
    width = record["difference_high"] - record["difference_low"]
    return abs(record["difference"]) / max(width, 1e-12)


def markdown(records: Sequence[Record], methods: Sequence[str]) -> str:
    """Write records as one Markdown table: groups and measures down, methods across.

    Parameters
    ----------
    records : sequence of dict
        From `summary.summarise`.
    methods : sequence of str
        The columns.

    Returns
    -------
    table : str
        With the scans that a row's numbers rest on, in the cell too where a method has fewer.
    """
    lines = [
        "| | scans | " + " | ".join(methods) + " |",
        "|---" * (len(methods) + 2) + "|",
    ]
    for part, group, name in dict.fromkeys((r["part"], r["group"], r["measure"]) for r in records):
        row = {
            r["method"]: r
            for r in records
            if (r["part"], r["group"], r["measure"]) == (part, group, name)
        }
        scans = max(r["scans"] for r in row.values())
        shown = [plain(row[m], scans) if m in row else "-" for m in methods]
        title = measure_of(next(iter(row.values()))).title
        lines.append(f"| {title}, {group} | {scans} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def plain(record: Record, scans: int) -> str:
    """Format a cell as text, with its number of scans where it is below the row's."""
    value = cell(record)
    if not value["mean"]:
        return "-"
    count = f"(n = {value['scans']})" if value["scans"] < scans else ""
    return " ".join(part for part in (value["mean"], value["interval"], count) if part)
