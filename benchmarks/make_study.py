"""The studies of the project's real scans: python benchmarks/make_study.py --data DIR --out DIR.

Writes two studies and, into OUT/simulated, the simulated travelling subjects that they name.
Nothing is fitted here.

study.tsv is of scans as they are: the target's test subjects, on every preset and with planted
lesions on four, OASIS, four of its scans also as a T2w scanner shows them (a large gap with known
tissues; no truth), ds000011, and a person each in several contrasts.

ages.tsv is for ages and site effects across sites: heads of known age, those with tissues also as
one T2w preset shows them (a large gap; no truth). IXI is at hand with voxels of 2 mm, so all sites'
scans are brought to 2 mm: else a regressor learns resolution.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from held_out import participants
from nibabel.processing import resample_from_to, resample_to_output, smooth_image

from isochroma.evaluation.phantoms.sequences import PRESETS
from isochroma.evaluation.phantoms.travelling import write_study, write_travelling_subject
from isochroma.evaluation.tissues import CSF, GREY, WHITE

LESION_PRESETS = ("mprage-1.5T", "tse-t2-3T", "tse-pd-1.5T", "flair-3T")
LARGE_GAP = "tse-t2-3T"
CORE_SCANS = 2  # of OASIS: one person, scanned twice
SHOWN_AS_T2W = 4  # of OASIS' scans, in the first study
VOXEL = 2.0  # mm, of the study of ages
HALF = 0.5  # of a coarse voxel that must be brain
IXI_HEADS = 60  # those with labels first
# DLMUSE's regions by tissue; deep nuclei, the brainstem and all else have none.
REGIONS = {
    CSF: [4, 11, *range(49, 53)],  # the ventricles
    GREY: [38, 39, *range(71, 74), *range(100, 208)],  # the cortex, and the cerebellum's
    WHITE: [40, 41, *range(81, 89), *range(91, 96)],
}


def target(data: Path, out: Path) -> list[dict[str, Any]]:
    """List the target's own scans, and write its test subjects as simulated scanners show them."""
    folder = data / "target_ds002748"
    rows = []
    first = True
    for row in sorted(participants(folder), key=lambda row: row["participant_id"]):
        person = row["participant_id"]
        path = folder / f"{person}_T1w.nii.gz"
        known = {
            "site": "ds002748",
            "person": person,
            "age": row["age"],
            "sex": row["sex"],
            "split": row["split"],
        }
        truth = path if row["split"] == "test" else ""
        own = {"path": path, "scan": f"target_{person}", "truth": truth}
        rows.append({**known, **own, "core": "yes" if first and truth else ""})
        if truth:
            known["split"] = ""
            for preset in write_travelling_subject(path, out, list(PRESETS)):
                core = "yes" if first and preset["preset"] in LESION_PRESETS else ""
                rows.append({**preset, **known, "core": core})
            rows += [
                {**preset, **known}
                for preset in write_travelling_subject(path, out, LESION_PRESETS, lesions=True)
            ]
            first = False
    return rows


def oasis(data: Path, out: Path, shown_as_t2w: int = 0) -> list[dict[str, Any]]:
    """List OASIS with its labels, and the first few scans as a T2w scanner shows them too."""
    folder = data / "source_oasis1"
    rows = []
    for row in participants(folder):
        scan = row["scan_id"]
        path = folder / f"{scan}_T1w.nii.gz"
        known = {
            "site": "OASIS-1",
            "person": row["person"],
            "age": row["age"],
            "sex": row["sex"],
            "tissues": folder / f"{scan}_tissues.nii.gz",
        }
        rows.append({"path": path, "scan": f"oasis_{scan}", **known})
    twice = [row for row in rows if sum(row["person"] == other["person"] for other in rows) > 1]
    for row in twice[:CORE_SCANS]:
        row["core"] = "yes"
    simulated = [
        write_travelling_subject(row["path"], out, [LARGE_GAP])[0] for row in rows[:shown_as_t2w]
    ]
    about = {"truth": "", "core": ""}
    return rows + [
        {**row, **other, **about, "person": row["person"]}
        for row, other in zip(rows, simulated, strict=False)
    ]


def ixi(data: Path, out: Path) -> list[dict[str, Any]]:
    """List IXI's heads of one scanner, the tissues of those that have labels written to OUT."""
    folder = data / "ages_ixi_hh"
    rows = []
    for row in participants(folder):
        person = row["participant_id"]
        labels = folder / f"{person}_labels.nii.gz"
        known = {"site": "IXI-HH", "person": person, "age": row["age"], "sex": row["sex"]}
        rows.append({"path": folder / f"{person}_T1w.nii.gz", "scan": f"ixi_{person}", **known})
        if labels.is_file():
            rows[-1]["tissues"] = write_tissues(labels, out / f"{person}_tissues.nii.gz")
    return sorted(rows, key=lambda row: "tissues" not in row)[:IXI_HEADS]


