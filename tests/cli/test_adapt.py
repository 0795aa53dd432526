"""`isochroma adapt` and `isochroma harmonize --like`: the user's own target."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fixtures_cli import Command, names
from fixtures_pipeline import RAS, head


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """A scan of the target, of intensities 2100 to 3050."""
    data, mask = head(seed=3)
    path = tmp_path / "target" / "sub-09_T1w.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(np.where(mask, 2000 + data, 0).astype(np.float32), RAS), path)
    return path


def intensities(path: Path) -> np.ndarray:
    values = np.asarray(nib.load(path).dataobj)
    return values[values > 0]


class TestLike:
    def test_outputs_have_the_references_intensities(
        self, command: Command, scan: Path, out: Path, model: Path, reference: Path
    ) -> None:
        done = command("harmonize", scan, "-o", out, "--model", model, "--like", reference)
        assert done.code == 0
        shown = intensities(out / "sub-01_T1w_harmonized.nii.gz")
        assert 2000 < np.quantile(shown, 0.01) < np.quantile(shown, 0.99) < 3200
        content = json.loads((out / "sub-01_T1w_harmonized.json").read_text())
        assert content["Model"].endswith("like sub-09_T1w.nii.gz")
        assert len(content["IntensityMapSHA256"]) == 64

    def test_outputs_for_another_target_are_not_taken_for_finished(
        self, command: Command, scan: Path, out: Path, model: Path, reference: Path
    ) -> None:
        assert command("harmonize", scan, "-o", out, "--model", model).code == 0
        done = command("harmonize", scan, "-o", out, "--model", model, "--like", reference)
        assert done.code == 1
        assert "of another input or other settings" in done.stderr


class TestAdapt:
    def test_a_model_folder_that_does_the_same(
        self, command: Command, scan: Path, out: Path, model: Path, reference: Path, tmp_path: Path
    ) -> None:
        own = tmp_path / "mine"
        done = command("adapt", reference, "-o", own, "--model", model)
        assert done.code == 0
        assert names(own) == ["README.md", "config.json", "weights.safetensors"]
        assert command("harmonize", scan, "-o", out, "--model", own).code == 0
        first = intensities(out / "sub-01_T1w_harmonized.nii.gz")
        other = tmp_path / "other"
        command("harmonize", scan, "-o", other, "--model", model, "--like", reference)
        np.testing.assert_allclose(
            first, intensities(other / "sub-01_T1w_harmonized.nii.gz"), atol=0.5
        )

    def test_quality_on_held_out_scans_is_said(
        self, command: Command, model: Path, reference: Path, tmp_path: Path
    ) -> None:
        done = command("adapt", reference, reference, "-o", tmp_path / "mine", "--model", model)
        assert "2 scans, each against the map of the others: SSIM" in done.stderr

    def test_a_model_is_not_overwritten(
        self, command: Command, model: Path, reference: Path
    ) -> None:
        done = command("adapt", reference, "-o", model, "--model", model)
        assert done.code == 1
        assert "holds a model already" in done.stderr
