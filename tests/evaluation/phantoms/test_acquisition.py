from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from conftest import distance_from_centre
from isochroma.errors import InputError
from isochroma.evaluation.phantoms.acquisition import acquire, box_average, ideal_signal
from isochroma.evaluation.phantoms.sequences import PRESETS, TISSUES, Preset
from isochroma.images.brain import is_stripped
from isochroma.images.grid import Grid
from isochroma.images.preprocess import Prepared

SHAPE = (40, 44, 36)
MEANS = np.array([-0.5, 0.1, 0.75], dtype=np.float32)
AFFINE = np.array([[1.0, 0, 0, -20], [0, 1, 0, -30], [0, 0, 1, 5], [0, 0, 0, 1]])


def head(texture: float = 0.0) -> tuple[Prepared, np.ndarray]:
    """Nested balls of pure white matter, grey matter and CSF, and their fractions."""
    radius = distance_from_centre(SHAPE)
    fractions = np.stack(
        [(radius >= 11) & (radius < 14), (radius >= 8) & (radius < 11), radius < 8], axis=-1
    ).astype(np.float32)
    mask = radius < 14
    grain = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    image = np.where(mask, fractions @ MEANS + texture * grain, 0).astype(np.float32)
    return Prepared(image, mask, Grid(SHAPE, AFFINE), -1, 1), fractions


def plain(preset: Preset) -> Preset:
    return replace(preset, bias=0.0, noise=0.0, blur_mm=0.0)


class TestIdealSignal:
    @pytest.mark.parametrize("name", PRESETS)
    def test_pure_tissue(self, name: str) -> None:
        prepared, fractions = head()
        signal = ideal_signal(prepared.image, prepared.mask, fractions, PRESETS[name])
        assert signal.dtype == np.float32
        assert not signal[~prepared.mask].any()
        for index, expected in enumerate(PRESETS[name].signals()):
            np.testing.assert_allclose(signal[fractions[..., index] == 1], expected, rtol=1e-5)

    def test_partial_volume_mixes_signals(self) -> None:
        """Half CSF and half white matter, though it looks like grey matter: half of each signal."""
        prepared, fractions = head()
        mixed = (20, 22, 18)
        fractions[mixed] = (0.5, 0, 0.5)
        preset = PRESETS["flair-3T"]
        prepared.image[mixed] = (MEANS[0] + MEANS[2]) / 2
        signal = ideal_signal(prepared.image, prepared.mask, fractions, preset)
        csf, grey, white = preset.signals()
        assert signal[mixed] == pytest.approx((csf + white) / 2, rel=1e-3)
        assert signal[mixed] < 0.6 * grey

    @pytest.mark.parametrize("name", PRESETS)
    def test_texture_is_kept(self, name: str) -> None:
        """Within white matter it follows the sign of the contrast, and everywhere the slope."""
        prepared, fractions = head(texture=0.02)
        preset = PRESETS[name]
        signal = ideal_signal(prepared.image, prepared.mask, fractions, preset)
        white = fractions[..., 2] == 1
        sign = 1 if preset.contrast == "T1w" else -1
        assert np.corrcoef(signal[white], prepared.image[white])[0, 1] * sign > 0.95

    def test_texture_has_the_local_slope(self) -> None:
        prepared, fractions = head()
        preset = PRESETS["tse-t2-3T"]
        spot = (20, 22, 18)
        prepared.image[spot] -= 0.1
        signal = ideal_signal(prepared.image, prepared.mask, fractions, preset)
        _, grey, white = preset.signals()
        expected = white + 0.1 * (grey - white) / (MEANS[2] - MEANS[1])
        assert signal[spot] == pytest.approx(expected, rel=1e-3)

    @pytest.mark.parametrize("name", PRESETS)
    def test_beyond_the_means(self, name: str) -> None:
        """Brighter than white matter, darker than CSF: no fold, no negative, a bounded slope."""
        prepared, fractions = head()
        bright, dark = (20, 22, 18), (20, 22, 30)
        assert fractions[(*dark, 0)] == 1
        prepared.image[bright], prepared.image[dark] = 1, -1
        preset = PRESETS[name]
        signal = ideal_signal(prepared.image, prepared.mask, fractions, preset)
        signals = preset.signals()
        steepest = 1.01 * np.ptp(signals) / (MEANS[2] - MEANS[0])
        assert signal.min() >= 0
        change = signal[bright] - signals[2]
        assert abs(change) <= 0.25 * steepest
        assert change * (signals[2] - signals[1]) > 0
        change = signal[dark] - signals[0]
        assert abs(change) <= 0.5 * steepest
        assert change * (signals[0] - signals[1]) >= 0

    def test_refuses(self) -> None:
        prepared, fractions = head()
        preset = PRESETS["mprage-3T"]
        with pytest.raises(InputError, match="Classify"):
            ideal_signal(prepared.image, prepared.mask, fractions[1:], preset)
        with pytest.raises(InputError, match="dark to bright"):
            ideal_signal(-prepared.image, prepared.mask, fractions, preset)
        with pytest.raises(InputError, match="must all be there"):
            ideal_signal(prepared.image, prepared.mask, fractions * [0, 1, 1], preset)


