"""`isochroma harmonize`: files in, files out, refusals that leave nothing behind."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import isochroma
from conftest import ROOT
from fixtures_cli import Command, names
from fixtures_pipeline import RAS, SHAPE, axes_to_affine, head, head_image, save_tiny_model
from isochroma.models.config import TargetDomain
from isochroma.models.folder import SHIPPED
from isochroma.pipeline import Harmonizer, Result

QUIET: dict[str, Any] = {"capture_output": True, "text": True, "check": True}


def read_sidecar(folder: Path) -> dict:
    return json.loads((folder / "sub-01_T1w_harmonized.json").read_text())


class TestBasic:
    def test_image_mask_and_sidecar(
        self, command: Command, scan: Path, out: Path, model: Path
    ) -> None:
        done = command("harmonize", scan, "-o", out, "--model", model)
        assert done.code == 0
        assert done.stdout.strip() == str(out / "sub-01_T1w_harmonized.nii.gz")
        assert done.stderr.strip() == ""
        assert names(out) == [
            "sub-01_T1w_harmonized.json",
            "sub-01_T1w_harmonized.nii.gz",
            "sub-01_T1w_harmonized_mask.nii.gz",
        ]
        image = nib.load(out / "sub-01_T1w_harmonized.nii.gz")
        mask = nib.load(out / "sub-01_T1w_harmonized_mask.nii.gz")
        np.testing.assert_array_equal(image.affine, nib.load(scan).affine)
        inside = head()[1]
        np.testing.assert_array_equal(np.asarray(mask.dataobj) > 0, inside)
        values = np.asarray(image.dataobj)
        assert (values[~inside] == 0).all()
        assert 60 < values[inside].min() < values[inside].max() < 560
        assert image.get_data_dtype() == np.float32

    def test_command_and_interface_agree(
        self, command: Command, scan: Path, out: Path, model: Path
    ) -> None:
        done = command("harmonize", scan, "-o", out, "--model", model, "--device", "cpu")
        assert done.code == 0
        harmonizer = isochroma.Harmonizer.from_pretrained(
            model, compute=isochroma.ComputeSettings("cpu")
        )
        expected = np.asarray(harmonizer(nib.load(scan)).dataobj)
        written = np.asarray(nib.load(out / "sub-01_T1w_harmonized.nii.gz").dataobj)
        np.testing.assert_array_equal(written, expected)

    def test_options_reach_the_sidecar(
        self, command: Command, scan: Path, out: Path, model: Path
    ) -> None:
        numbers, names = ("--steps", 2, "--seed", 5), ("--solver", "heun", "--device", "cpu")
        options = (*numbers, *names, "--no-n4", "--outside", "source")
        assert command("harmonize", scan, "-o", out, "--model", model, *options).code == 0
        record = read_sidecar(out)
        assert record["Source"] == str(scan)
        assert record["SourceSHA256"] == hashlib.sha256(scan.read_bytes()).hexdigest()
        assert record["Model"] == "tiny"
        weights = (model / "weights.safetensors").read_bytes()
        assert record["ModelSHA256"] == hashlib.sha256(weights).hexdigest()
        sampling = {"steps": 2, "solver": "heun", "refine": "local", "revise": False, "seed": 5}
        assert record["Sampling"] == sampling
        assert record["Preprocessing"]["n4"] is False
        assert record["OutsideMask"] == "source"
        assert record["Device"] == "cpu"
        assert record["Seconds"].keys() >= {"load", "mask", "edges", "network", "restore"}

    def test_paper_option(self, command: Command, scan: Path, out: Path, model: Path) -> None:
        done = command("harmonize", scan, "-o", out, "--model", model, "--paper", "--steps", 2)
        assert done.code == 0
        record = read_sidecar(out)
        expected = {"steps": 2, "solver": "midpoint", "refine": "paper", "revise": False}
        assert record["Sampling"] == {**expected, "seed": 0}

    def test_no_second_pass(self, command: Command, scan: Path, out: Path, model: Path) -> None:
        assert command("harmonize", scan, "-o", out, "--model", model, "--no-revise").code == 0
        record = read_sidecar(out)
        assert record["Sampling"]["revise"] is False

    @pytest.mark.parametrize("words", [(), ("--refine", "none"), ("--paper",)])
    def test_a_second_pass_that_cannot_be_is_refused(
        self, command: Command, scan: Path, out: Path, model: Path, words: tuple[str, ...]
    ) -> None:
        done = command("harmonize", scan, "-o", out, "--model", model, "--revise", *words)
        assert done.is_refusal("the second stage needs the local refinement", "(option --revise)")

    def test_uncertainty(
        self, command: Command, scan: Path, out: Path, second_pass_model: Path
    ) -> None:
        words = ("harmonize", scan, "-o", out, "--model", second_pass_model, "--uncertainty")
        assert command(*words).code == 0
        error = nib.load(out / "sub-01_T1w_harmonized_uncertainty.nii.gz")
        assert error.shape == nib.load(scan).shape
        assert np.asarray(error.dataobj).max() > 0
        assert 0 < read_sidecar(out)["ExpectedError"] < 1

    def test_uncertainty_of_what_has_no_second_pass_is_refused(
        self, command: Command, scan: Path, out: Path, model: Path
    ) -> None:
        done = command("harmonize", scan, "-o", out, "--model", model, "--uncertainty")
        assert done.is_refusal("of the second stage alone", "(option --uncertainty)")
        assert not out.exists()

    def test_together(
        self, command: Command, scan: Path, out: Path, second_pass_model: Path, tmp_path: Path
    ) -> None:
        """One output, of the first scan's name; a second run has nothing to do."""
        other = tmp_path / "sub-01_PDw.nii.gz"
        nib.save(head_image(), other)
        words = ("harmonize", "--together", scan, other, "-o", out, "--model", second_pass_model)
        assert command(*words).code == 0
        assert [path.name for path in sorted(out.glob("*.nii.gz"))] == [
            "sub-01_T1w_harmonized.nii.gz",
            "sub-01_T1w_harmonized_mask.nii.gz",
        ]
        record = read_sidecar(out)
        assert [each["scan"] for each in record["Together"]] == [scan.name, other.name]
        assert record["TogetherSHA256"] == [hashlib.sha256(other.read_bytes()).hexdigest()]
        assert "1 already there" in command(*words).stderr

    def test_together_with_a_file_that_is_not_there(
        self, command: Command, scan: Path, out: Path, second_pass_model: Path
    ) -> None:
        words = ("--together", scan, "none.nii.gz", "-o", out, "--model", second_pass_model)
        assert command("harmonize", *words).is_refusal("none.nii.gz: no such file", "")
        assert not out.exists()

    def test_grid_of_the_model(
        self, command: Command, out: Path, second_pass_model: Path, tmp_path: Path
    ) -> None:
        shape = (44, 50, 14)
        path = tmp_path / "sub-01_T1w.nii.gz"
        nib.save(head_image(shape, axes_to_affine([[2, 0, 0], [0, 2, 0], [0, 0, 6]], shape)), path)
        options = ("--model", second_pass_model, "--grid", "model", "--preview", "--uncertainty")
        done = command("harmonize", path, "-o", out, *options)
        assert done.code == 0
        assert "between slices the output is the model's guess" in done.stderr
        for name in ("", "_mask", "_uncertainty"):
            image = nib.load(out / f"sub-01_T1w_harmonized{name}.nii.gz")
            assert image.shape == (44, 50, 42)
        assert read_sidecar(out)["Grid"] == "model"

    def test_preview(self, command: Command, scan: Path, out: Path, model: Path) -> None:
        assert command("harmonize", scan, "-o", out, "--model", model, "--preview").code == 0
        image = Image.open(out / "sub-01_T1w_harmonized.png")
        assert image.format == "PNG"
        rows = np.split(np.asarray(image), 2)
        assert all(row.std() > 20 for row in rows)
        assert not np.array_equal(*rows)
        corners = np.asarray(image)[-20:, :6]
        assert (corners == 0).all()  # black around the brain

    def test_file_name_as_output(
        self, command: Command, scan: Path, tmp_path: Path, model: Path
    ) -> None:
        image = tmp_path / "deep" / "er" / "one.nii"
        done = command("harmonize", scan, "-o", image, "--model", model)
        assert done.code == 0
        assert done.stdout.strip() == str(image)
        assert names(image.parent) == ["one.json", "one.nii", "one_mask.nii"]
        assert nib.load(image).shape == SHAPE

    @pytest.mark.parametrize("target", ["folder", "one.mgz", "one.nii.gz"])
    def test_mgz(self, command: Command, tmp_path: Path, model: Path, target: str) -> None:
        affine = axes_to_affine([[-2, 0, 0], [0, 0, -2], [0, 2, 0]], (44, 42, 50))
        data, mask = head((44, 42, 50), affine)
        path = tmp_path / "orig.mgz"
        nib.save(nib.MGHImage(data, affine), path)
        output = tmp_path / target
        assert command("harmonize", path, "-o", output, "--model", model).code == 0
        written = output / "orig_harmonized.mgz" if target == "folder" else output
        image = nib.load(written)
        kind = nib.Nifti1Image if target.endswith(".nii.gz") else nib.MGHImage
        assert type(image) is kind
        np.testing.assert_allclose(image.affine, affine, atol=1e-4)
        np.testing.assert_array_equal(np.asarray(image.dataobj) != 0, mask)
        suffix = ".nii.gz" if kind is nib.Nifti1Image else ".mgz"
        mask_path = written.with_name(written.name.removesuffix(suffix) + "_mask" + suffix)
        np.testing.assert_array_equal(np.asarray(nib.load(mask_path).dataobj), mask)

    def test_dtype_input(self, command: Command, tmp_path: Path, out: Path, model: Path) -> None:
        path = tmp_path / "a.nii.gz"
        image = head_image(dtype=np.int16)
        nib.save(image, path)
        done = command("harmonize", path, "-o", out, "--model", model, "--dtype", "input")
        assert done.code == 0
        written = nib.load(out / "a_harmonized.nii.gz")
        assert written.get_data_dtype() == np.int16
        assert written.dataobj.slope == 1
        assert written.dataobj.inter == 0
        float_folder = tmp_path / "float"
        assert command("harmonize", path, "-o", float_folder, "--model", model).code == 0
        exact = nib.load(float_folder / "a_harmonized.nii.gz")
        assert exact.get_data_dtype() == np.float32
        np.testing.assert_allclose(
            np.asarray(written.dataobj), np.asarray(exact.dataobj), atol=0.501
        )

    def test_given_mask(self, command: Command, scan: Path, out: Path, model: Path) -> None:
        mask = np.asarray(nib.load(scan).dataobj) > 210
        path = scan.parent / "brain.nii.gz"
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), RAS), path)
        assert command("harmonize", scan, "-o", out, "--model", model, "--mask", path).code == 0
        written = nib.load(out / "sub-01_T1w_harmonized.nii.gz")
        np.testing.assert_array_equal(np.asarray(written.dataobj) != 0, mask)
        assert read_sidecar(out)["MaskOrigin"] == "given"

    def test_overwrite(self, command: Command, scan: Path, out: Path, model: Path) -> None:
        arguments = ("harmonize", scan, "-o", out, "--model", model, "--steps", 2)
        assert command(*arguments, "--preview").code == 0
        first = np.asarray(nib.load(out / "sub-01_T1w_harmonized.nii.gz").dataobj).copy()
        assert len(names(out)) == 4
        assert command(*arguments, "--seed", 1, "--overwrite").code == 0
        assert len(names(out)) == 3  # the picture of the first run is gone
        second = np.asarray(nib.load(out / "sub-01_T1w_harmonized.nii.gz").dataobj)
        assert np.abs(first - second).max() > 0.1

    def test_finished_scans_are_skipped(
        self, command: Command, scan: Path, out: Path, model: Path
    ) -> None:
        """The second scan was interrupted before its sidecar: it alone is made again."""
        other = scan.with_name("b.nii.gz")
        other.write_bytes(scan.read_bytes())
        words = ("harmonize", scan, other, "-o", out, "--model", model)
        assert command(*words).code == 0
        (out / "b_harmonized.json").unlink()
        (out / "b_harmonized.nii.gz").write_bytes(b"half")
        first = out / "sub-01_T1w_harmonized.nii.gz"
        before = first.stat().st_mtime_ns
        again = command(*words)
        assert again.code == 0
        assert again.stdout.split() == [str(out / "b_harmonized.nii.gz")]
        assert "2 scans: 1 done, 1 already there." in again.stderr
        assert first.stat().st_mtime_ns == before
        assert nib.load(out / "b_harmonized.nii.gz").shape == SHAPE
        assert (out / "b_harmonized.json").is_file()

    def test_other_settings_do_not_replace_what_is_there(
        self, command: Command, scan: Path, out: Path, model: Path
    ) -> None:
        words = ("harmonize", scan, "-o", out, "--model", model)
        assert command(*words).code == 0
        before = (out / "sub-01_T1w_harmonized.json").read_text()
        refused = command(*words, "--steps", 2)
        assert refused.code == 1
        assert "other settings" in refused.stderr
        assert "(option --overwrite)" in refused.stderr
        assert (out / "sub-01_T1w_harmonized.json").read_text() == before

    def test_leavings_of_a_killed_run_are_removed(
        self, command: Command, scan: Path, out: Path, model: Path
    ) -> None:
        dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], **QUIET)
        folders = [
            out / f".isochroma-{platform.node()}-{pid}-abc"
            for pid in (int(dead.stdout), os.getpid())
        ]
        for folder in folders:
            folder.mkdir(parents=True)
            (folder / "half.nii.gz").write_bytes(b"half")
        assert command("harmonize", scan, "-o", out, "--model", model).code == 0
        assert [folder.exists() for folder in folders] == [False, True]

    def test_whatever_one_scan_raises_the_others_go_on(
        self,
        command: Command,
        scan: Path,
        out: Path,
        model: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        other = scan.with_name("b.nii.gz")
        other.write_bytes(scan.read_bytes())
        run = Harmonizer.run
        calls = iter([MemoryError("no memory"), None])

        def failing(self: Harmonizer, *given: object) -> Result:
            error = next(calls)
            if error is not None:
                raise error
            return run(self, *given)  # type: ignore[arg-type]

        monkeypatch.setattr(Harmonizer, "run", failing)
        done = command("harmonize", scan, other, "-o", out, "--model", model)
        assert done.code == 1
        lines = done.stderr.splitlines()
        assert lines[0] == f"isochroma: {scan}: MemoryError: no memory"
        assert lines[1] == "isochroma: 2 scans: 1 done, 1 failed."
        assert done.stdout.strip() == str(out / "b_harmonized.nii.gz")

    def test_a_warning_is_told_and_written(
        self, command: Command, scan: Path, out: Path, tmp_path: Path
    ) -> None:
        """The head is 72 mm high; those of this target are larger."""
        target = TargetDomain(100.0, 500.0, 3, (), (60.0, 70.0, 120.0), (80.0, 90.0, 130.0))
        model = save_tiny_model(tmp_path / "model", target=target)
        done = command("harmonize", scan, "-o", out, "--model", model)
        assert done.code == 0
        start = "isochroma: warning, sub-01_T1w.nii.gz: the brain is "
        assert done.stderr.startswith(start)
        assert len(done.stderr.splitlines()) == 1
        (warning,) = read_sidecar(out)["Warnings"]
        assert warning["Code"] == "brain-size"
        assert warning["Value"] == pytest.approx(72, abs=2)
        assert warning["Text"] in done.stderr


def unusable(kind: str, folder: Path) -> Path:
    """A file that cannot be harmonized."""
    path = folder / f"{kind}.nii.gz"
    data = head()[0]
    affine = RAS
    if kind == "text":
        path.write_text("hello\n")
        return path
    if kind == "damaged":
        nib.save(head_image(), path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path
    if kind == "cut":
        path = folder / "cut.nii"
        nib.save(head_image(), path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path
    if kind == "four":
        data = np.stack([data, data], axis=-1)
    elif kind == "empty":
        data = np.zeros((0, 50, 42), np.float32)
    elif kind == "zeros":
        data = np.zeros_like(data)
    elif kind == "nan":
        data = data.copy()
        data[3, 4, 5] = np.nan
    elif kind == "constant":
        data = np.full_like(data, 7)
    elif kind == "flat":  # a constant brain
        data = np.where(data > 0, 500, 0).astype(np.float32)
    elif kind == "thick":
        affine = axes_to_affine([[2, 0, 0], [0, 3, 0], [0, 0, 3]], SHAPE)
        data = head(SHAPE, affine)[0]
    elif kind == "small":  # a mouse: 30 ml
        affine = RAS / 2
        affine[3, 3] = 1
    elif kind == "singular":
        image = nib.Nifti1Image(data, None)
        image.header["sform_code"], image.header["qform_code"] = 1, 0
        image.header["srow_x"] = image.header["srow_y"] = [0, 0, 0, 0]
        nib.save(nib.Nifti1Image(data, None, image.header), path)
        return path
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


REFUSED = {
    "text": "cannot be read as NIfTI or MGH",
    "damaged": "cannot be read as NIfTI or MGH",
    "cut": "cannot be read as NIfTI or MGH",
    "four": "one 3D volume is needed",
    "empty": "a single slice or empty file",
    "zeros": "every voxel has the value 0",
    "nan": "NaN or infinite",
    "constant": "every voxel has the value 7",
    "flat": "constant inside the brain mask",
    "thick": "2.00 x 3.00 x 3.00 mm are too thick",
    "small": "30 ml; a head has 200 to 3000 ml",
    "singular": "affine is not valid",
}


class TestRefusals:
    """A known problem is one line, status 1, and leaves nothing."""

    @pytest.mark.parametrize("kind", REFUSED)
    def test_unusable_scan(
        self, command: Command, tmp_path: Path, out: Path, model: Path, kind: str
    ) -> None:
        path = unusable(kind, tmp_path)
        refused = command("harmonize", path, "-o", out, "--model", model, "--preview")
        assert refused.is_refusal(str(path), REFUSED[kind])
        assert not out.exists()

    def test_standard_error_is_that_line_alone(
        self, command: Command, tmp_path: Path, out: Path, model: Path
    ) -> None:
        """Where standard error is no terminal, the progress bar leaves no trace."""
        refused = command("harmonize", tmp_path / "gone.nii", "-o", out, "--model", model)
        assert refused.stderr == (
            f"isochroma: {tmp_path / 'gone.nii'}: no such file. Check the path.\n"
        )

    def test_missing_file(self, command: Command, tmp_path: Path, out: Path, model: Path) -> None:
        refused = command("harmonize", tmp_path / "gone.nii.gz", "-o", out, "--model", model)
        assert refused.is_refusal("gone.nii.gz: no such file")
        assert not out.exists()

    def test_not_a_volume(self, command: Command, tmp_path: Path, out: Path, model: Path) -> None:
        (tmp_path / "a.dcm").write_bytes(b"DICM")
        refused = command("harmonize", tmp_path / "a.dcm", "-o", out, "--model", model)
        assert refused.is_refusal("a.dcm: not a volume isochroma reads")
        assert not out.exists()

    def test_mask_of_another_grid(
        self, command: Command, scan: Path, out: Path, model: Path
    ) -> None:
        path = scan.parent / "mask.nii.gz"
        moved = RAS.copy()
        moved[1, 3] += 5
        nib.save(nib.Nifti1Image(head()[1].astype(np.uint8), moved), path)
        refused = command("harmonize", scan, "-o", out, "--model", model, "--mask", path)
        assert refused.is_refusal(str(scan), "the mask's grid")
        assert not out.exists()

    def test_missing_mask(self, command: Command, scan: Path, out: Path, model: Path) -> None:
        gone = scan.parent / "gone.nii.gz"
        refused = command("harmonize", scan, "-o", out, "--model", model, "--mask", gone)
        assert refused.is_refusal(f"{gone}: no such file")
        assert not out.exists()

    def test_one_mask_with_two_scans(
        self, command: Command, scan: Path, out: Path, model: Path
    ) -> None:
        other = scan.with_name("b.nii.gz")
        other.write_bytes(scan.read_bytes())
        refused = command("harmonize", scan, other, "-o", out, "--model", model, "--mask", scan)
        assert refused.is_refusal("a mask goes with one scan", "(option --mask)")
        assert not out.exists()

    def test_outputs_of_something_else_are_kept(
        self, command: Command, scan: Path, out: Path, model: Path
    ) -> None:
        out.mkdir()
        old = out / "sub-01_T1w_harmonized.json"
        old.write_text("precious")
        refused = command("harmonize", scan, "-o", out, "--model", model)
        assert refused.is_refusal(f"{old} is there", "(option --overwrite)")
        assert old.read_text() == "precious"
        assert names(out) == [old.name]

    def test_failure_with_overwrite_keeps_the_old_output(
        self, command: Command, tmp_path: Path, out: Path, model: Path
    ) -> None:
        path = unusable("flat", tmp_path)
        out.mkdir()
        (out / "flat_harmonized.nii.gz").write_text("precious")
        refused = command("harmonize", path, "-o", out, "--model", model, "--overwrite")
        assert refused.is_refusal("constant inside the brain mask")
        assert (out / "flat_harmonized.nii.gz").read_text() == "precious"
        assert names(out) == ["flat_harmonized.nii.gz"]

    def test_two_scans_with_one_output_name(
        self, command: Command, scan: Path, out: Path, model: Path
    ) -> None:
        other = scan.parent / "other" / scan.name
        other.parent.mkdir()
        other.write_bytes(scan.read_bytes())
        refused = command("harmonize", scan, other, "-o", out, "--model", model)
        assert refused.is_refusal("would both write", str(scan), str(other))
        assert not out.exists()

    def test_two_scans_into_one_file(self, command: Command, scan: Path, model: Path) -> None:
        other = scan.with_name("b.nii.gz")
        other.write_bytes(scan.read_bytes())
        image = scan.with_name("one.nii.gz")
        refused = command("harmonize", scan, other, "-o", image, "--model", model)
        assert refused.is_refusal("is a file name, and there are 2 scans", "(option --output)")
        assert not image.exists()

    def test_unknown_model(self, command: Command, scan: Path, out: Path) -> None:
        refused = command("harmonize", scan, "-o", out, "--model", "vermeer")
        assert refused.is_refusal("no model 'vermeer'", "(option --model)")
        assert not out.exists()

    def test_damaged_weights(self, command: Command, scan: Path, out: Path) -> None:
        folder = save_tiny_model(scan.parent / "model")
        weights = folder / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\0\0")
        refused = command("harmonize", scan, "-o", out, "--model", folder)
        assert refused.is_refusal("not the weights that config.json names")
        assert not out.exists()

    def test_unknown_device(self, command: Command, scan: Path, out: Path, model: Path) -> None:
        refused = command("harmonize", scan, "-o", out, "--model", model, "--device", "abacus")
        assert refused.is_refusal("device 'abacus' cannot be used here", "(option --device)")
        assert not out.exists()

    def test_one_good_one_bad(
        self, command: Command, scan: Path, tmp_path: Path, out: Path, model: Path
    ) -> None:
        bad = unusable("nan", tmp_path)
        done = command("harmonize", bad, scan, "-o", out, "--model", model)
        assert done.code == 1
        assert done.stderr.strip().startswith(f"isochroma: {bad}: holds NaN")
        assert done.stdout.strip() == str(out / "sub-01_T1w_harmonized.nii.gz")
        assert len(names(out)) == 3
        assert all(name.startswith("sub-01_T1w_harmonized") for name in names(out))

    def test_output_folder_is_a_file(
        self, command: Command, scan: Path, tmp_path: Path, model: Path
    ) -> None:
        blocked = tmp_path / "blocked"
        blocked.write_text("precious")
        refused = command("harmonize", scan, "-o", blocked, "--model", model)
        assert refused.is_refusal("blocked")
        assert blocked.read_text() == "precious"

    def test_full_disk(
        self,
        command: Command,
        scan: Path,
        out: Path,
        model: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The mask cannot be written: neither image nor sidecar appears."""
        save = nib.save

        def save_until_full(image: nib.Nifti1Image, path: Path) -> None:
            if "_mask" in Path(path).name:
                Path(path).write_bytes(b"half")
                raise OSError(28, "No space left on device")
            save(image, path)

        monkeypatch.setattr(nib, "save", save_until_full)
        refused = command("harmonize", scan, "-o", out, "--model", model)
        assert refused.is_refusal("No space left on device", "Check the disk's space")
        assert names(out) == []

    def test_terminated(
        self,
        command: Command,
        scan: Path,
        out: Path,
        model: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A termination signal while the image is written: no temporary file stays."""

        def terminated(image: nib.Nifti1Image, path: Path) -> None:
            Path(path).write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(nib, "save", terminated)
        done = command("harmonize", scan, "-o", out, "--model", model)
        assert done.code == 128 + signal.SIGTERM
        assert list(out.rglob("*")) == []

    @pytest.mark.parametrize(
        "options",
        [("--steps", "0"), ("--solver", "rk4"), ("--outside", "mean"), ("--frobnicate",)],
    )
    def test_wrong_options_are_usage_errors(
        self, command: Command, scan: Path, out: Path, model: Path, options: tuple[str, ...]
    ) -> None:
        done = command("harmonize", scan, "-o", out, "--model", model, *options)
        assert done.code == 2
        assert options[0] in done.stderr
        assert not out.exists()

    def test_type_that_cannot_hold_the_target(
        self, command: Command, tmp_path: Path, out: Path, model: Path
    ) -> None:
        path = tmp_path / "a.nii"
        image = head_image()
        nib.save(nib.Nifti1Image((np.asarray(image.dataobj) / 5).astype(np.uint8), RAS), path)
        refused = command("harmonize", path, "-o", out, "--model", model, "--dtype", "input")
        assert refused.is_refusal(f"{path}: uint8 cannot hold the target's intensities")
        assert not out.exists()


@pytest.mark.slow
class TestDefaultModel:
    def test_example_head_end_to_end(
        self, command: Command, example_head: nib.Nifti1Image, out: Path
    ) -> None:
        if not (SHIPPED / "default").is_dir():
            pytest.skip(f"no default model is shipped yet: {SHIPPED / 'default'} is missing")
        path = ROOT / "examples" / "ch2.nii.gz"
        done = command("harmonize", path, "-o", out, "--device", "cpu", "--preview")
        assert done.code == 0, done.stderr
        assert names(out) == [
            "ch2_harmonized.json",
            "ch2_harmonized.nii.gz",
            "ch2_harmonized.png",
            "ch2_harmonized_mask.nii.gz",
        ]
        image = nib.load(out / "ch2_harmonized.nii.gz")
        mask = np.asarray(nib.load(out / "ch2_harmonized_mask.nii.gz").dataobj) > 0
        assert image.shape == example_head.shape == mask.shape
        np.testing.assert_array_equal(image.affine, example_head.affine)
        volume_ml = mask.sum() * abs(np.linalg.det(image.affine[:3, :3])) / 1000
        assert 1000 < volume_ml < 2000
        record = json.loads((out / "ch2_harmonized.json").read_text())
        assert record["MaskOrigin"] == "deepbet"
        assert record["BrainVolumeMl"] == pytest.approx(volume_ml, rel=0.02)
        lower, upper = record["TargetLimits"]
        values = np.asarray(image.dataobj)
        assert np.isfinite(values).all()
        assert (values[~mask] == 0).all()
        overshoot = 0.1 * (upper - lower)
        assert lower - overshoot <= values[mask].min()
        assert values[mask].max() <= upper + overshoot
        assert values[mask].std() > 0.1 * (upper - lower)
        assert Image.open(out / "ch2_harmonized.png").format == "PNG"
