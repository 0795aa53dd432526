"""Which solver, steps and refinement: python benchmarks/choose_sampling.py --data DIR.

The target's validation scans alone, from their own edges and as two simulated scanners (one of
them inverted) show them; the scan itself is the truth. Prints means over the scans.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from isochroma.harmonize import Harmonizer, SamplingSettings
from isochroma.metrics import psnr, ssim
from isochroma.preprocess import MARGIN_VOXELS, brain_mask, from_model_units, prepare
from isochroma.simulate import SCANNERS
from isochroma.volume import bounding_box, load

CHOICES = {
    f"{name}, {refine}": SamplingSettings(steps, solver, refine)
    for name, steps, solver in (
        ("euler 1", 1, "euler"),
        ("euler 3", 3, "euler"),
        ("midpoint 2", 2, "midpoint"),
    )
    for refine in ("none", "paper", "local")
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real scans")
    parser.add_argument("--model", default="default")
    options = parser.parse_args()
    harmonizer = Harmonizer.from_pretrained(options.model, device="cpu")
    folder = options.data / "target_ds002748"
    with (folder / "participants.tsv").open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    people = sorted(row["participant_id"] for row in rows if row["split"] == "val")
    scores: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for number, person in enumerate(people):
        image = load(folder / f"{person}_T1w.nii.gz")
        truth = prepare(image, brain_mask(image)[0], harmonizer.preprocess)
        box = bounding_box(truth.mask, MARGIN_VOXELS)  # as `prepare` will crop it again
        truth = dataclasses.replace(
            truth, image=truth.image[box], mask=truth.mask[box], grid=truth.grid.crop(box)
        )
        sources = {"own": truth}
        for name in ("gamma", "t2-like"):
            rng = np.random.default_rng([number, list(SCANNERS).index(name)])
            signal = SCANNERS[name].render(from_model_units(truth.image, 0, 1), truth.mask, rng)
            simulated = nib.Nifti1Image(1000 * signal, truth.grid.affine)
            sources[name] = prepare(simulated, truth.mask, harmonizer.preprocess)
        for case, source in sources.items():
            for choice, sampling in CHOICES.items():
                harmonizer.sampling = sampling
                start = time.perf_counter()
                output = harmonizer.translate(source)
                seconds = time.perf_counter() - start
                units = [from_model_units(volume, 0, 1) for volume in (output, truth.image)]
                found = (
                    psnr(output, truth.image, truth.mask, 2),
                    ssim(units[0], units[1], truth.mask, 1),
                    seconds,
                )
                scores.setdefault((case, choice), []).append(found)
    print("| scans | n | sampling | PSNR, dB | SSIM | seconds |\n|---|---|---|---|---|---|")
    for (case, choice), values in scores.items():
        mean = np.mean(values, axis=0)
        shown = f"{mean[0]:.2f} | {mean[1]:.4f} | {mean[2]:.1f}"
        print(f"| {case} | {len(values)} | {choice} | {shown} |")


if __name__ == "__main__":
    main()