class TestBoxAverage:
    def test_whole_blocks(self) -> None:
        data = np.random.default_rng(0).random((6, 4, 8)).astype(np.float32)
        everywhere = np.ones(data.shape, dtype=bool)
        grid = Grid(data.shape, AFFINE)
        result, mask, thick = box_average(data, everywhere, grid, (1, 1, 2))
        np.testing.assert_allclose(result, data.reshape(6, 4, 4, 2).mean(-1), rtol=1e-6)
        assert mask.all()
        np.testing.assert_allclose(thick.affine @ [0, 0, 0, 1], [-20, -30, 5.5, 1])

    def test_same_voxels(self) -> None:
        data = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)
        mask = data > 0.3
        result, inside, grid = box_average(data, mask, Grid(data.shape, AFFINE), (1, 1, 1))
        np.testing.assert_allclose(result, np.where(mask, data, 0), rtol=1e-6)
        np.testing.assert_array_equal(inside, mask)
        assert grid.same_as(Grid(data.shape, AFFINE))

    @pytest.mark.parametrize("voxel_mm", [(1, 1, 2.5), (1.25, 1, 1), (2.3, 1.7, 1.1)])
    def test_a_ramp_along_the_world(self, voxel_mm: tuple[float, float, float]) -> None:
        """Averages of a linear ramp are its values at the new centres, also on oblique grids."""
        # to an eighth of a voxel along each axis, and with no shift of the whole
        turn = np.eye(4)
        turn[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
        grid = Grid(SHAPE, turn @ AFFINE)
        direction = np.array([0.3, -0.5, 0.9])

        def ramp(grid: Grid) -> np.ndarray:
            voxels = np.moveaxis(np.indices(grid.shape), 0, -1)
            return nib.affines.apply_affine(grid.affine, voxels) @ direction

        everywhere = np.ones(SHAPE, dtype=bool)
        result, _, new = box_average(ramp(grid), everywhere, grid, voxel_mm)
        np.testing.assert_allclose(nib.affines.voxel_sizes(new.affine), voxel_mm)
        inner = (slice(1, -1),) * 3  # border voxels reach beyond the field of view
        error = (result - ramp(new))[inner]
        assert np.abs(error).max() < np.abs(direction).sum() / 8
        assert abs(error.mean()) < 5e-3

    def test_mask_holds_voxels_filled_by_half(self) -> None:
        mask = np.zeros((2, 2, 12), dtype=bool)
        mask[..., 3:] = True  # old voxels 3 to 11; the new ones hold four each
        mask[..., 8] = False
        grid = Grid(mask.shape, AFFINE)
        _, inside, _ = box_average(mask, mask, grid, (1, 1, 4))
        np.testing.assert_array_equal(inside[0, 0], [False, True, True])
        mask[..., 2] = True
        _, inside, _ = box_average(mask, mask, grid, (1, 1, 4))
        assert inside.all()

    def test_no_dark_rim(self) -> None:
        prepared, _ = head()
        result, mask, _ = box_average(np.ones(SHAPE), prepared.mask, prepared.grid, (1.3, 1, 2.5))
        np.testing.assert_allclose(result[mask], 1, rtol=1e-6)
        assert not result[~mask].any()


class TestAcquire:
    @pytest.mark.parametrize("name", PRESETS)
    def test_scan(self, name: str) -> None:
        prepared, fractions = head(texture=0.05)
        preset = PRESETS[name]
        first, again, other = (
            acquire(prepared, fractions, preset, np.random.default_rng(seed)) for seed in (1, 1, 2)
        )
        scan = first.get_fdata()
        np.testing.assert_array_equal(scan, again.get_fdata())
        assert np.abs(scan - other.get_fdata()).max() > 10
        np.testing.assert_array_equal(first.affine, again.affine)
        np.testing.assert_allclose(first.header.get_zooms(), preset.voxel_mm, rtol=1e-5)
        _, inside, grid = box_average(prepared.image, prepared.mask, prepared.grid, preset.voxel_mm)
        assert Grid.of(first).same_as(grid)
        np.testing.assert_array_equal(scan > 0, inside)  # 0 outside, above 0 inside
        assert scan.min() == 0
        assert np.percentile(scan[inside], 99.5) == pytest.approx(1000, rel=1e-3)
        assert scan.max() < 1500
        assert is_stripped(scan)

    @pytest.mark.parametrize("name", ["se-t1-1.5T", "mprage-1.5T", "tse-t2-3T"])
    def test_landmark_stays(self, name: str) -> None:
        """A dark spot in white matter is found within half a voxel of where it was."""
        prepared, fractions = head()
        spot = np.array([22, 20, 20])
        corner = tuple(slice(n - 1, n + 2) for n in spot)
        prepared.image[corner] = MEANS[1]
        fractions[corner] = (0, 1, 0)
        preset = plain(PRESETS[name])
        scan = acquire(prepared, fractions, preset, np.random.default_rng(0))
        centre = np.linalg.inv(scan.affine) @ AFFINE @ [*(np.array(SHAPE) - 1) / 2, 1]
        data = scan.get_fdata()
        voxels = np.moveaxis(np.indices(scan.shape), 0, -1)
        deep = np.linalg.norm((voxels - centre[:3]) * preset.voxel_mm, axis=-1) < 6
        difference = np.where(deep, np.abs(data - np.median(data[deep])), 0)
        found = np.average(voxels.reshape(-1, 3), axis=0, weights=difference.ravel())
        offset = nib.affines.apply_affine(scan.affine, found)
        offset -= nib.affines.apply_affine(AFFINE, spot)
        assert (np.abs(offset) < 0.5 * np.array(preset.voxel_mm)).all()

    def test_without_degradation(self) -> None:
        """Pure tissues keep the ratios of their signals, whatever the scale."""
        prepared, fractions = head()
        for name in ("spgr-1.5T", "spgr-3T"):
            preset = plain(PRESETS[name])
            scan = acquire(prepared, fractions, preset, np.random.default_rng(0))
            data, signals = scan.get_fdata(), preset.signals()
            for index in range(3):
                expected = 1000 * signals[index] / signals.max()
                np.testing.assert_allclose(data[fractions[..., index] == 1], expected, rtol=1e-4)

    def test_noise_is_rician(self) -> None:
        """Nulled CSF: a Rayleigh distribution. White matter: the preset's noise level."""
        prepared, fractions = head()
        null = TISSUES[3.0][0].t1 * np.log(2)
        preset = replace(
            plain(PRESETS["flair-3T"]),
            parameters={"tr": 1e9, "te": 80, "ti": null},
            voxel_mm=(1.0, 1.0, 1.0),
            noise=0.05,
        )
        scan = acquire(prepared, fractions, preset, np.random.default_rng(0))
        data = scan.get_fdata()
        csf, white = data[fractions[..., 0] == 1], data[fractions[..., 2] == 1]
        assert csf.mean() / csf.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.05)
        assert white.std() / white.mean() == pytest.approx(0.05, rel=0.1)
        assert np.sqrt(np.mean(csf**2) / 2) == pytest.approx(white.std(), rel=0.1)

    def test_the_seed_makes_noise_and_bias(self) -> None:
        prepared, fractions = head()
        clean = plain(PRESETS["spgr-3T"])
        for preset in (replace(clean, noise=0.05), replace(clean, bias=0.3)):
            first, second = (
                acquire(prepared, fractions, preset, np.random.default_rng(seed)) for seed in (1, 2)
            )
            assert np.abs(first.get_fdata() - second.get_fdata())[prepared.mask].mean() > 10

    def test_blur_leaves_no_dark_rim(self) -> None:
        """Blur softens boundaries inside the brain, and not the one around it."""
        prepared, fractions = head()
        preset = replace(plain(PRESETS["spgr-3T"]), blur_mm=1.0)
        data = acquire(prepared, fractions, preset, np.random.default_rng(0)).get_fdata()
        csf, grey, white = 1000 * preset.signals() / preset.signals().max()
        radius = distance_from_centre(SHAPE)
        rim = data[prepared.mask & (radius > 13)]
        assert rim.min() > 0.97 * csf
        assert rim.mean() < 1.1 * csf
        border = data[(radius > 7.5) & (radius < 8.5)]
        assert border.mean() == pytest.approx((grey + white) / 2, rel=0.05)
        assert border.std() < 0.3 * (white - grey)

    def test_bias_field(self) -> None:
        prepared, fractions = head()
        preset = replace(plain(PRESETS["spgr-3T"]), bias=0.3)
        scan = acquire(prepared, fractions, preset, np.random.default_rng(0))
        white = scan.get_fdata()[fractions[..., 2] == 1]
        assert 0.02 < white.std() / white.mean() < 0.3
