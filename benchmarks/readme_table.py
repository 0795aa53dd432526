"""Print the README's table of results, in Markdown: python benchmarks/readme_table.py [SUMMARY].

Every number comes from the summary of an evaluation (`isochroma evaluate`), by default the one
beside this file. A row with several parts shows one above the other.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

SUMMARY = Path(__file__).with_name("evaluation.json")
DIGITS = 2
METHODS = ("isochroma", "raw", "N4", "histogram matching")
PROTOCOLS = {"mprage-1.5T": "T1w", "tse-t2-3T": "T2w", "tse-pd-1.5T": "PD", "flair-3T": "FLAIR"}
LARGE_GAP = "tse-t2-3T"
LABELLED = ("OASIS-1, T1w", "IXI-HH, T1w", f"OASIS-1, {LARGE_GAP}")
Record = dict[str, Any]


class Results:
    """The records of a summary, by part, group, measure and method."""

    def __init__(self, summary: dict[str, Any]) -> None:
        self.records = {
            (r["part"], r["group"], r["measure"], r["method"]): r for r in summary["records"]
        }

    def line(self, part: str, group: str, measure: str, best: float) -> list[str]:
        """Return the number of scans and a cell for each method, bold if nearest to `best`."""
        found = [self.records[part, group, measure, method] for method in METHODS]
        distances = [abs(round(record["mean"], DIGITS) - best) for record in found]
        cells = [
            f"**{number(record)}**" if distance == min(distances) else number(record)
            for record, distance in zip(found, distances, strict=True)
        ]
        return [str(found[0]["scans"]), *cells]


def number(record: Record) -> str:
    """Format a mean and its 95 % interval; one person has none."""
    names = ("mean",) if record["low"] is None else ("mean", "low", "high")
    mean, *interval = (f"{record[name]:.{DIGITS}f}" for name in names)
    return f"{mean} [{', '.join(interval)}]" if interval else mean


def rows(results: Results) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Return the rows: a title, and for each of its parts a label and its cells."""

    def truth(protocol: str, label: str) -> tuple[str, list[str]]:
        return label, results.line("truth", protocol, "ssim", best=1)

    def tissues(group: str, measure: str) -> tuple[str, list[str]]:
        return group.replace(LARGE_GAP, "T2w-like"), results.line("segmentation", group, measure, 1)

    def lesions(group: str, label: str) -> tuple[str, list[str]]:
        return label, results.line("anatomy", group, "lesion contrast", best=1)

    labelled = [g for g in LABELLED if ("segmentation", g, "auc", "isochroma") in results.records]
    rescan = ("one person, one scanner", results.line("pairs", "rescan", "ssim", best=1))
    return [
        (
            "SSIM with the truth",
            [truth(protocol, f"{kind} ({protocol})") for protocol, kind in PROTOCOLS.items()],
        ),
        ("Rescan, SSIM of the two", [rescan]),
        (
            "Tissues by a network that knows the target, Dice",
            [tissues(group, "dice mean") for group in labelled],
        ),
        (
            "Grey against white matter, AUC",
            [tissues(group, "auc") for group in labelled],
        ),
        (
            "Tissues by the target's limits, Dice",
            [tissues(group, "dice mean, target's limits") for group in labelled],
        ),
        (
            "Lesion contrast kept",
            [
                *(
                    lesions(f"ds002748, {protocol} with lesions", f"planted, {PROTOCOLS[protocol]}")
                    for protocol in PROTOCOLS
                ),
                lesions("ms07, T1wpost", "MS, T1w gadolinium"),
            ],
        ),
    ]


def main() -> None:
    """Print the table; no-break spaces keep the lines of a row level."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("summary", nargs="?", type=Path, default=SUMMARY)
    summary = json.loads(parser.parse_args().summary.read_text())
    print(f"| | scans | {' | '.join(METHODS)} |\n|{'---|' * (len(METHODS) + 2)}")
    for title, parts in rows(Results(summary)):
        lines = [
            [f"**{title}**", *[""] * (len(METHODS) + 1)],
            *([label, *cells] for label, cells in parts),
        ]
        columns = [
            "<br>".join(column).replace(" ", "\u00a0") for column in zip(*lines, strict=True)
        ]
        print(f"| {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
