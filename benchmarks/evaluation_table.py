"""Tables of the evaluation, in Markdown: python benchmarks/evaluation_table.py [SUMMARY].

The parts of docs/tables.md; with --short those of docs/results.md: fewer methods and measures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from isochroma.evaluation.measures import PARTS, sites
from isochroma.evaluation.report.tables import markdown

SUMMARY = Path(__file__).with_name("evaluation.json")
SHORT = {
    "truth": ("ssim",),
    "pairs": ("ssim",),
    "anatomy": ("lesion contrast", "lesion ring"),
    "structure": ("invented", "lost"),
    "segmentation": (
        "dice mean",
        "dice mean, classical",
        "dice mean, target's limits",
        "auc",
        "dice, best threshold",
    ),
    "age": ("absolute error, tissue maps", "r2, tissue maps", "r2, intensities"),
    "sites": tuple(sites.part.measures),
}
SHORT_METHODS = (
    "isochroma",
    "raw",
    "N4",
    "histogram matching",
    "SSIMH",
    "BlindHarmony",
    "isochroma, paper mode",
    "isochroma, edges alone",
    "target mean",
)


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("summary", nargs="?", type=Path, default=SUMMARY)
    parser.add_argument("--short", action="store_true", help="the main measures")
    options = parser.parse_args()
    summary = json.loads(options.summary.read_text())
    summary["methods"] = sorted(summary["methods"], key=lambda name: name != "isochroma")
    methods = [
        name
        for name in (SHORT_METHODS if options.short else summary["methods"])
        if name in summary["methods"]
    ]
    for part, known in PARTS.items():
        chosen = [
            record
            for record in summary["records"]
            if record["part"] == part
            and (not options.short or record["measure"] in SHORT.get(part, ()))
        ]
        if chosen and options.short:
            print(f"**{known.title}**\n\n{markdown(chosen, methods)}\n")
        elif chosen:  # chance levels of the site audit stand beside the methods
            levels = dict.fromkeys(record["method"] for record in chosen)
            columns = [*methods, *(name for name in levels if name not in methods)]
            print(f"## {known.title}\n\n{known.about}\n\n{markdown(chosen, columns)}\n")


if __name__ == "__main__":
    main()
