"""Finished scans, sidecars and measures for the tests of the pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from fixtures_pipeline import RAS, head
from isochroma.images.histogram import BINS
from isochroma.models.config import TargetDomain
from isochroma.report.group import Row
from isochroma.report.scan import Files

TARGET = TargetDomain(lower=100, upper=500, quantiles=(-1.0, 0.0, 1.0))


SIDECAR: dict[str, Any] = {
    "GeneratedBy": {"Name": "isochroma", "Version": "0.1.0"},
    "Model": "default",
    "ModelSHA256": "ab" * 32,
    "Sampling": {"steps": 1, "solver": "euler", "refine": "local", "revise": True, "seed": 0},
    "Preprocessing": {
        "spacing_mm": 1.0,
        "n4": True,
        "lower_percentile": 0.5,
        "upper_percentile": 99.5,
    },
    "Edges": {"sigma": 1.0, "fraction": 0.16},
    "MaskOrigin": "deepbet",
    "BrainVolumeMl": 1200.0,
    "Warnings": [{"Code": "thick-voxels", "Text": "voxels of <3> mm.", "Value": 3.0}],
    "ExplainedShare": 0.9,
    "ExpectedError": None,
}


def finished(folder: Path, name: str, gain: float = 2.0, seed: int = 0) -> Files:
    """The output is the head over the target's range, the source that times `gain`."""
    data, mask = head(seed=seed)
    low, high = np.percentile(data[mask], [0.5, 99.5])
    output = np.where(mask, 100 + 400 * np.clip((data - low) / (high - low), 0, 1), 0)
    files = Files(
        source=folder / f"{name}.nii.gz",
        image=folder / f"{name}_out.nii.gz",
        mask=folder / f"{name}_mask.nii.gz",
        uncertainty=folder / f"{name}_error.nii.gz",
        folder=folder / "figures",
        stem=name,
    )
    volumes = {files.source: gain * data, files.image: output, files.mask: mask}
    for path, volume in volumes.items():
        image = nib.Nifti1Image(volume.astype(np.float32), RAS)
        nib.save(image.as_reoriented([[0, -1], [2, 1], [1, -1]]), path)
    return files


def row(person: int, site: str, before: int, contrast: float = 1.0, **rest: object) -> Row:
    """A scan whose source has all voxels in one bin, and whose output has them in bin 30."""
    shares = {name: np.eye(BINS)[place].tolist() for name, place in (("S", before), ("O", 30))}
    side = {"GreyWhiteContrast": contrast, "Noise": 0.01, "DistanceToTarget": 0.1}
    report = {
        "Histogram": {"Source": shares["S"], "Output": shares["O"], "Target": shares["O"]},
        "ClassVolumesMl": [200.0, 500.0, 400.0],
        "Source": side,
        "Output": side,
        "Agreement": {"other": 0.8, "third": None},
    }
    return Row(
        participant=f"sub-{person:02}",
        site=site,
        modality="T1w",
        status="done",
        sidecar={"BrainVolumeMl": 1100.0 + person},
        report=report,
        **rest,
    )


def two_sites(people: int = 6) -> list[Row]:
    return [row(n, "AB"[n % 2], (10, 50)[n % 2]) for n in range(people)]
