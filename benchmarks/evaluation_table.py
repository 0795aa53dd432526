"""The README's tables of the evaluation: python benchmarks/evaluation_table.py [SUMMARY]."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from isochroma.evaluation.report import PARTS, markdown

SUMMARY = Path(__file__).with_name("evaluation.json")
SHOWN = {
    "truth": ("ssim", "psnr"),
    "pairs": ("ssim",),
    "closeness": ("frechet", "contrast"),
    "anatomy": ("lesion contrast", "edges invented"),
    "segmentation": ("dice mean", "dice mean, classical"),
    "age": ("absolute error", "r2"),
    "audit": (),
    "cost": ("seconds", "seed sd"),
}


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("summary", nargs="?", type=Path, default=SUMMARY)
    summary = json.loads(parser.parse_args().summary.read_text())
    for part, measures in SHOWN.items():
        chosen = [
            record
            for record in summary["records"]
            if record["part"] == part and (not measures or record["measure"] in measures)
        ]
        if chosen:
            print(f"**{PARTS[part][0]}**\n\n{markdown(chosen, list(summary['methods']))}\n")


if __name__ == "__main__":
    main()
