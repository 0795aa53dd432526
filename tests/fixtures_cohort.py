"""Helpers of the study tests: BIDS data sets of drawn heads, and work that fails or kills."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
from distributed import Client, LocalCluster

from fixtures_pipeline import head_image
from isochroma.cohort.cluster import NO_DASHBOARD
from isochroma.cohort.plan import Scan
from isochroma.cohort.work import Outcome

README = "Heads that were drawn for tests: ellipsoids of three tissues with folds.\n" * 3


def make_bids(folder: Path, scans: list[str], description: bool = True) -> Path:
    """A BIDS data set with a drawn head for each path, such as "sub-01/anat/sub-01_T1w.nii.gz"."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, relative in enumerate(scans):
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(head_image(seed=number), path)
    if description:
        content = {"Name": "Drawn", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
        (folder / "dataset_description.json").write_text(json.dumps(content))
        (folder / "README.md").write_text(README)
    return folder


def touch_bids(folder: Path, scans: list[str]) -> Path:
    """A BIDS data set whose scans are empty files."""
    for relative in scans:
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def scan_named(name: str) -> Scan:
    """A scan that need not exist: "sub-01_T1w"."""
    *parts, suffix = name.split("_")
    entities = dict(part.split("-") for part in parts)
    return Scan(Path("/nowhere"), f"sub-{entities['sub']}/anat/{name}.nii.gz", entities, suffix)


@contextmanager
def thread_workers() -> Iterator[Client]:
    """A cluster in this process: quick, for tests that kill nothing."""
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=NO_DASHBOARD
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def kill_some(folder: Path, scan: Scan) -> Outcome:
    """Kill the worker for sub-bad always and for sub-unlucky once, and leave a mark each time."""
    subject = scan.entities["sub"]
    marks = len(list(folder.glob(f"{subject}-*")))
    (folder / f"{subject}-{marks}").touch()
    if subject == "bad" or (subject == "unlucky" and marks < 1):
        os._exit(1)
    return Outcome(scan)


def fail_some(scan: Scan) -> Outcome:
    """Raise for sub-bad."""
    if scan.entities["sub"] == "bad":
        msg = "odd\nthings"
        raise RuntimeError(msg)
    return Outcome(scan)


def rest(scan: Scan) -> Outcome:
    """Take a second."""
    time.sleep(1)
    return Outcome(scan)
