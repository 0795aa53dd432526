"""Warnings: codes, texts and values for known geometry."""

from __future__ import annotations

import dataclasses

import nibabel as nib
import numpy as np
import pytest

from conftest import distance_from_centre
from isochroma.checks import (
    Doubt,
    ScanWarning,
    check_doubt,
    check_explained,
    check_file,
    check_refinement,
    check_scan,
)
from isochroma.images.grid import Grid
from isochroma.images.preprocess import Prepared
from isochroma.models.config import TargetDomain


def grid_of(shape: tuple[int, ...], *voxel_mm: float) -> Grid:
    return Grid(shape, np.diag([*voxel_mm, 1.0]))


def box_shaped_brain(spacing_mm: float = 2.0) -> Prepared:
    """A brain of 35 x 43 x 34 voxels, whose intensity rises from left to right."""
    mask = np.zeros((44, 50, 42), bool)
    mask[4:39, 3:46, 5:39] = True
    grid = grid_of(mask.shape, *[spacing_mm] * 3)
    ramp = np.linspace(-1, 1, len(mask), dtype=np.float32)[:, None, None]
    return Prepared(ramp * mask, mask, grid, 0, 1)


class TestCheckFile:
    MASK = distance_from_centre((20, 20, 20)) < 8

    def scan(self, data: np.ndarray | None = None) -> nib.Nifti1Image:
        rng = np.random.default_rng(0)
        data = rng.uniform(100, 900, self.MASK.shape) * self.MASK if data is None else data
        scan = nib.Nifti1Image(data.astype(np.float32), np.diag([2.0, 2, 2, 1]))
        scan.header.set_xyzt_units("mm")
        return scan

    def test_none_for_a_plain_file(self) -> None:
        scan = self.scan()
        scan.set_qform(scan.affine, 1)
        scan.set_sform(scan.affine, 1)
        assert check_file(scan, self.MASK) == []

    @pytest.mark.parametrize(("moved", "told"), [(0.05, False), (0.2, True), (40, True)])
    def test_qform_and_sform_apart(self, moved: float, told: bool) -> None:
        scan = self.scan()
        scan.set_qform(scan.affine, 1)
        scan.set_sform(nib.affines.from_matvec(np.diag([2.0, 2, 2]), [0, moved, 0]), 2)
        found = check_file(scan, self.MASK)
        assert [each.code for each in found] == ["qform-sform"] * told
        if told:
            assert found[0].value == pytest.approx(moved)
            assert f"up to {moved:.1f} mm apart, and the sform was used" in found[0].text

    def test_one_that_is_not_coded_does_not_count(self) -> None:
        scan = self.scan()
        scan.set_qform(np.eye(4), 0)
        scan.set_sform(scan.affine, 1)
        assert check_file(scan, self.MASK) == []

    @pytest.mark.parametrize(("unit", "told"), [("unknown", 0), ("micron", 1), ("meter", 1)])
    def test_units(self, unit: str, told: int) -> None:
        scan = self.scan()
        scan.header.set_xyzt_units(unit)
        found = check_file(scan, self.MASK)
        assert [each.code for each in found] == ["units"] * told
        if told:
            assert (
                found[0].text
                == f"its header's unit is {unit}, and its voxels of 2 were read as mm."
            )

    def test_hounsfield_units(self) -> None:
        rng = np.random.default_rng(0)
        data = np.where(self.MASK, rng.normal(35, 8, self.MASK.shape), -1000)
        (found,) = check_file(self.scan(data), self.MASK)
        assert found.code == "hounsfield-units"
        assert found.value == pytest.approx(35, abs=1)

    def test_negative_values_alone_are_no_hounsfield_units(self) -> None:
        rng = np.random.default_rng(0)
        data = np.where(self.MASK, rng.normal(700, 80, self.MASK.shape), -1000)
        assert check_file(self.scan(data), self.MASK) == []


