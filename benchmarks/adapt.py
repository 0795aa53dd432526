"""Adapt the shipped model to other targets: python benchmarks/adapt.py --data DIR --out OUT.

The target is OASIS-1's scanner, or a simulated T2w or FLAIR scanner that shows OASIS' heads. One,
three or five people's scans give the map to the target; the same heads of three other people, as
the target itself, T1w, T2w and FLAIR scanners show them, are then rendered and compared with the
target's own scan of them, beside histogram matching to the same scans. OUT gets the simulated scans
and the rendered ones, so that a stopped run goes on. Nothing is chosen on these scans.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from held_out import participants

from isochroma.evaluation.methods import HistogramMatching
from isochroma.evaluation.phantoms.travelling import write_travelling_subject
from isochroma.evaluation.store import Store
from isochroma.evaluation.study import Scan, open_case
from isochroma.evaluation.workspace import PREPROCESS
from isochroma.images import metrics
from isochroma.images.grid import resample, resample_mask
from isochroma.images.masked import extend_outside
from isochroma.images.preprocess import Prepared
from isochroma.pipeline import Harmonizer
from isochroma.training.adapt import Rendered, learn_map

OWN = "OASIS-1"
SCANNERS = (OWN, "mprage-3T", "tse-t2-3T", "flair-3T")
NUMBERS = {OWN: (1, 3, 5), "tse-t2-3T": (1,), "flair-3T": (1,)}  # of scans, by target
FIT, TEST = slice(0, 5), slice(8, 11)  # people


class Heads:
    """OASIS' heads as several scanners show them, rendered when they are asked for."""

    def __init__(self, data: Path, out: Path) -> None:
        rows = participants(data / "source_oasis1")
        first = {row["person"]: row["scan_id"] for row in reversed(rows)}
        self.scans = [first[person] for person in dict.fromkeys(row["person"] for row in rows)]
        self.data, self.out = data / "source_oasis1", out
        self.store = Store(out / "cache")
        self.harmonizer = Harmonizer.from_pretrained("default")

    def of(self, scan: str, scanner: str) -> Rendered:
        """Return one head as one scanner shows it."""
        path = self.data / f"{scan}_T1w.nii.gz"
        if scanner != OWN:
            path = write_travelling_subject(path, self.out / "simulated", [scanner])[0]["path"]

        def render() -> Rendered:
            source = open_case(Scan(path, scanner, scan, scan), PREPROCESS).prepared
            return Rendered(source, self.harmonizer.render(source).output)

        return self.store.get((scan, scanner, self.harmonizer.config.sha256), render)


def score(image: np.ndarray, source: Prepared, target: Prepared) -> tuple[float, float]:
    """Return SSIM and PSNR (dB) against the target's scan, where both brains are."""
    outside = extend_outside(target.image, target.mask)
    truth = resample(outside, target.grid, source.grid).clip(-1, 1) + 1
    both = source.mask & resample_mask(target.mask, target.grid, source.grid)
    shown = image.clip(-1, 1) + 1
    return metrics.ssim(shown, truth, both, 2), metrics.psnr(shown, truth, both, 2)


def compare(heads: Heads, target: str, number: int) -> Iterator[str]:
    """Yield a line of the table for each scanner."""
    fitted = [heads.of(scan, target) for scan in heads.scans[FIT][:number]]
    found = learn_map(fitted, PREPROCESS.spacing_mm)
    matching = HistogramMatching()
    matching.fit([each.source for each in fitted])
    for scanner in SCANNERS:
        ours, theirs = [], []
        for scan in heads.scans[TEST]:
            source, output = heads.of(scan, scanner)
            truth = heads.of(scan, target).source
            mapped = found.apply(output, source.mask, PREPROCESS.spacing_mm)
            ours.append(score(mapped, source, truth))
            theirs.append(score(matching.apply(source), source, truth))
        cells = (f"{s:.3f}, {p:.1f} dB" for s, p in (np.mean(each, 0) for each in (ours, theirs)))
        low, high = np.min(ours, 0)[0], np.max(ours, 0)[0]
        yield f"| {target} | {number} | {scanner} | {' | '.join(cells)} | {low:.3f} to {high:.3f} |"


def main() -> None:
    """Print the table, Markdown: means over three people, and isochroma's range of SSIM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real scans")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is made")
    options = parser.parse_args()
    heads = Heads(options.data.resolve(), options.out.resolve())
    print("| target | its scans | shown by | isochroma | histogram matching | isochroma, SSIM |")
    print("|---|---|---|---|---|---|")
    for target, numbers in NUMBERS.items():
        for number in numbers:
            for line in compare(heads, target, number):
                print(line, flush=True)


if __name__ == "__main__":
    main()