def ages(data: Path, out: Path) -> list[dict[str, Any]]:
    """List the scans of the study of ages, the labelled ones also as a T2w scanner shows them."""
    rows = []
    own = [row for row in target(data, out) if not row.get("preset")]
    for row in [*own, *oasis(data, out), *others(data), *ixi(data, out)]:
        if not row.get("age"):
            continue
        truth = {"truth": "", "core": ""}
        name = row["scan"]
        rows.append({**row, **truth, **coarse(row, out, name), "grid": name})
        if "tissues" in row:
            simulated = write_travelling_subject(row["path"], out, [LARGE_GAP])[0]
            about = {**row, **simulated, **truth, "person": row["person"]}
            rows.append({**about, **coarse(about, out, simulated["scan"]), "grid": name})
    return rows


def coarse(row: dict[str, Any], out: Path, name: str) -> dict[str, Path]:
    """Write a row's scan, and its tissues, with cubic voxels of 2 mm; return their paths."""
    image = nib.load(row["path"])
    if min(image.header.get_zooms()[:3]) > 0.99 * VOXEL:
        return {}
    inside = nib.Nifti1Image((image.get_fdata() > 0).astype(np.float32), image.affine)
    sums, share = (
        resample_to_output(smooth_image(each, VOXEL), [VOXEL] * 3, order=1)
        for each in (image, inside)
    )
    brain = share.get_fdata() > HALF
    voxels = np.where(brain, sums.get_fdata() / np.maximum(share.get_fdata(), HALF), 0)
    paths = {"path": out / f"{name}_2mm.nii.gz"}
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), sums.affine), paths["path"])
    if "tissues" in row:
        paths["tissues"] = out / f"{name}_2mm_tissues.nii.gz"
        tissues = resample_from_to(nib.load(row["tissues"]), sums, order=0)
        labels = np.asarray(tissues.dataobj, np.uint8)
        nib.save(nib.Nifti1Image(labels, tissues.affine), paths["tissues"])
    return paths


def write_tissues(regions: Path, path: Path) -> Path:
    """Write the tissues of a volume of regions, and return the path."""
    image = nib.load(regions)
    values = np.asarray(image.dataobj)
    tissues = np.zeros(values.shape, np.uint8)
    for tissue, of_tissue in REGIONS.items():
        tissues[np.isin(values, of_tissue)] = tissue
    nib.save(nib.Nifti1Image(tissues, image.affine), path)
    return path


def others(data: Path) -> list[dict[str, Any]]:
    """ds000011, and one person each of Kirby21 and MS in several contrasts."""
    rows: list[dict[str, Any]] = [
        {
            "path": path,
            "scan": f"ds000011_{row['participant_id']}",
            "site": "ds000011",
            "person": f"ds000011_{row['participant_id']}",
            "age": row["age"],
            "sex": row["sex"],
        }
        for folder in (data / "source_ds000011", data / "clinical_ds000011")
        for row in participants(folder)
        if (path := folder / f"{row['participant_id']}_T1w.nii.gz").is_file()
    ]
    for name, prefix, contrasts in (
        ("kirby113", data / "contrasts_kirby113" / "113", ("T1w", "T2w", "FLAIR")),
        ("ms07", data / "contrasts_ms07" / "ms07", ("T1w", "T1wpost", "T2w", "FLAIR")),
    ):
        for contrast in contrasts:
            row = {
                "path": f"{prefix}_{contrast}.nii.gz",
                "scan": f"{name}_{contrast}",
                "site": name,
                "person": name,
                "contrast": contrast,
                "grid": name,
                "core": "yes",
            }
            if name == "ms07":
                row["lesions"] = f"{prefix}_lesions.nii.gz"
            rows.append(row)
    return rows


def main() -> None:
    """Write the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real scans")
    parser.add_argument("--out", type=Path, required=True, help="folder for the study")
    options = parser.parse_args()
    data, out = options.data.resolve(), options.out.resolve()
    simulated = out / "simulated"
    for name, rows in (
        (
            "study.tsv",
            [*target(data, simulated), *oasis(data, simulated, SHOWN_AS_T2W), *others(data)],
        ),
        ("ages.tsv", ages(data, simulated)),
    ):
        write_study(out / name, rows)
        print(f"{out / name}: {len(rows)} scans")


if __name__ == "__main__":
    main()
