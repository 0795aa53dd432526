"""Seconds and peak memory of each stage of the demo: python benchmarks/demo_cost.py [SCAN].

Linux only: the peak of the resident memory is reset at the start of each stage. It is the whole
process's, Python and its libraries included.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from isochroma.harmonize import Harmonizer
from isochroma.volume import load, save

STATUS = Path("/proc/self/status")


def peak_mb() -> float:
    """Peak resident memory since the last reset, MB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def main() -> None:
    """Run once and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", nargs="?", type=Path, default=Path("examples/ch2.nii.gz"))
    parser.add_argument("--model", default="default")
    parser.add_argument("--out", type=Path, default=Path("demo/cost.nii.gz"))
    options = parser.parse_args()
    peaks: dict[str, float] = {}
    stages: list[str] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stages:
            peaks[stages[-1]] = max(peaks.get(stages[-1], 0), peak_mb())
        if not stages or stage != stages[-1]:
            stages.append(stage)
        Path("/proc/self/clear_refs").write_text("5")

    harmonizer = Harmonizer.from_pretrained(options.model, device="cpu")
    result = harmonizer.run(load(options.scan), progress=progress)
    progress("save", 0, 1)
    save(result.image, options.out)
    progress("end", 0, 1)
    print("| stage | seconds | peak memory, MB |\n|---|---|---|")
    for stage, seconds in result.record["Seconds"].items():
        print(f"| {stage} | {seconds:.1f} | {peaks[stage]:.0f} |")
    print(f"| whole | {sum(result.record['Seconds'].values()):.1f} | {max(peaks.values()):.0f} |")


if __name__ == "__main__":
    main()
