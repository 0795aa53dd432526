"""One self-contained HTML page: tables of all methods, where ours loses, figures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from isochroma.evaluation.summary import MEASURES, Measure
from isochroma.files import write_atomically

PARTS = {
    "truth": (
        "Truth known: simulated travelling subjects",
        "Held-out target scans as other scanners would have shown them (simulated from tissue "
        "fractions and the sequences' signal equations), harmonized back; the scan itself is the "
        "truth. Groups are the simulated scanners.",
    ),
    "pairs": (
        "Truth unknown: one person, scanned twice",
        "Agreement of two contrasts of one person, both harmonized; `rescan` is one contrast "
        "repeated on one scanner, the noise floor.",
    ),
    "closeness": (
        "Closeness to the target domain",
        "Distances to the target's training scans. A method can come close by erasing anatomy: "
        "read it beside the next part.",
    ),
    "anatomy": (
        "Anatomy kept",
        "Agreement with the source itself, and lesions.",
    ),
    "segmentation": (
        "Tissue segmentation",
        "A U-Net that knows only target scans, and a classical segmenter that knows none, against "
        "given labels in the same mask for all methods.",
    ),
    "age": (
        "Age prediction",
        "Ridge regression on tissue maps, fitted on target scans only.",
    ),
    "audit": (
        "Site audit",
        "Can a probe tell the site? `frozen`: trained on raw scans, tested on outputs; "
        "`retrained`: trained anew on outputs. Balanced accuracy; chance is from permuted sites. "
        "The shape probe sees no intensities: no intensity harmonizer can move it.",
    ),
    "cost": ("Cost and reproducibility", "Wall-clock seconds, peak memory, spread over seeds."),
}


def write_report(
    path: Path,
    records: Sequence[dict[str, Any]],
    figures: dict[str, list[tuple[str, Figure]]],
    about: dict[str, Any],
    reference: str,
    ours: str,
) -> None:
    """Write the page.

    Parameters
    ----------
    records
        From `summary.summarise`.
    figures
        (caption, figure) lists, by part.
    about
        study, scans, persons, sites, target, fitted, command, versions, date, notes, failures.
    reference, ours
        The method that all are compared with, and the one whose losses are listed.
    """
    parts = []
    for part, (title, text) in PARTS.items():
        chosen = [record for record in records if record["part"] == part]
        if chosen:
            shown = [
                {"caption": caption, "png": png(figure)}
                for caption, figure in figures.get(part, [])
            ]
            parts.append(
                {"title": title, "about": text, "tables": tables(chosen), "figures": shown}
            )
    template = jinja2.Template(
        Path(__file__).with_name("report.html.j2").read_text(),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = template.render(
        **about, parts=parts, losses=losses(records, ours), reference=reference, ours=ours
    )
    write_atomically(path, lambda temporary: temporary.write_text(page))


def measure_of(record: dict[str, Any]) -> Measure:
    """The measure's title, unit and direction; audit probes name themselves."""
    default = Measure(record["measure"], "balanced accuracy", 0)
    return MEASURES.get((record["part"], record["measure"]), default)


def tables(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One table a measure: groups down, methods across."""
    found = []
    for name in dict.fromkeys(record["measure"] for record in records):
        chosen = [record for record in records if record["measure"] == name]
        measure = measure_of(chosen[0])
        methods = list(dict.fromkeys(record["method"] for record in chosen))
        cells = {(record["group"], record["method"]): cell(record) for record in chosen}
        empty = {"mean": None, "kind": ""}
        rows = [
            {"group": group, "cells": [cells.get((group, method), empty) for method in methods]}
            for group in dict.fromkeys(record["group"] for record in chosen)
        ]
        found.append({**measure._asdict(), "methods": methods, "rows": rows})
    return found


def cell(record: dict[str, Any]) -> dict[str, Any]:
    """What one cell shows."""
    digits = 1 if measure_of(record).unit in ("dB", "s", "MB", "years") else 3
    low, high = record["low"], record["high"]
    below, above = record.get("difference_low"), record.get("difference_high")
    shown: dict[str, Any] = {
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


def verdict(record: dict[str, Any]) -> str:
    """better, worse, or nothing where the paired interval covers 0 or there is none."""
    better = measure_of(record).better
    low, high = record.get("difference_low"), record.get("difference_high")
    if not better or low is None or high is None or low <= 0 <= high:
        return ""
    return "better" if (low > 0) == (better > 0) else "worse"


def losses(records: Sequence[dict[str, Any]], ours: str) -> list[str]:
    """In words, every measure in which `ours` is worse than the reference beyond its interval."""
    return [
        f"{measure_of(record).title}, {record['group']}: {cell(record)['mean']}, "
        f"difference {cell(record)['difference']} (n = {record['difference_scans']})"
        for record in records
        if record["method"] == ours and verdict(record) == "worse"
    ]


def markdown(records: Sequence[dict[str, Any]], methods: Sequence[str]) -> str:
    """The same tables for a README: groups and measures down, methods across; and the scans that
    a row's numbers rest on, in the cell too where a method has fewer.
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


def plain(record: dict[str, Any], scans: int) -> str:
    """A cell as text; with its number of scans where it is below the row's."""
    value = cell(record)
    if not value["mean"]:
        return "-"
    count = f"(n = {value['scans']})" if value["scans"] < scans else ""
    return " ".join(part for part in (value["mean"], value["interval"], count) if part)


def png(figure: Figure) -> str:
    """The figure as base64 PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return base64.b64encode(buffer.getvalue()).decode()