class TestCheckScan:
    TARGET = TargetDomain(smallest_mm=(68.0, 84.0, 66.0), largest_mm=(74.0, 90.0, 74.0))

    def found(
        self, source: Prepared, *voxel_mm: float, target: TargetDomain | None = None
    ) -> list[ScanWarning]:
        return check_scan(source, grid_of((9, 9, 9), *voxel_mm), target or self.TARGET)

    def test_none_for_a_head_like_the_targets(self) -> None:
        assert self.found(box_shaped_brain(), 2, 2, 2) == []

    @pytest.mark.parametrize(("noise", "told"), [(0.1, 0), (0.5, 1)])
    def test_noise(self, noise: float, told: int) -> None:
        """Over a ramp with a standard deviation of 0.47."""
        source = box_shaped_brain()
        added = noise * np.random.default_rng(0).standard_normal(source.mask.shape)
        noisy = dataclasses.replace(source, image=source.image + added * source.mask)
        found = self.found(noisy, 2, 2, 2)
        assert [each.code for each in found] == ["noise"] * told
        if told:
            assert found[0].value == pytest.approx(0.5 / np.hypot(0.47, 0.5), rel=0.05)

    def test_fine_voxels(self) -> None:
        (found,) = self.found(box_shaped_brain(), 2, 1.4, 1.5)
        assert (found.code, found.value) == ("fine-voxels", pytest.approx(1.4))
        assert found.text == "voxels of 2.0 x 1.4 x 1.5 mm: detail finer than 2 mm is lost."

    def test_thick_voxels(self) -> None:
        (found,) = self.found(box_shaped_brain(), 2, 2, 4)
        assert (found.code, found.value) == ("thick-voxels", pytest.approx(4))
        assert found.text.startswith("voxels of 2.0 x 2.0 x 4.0 mm: between slices")

    def test_both(self) -> None:
        found = self.found(box_shaped_brain(), 1, 1, 4)
        assert {each.code for each in found} == {"thick-voxels", "fine-voxels"}

    def test_the_lower_third_is_missing(self) -> None:
        source = box_shaped_brain()
        mask = source.mask.copy()
        mask[:, :, :17] = False
        (found,) = self.found(dataclasses.replace(source, mask=mask), 2, 2, 2)
        assert (found.code, found.value) == ("brain-size", pytest.approx(44))
        assert found.text.startswith("the brain is 44 mm high, those of the target 66 to 74:")

    def test_a_mask_that_is_too_wide(self) -> None:
        wide = dataclasses.replace(self.TARGET, smallest_mm=(40.0,) * 3, largest_mm=(58.0, 90, 74))
        (found,) = self.found(box_shaped_brain(), 2, 2, 2, target=wide)
        assert (found.code, found.value) == ("brain-size", pytest.approx(70))
        assert "70 mm wide" in found.text

    def test_unknown_sizes(self) -> None:
        assert self.found(box_shaped_brain(1.0), 1, 1, 1, target=TargetDomain()) == []


class TestCheckExplained:
    def test_as_usual(self) -> None:
        def never() -> tuple[float, float]:
            raise AssertionError

        assert check_explained(0.95, 0.815, never) == []
        assert check_explained(None, 0.815, never) == []
        assert check_explained(0.1, None, never) == []

    def test_low_but_an_mr_scan(self) -> None:
        assert check_explained(0.6, 0.815, lambda: (0.5, 0.54)) == []

    def test_better_upside_down(self) -> None:
        (found,) = check_explained(0.83, 0.815, lambda: (0.63, 0.82))
        assert (found.code, found.value) == ("upside-down", pytest.approx(0.19))
        assert "explains 82% of it upside down and 63% as it is" in found.text

    def test_nothing_that_the_model_knows(self) -> None:
        (found,) = check_explained(0.5, 0.815, lambda: (0.4, 0.41))
        assert (found.code, found.value) == ("unlike-mr", 0.5)
        assert "explain 50% of what it shows, those of simulated MR scans 82% or" in found.text


