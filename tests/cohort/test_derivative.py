"""Names of outputs, and the files that describe the derivative."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from fixtures_cohort import make_bids, scan_named
from isochroma.cohort.derivative import (
    check_output,
    describe_dataset,
    output_files,
    record_failure,
    source_entries,
)
from isochroma.errors import InputError


class TestNames:
    def test_of_the_target_contrast(self) -> None:
        files = output_files(Path("out"), scan_named("sub-01_ses-2_run-1_T1w"), "T1w")
        stem = "out/sub-01/anat/sub-01_ses-2_run-1"
        assert files.image == Path(f"{stem}_desc-harmonized_T1w.nii.gz")
        assert files.sidecar == Path(f"{stem}_desc-harmonized_T1w.json")
        assert files.mask == Path(f"{stem}_desc-brain_mask.nii.gz")
        assert files.mask_sidecar == Path(f"{stem}_desc-brain_mask.json")

    def test_of_another_contrast(self) -> None:
        files = output_files(Path("out"), scan_named("sub-01_FLAIR"), "T1w")
        assert files.image.name == "sub-01_desc-harmonizedFLAIR_T1w.nii.gz"
        assert files.mask.name == "sub-01_desc-brainFLAIR_mask.nii.gz"

    def test_the_model_decides_what_the_output_is_called(self) -> None:
        files = output_files(Path("out"), scan_named("sub-01_T1w"), "T2w")
        assert files.image.name == "sub-01_desc-harmonizedT1w_T2w.nii.gz"

    @pytest.mark.parametrize("target", ["T1w", "FLAIR", "PD"])
    def test_no_two_scans_share_a_file(self, target: str) -> None:
        stems = ["sub-01", "sub-01_run-1", "sub-01_acq-FLAIR", "sub-01_rec-harmonized"]
        scans = [scan_named(f"{s}_{m}") for s in stems for m in ("T1w", "T2w", "FLAIR", "PDw")]
        paths = [path for each in scans for path in output_files(Path("o"), each, target).all()]
        assert len(set(paths)) == len(paths) == 6 * 16

    def test_source(self) -> None:
        entries = source_entries(scan_named("sub-01_T2w"))
        assert entries["Sources"] == ["bids:raw:sub-01/anat/sub-01_T2w.nii.gz"]


class TestDescription:
    def test_beside_the_data_set(self, tmp_path: Path) -> None:
        source, out = make_bids(tmp_path / "bids", []), tmp_path / "out"
        describe_dataset(source, out, "T1w")
        content = json.loads((out / "dataset_description.json").read_text())
        assert content["DatasetType"] == "derivative"
        assert content["GeneratedBy"][0]["Name"] == "isochroma"
        assert content["DatasetLinks"] == {"raw": source.as_uri()}
        assert content["SourceDatasets"] == [{"URL": source.as_uri()}]
        rows = (out / "descriptions.tsv").read_text().splitlines()
        assert rows[0] == "desc_id\tdescription"
        labels = [row.split("\t")[0] for row in rows[1:]]
        assert {"desc-harmonized", "desc-brain", "desc-harmonizedFLAIR"} <= set(labels)
        assert len(set(labels)) == len(labels) == 10

    def test_inside_the_data_set_links_are_relative(self, tmp_path: Path) -> None:
        source = make_bids(tmp_path / "bids", [])
        path = source / "dataset_description.json"
        path.write_text(json.dumps({"Name": "x", "DatasetDOI": "doi:10.1/x"}))
        out = source / "derivatives" / "isochroma"
        describe_dataset(source, out, "T1w")
        content = json.loads((out / "dataset_description.json").read_text())
        assert content["DatasetLinks"] == {"raw": "../.."}
        assert content["SourceDatasets"] == [{"URL": "doi:10.1/x"}]

    def test_odd_entries_of_the_data_set(self, tmp_path: Path) -> None:
        source, out = make_bids(tmp_path / "bids", []), tmp_path / "out"
        path = source / "dataset_description.json"
        path.write_text(json.dumps({"Name": "\udcff", "DatasetDOI": ["doi:10.1/x"]}))
        describe_dataset(source, out, "T1w")
        content = json.loads((out / "dataset_description.json").read_text())
        assert content["Name"].endswith(r"\udcff")
        assert content["SourceDatasets"] == [{"URL": source.as_uri()}]

    def test_what_killed_runs_left_is_removed(self, tmp_path: Path) -> None:
        for name in ("", "logs/failed"):
            (tmp_path / "out" / name / f".isochroma-{platform.node()}-4194305-abc").mkdir(
                parents=True
            )
        describe_dataset(make_bids(tmp_path / "bids", []), tmp_path / "out", "T1w")
        assert not list((tmp_path / "out").rglob(".isochroma-*"))

    def test_again(self, tmp_path: Path) -> None:
        source = make_bids(tmp_path / "bids", [])
        describe_dataset(source, tmp_path / "out", "T1w")
        check_output(source, tmp_path / "out")
        describe_dataset(source, tmp_path / "out", "T1w")

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ({"Name": "x", "DatasetType": "raw"}, "another data set"),
            ({"DatasetType": "derivative", "GeneratedBy": [{"Name": "fMRIPrep"}]}, "program"),
            ({"DatasetType": "derivative", "GeneratedBy": "isochroma"}, "program"),
            ({"DatasetType": "derivative", "GeneratedBy": [["isochroma"]]}, "program"),
        ],
    )
    def test_other_data_is_not_touched(self, tmp_path: Path, content: dict, reason: str) -> None:
        source, out = make_bids(tmp_path / "bids", []), make_bids(tmp_path / "out", [])
        (out / "dataset_description.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=reason) as caught:
            describe_dataset(source, out, "T1w")
        assert caught.value.argument == "out_dir"
        assert json.loads((out / "dataset_description.json").read_text()) == content

    def test_the_input_is_no_output(self, tmp_path: Path) -> None:
        source = make_bids(tmp_path / "bids", [])
        (tmp_path / "link").symlink_to(source)
        with pytest.raises(InputError, match="is the input"):
            check_output(source, tmp_path / "link")


def test_failures_come_and_go(tmp_path: Path) -> None:
    scan = scan_named("sub-01_T1w")
    record_failure(tmp_path, scan, "too small", "a\ntraceback")
    path = tmp_path / "logs" / "failed" / "sub-01_T1w.txt"
    assert path.read_text() == "sub-01/anat/sub-01_T1w.nii.gz\ntoo small\na\ntraceback"
    record_failure(tmp_path, scan, "")
    assert not path.exists()
