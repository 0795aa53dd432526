"""Run the campaign: `python -m fuzz` in tests/, or `make fuzz`.

Prints a table of kinds and outcomes and the messages of what went wrong, and ends with status 1 if
anything did.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator

import nibabel as nib
import torch

from fuzz.isolated import VERDICTS, Case, Outcome, run_all
from fuzz.registry import BASES, KINDS, work
from isochroma.images.brain import _deepbet_network

BAD = VERDICTS[2:]
MODULES = ("volumes", "tables", "models", "training", "commands")  # of kinds, as in the table


def batches(share: float, only: str, number: int | None) -> Iterator[list[Case]]:
    """Yield the cases: a share of each kind's number, at least one; or one case alone."""
    for name, known in KINDS.items():
        if only not in name:
            continue
        count = max(1, round(share * known.count))
        cases = [
            Case(name, each, known.run) for each in (range(count) if number is None else [number])
        ]
        for begin in range(0, len(cases), known.together):
            yield cases[begin : begin + known.together]


def table(counts: dict[str, Counter[str]]) -> str:
    """Return the outcomes of each kind as a Markdown table."""
    lines = ["| kind | cases | " + " | ".join(VERDICTS) + " |"]
    lines.append("|---" + "|---:" * (len(VERDICTS) + 1) + "|")
    total: Counter[str] = sum(counts.values(), Counter())
    for name, found in [*counts.items(), ("all", total)]:
        cells = [name, str(found.total()), *(str(found[verdict]) for verdict in VERDICTS)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of each kind's cases")
    parser.add_argument("--only", default="", help="kinds whose name has this")
    parser.add_argument("--number", type=int, help="only the case of this number")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    nib.imageglobals.logger.setLevel("CRITICAL")
    torch.set_num_threads(1)
    for name in MODULES:
        importlib.import_module(f"fuzz.kinds.{name}")
    _deepbet_network()  # once, not in every process
    for make in BASES:
        make()
    start = time.monotonic()
    chosen = batches(options.share, options.only, options.number)
    counts: dict[str, Counter[str]] = {}
    bad: list[tuple[Case, Outcome]] = []
    seconds: dict[str, list[float]] = {}
    largest = 0.0
    for case, outcome in run_all(chosen, options.jobs):
        counts.setdefault(case.kind, Counter())[outcome.verdict] += 1
        seconds.setdefault(case.kind, []).append(outcome.seconds)
        largest = max(largest, outcome.peak_gb)
        if outcome.verdict in BAD:
            bad.append((case, outcome))
            said = f"{outcome.verdict}: {outcome.detail[:400]!r}"
            print(f"{case.kind} {case.number}: {said}", flush=True)
    shutil.rmtree(work())
    minutes = (time.monotonic() - start) / 60
    print(table(counts))
    print(f"{minutes:.1f} minutes; the largest process had {largest:.1f} GB")
    for name, each in seconds.items():
        print(f"{name}: {sum(each):.0f} s, {max(each):.1f} s at most")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
