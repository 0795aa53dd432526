"""The target's scans of one split, and the same as simulated scanners show them."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from isochroma.images.brain import brain_mask
from isochroma.images.grid import bounding_box
from isochroma.images.io import load
from isochroma.images.preprocess import (
    MARGIN_VOXELS,
    Prepared,
    PreprocessSettings,
    from_model_units,
    prepare,
)
from isochroma.method.recontrast import SCANNERS


def participants(folder: Path) -> list[dict[str, str]]:
    """Rows of the folder's participants.tsv."""
    with (folder / "participants.tsv").open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def target_scans(
    folder: Path, split: str, settings: PreprocessSettings, limit: int | None = None
) -> Iterator[tuple[int, str, Prepared]]:
    """Number, name and truth of each (or the first `limit`) of a split's subjects, in order."""
    subjects = sorted(
        row["participant_id"] for row in participants(folder) if row["split"] == split
    )
    for number, subject in enumerate(subjects[:limit]):
        image = load(folder / f"{subject}_T1w.nii.gz")
        truth = prepare(image, brain_mask(image)[0], settings)
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
    """Scan `number` as each named simulated scanner shows it, preprocessed on the truth's grid."""
    for name in names:
        rng = np.random.default_rng([number, list(SCANNERS).index(name)])
        signal = SCANNERS[name].render(from_model_units(truth.image, 0, 1), truth.mask, rng)
        source = prepare(nib.Nifti1Image(1000 * signal, truth.grid.affine), truth.mask, settings)
        if not source.grid.same_as(truth.grid):
            message = "the simulated scan left the model grid"
            raise RuntimeError(message)
        yield name, source
