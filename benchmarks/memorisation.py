"""Test whether a model remembers its training: python benchmarks/memorisation.py --target DIR.

Scans are made from their own edges alone (the first pass). If those that the model was trained on
come out nearer to the truth than those of other people of the same scanner, it has learned them by
heart. Three validation and four test subjects were not trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from held_out import target_scans
from scipy import stats

from isochroma.images.metrics import ssim
from isochroma.images.preprocess import from_model_units
from isochroma.pipeline import Harmonizer, SamplingSettings

ALONE = SamplingSettings(refine="none", revise=False)


def scores(harmonizer: Harmonizer, folder: Path, split: str, limit: int | None) -> list[float]:
    """Return the SSIM of each scan of a split with what its own edges give."""
    found = []
    for _, name, truth in target_scans(folder, split, harmonizer.preprocess, limit):
        made = harmonizer.render(truth).output
        volumes = (from_model_units(volume, 0, 1) for volume in (made, truth.image))
        found.append(ssim(*volumes, truth.mask, 1))
        print(f"{split} {name}: {found[-1]:.4f}", flush=True)
    return found


def main() -> None:
    """Print the scores and their difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, required=True, help="folder of the target's scans")
    parser.add_argument("--model", default="default")
    parser.add_argument("--limit", type=int, help="training scans (default: all)")
    options = parser.parse_args()
    harmonizer = Harmonizer.from_pretrained(options.model, sampling=ALONE)
    trained = scores(harmonizer, options.target, "train", options.limit)
    other = [
        score
        for split in ("val", "test")
        for score in scores(harmonizer, options.target, split, None)
    ]
    gap = stats.ttest_ind(trained, other, equal_var=False)
    low, high = gap.confidence_interval()
    print(
        f"trained on: {np.mean(trained):.4f}, sd {np.std(trained, ddof=1):.4f}, n = {len(trained)}"
        f"\nnot: {np.mean(other):.4f}, sd {np.std(other, ddof=1):.4f}, n = {len(other)}"
        f"\ndifference {np.mean(trained) - np.mean(other):+.4f} [{low:+.4f}, {high:+.4f}]"
    )


if __name__ == "__main__":
    main()
