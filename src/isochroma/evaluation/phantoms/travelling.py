"""Simulated travelling subjects: one head scanned by several simulated scanners, written to files.

The source scan is the truth of each written scan, if it comes from the target scanner.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from isochroma.errors import InputError, about
from isochroma.evaluation.phantoms.acquisition import acquire
from isochroma.evaluation.phantoms.lesions import plant_lesions, show_lesions
from isochroma.evaluation.phantoms.sequences import PRESETS
from isochroma.evaluation.study import WITH_LESIONS, Scan
from isochroma.evaluation.tissues import classify
from isochroma.files import remove_leavings, sha256, write_atomically, write_together
from isochroma.images.brain import find_brain
from isochroma.images.io import load, stem
from isochroma.images.preprocess import Prepared, PreprocessSettings, from_model_units, prepare
from isochroma.tables import read_json

FULL_SCALE = 1000.0  # intensity of +1 model units in a written truth
LIKE_TARGET = "mprage-3T"  # preset by which planted lesions look in a truth


def write_travelling_subject(
    path: Path, folder: Path, presets: Sequence[str], lesions: bool = False, seed: int = 0
) -> list[dict[str, Any]]:
    """Write one T1w scan as other scanners would have shown it.

    Files that are already there, and were made from the same scan with the same seed, are kept.

    Parameters
    ----------
    path : Path
        A T1w scan.
    folder : Path
        Where NAME_PRESET.nii.gz and its JSON sidecar go; with lesions also the truth and the
        lesion labels.
    presets : sequence of str
        Keys of `sequences.PRESETS`.
    lesions : bool
        Whether to plant graded lesions into the white matter first.
    seed : int
        Seed of bias, noise and lesions, together with the scan's content.

    Returns
    -------
    rows : list of dict
        One study row a preset: path, scan, person, contrast, preset, truth and, with lesions,
        lesions.

    Raises
    ------
    InputError
        If a preset is unknown, or the folder holds simulations of that name that were made from
        another scan or with another seed.
    """
    for preset in presets:
        if preset not in PRESETS:
            msg = f"preset {preset!r} is unknown; choose from {', '.join(PRESETS)}."
            raise InputError(msg, "preset")
    image = load(path)
    name = f"{stem(path)}_lesions" if lesions else stem(path)
    source = sha256(path)
    made_from = {"SourceSHA256": source, "Seed": seed}
    _refuse_other_origin(folder, name, made_from)
    scans = {preset: folder / f"{name}_{preset}.nii.gz" for preset in presets}
    sidecars = {preset: folder / f"{name}_{preset}.json" for preset in presets}
    missing = [preset for preset in presets if not sidecars[preset].is_file()]  # written last
    if missing:
        remove_leavings(folder)
        content = int(source[:8], 16)
        lesion_rng = np.random.default_rng([seed, content])
        anatomy = _anatomy(path, image, folder, lesion_rng if lesions else None)
        for preset in missing:
            rng = np.random.default_rng([seed, content, list(PRESETS).index(preset)])
            prepared, fractions, amount = anatomy
            scan = acquire(prepared, fractions, PRESETS[preset], rng, amount)
            record = {
                "Source": str(path),
                "Preset": preset,
                "Simulation": dataclasses.asdict(PRESETS[preset]),
                **made_from,
                "Lesions": lesions,
            }
            write_together(
                {
                    scans[preset]: partial(nib.save, scan),
                    sidecars[preset]: partial(_write_json, record),
                }
            )
    truth = folder / f"{name}.nii.gz" if lesions else path
    extra = {"lesions": (folder / f"{name}_labels.nii.gz").resolve()} if lesions else {}
    return [
        {
            "path": scans[preset].resolve(),
            "scan": f"{name}_{preset}",
            "person": stem(path),
            "contrast": PRESETS[preset].contrast,
            "preset": f"{preset}{WITH_LESIONS}" if lesions else preset,
            "truth": truth.resolve(),
            **extra,
        }
        for preset in presets
    ]


def add_to_study(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to a study file; rows of the same scans are replaced.

    Parameters
    ----------
    path : Path
        The study, a TSV file; written anew if it is not there.
    rows : sequence of dict
        Values by column, see `isochroma.evaluation.study`.
    """
    names = {row["scan"] for row in rows}
    known: list[dict[str, Any]] = []
    if path.is_file():
        with path.open(newline="") as stream:
            known = [r for r in csv.DictReader(stream, delimiter="\t") if r["scan"] not in names]
    write_study(path, [*known, *rows])


def write_study(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a study file, whole or not at all.

    Parameters
    ----------
    path : Path
        The TSV file to write.
    rows : sequence of dict
        Values by column, see `isochroma.evaluation.study`.
    """

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(Scan.__dataclass_fields__), delimiter="\t")
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)


def _refuse_other_origin(folder: Path, name: str, made_from: dict[str, Any]) -> None:
    """Raise an InputError if the folder holds this name's simulations of another origin."""
    sidecars = [folder / f"{name}_{preset}.json" for preset in PRESETS]
    for sidecar in filter(Path.is_file, sidecars):
        there = read_json(sidecar) or {}
        if {key: there.get(key) for key in made_from} != made_from:
            msg = f"{sidecar}: of another scan of that name, or another seed. Use another folder."
            raise InputError(msg, "output")


def _anatomy(
    path: Path,
    image: nib.spatialimages.SpatialImage,
    folder: Path,
    lesion_rng: np.random.Generator | None,
) -> tuple[Prepared, np.ndarray, np.ndarray | None]:
    """Prepare a scan and classify its tissues; with `lesion_rng`, plant lesions and write a truth.

    The protocol of the scan is not known. Its lesions are as dark as `LIKE_TARGET` shows them.
    """
    with about(path):
        prepared = prepare(image, find_brain(image).mask, PreprocessSettings())
    labels, fractions = classify(prepared.image, prepared.mask)
    if lesion_rng is None:
        return prepared, fractions, None
    amount, planted, _ = plant_lesions(labels, lesion_rng)
    contrast = PRESETS[LIKE_TARGET].lesion_contrast()
    truth = show_lesions(prepared.image, labels, amount, contrast)
    shown = np.where(prepared.mask, from_model_units(truth, 1, FULL_SCALE), 0)
    images = {"lesions": shown.astype(np.float32), "lesions_labels": planted.astype(np.uint8)}
    write_together(
        {
            folder / f"{stem(path)}_{part}.nii.gz": partial(
                nib.save, nib.Nifti1Image(volume, prepared.grid.affine)
            )
            for part, volume in images.items()
        }
    )
    return prepared, fractions, amount


def _write_json(record: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(record, indent=2) + "\n")
