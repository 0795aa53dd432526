"""Print the verdict of an evaluation, in Markdown: python benchmarks/verdict.py [SUMMARY].

Every number comes from the summary of an evaluation (`isochroma evaluate`), by default the one
beside this file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from isochroma.evaluation.report.verdict import verdicts

SUMMARY = Path(__file__).with_name("evaluation.json")


def main() -> None:
    """Print a line for each part of the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("summary", nargs="?", type=Path, default=SUMMARY)
    summary = json.loads(parser.parse_args().summary.read_text())
    for each in verdicts(summary["records"], summary["ours"], summary["others"]):
        print(" ".join([f"- **{each.title}.**", each.counts, *each.extremes]))


if __name__ == "__main__":
    main()
