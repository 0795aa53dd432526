"""Workers as jobs of a real SLURM; run with -m slow where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from conftest import ROOT
from fixtures_cohort import kill_some, rest, scan_named
from isochroma.cohort.cluster import Workers, slurm_workers
from isochroma.cohort.run import harmonize_scans

pytestmark = pytest.mark.slow


def ask(*words: str) -> list[str]:
    """The lines that a program of SLURM prints."""
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.split()


@pytest.fixture
def partition(monkeypatch: pytest.MonkeyPatch) -> str:
    if shutil.which("sinfo") is None:
        pytest.skip("no SLURM here")
    found = ask("sinfo", "--noheader", "--states=idle,mix", "--format=%R")
    if not found:
        pytest.skip("SLURM has no idle node")
    paths = [str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))  # jobs import the tests' helpers
    return found[0]


def test_scans_that_kill_their_workers(partition: str, tmp_path: Path) -> None:
    scans = [scan_named(f"sub-{label}_T1w") for label in ("01", "bad", "unlucky", "02", "03")]
    options = f"{partition} --time=10:00"
    with slurm_workers(options, Workers(2, 1, 1.5), tmp_path / "logs") as client:
        outcomes = list(harmonize_scans(client, partial(kill_some, tmp_path), scans))
    failures = {each.scan.entities["sub"]: each.failure for each in outcomes}
    assert len(outcomes) == len(scans)
    assert "its worker was killed" in failures.pop("bad")
    assert set(failures.values()) == {""}


def test_a_job_that_is_cancelled(partition: str, tmp_path: Path) -> None:
    """Its scan is done by another job, and a new job takes its place."""
    scans = [scan_named(f"sub-{number:02}_T1w") for number in range(30)]
    jobs: set[str] = set()
    with slurm_workers(partition, Workers(1, 1, 1.5), tmp_path / "logs") as client:
        for number, outcome in enumerate(harmonize_scans(client, rest, scans)):
            assert outcome.failure == ""
            jobs |= set(ask("squeue", "--me", "--noheader", "--format=%i"))
            if number == 3:
                ask("scancel", *jobs)
    assert number == len(scans) - 1
    assert len(jobs) == 2
    time.sleep(2)
    assert not jobs & set(ask("squeue", "--me", "--noheader", "--format=%i"))
