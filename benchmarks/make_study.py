"""The study file of the project's real scans: python benchmarks/make_study.py --data DIR --out DIR.

Writes OUT/study.tsv, and into OUT/simulated the simulated travelling subjects: the target's test
subjects on every preset, the same with planted lesions on four presets, and OASIS and a third of
IXI as one T2w preset shows them (a large gap with known tissues and ages; no truth). Nothing is
fitted here.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from held_out import participants

from isochroma.evaluation.phantoms.sequences import PRESETS
from isochroma.evaluation.phantoms.travelling import write_study, write_travelling_subject
from isochroma.evaluation.tissues import CSF, GREY, WHITE

LESION_PRESETS = ("mprage-1.5T", "tse-t2-3T", "tse-pd-1.5T", "flair-3T")
LARGE_GAP = "tse-t2-3T"
CORE_PERSONS = 4
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
        core = "yes" if first and truth else ""
        rows.append({**known, **own, "core": core})
        if truth:
            known = {**known, "split": "", "core": core}
            rows += [{**r, **known} for r in write_travelling_subject(path, out, list(PRESETS))]
            rows += [
                {**r, **known}
                for r in write_travelling_subject(path, out, LESION_PRESETS, lesions=True)
            ]
            first = False
    return rows


def oasis(data: Path, out: Path) -> list[dict[str, Any]]:
    """OASIS with its labels, and as a T2w scanner would show it."""
    folder = data / "source_oasis1"
    rows = []
    for number, row in enumerate(participants(folder)):
        scan = row["scan_id"]
        path = folder / f"{scan}_T1w.nii.gz"
        known = {
            "site": "OASIS-1",
            "person": row["person"],
            "age": row["age"],
            "sex": row["sex"],
            "tissues": folder / f"{scan}_tissues.nii.gz",
            "core": "yes" if number < CORE_PERSONS else "",
        }
        rows.append({"path": path, "scan": f"oasis_{scan}", **known})
        simulated = write_travelling_subject(path, out, [LARGE_GAP])[0]
        rows.append({**simulated, **known, "truth": ""})
    return rows


def ixi(data: Path, out: Path) -> list[dict[str, Any]]:
    """IXI's heads of one scanner; a third with labels, these also as a T2w scanner shows them."""
    folder = data / "ages_ixi_hh"
    rows = []
    for row in participants(folder):
        person = row["participant_id"]
        path = folder / f"{person}_T1w.nii.gz"
        labels = folder / f"{person}_labels.nii.gz"
        known = {"site": "IXI-HH", "person": person, "age": row["age"], "sex": row["sex"]}
        rows.append({"path": path, "scan": f"ixi_{person}", "grid": person, **known})
        if labels.is_file():
            rows[-1]["tissues"] = write_tissues(labels, out / f"{person}_tissues.nii.gz")
            simulated = write_travelling_subject(path, out, [LARGE_GAP])[0]
            about = {**simulated, **known, "grid": person, "truth": ""}
            rows.append({**about, "tissues": rows[-1]["tissues"]})
    return rows


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
    rows = [*target(data, simulated), *oasis(data, simulated), *others(data)]
    rows += ixi(data, simulated)
    write_study(out / "study.tsv", rows)
    print(f"{out / 'study.tsv'}: {len(rows)} scans")


if __name__ == "__main__":
    main()
