"""Print the README's table of results, in Markdown: python benchmarks/readme_table.py [SUMMARY].

Every number comes from the summary of an evaluation (`isochroma evaluate`), by default the one
beside this file. A row with two parts shows the first above the second.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

SUMMARY = Path(__file__).with_name("evaluation.json")
DIGITS = 2
METHODS = ("isochroma", "raw", "histogram matching")
T1W_PROTOCOLS = ("mprage-1.5T", "mprage-3T", "spgr-1.5T", "spgr-3T", "se-t1-1.5T")
Record = dict[str, Any]


class Results:
    """The records of a summary, by part, group, measure and method."""

    def __init__(self, summary: dict[str, Any]) -> None:
        self.records = {
            (r["part"], r["group"], r["measure"], r["method"]): r for r in summary["records"]
        }

    def mean(self, part: str, group: str, measure: str, method: str) -> float:
        """Return a method's mean."""
        return self.records[part, group, measure, method]["mean"]

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
    names = ("mean",) if record["persons"] < 2 else ("mean", "low", "high")
    mean, *interval = (f"{record[name]:.{DIGITS}f}" for name in names)
    return f"{mean} [{', '.join(interval)}]" if interval else mean


def rows(results: Results) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Return the six rows: a title, and for each of its parts a label and its cells."""

    def truth(protocol: str, label: str = "") -> tuple[str, list[str]]:
        return label or protocol, results.line("truth", protocol, "ssim", best=1)

    def dice(group: str, label: str) -> tuple[str, list[str]]:
        return label, results.line("segmentation", f"OASIS-1, {group}", "dice mean", best=1)

    def lesions(group: str, label: str) -> tuple[str, list[str]]:
        return label, results.line("anatomy", group, "lesion contrast", best=1)

    ours = {name: results.mean("truth", name, "ssim", "isochroma") for name in T1W_PROTOCOLS}
    best, worst = max(ours, key=ours.__getitem__), min(ours, key=ours.__getitem__)
    t1w = [truth(best, f"{best} (best of 5)"), truth(worst, f"{worst} (worst of 5)")]
    rescan = ("one person, one scanner", results.line("pairs", "rescan", "ssim", best=1))
    return [
        ("From T1w, SSIM with truth", t1w),
        ("From T2w, SSIM with truth", [truth("tse-t2-3T"), truth("se-t2-1.5T")]),
        ("From PD, FLAIR, SSIM with truth", [truth("tse-pd-1.5T"), truth("flair-3T")]),
        ("Rescan, SSIM of the two", [rescan]),
        ("Tissue segmentation, Dice", [dice("T1w", "T1w"), dice("tse-t2-3T", "T2w (tse-t2-3T)")]),
        (
            "Lesion contrast kept",
            [
                lesions("ds002748, mprage-1.5T with lesions", "planted, T1w"),
                lesions("ms07, T1wpost", "MS, T1w gadolinium"),
            ],
        ),
    ]


def main() -> None:
    """Print the table; no-break spaces keep the two lines of a row level."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("summary", nargs="?", type=Path, default=SUMMARY)
    summary = json.loads(parser.parse_args().summary.read_text())
    print(f"| | scans | {' | '.join(METHODS)} |\n|---|---|---|---|---|")
    for title, parts in rows(Results(summary)):
        lines = [[f"**{title}**", "", "", "", ""], *([label, *cells] for label, cells in parts)]
        columns = [
            "<br>".join(column).replace(" ", "\u00a0") for column in zip(*lines, strict=True)
        ]
        print(f"| {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
