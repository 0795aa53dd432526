"""The files of a result: names, sidecar, and all of them or none."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import ClassVar

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import isochroma
from fixtures_pipeline import AnalyticNetwork, config, head_image, tiny_harmonizer
from isochroma.checks import Doubt, Region, ScanWarning
from isochroma.errors import InputError
from isochroma.images import mosaic
from isochroma.models.config import TargetDomain
from isochroma.outputs import (
    OutputFiles,
    identity,
    is_finished,
    plan_outputs,
    save_preview,
    sidecar,
    write_outputs,
)
from isochroma.pipeline import Result, SamplingSettings


@pytest.fixture(scope="module")
def result() -> Result:
    """Of a network that paints a constant."""
    network = AnalyticNetwork(lambda condition: 0 * condition[:, :1] + 0.5)
    sampling = SamplingSettings(refine="none", seed=5)
    model = config(sha256="ab" * 32)
    return tiny_harmonizer(sampling, network, model, outside="source").run(head_image())


@pytest.fixture
def files(tmp_path: Path) -> OutputFiles:
    return OutputFiles.beside(tmp_path / "out" / "a.nii.gz")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestPlan:
    def test_names_in_a_folder(self, tmp_path: Path) -> None:
        scan = tmp_path / "sub-01_T1w.nii.gz"
        (files,) = plan_outputs([scan], tmp_path / "out").values()
        assert [path.relative_to(tmp_path / "out").as_posix() for path in files.all()] == [
            "sub-01_T1w_harmonized.nii.gz",
            "sub-01_T1w_harmonized_mask.nii.gz",
            "sub-01_T1w_harmonized.json",
            "sub-01_T1w_harmonized.png",
            "sub-01_T1w_harmonized_uncertainty.nii.gz",
        ]

    def test_a_file_name(self, tmp_path: Path) -> None:
        (files,) = plan_outputs([tmp_path / "a.nii.gz"], tmp_path / "b.mgz").values()
        assert (files.image, files.mask) == (tmp_path / "b.mgz", tmp_path / "b_mask.mgz")

    @pytest.mark.parametrize(
        ("scan", "image"),
        [
            ("a.MGZ", "a_harmonized.mgz"),
            ("a.nii", "a_harmonized.nii"),
            ("a", "a_harmonized.nii.gz"),
        ],
    )
    def test_format_is_the_scans(self, tmp_path: Path, scan: str, image: str) -> None:
        (files,) = plan_outputs([tmp_path / scan], tmp_path).values()
        assert files.image == tmp_path / image

    def test_one_entry_a_scan(self, tmp_path: Path) -> None:
        scans = [tmp_path / "a.nii", tmp_path / "b.nii"]
        planned = plan_outputs(iter(scans), tmp_path / "out")
        assert list(planned) == scans
        assert planned[scans[1]].image == tmp_path / "out" / "b_harmonized.nii"

    def test_several_scans_and_one_file_name(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is a file name, and there are 2 scans") as caught:
            plan_outputs([tmp_path / "a.nii", tmp_path / "b.nii"], tmp_path / "c.nii")
        assert caught.value.argument == "output"

    @pytest.mark.parametrize("other", ["x/a.nii.gz", "a.nii"])
    def test_two_scans_that_share_an_output(self, tmp_path: Path, other: str) -> None:
        """All of them, or only the sidecar: it must not be lost."""
        scans = [tmp_path / "a.nii.gz", tmp_path / other]
        with pytest.raises(InputError, match="would both write") as caught:
            plan_outputs(scans, tmp_path / "out")
        assert all(str(scan) in str(caught.value) for scan in scans)

    def test_a_scan_is_not_overwritten(self, tmp_path: Path) -> None:
        scan = tmp_path / "a.nii"
        with pytest.raises(InputError, match="is one of the scans to harmonize") as caught:
            plan_outputs([scan], tmp_path / "sub" / ".." / "a.nii")
        assert caught.value.argument == "output"

    def test_a_name_that_no_file_system_takes(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="longer than 255 bytes"):
            plan_outputs([tmp_path / ("a" * 240 + ".nii")], tmp_path / "out")

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("precious")
        with pytest.raises(InputError, match="cannot be written to") as caught:
            plan_outputs([tmp_path / "a.nii"], tmp_path / "file" / "out")
        assert caught.value.argument == "output"


class TestFinished:
    """Outputs count as finished with a sidecar of the same input and settings."""

    EXPECTED: ClassVar = {"SourceSHA256": "ab", "Sampling": {"seed": 1}}

    def written(self, files: OutputFiles, **changes: object) -> OutputFiles:
        files.image.parent.mkdir()
        for path in (files.image, files.mask):
            path.write_bytes(b"volume")
        files.sidecar.write_text(json.dumps(self.EXPECTED | {"Seconds": {}} | changes))
        return files

    def test_all_there(self, files: OutputFiles) -> None:
        assert is_finished(self.written(files), self.EXPECTED)

    def test_nothing_there(self, files: OutputFiles) -> None:
        assert not is_finished(files, self.EXPECTED)

    def test_without_a_sidecar_they_are_redone(self, files: OutputFiles) -> None:
        self.written(files).sidecar.unlink()
        assert not is_finished(files, self.EXPECTED)

    def test_a_missing_image_is_redone(self, files: OutputFiles) -> None:
        self.written(files).image.unlink()
        assert not is_finished(files, self.EXPECTED)

    def test_a_preview_that_is_asked_for(self, files: OutputFiles) -> None:
        assert not is_finished(self.written(files), self.EXPECTED, preview=True)
        files.preview.write_bytes(b"png")
        assert is_finished(files, self.EXPECTED, preview=True)

    def test_a_map_that_is_asked_for(self, files: OutputFiles) -> None:
        assert not is_finished(self.written(files), self.EXPECTED, uncertainty=True)
        files.uncertainty.write_bytes(b"volume")
        assert is_finished(files, self.EXPECTED, uncertainty=True)

    @pytest.mark.parametrize("changes", [{"SourceSHA256": "cd"}, {"Sampling": {"seed": 2}}])
    def test_others_are_kept(self, files: OutputFiles, changes: dict) -> None:
        with pytest.raises(InputError, match="of another input or other settings") as caught:
            is_finished(self.written(files, **changes), self.EXPECTED)
        assert caught.value.argument == "overwrite"

    def test_a_sidecar_that_is_none_is_kept(self, files: OutputFiles) -> None:
        self.written(files).sidecar.write_text("my notes")
        with pytest.raises(InputError, match="of another input or other settings"):
            is_finished(files, self.EXPECTED)


class TestSidecar:
    def content(self, result: Result, folder: Path) -> dict:
        path = folder / "scan.nii.gz"
        path.write_bytes(b"abc")
        harmonizer = tiny_harmonizer(
            SamplingSettings(refine="none", seed=5),
            model_config=config(sha256="ab" * 32),
            outside="source",
        )
        made_from = identity(harmonizer, path, None, "float32")
        source = {"Source": str(path)}
        return json.loads(json.dumps(sidecar(result, source, made_from, {"load": 0.25})))

    def test_what_can_be_reproduced_from_it(self, result: Result, tmp_path: Path) -> None:
        content = self.content(result, tmp_path)
        assert content["GeneratedBy"] == {"Name": "isochroma", "Version": isochroma.__version__}
        assert content["Source"] == str(tmp_path / "scan.nii.gz")
        assert content["SourceSHA256"] == hashlib.sha256(b"abc").hexdigest()
        assert (content["Model"], content["ModelSHA256"]) == ("tiny", "ab" * 32)
        assert SamplingSettings(**content["Sampling"]) == result.record.sampling
        assert content["Sampling"]["seed"] == 5
        assert content["Preprocessing"]["n4"] is False
        assert content["Edges"]["fraction"] == config().edges.fraction
        assert content["MaskOrigin"] == "stripped"
        assert content["OutsideMask"] == "source"
        assert (content["Device"], content["Precision"]) == ("cpu", "float32")

    def test_measured_values(self, result: Result, tmp_path: Path) -> None:
        content = self.content(result, tmp_path)
        assert content["BrainVolumeMl"] == pytest.approx(239, abs=6)
        assert content["TargetLimits"] == [100, 500]
        assert content["SourceLimits"] == [result.source.lower, result.source.upper]
        assert content["WhiteMatterMode"]["Output"] == pytest.approx(400, abs=2)  # the constant
        assert content["Seconds"] == {"load": 0.25}
        assert content["Warnings"] == []
        assert (content["ExpectedError"], content["DoubtfulRegions"]) == (None, [])

    def test_doubt(self, result: Result, tmp_path: Path) -> None:
        regions = (Region(2.5, (1.0, -20.5, 30.0)),)
        doubt = Doubt(np.zeros(1), 0.22223, regions)
        content = self.content(dataclasses.replace(result, doubt=doubt), tmp_path)
        assert content["ExpectedError"] == 0.1111
        assert content["DoubtfulRegions"] == [{"VolumeMl": 2.5, "CentreMm": [1.0, -20.5, 30.0]}]

    def test_warnings(self, result: Result, tmp_path: Path) -> None:
        warned = dataclasses.replace(
            result, warnings=(ScanWarning("brain-size", "small.", 61.123456),)
        )
        assert self.content(warned, tmp_path)["Warnings"] == [
            {"Code": "brain-size", "Text": "small.", "Value": 61.1235}
        ]


class TestWrite:
    CONTENT = {"Model": "tiny"}  # noqa: RUF012

    def test_what_is_always_written(self, result: Result, files: OutputFiles) -> None:
        write_outputs(files, result, self.CONTENT)
        assert names(files.image.parent) == ["a.json", "a.nii.gz", "a_mask.nii.gz"]
        for path, expected in ((files.image, result.image), (files.mask, result.mask)):
            found = np.asarray(nib.load(path).dataobj)
            np.testing.assert_array_equal(found, np.asarray(expected.dataobj))
        assert json.loads(files.sidecar.read_text()) == self.CONTENT

    def test_what_was_asked_for(self, result: Result, files: OutputFiles) -> None:
        write_outputs(files, result, self.CONTENT, result.image, preview=True)
        assert all(path.is_file() for path in files.all())
        assert len(names(files.image.parent)) == 5

    def test_a_second_run_clears_away_what_it_does_not_write(
        self, result: Result, files: OutputFiles
    ) -> None:
        write_outputs(files, result, self.CONTENT, result.image, preview=True)
        other = files.image.with_name("other.png")
        other.write_text("precious")
        write_outputs(files, result, self.CONTENT)
        assert names(files.image.parent) == ["a.json", "a.nii.gz", "a_mask.nii.gz", "other.png"]

    def test_nothing_if_one_fails(
        self, result: Result, files: OutputFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The disk is full at the mask: neither image nor sidecar appears, and old files stay."""
        save = nib.save

        def save_until_full(image: nib.Nifti1Image, path: Path) -> None:
            if path.name == files.mask.name:
                path.write_bytes(b"half")
                raise OSError(28, "No space left on device")
            save(image, path)

        files.image.parent.mkdir()
        files.image.write_text("old")
        files.preview.write_text("old")
        monkeypatch.setattr(nib, "save", save_until_full)
        with pytest.raises(OSError, match="No space left"):
            write_outputs(files, result, self.CONTENT)
        assert names(files.image.parent) == ["a.nii.gz", "a.png"]
        assert files.image.read_text() == "old"


def test_preview(result: Result, tmp_path: Path) -> None:
    """The constant output is grey in the brain and black around it; the mask's border is drawn."""
    save_preview(result, tmp_path / "a.png", TargetDomain(quantiles=(-1.0, 0.0, 1.0)))
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    border = (pixels == mosaic.CONTOUR).all(-1)
    assert 500 < border.sum() < 0.1 * border.size
    constant = (pixels == int(255 * 1.5 / 2)).all(-1)
    assert 0.05 < constant.mean() < 0.5
    assert (pixels == 0).all(-1).mean() > 0.1
