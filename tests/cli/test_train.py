"""`isochroma train`: what is refused before hours of work."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib

from fixtures_cli import Command, names
from fixtures_pipeline import head_image


class TestRefusals:
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
