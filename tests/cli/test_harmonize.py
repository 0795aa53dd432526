"""The command: files in, files out, refusals that leave nothing behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import isochroma
import isochroma.training  # so that the log handlers of Lightning hold no stream of a test
from fixtures_pipeline import RAS, SHAPE, axes_to_affine, head, head_image, save_tiny_model
from isochroma import cli
from isochroma.models.folder import SHIPPED

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "sub-01_T1w.nii.gz"
    nib.save(head_image(), path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


class Outcome:
    """Exit status and streams of a command run by `main` in this process."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code = code
        self.stdout = stdout
        self.stderr = stderr

    def is_refusal(self, *parts: str) -> bool:
        """One line on standard error that holds these parts, status 1."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("isochroma: ")
        for part in parts:
            assert part in lines[0]
        assert self.stdout.strip() == ""
        return self.code == 1


class Command:
    """Runs `isochroma ...` through `cli.main`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
        self.monkeypatch = monkeypatch
        self.capfd = capfd

    def __call__(self, *arguments: object) -> Outcome:
        self.monkeypatch.setattr(sys, "argv", ["isochroma", *map(str, arguments)])
        self.capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        captured = self.capfd.readouterr()
        return Outcome(code, captured.out, captured.err)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Command:
    return Command(monkeypatch, capfd)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestBasic:
    def test_image_mask_and_sidecar(self, scan: Path, out: Path, model: Path) -> None:
        result = CliRunner().invoke(
            cli.app, ["harmonize", str(scan), "-o", str(out), "--model", str(model)]
        )
        assert result.exit_code == 0
        assert result.stdout.strip() == str(out / "sub-01_T1w_harmonized.nii.gz")
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
        harmonizer = isochroma.Harmonizer.from_pretrained(model, device="cpu")
        expected = np.asarray(harmonizer(nib.load(scan)).dataobj)
        written = np.asarray(nib.load(out / "sub-01_T1w_harmonized.nii.gz").dataobj)
        np.testing.assert_array_equal(written, expected)

    def test_sidecar(self, command: Command, scan: Path, out: Path, model: Path) -> None:
        options = [
            "--steps",
            "2",
            "--solver",
            "heun",
            "--seed",
            "5",
            "--no-n4",
            "--outside",
            "source",
            "--device",
            "cpu",
        ]
        assert command("harmonize", scan, "-o", out, "--model", model, *options).code == 0
        record = json.loads((out / "sub-01_T1w_harmonized.json").read_text())
        assert record["GeneratedBy"] == {"Name": "isochroma", "Version": isochroma.__version__}
        assert record["Source"] == str(scan)
        assert record["SourceSHA256"] == hashlib.sha256(scan.read_bytes()).hexdigest()
        assert record["Model"] == "tiny"
        weights = (model / "weights.safetensors").read_bytes()
        assert record["ModelSHA256"] == hashlib.sha256(weights).hexdigest()
        sampling = {"steps": 2, "solver": "heun", "refine": "local", "revise": False, "seed": 5}
        assert record["Sampling"] == sampling
        assert record["Preprocessing"]["n4"] is False
        assert record["OutsideMask"] == "source"
        assert record["MaskOrigin"] == "stripped"
        assert record["Device"] == "cpu"
        stages = {
            "load",
            "mask",
            "resample",
            "scale",
            "edges",
            "network",
            "refine",
            "restore",
            "save",
        }
        assert set(record["Seconds"]) == stages

    def test_paper_option(self, command: Command, scan: Path, out: Path, model: Path) -> None:
        done = command("harmonize", scan, "-o", out, "--model", model, "--paper", "--steps", 2)
        assert done.code == 0
        record = json.loads((out / "sub-01_T1w_harmonized.json").read_text())
        expected = {"steps": 2, "solver": "midpoint", "refine": "paper", "revise": False}
        assert record["Sampling"] == {**expected, "seed": 0}

    def test_no_second_pass(self, command: Command, scan: Path, out: Path, model: Path) -> None:
        assert command("harmonize", scan, "-o", out, "--model", model, "--no-revise").code == 0
        record = json.loads((out / "sub-01_T1w_harmonized.json").read_text())
        assert record["Sampling"]["revise"] is False

    @pytest.mark.parametrize("words", [(), ("--refine", "none"), ("--paper",)])
    def test_a_second_pass_that_cannot_be_is_refused(
        self, command: Command, scan: Path, out: Path, model: Path, words: tuple[str, ...]
    ) -> None:
        done = command("harmonize", scan, "-o", out, "--model", model, "--revise", *words)
        assert done.is_refusal("the second pass needs --refine local, and a model trained for it")

    def test_uncertainty(self, command: Command, scan: Path, out: Path, model: Path) -> None:
        done = command("harmonize", scan, "-o", out, "--model", model, "--uncertainty", 2)
        assert done.code == 0
        spread = nib.load(out / "sub-01_T1w_harmonized_uncertainty.nii.gz")
        assert spread.shape == nib.load(scan).shape
        assert np.asarray(spread.dataobj).max() > 0
        record = json.loads((out / "sub-01_T1w_harmonized.json").read_text())
        assert record["Uncertainty"]["Runs"] == 2

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
        assert json.loads((out / "sub-01_T1w_harmonized.json").read_text())["MaskOrigin"] == "given"

    def test_overwrite(self, command: Command, scan: Path, out: Path, model: Path) -> None:
        arguments = ("harmonize", scan, "-o", out, "--model", model, "--steps", 2)
        assert command(*arguments).code == 0
        first = np.asarray(nib.load(out / "sub-01_T1w_harmonized.nii.gz").dataobj).copy()
        for extra in (("--preview", "--uncertainty", 2), ()):  # the second run clears them away
            assert command(*arguments, "--seed", 1, "--overwrite", *extra).code == 0
            assert len(names(out)) == (5 if extra else 3)
        second = np.asarray(nib.load(out / "sub-01_T1w_harmonized.nii.gz").dataobj)
        assert np.abs(first - second).max() > 0.1

    def test_models_without_any_is_no_error(self, command: Command) -> None:
        done = command("models")
        assert done.code == 0
        shipped = sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))
        assert [line.split(":")[0] for line in done.stdout.splitlines()] == shipped


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
        affine = axes_to_affine([[2, 0, 0], [0, 2, 0], [0, 0, 3]], SHAPE)
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
    "thick": "2.00 x 2.00 x 3.00 mm are too thick",
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
        assert refused.is_refusal("--mask goes with one scan")
        assert not out.exists()

    @pytest.mark.parametrize("ending", [".nii.gz", ".json", "_mask.nii.gz"])
    def test_existing_output(
        self, command: Command, scan: Path, out: Path, model: Path, ending: str
    ) -> None:
        out.mkdir()
        old = out / f"sub-01_T1w_harmonized{ending}"
        old.write_text("precious")
        refused = command("harmonize", scan, "-o", out, "--model", model)
        assert refused.is_refusal(f"{old} exists already. Use --overwrite")
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

    def test_two_scans_that_share_only_a_sidecar(
        self, command: Command, tmp_path: Path, out: Path, model: Path
    ) -> None:
        """a.nii and a.nii.gz have two images but one a_harmonized.json: it must not be lost."""
        for name in ("a.nii", "a.nii.gz"):
            nib.save(head_image(), tmp_path / name)
        pair = (tmp_path / "a.nii", tmp_path / "a.nii.gz")
        refused = command("harmonize", *pair, "-o", out, "--model", model)
        assert refused.is_refusal("would both write")
        assert not out.exists()

    def test_two_scans_into_one_file(self, command: Command, scan: Path, model: Path) -> None:
        other = scan.with_name("b.nii.gz")
        other.write_bytes(scan.read_bytes())
        image = scan.with_name("one.nii.gz")
        refused = command("harmonize", scan, other, "-o", image, "--model", model)
        assert refused.is_refusal("is a file name, and there are 2 scans")
        assert not image.exists()

    def test_unknown_model(self, command: Command, scan: Path, out: Path) -> None:
        refused = command("harmonize", scan, "-o", out, "--model", "vermeer")
        assert refused.is_refusal("no model 'vermeer'")
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
        assert refused.is_refusal("device 'abacus' cannot be used here")
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
        before = signal.getsignal(signal.SIGTERM)

        def terminated(image: nib.Nifti1Image, path: Path) -> None:
            Path(path).write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(nib, "save", terminated)
        try:
            done = command("harmonize", scan, "-o", out, "--model", model)
        finally:
            signal.signal(signal.SIGTERM, before)
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


