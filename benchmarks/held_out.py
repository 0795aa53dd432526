"""Load the target's scans of one split, and render them as fixed scanners would show them."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from isochroma.images.brain import find_brain
from isochroma.images.grid import bounding_box
from isochroma.images.io import load
from isochroma.images.preprocess import (
    MARGIN_VOXELS,
    Prepared,
    PreprocessSettings,
    from_model_units,
    prepare,
)
from isochroma.method.recontrast import Scanner

GAMMA_KNOTS = tuple(index / 16 for index in range(17))
# Name to seed and scanner. The first is nearly the target's contrast, the second is inverted.
SCANNERS = {
    "gamma": (0, Scanner(GAMMA_KNOTS, tuple(knot**0.55 for knot in GAMMA_KNOTS))),
    "t2-like": (2, Scanner((0.0, 0.15, 0.5, 0.8, 1.0), (1.0, 0.85, 0.5, 0.28, 0.1))),
}


def participants(folder: Path) -> list[dict[str, str]]:
    """Read the rows of the folder's participants.tsv."""
    with (folder / "participants.tsv").open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def target_scans(
    folder: Path, split: str, settings: PreprocessSettings, limit: int | None = None
) -> Iterator[tuple[int, str, Prepared]]:
    """Yield number, name and truth of each (or the first `limit`) of a split's subjects."""
    subjects = sorted(
        row["participant_id"] for row in participants(folder) if row["split"] == split
    )
    for number, subject in enumerate(subjects[:limit]):
        image = load(folder / f"{subject}_T1w.nii.gz")
        truth = prepare(image, find_brain(image).mask, settings)
        box = bounding_box(truth.mask, MARGIN_VOXELS)  # as `prepare` will crop it again
        yield (
            number,
            subject,
            dataclasses.replace(
                truth, image=truth.image[box], mask=truth.mask[box], grid=truth.grid.crop(box)
            ),
        )


def simulated(
    truth: Prepared, number: int, names: Sequence[str], settings: PreprocessSettings
) -> Iterator[tuple[str, Prepared]]:
    """Yield scan `number` as each named scanner shows it, prepared on the truth's grid."""
    for name in names:
        seed, scanner = SCANNERS[name]
        rng = np.random.default_rng([number, seed])
        signal = scanner.render(from_model_units(truth.image, 0, 1), truth.mask, rng)
        source = prepare(nib.Nifti1Image(1000 * signal, truth.grid.affine), truth.mask, settings)
        if not source.grid.same_as(truth.grid):
            message = "the simulated scan left the model grid"
            raise RuntimeError(message)
        yield name, source
