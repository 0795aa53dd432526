"""Tables from the summary's records: groups down, methods across."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isochroma.evaluation.measures import find
from isochroma.evaluation.measures.registry import Measure

Record = dict[str, Any]


def measure_of(record: Record) -> Measure:
    """Return the registered measure of a record."""
    return find(record["part"], record["measure"])


def tables(records: Sequence[Record], reference: str, first: Sequence[str] = ()) -> list[Record]:
    """Make one table for each measure.

    Parameters
    ----------
    records : sequence of dict
        Of one part, from `summary.summarise`.
    reference : str
        Method whose differences to the others are shown.
    first : sequence of str
        Methods to begin with; the others follow in the records' order.

    Returns
    -------
    tables : list of dict
        Title, unit, direction, methods, and rows of a group, its scans and cells each.
    """
    found = []
    for name in dict.fromkeys(record["measure"] for record in records):
        chosen = [record for record in records if record["measure"] == name]
        measure = measure_of(chosen[0])
        there = list(dict.fromkeys(record["method"] for record in chosen))
        methods = sorted(there, key=[*first, *there].index)
        cells = {(record["group"], record["method"]): cell(record, reference) for record in chosen}
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
                "direction": measure.direction,
                "methods": methods,
                "rows": rows,
            }
        )
    return found


def cell(record: Record, reference: str = "") -> Record:
    """Format what one cell shows: mean, interval, scans, difference, and better or worse."""
    digits = measure_of(record).digits
    low, high = record["low"], record["high"]
    shown: Record = {
        "mean": f"{record['mean']:.{digits}f}" if record["mean"] is not None else None,
        "interval": f"[{low:.{digits}f}, {high:.{digits}f}]" if low is not None else "",
        "scans": record["scans"],
        "kind": kind(record, reference),
        "difference": "",
    }
    gap = record["differences"].get(reference)
    if gap:
        shown["difference"] = f"{gap['difference']:+.{digits}f}"
        if gap["low"] is not None:
            shown["difference"] += f" [{gap['low']:+.{digits}f}, {gap['high']:+.{digits}f}]"
    return shown


def kind(record: Record, reference: str) -> str:
    """Return "better" or "worse", or "" where the paired interval covers 0 or there is none."""
    better = measure_of(record).better
    gap = record["differences"].get(reference)
    if not better or not gap or gap["low"] is None or gap["low"] <= 0 <= gap["high"]:
        return ""
    return "better" if (gap["low"] > 0) == (better > 0) else "worse"


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