class TestTrainingRefusals:
    def test_missing_folder(self, command: Command, tmp_path: Path) -> None:
        refused = command("train", tmp_path / "gone", "-o", tmp_path / "model")
        assert refused.is_refusal("gone: no such folder")
        assert names(tmp_path) == []

    def test_too_few_scans(self, command: Command, tmp_path: Path) -> None:
        target = tmp_path / "target"
        target.mkdir()
        nib.save(head_image(), target / "a.nii.gz")
        refused = command("train", target, "-o", tmp_path / "model")
        assert refused.is_refusal("1 scans found; training needs one, and validation one more")
        assert names(tmp_path) == ["target"]

    def test_start_from_another_network(
        self, command: Command, tmp_path: Path, model: Path
    ) -> None:
        output = tmp_path / "model"
        refused = command("train", tmp_path, "-o", output, "--start-from", model)
        assert refused.is_refusal("its network is", "not")
        assert names(tmp_path) == []

    def test_devices_that_are_no_number(self, command: Command, tmp_path: Path) -> None:
        refused = command("train", tmp_path, "-o", tmp_path / "model", "--devices", "two")
        assert refused.is_refusal("two")

    def test_patch_size_that_the_network_cannot_halve(
        self, command: Command, tmp_path: Path
    ) -> None:
        """Compact networks take multiples of 8: refused before hours of preprocessing."""
        target = tmp_path / "target"
        target.mkdir()
        for name in "ab":
            nib.save(head_image(), target / f"{name}.nii.gz")
        options = ("--patch-size", 20, "--steps", 1, "--accelerator", "cpu", "--edge-variants", 0)
        refused = command("train", target, "-o", tmp_path / "model", *options)
        assert refused.is_refusal("20")


