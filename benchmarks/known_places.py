"""Measure places where outputs were seen to fail: python benchmarks/known_places.py --data DATA.

Lesions of MS 07 by themselves, from each contrast, and the fluid of Kirby 113 and MS 07 from T2w.
One person each: what is printed has no interval.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from isochroma.evaluation.measures.anatomy import lesion_contrasts
from isochroma.evaluation.tissues import CSF, classify
from isochroma.images.grid import Grid, resample
from isochroma.pipeline import Harmonizer, Result

LESIONS = {"brainstem": (83, 101, 61), "white matter": (126, 82, 80)}  # MS 07, canonical voxels
CONTRASTS = ("T1w", "T1wpost", "T2w", "FLAIR")
DEEP = 6.0  # voxels that fluid lies inside the brain's mask
GREY_OUTPUT = -0.5  # model units; above it fluid is not dark


def labels_on(path: Path, grid: Grid) -> np.ndarray:
    """Return the lesions of `LESIONS` on another grid, numbered from 1."""
    image = nib.as_closest_canonical(nib.load(path))
    regions, _ = ndimage.label(np.asarray(image.dataobj) > 0, np.ones((3, 3, 3)))
    found = np.zeros(grid.shape, np.uint8)
    for number, voxel in enumerate(LESIONS.values(), 1):
        inside = (regions == regions[voxel]).astype(np.float32)
        found[resample(inside, Grid.of(image), grid, order=1) > 0.5] = number
    return found


def fluid_of(t1w: Result) -> np.ndarray:
    """Find the inside of a T1w scan's fluid, away from the surface: (I, J, K) bool, model grid."""
    labels, _ = classify(t1w.source.image, t1w.source.mask)
    inside = ndimage.binary_erosion(labels == CSF)
    return inside & (ndimage.distance_transform_edt(t1w.source.mask) > DEEP)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real scans")
    data = parser.parse_args().data
    harmonizer = Harmonizer.from_pretrained()
    ms07 = {
        contrast: harmonizer.run(data / "contrasts_ms07" / f"ms07_{contrast}.nii.gz")
        for contrast in CONTRASTS
    }
    kirby = {
        contrast: harmonizer.run(data / "contrasts_kirby113" / f"113_{contrast}.nii.gz")
        for contrast in ("T1w", "T2w")
    }

    first = ms07["T1w"]
    grid = first.source.grid
    labels = labels_on(data / "contrasts_ms07" / "ms07_lesions.nii.gz", grid)
    tissues, _ = classify(first.source.image, first.source.mask)
    tissues = np.where(first.source.mask, tissues, 0)
    print("Contrast of a lesion to the white matter around it; 1 is that of grey matter.\n")
    print(f"| | {' | '.join(LESIONS)} |\n|---|{'---|' * len(LESIONS)}")

    def line(name: str, volume: np.ndarray, own: Grid) -> None:
        found = lesion_contrasts(resample(volume, own, grid, order=1), labels, tissues)
        print(f"| {name} | {' | '.join(f'{each:.2f}' for each in found)} |")

    line("the T1w scan itself", first.source.image, grid)
    for contrast, result in ms07.items():
        line(f"output from {contrast}", result.rendering.output, result.source.grid)

    print("\nInside the fluid of the T1w scan, in the outputs.\n")
    print(f"| | median | share above {GREY_OUTPUT} |\n|---|---|---|")
    for name, known in (("Kirby 113", kirby), ("MS 07", ms07)):
        fluid = fluid_of(known["T1w"])
        for contrast in ("T1w", "T2w"):
            own = known[contrast].source
            shown = resample(
                known[contrast].rendering.output, own.grid, known["T1w"].source.grid, order=1
            )[fluid]
            share = float((shown > GREY_OUTPUT).mean())
            print(f"| {name}, {contrast} | {np.median(shown):.2f} | {share:.2f} |")


if __name__ == "__main__":
    main()
