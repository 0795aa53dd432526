"""`isochroma train`: what is refused before hours of work."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import pytest

from fixtures_cli import Command, names, unframed
from fixtures_pipeline import head_image
from isochroma.cli.train import choose_recipe
from isochroma.method.network import NETWORKS
from isochroma.training.settings import COMPACT_RECIPE, PAPER_RECIPE


class TestChooseRecipe:
    @pytest.mark.parametrize(("paper", "recipe"), [(False, COMPACT_RECIPE), (True, PAPER_RECIPE)])
    def test_nothing_given(self, paper: bool, recipe: object) -> None:
        assert choose_recipe(paper, {"steps": None, "network": None, "output": "x"}) == recipe

    def test_options_change_the_papers_recipe(self) -> None:
        given = {"network": "compact", "steps": 7, "patch_size": 32, "edge_fraction": 0.1}
        recipe = choose_recipe(True, given)
        assert recipe.network == NETWORKS["compact"]
        assert (recipe.training.steps, recipe.patches.size, recipe.edges.fraction) == (7, 32, 0.1)
        assert recipe.training.learning_rate == PAPER_RECIPE.training.learning_rate
        assert recipe.edges.sigma == PAPER_RECIPE.edges.sigma


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

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("--devices", "two"),
            ("--devices", 0),
            ("--learning-rate", 0),
            ("--edge-fraction", 0.9),
            ("--accelerator", "abacus"),
            ("--seed", 2**63),
        ],
    )
    def test_values_out_of_range(
        self, command: Command, tmp_path: Path, option: str, value: object
    ) -> None:
        refused = command("train", tmp_path, "-o", tmp_path / "model", option, value)
        assert refused.code == 1
        (line,) = refused.stderr.splitlines()
        assert option.removeprefix("--").split("-")[-1] in line
        assert names(tmp_path) == []

    def test_unknown_network(self, command: Command, tmp_path: Path) -> None:
        done = command("train", tmp_path, "-o", tmp_path / "model", "--network", "huge")
        assert done.code == 2
        assert "'huge' is unknown; choose from compact, paper." in unframed(done.stderr)

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