class TestProcess:
    """The installed command, in its own process."""

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("isochroma")), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_version(self) -> None:
        done = self.run("--version")
        assert done.returncode == 0
        assert done.stdout == f"isochroma {isochroma.__version__}\n"

    def test_missing_file(self, tmp_path: Path, model: Path) -> None:
        gone, out = tmp_path / "gone.nii.gz", tmp_path / "out"
        done = self.run("harmonize", gone, "-o", out, "--model", model)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.strip() == f"isochroma: {gone}: no such file. Check the path."
        assert not out.exists()

    def test_success(self, scan: Path, out: Path, model: Path) -> None:
        done = self.run("harmonize", scan, "-o", out, "--model", model, "--device", "cpu")
        assert done.returncode == 0
        assert done.stdout == f"{out / 'sub-01_T1w_harmonized.nii.gz'}\n"
        assert done.stderr.strip() == ""
        assert len(names(out)) == 3

    def test_help_imports_nothing_heavy(self) -> None:
        code = (
            "import sys; from typer.testing import CliRunner; from isochroma.cli import app\n"
            "for words in (['--help'], ['harmonize', '--help'], ['train', '-h']):\n"
            "    result = CliRunner().invoke(app, words)\n"
            "    assert result.exit_code == 0 and 'Usage' in result.output, result.output\n"
            "heavy = {'torch', 'numpy', 'nibabel', 'scipy', 'SimpleITK', 'lightning', 'deepbet'}\n"
            "print(sorted(heavy & set(sys.modules)))\n"
            "import torch; assert 'torch' in sys.modules\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "[]"

    def test_module_is_the_command(self) -> None:
        words = [sys.executable, "-m", "isochroma", "--version"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert done.stdout == f"isochroma {isochroma.__version__}\n"


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
