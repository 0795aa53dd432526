"""Simulated travelling subjects: one person on many scanners, written as scans (`simulate`)."""

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
from isochroma.evaluation.phantoms.lesions import insert_lesions
from isochroma.evaluation.phantoms.sequences import PRESETS, simulate
from isochroma.evaluation.study import WITH_LESIONS, Scan
from isochroma.evaluation.tissues import classify
from isochroma.files import sha256, write_atomically, write_together
from isochroma.images.brain import brain_mask
from isochroma.images.io import load, stem
from isochroma.images.preprocess import Prepared, PreprocessSettings, from_model_units, prepare

FULL_SCALE = 1000.0


def simulate_file(
    path: Path, folder: Path, presets: list[str], lesions: bool = False, seed: int = 0
) -> list[dict[str, Any]]:
    """Write one T1w scan as other scanners would have shown it.

    Parameters
    ----------
    path
        A T1w scan; for scans of the target scanner, what is written has a known truth.
    folder
        Where NAME_PRESET.nii.gz and its JSON sidecar go; with lesions also the truth and the
        lesion labels. What is there already is kept, if it was made the same way.
    presets
        Names from `sequences.PRESETS`.
    lesions
        Insert graded lesions into the white matter first.
    seed
        Of bias, noise and lesions; the person enters it by the file's content.

    Returns
    -------
    One study row a preset: path, scan, person, contrast, preset, truth and, with lesions, lesions.

    Raises
    ------
    InputError
        If a simulation of that name is there that was made from another scan, or with another seed.
    """
    name = f"{stem(path)}_lesions" if lesions else stem(path)
    source = sha256(path)
    content = int(source[:8], 16)
    made_from = {"SourceSHA256": source, "Seed": seed}
    sidecars = {preset: folder / f"{name}_{preset}.json" for preset in PRESETS}
    for sidecar in filter(Path.is_file, sidecars.values()):
        there = json.loads(sidecar.read_text())
        if {key: there.get(key) for key in made_from} != made_from:
            msg = f"{sidecar}: of another scan of that name, or another seed. Use another folder."
            raise InputError(msg)
    rows: list[dict[str, Any]] = []
    truth, labels = folder / f"{name}.nii.gz", folder / f"{name}_labels.nii.gz"
    made: tuple[Prepared, np.ndarray] | None = None
    for preset in presets:
        target = folder / f"{name}_{preset}.nii.gz"
        row: dict[str, Any] = {
            "path": target.resolve(),
            "scan": f"{name}_{preset}",
            "person": stem(path),
            "contrast": PRESETS[preset].contrast,
            "preset": f"{preset}{WITH_LESIONS}" if lesions else preset,
            "truth": truth.resolve() if lesions else path.resolve(),
        }
        if lesions:
            row["lesions"] = labels.resolve()
        rows.append(row)
        if target.is_file():
            continue
        if made is None:
            made = anatomy(path, folder, np.random.default_rng([seed, content]), lesions)
        index = list(PRESETS).index(preset)
        rng = np.random.default_rng([seed, content, index])
        scan = simulate(*made, PRESETS[preset], rng)
        record = {
            "Source": str(path),
            "Preset": preset,
            "Simulation": dataclasses.asdict(PRESETS[preset]),
            **made_from,
            "Lesions": lesions,
        }
        write_together(
            {
                target: partial(nib.save, scan),
                sidecars[preset]: partial(write_json, record),
            }
        )
    return rows


def anatomy(
    path: Path, folder: Path, rng: np.random.Generator, lesions: bool
) -> tuple[Prepared, np.ndarray]:
    """The scan on the model grid and its tissue fractions, lesions inserted and written."""
    image = load(path)
    with about(path):
        prepared = prepare(image, brain_mask(image)[0], PreprocessSettings())
    labels, fractions = classify(prepared.image, prepared.mask)
    if not lesions:
        return prepared, fractions
    changed, planted, _ = insert_lesions(prepared.image, labels, rng)
    prepared = dataclasses.replace(prepared, image=changed)
    _, fractions = classify(changed, prepared.mask)
    shown = np.where(prepared.mask, from_model_units(changed, 1, FULL_SCALE), 0)
    images = {"lesions": shown.astype(np.float32), "lesions_labels": planted.astype(np.uint8)}
    write_together(
        {
            folder / f"{stem(path)}_{part}.nii.gz": partial(
                nib.save, nib.Nifti1Image(volume, prepared.grid.affine)
            )
            for part, volume in images.items()
        }
    )
    return prepared, fractions


def add_to_study(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write study rows after those of other scans that the file already has."""
    names = {row["scan"] for row in rows}
    known: list[dict[str, Any]] = []
    if path.is_file():
        with path.open(newline="") as stream:
            known = [r for r in csv.DictReader(stream, delimiter="\t") if r["scan"] not in names]
    write_study(path, [*known, *rows])


def write_study(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write study rows as TSV, atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(Scan.__dataclass_fields__), delimiter="\t")
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)


def write_json(record: dict[str, Any], path: Path) -> None:
    """Write one sidecar."""
    path.write_text(json.dumps(record, indent=2) + "\n")