class TestDoubt:
    SHAPE = (40, 40, 40)

    def doubt(self, *balls: tuple[float, int], spacing_mm: float = 1.0) -> Doubt:
        """Errors of 0.5 in balls of these radii (voxels) and places on the diagonal, else 0.1."""
        where = np.indices(self.SHAPE)
        error = np.full(self.SHAPE, 0.1, dtype=np.float32)
        for radius, at in balls:
            error[np.sqrt(((where - at) ** 2).sum(0)) < radius] = 0.5
        grid = grid_of(self.SHAPE, *[spacing_mm] * 3)
        source = Prepared(error, np.ones(self.SHAPE, bool), grid, 0, 1)
        return Doubt.of(error, source)

    def test_none(self) -> None:
        doubt = self.doubt()
        assert doubt.mean == pytest.approx(0.1)
        assert doubt.regions == ()
        assert check_doubt(doubt) == []
        assert check_doubt(None) == []

    def test_regions_are_told_with_place_and_size(self) -> None:
        doubt = self.doubt((4, 8), (8, 28), spacing_mm=1.5)
        large, small = doubt.regions
        assert large.volume_ml == pytest.approx(4 / 3 * np.pi * 12**3 / 1000, rel=0.05)
        assert (large.centre_mm, small.centre_mm) == ((42, 42, 42), (12, 12, 12))
        assert doubt.mean > 0.1

    def test_specks_are_left_out(self) -> None:
        assert self.doubt((2, 8)).regions == ()

    def test_a_warning_from_ten_millilitres(self) -> None:
        assert check_doubt(self.doubt((12.5, 20))) == []
        (found,) = check_doubt(self.doubt((14, 20)))
        assert found.code == "doubtful-region"
        assert found.value == pytest.approx(11.5, abs=0.2)
        assert found.text.startswith("11.5 ml around (20, 20, 20) mm are doubtful")


class TestCheckRefinement:
    """A refinement that moves a ball of ever larger size, of a model that errs by 0.15."""

    ERROR = 0.15
    SHAPE = (60, 60, 60)

    def found(
        self, radius_mm: float, change: float = 1.0, spacing_mm: float = 1.0
    ) -> list[ScanWarning]:
        rng = np.random.default_rng(0)
        first = np.clip(0.4 * rng.standard_normal(self.SHAPE), -1, 1)
        refined = first + self.ERROR * rng.standard_normal(self.SHAPE)
        refined[distance_from_centre(self.SHAPE) * spacing_mm < radius_mm] -= change
        grid = grid_of(self.SHAPE, *[spacing_mm] * 3)
        source = Prepared(first, np.ones(self.SHAPE, dtype=bool), grid, 0, 1)
        return check_refinement(first, refined, source, self.ERROR)

    def test_errors_like_the_models_are_usual(self) -> None:
        assert self.found(0) == []

    def test_small_lesions_are_usual(self) -> None:
        assert self.found(6) == []

    def test_slight_changes_are_usual(self) -> None:
        assert self.found(18, change=0.3) == []

    @pytest.mark.parametrize(("radius", "spacing"), [(14, 1.0), (14, 0.9), (18, 1.2)])
    def test_a_large_one_is_told_with_its_size(self, radius: float, spacing: float) -> None:
        (found,) = self.found(radius, spacing_mm=spacing)
        assert found.code == "unexplained-region"
        assert found.value == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.2)
        assert found.text.startswith(f"a region of {found.value:.0f} ml ")

    def test_two_small_ones_do_not_add_up(self) -> None:
        """Of 2.1 ml each."""
        first = np.zeros(self.SHAPE)
        refined = first.copy()
        where = np.indices(self.SHAPE)
        for centre in (14, 45):
            refined[np.sqrt(((where - centre) ** 2).sum(0)) < 8] = 1
        grid = grid_of(self.SHAPE, 1, 1, 1)
        source = Prepared(first, np.ones(self.SHAPE, dtype=bool), grid, 0, 1)
        assert check_refinement(first, refined, source, self.ERROR) == []
