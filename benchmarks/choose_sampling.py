"""Which solver, steps and refinement: python benchmarks/choose_sampling.py --data DIR.

The target's validation scans alone, from their own edges and as two simulated scanners (one of
them inverted) show them; the scan itself is the truth. Prints means over the scans. For own edges
the local refinement is given the truth: read its other rows.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from held_out import simulated, target_scans

from isochroma.images.metrics import psnr, ssim
from isochroma.images.preprocess import Prepared, from_model_units
from isochroma.method.correlation import ascend_correlation
from isochroma.method.refinement import follow_source
from isochroma.method.sampling import SamplingSettings
from isochroma.pipeline import Harmonizer

SOLVERS = {"euler 1": (1, "euler"), "euler 3": (3, "euler"), "midpoint 2": (2, "midpoint")}


def refined(output: np.ndarray, source: Prepared, harmonizer: Harmonizer) -> dict[str, np.ndarray]:
    """Render the output under each refinement."""
    pair = (source.image, source.mask)
    return {
        "none": output,
        "paper": ascend_correlation(output, *pair),
        "local": follow_source(output, *pair, harmonizer.config.known_errors)[0],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real scans")
    parser.add_argument("--model", default="default")
    parser.add_argument("--scans", type=int, help="only the first N validation scans")
    options = parser.parse_args()
    harmonizer = Harmonizer.from_pretrained(options.model, device="cpu")
    folder = options.data / "target_ds002748"
    scores: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for number, _, truth in target_scans(folder, "val", harmonizer.preprocess, options.scans):
        cases = simulated(truth, number, ("gamma", "t2-like"), harmonizer.preprocess)
        for case, source in [("own", truth), *cases]:
            for solver, (steps, name) in SOLVERS.items():
                harmonizer.sampling = SamplingSettings(steps, name, "none")
                start = time.perf_counter()
                output = harmonizer.translate(source)
                seconds = time.perf_counter() - start
                for refine, volume in refined(output, source, harmonizer).items():
                    unit, true = (from_model_units(v, 0, 1) for v in (volume, truth.image))
                    found = (
                        psnr(volume, truth.image, truth.mask, 2),
                        ssim(unit, true, truth.mask, 1),
                        seconds,
                    )
                    scores.setdefault((case, f"{solver}, {refine}"), []).append(found)
    print("| scans | n | sampling | PSNR, dB | SSIM | seconds |\n|---|---|---|---|---|---|")
    for (case, choice), values in scores.items():
        mean = np.mean(values, axis=0)
        shown = f"{mean[0]:.2f} | {mean[1]:.4f} | {mean[2]:.1f}"
        print(f"| {case} | {len(values)} | {choice} | {shown} |")


if __name__ == "__main__":
    main()
