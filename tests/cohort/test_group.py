"""The table of all scans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fixtures_cohort import scan_named
from isochroma.cohort.derivative import output_files, record_failure, source_entries
from isochroma.cohort.group import group_rows, write_group
from isochroma.errors import InputError
from isochroma.tables import read_table

SIDECAR = {
    "BrainVolumeMl": 1200.5,
    "ExplainedShare": None,
    "WhiteMatterMode": {"Output": 900.0},
    "SourceLimits": [10.0, 700.0],
    "Seconds": {"load": 0.5, "network": 3.25},
    "Warnings": [{"Code": "thick-voxels"}, {"Code": "brain-size"}],
}


def finish(folder: Path, name: str) -> None:
    scan = scan_named(name)
    path = output_files(folder, scan, "T1w").sidecar
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**source_entries(scan), **SIDECAR}))


def test_done_and_failed(tmp_path: Path) -> None:
    finish(tmp_path, "sub-02_ses-b_run-1_FLAIR")
    finish(tmp_path, "sub-01_T1w")
    record_failure(tmp_path, scan_named("sub-03_T2w"), "no\tbrain")
    record_failure(tmp_path, scan_named("sub-01_T1w"), "changed, and failed since")
    people = tmp_path / "participants.tsv"
    people.write_text("participant_id\tsite\nsub-01\tLeiden\nsub-02\t\n")
    table = write_group(tmp_path, group_rows(tmp_path, people))
    first, second, third = read_table(table, ("participant_id", "session_id", "run"))
    assert first["site"] == "Leiden"
    assert first["status"] == "failed"
    assert first["failure"] == "changed, and failed since"
    assert second["participant_id"] == "sub-02"
    assert second["session_id"] == "ses-b"
    assert second["run"] == "1"
    assert second["site"] == "n/a"
    assert second["modality"] == "FLAIR"
    assert second["status"] == "done"
    assert second["warnings"] == "thick-voxels,brain-size"
    assert second["brain_ml"] == "1200.5"
    assert second["explained_share"] == "n/a"
    assert second["white_matter_mode_target"] == "n/a"
    assert second["seconds"] == "3.8"
    name = "sub-02_ses-b_run-1_desc-harmonizedFLAIR_T1w.nii.gz"
    assert second["output"] == f"sub-02/anat/{name}"
    assert third["participant_id"] == "sub-03"
    assert third["failure"] == r"no\tbrain"
    assert third["brain_ml"] == third["output"] == "n/a"


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Run the participant level first"):
        group_rows(tmp_path)


def test_no_cell_breaks_the_table(tmp_path: Path) -> None:
    finish(tmp_path, "sub-01_T1w")
    path = next(tmp_path.rglob("*.json"))
    sidecar = json.loads(path.read_text())
    path.write_text(json.dumps({**sidecar, "BrainVolumeMl": "1\t2\n3"}))
    (row,) = group_rows(tmp_path)
    assert row["brain_ml"] == r"1\t2\n3"


@pytest.mark.parametrize("content", [b"", b"sub-02/anat/sub-02_T1w.nii.gz", b"\xff"])
def test_half_a_note_on_a_failure(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "logs" / "failed").mkdir(parents=True)
    (tmp_path / "logs" / "failed" / "sub-02_T1w.txt").write_bytes(content)
    with pytest.raises(InputError, match="not a note on a scan"):
        group_rows(tmp_path)


def test_foreign_sidecar(tmp_path: Path) -> None:
    finish(tmp_path, "sub-01_T1w")
    next(tmp_path.rglob("*.json")).write_text("{}")
    with pytest.raises(InputError, match="not a sidecar of this program"):
        group_rows(tmp_path)
