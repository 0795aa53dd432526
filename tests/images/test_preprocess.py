"""From a scan to model units."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from conftest import Phantom
from isochroma.errors import InputError
from isochroma.images import preprocess
from isochroma.images.grid import bounding_box
from isochroma.images.preprocess import PreprocessSettings
from isochroma.method.recontrast import bias_field

LAS = np.array([[-1.0, 0, 0, 30], [0, 1, 0, -20], [0, 0, 1, 10], [0, 0, 0, 1]])
PLAIN = PreprocessSettings(n4=False)


def image_of(data: np.ndarray, affine: np.ndarray = LAS) -> nib.Nifti1Image:
    return nib.Nifti1Image(data, affine)


class TestModelUnits:
    def test_known_answer(self) -> None:
        values = np.array([0.0, 10, 15, 20, 30, 12]).reshape(1, 2, 3)
        mask = np.array([1, 1, 1, 1, 1, 0], dtype=bool).reshape(1, 2, 3)
        units = preprocess.to_model_units(values, mask, 10, 20)
        assert units.dtype == np.float32
        np.testing.assert_allclose(units.ravel(), [-1, -1, 0, 1, 1, 0], atol=1e-6)

    def test_inverse(self) -> None:
        values = np.random.default_rng(0).uniform(-3, 7, (5, 6, 7))
        mask = np.ones(values.shape, dtype=bool)
        units = preprocess.to_model_units(values, mask, -3, 7)
        np.testing.assert_allclose(
            preprocess.from_model_units(units, -3, 7), values, rtol=1e-5, atol=1e-5
        )

    def test_limits(self) -> None:
        settings = PreprocessSettings(lower_percentile=10, upper_percentile=90)
        limits = preprocess.intensity_limits(np.arange(101.0), settings)
        assert limits == pytest.approx((10, 90))

    def test_constant_brain(self) -> None:
        with pytest.raises(InputError, match="constant inside the brain mask"):
            preprocess.intensity_limits(np.full(50, 3.0), PreprocessSettings())


class TestWhiteMatterMode:
    def test_the_brighter_peak_though_the_darker_is_higher(self) -> None:
        rng = np.random.default_rng(0)
        grey, white = rng.normal(-0.2, 0.1, 50_000), rng.normal(0.4, 0.1, 40_000)
        found = preprocess.white_matter_mode(np.concatenate([grey, white]))
        assert found == pytest.approx(0.4, abs=0.03)

    def test_ignores_a_bright_tail(self) -> None:
        rng = np.random.default_rng(0)
        brain = [rng.normal(-0.5, 0.1, 50_000), rng.normal(0.3, 0.1, 50_000)]
        vessels = rng.uniform(0.8, 1, 2_000)
        found = preprocess.white_matter_mode(np.concatenate([*brain, vessels]))
        assert found == pytest.approx(0.3, abs=0.03)


class TestCorrectBias:
    @staticmethod
    def variation(values: np.ndarray, where: np.ndarray) -> float:
        return float(values[where].std() / values[where].mean())

    def test_phantom(self, phantom: Phantom) -> None:
        """Most of a planted field of +-30 % vanishes from the white matter."""
        field = bias_field(phantom.data.shape, 0.3, np.random.default_rng(3)).astype(np.float32)
        settings = PreprocessSettings(n4_shrink=2)
        after = preprocess.correct_bias(phantom.data * field, phantom.mask, settings)
        planted = self.variation(field, phantom.white)
        remaining = self.variation(after / np.maximum(phantom.data, 1), phantom.white)
        assert planted > 0.04  # there is something to remove
        assert remaining < 0.5 * planted

    def test_mean_field_is_one(self, phantom: Phantom) -> None:
        after = preprocess.correct_bias(phantom.data, phantom.mask, PreprocessSettings())
        field = phantom.data[phantom.mask] / after[phantom.mask]
        assert np.exp(np.log(field).mean()) == pytest.approx(1, abs=1e-3)

    def test_real_scan(
        self, uncorrected: preprocess.Prepared, prepared: preprocess.Prepared
    ) -> None:
        """N4 brings the scan, and the scan under a 30 % front-to-back ramp, close together.

        The ramp is the field that the default settings remove best; of a random cubic one they
        leave far more.
        """
        scan, clean = (
            preprocess.from_model_units(each.image, each.lower, each.upper)
            for each in (uncorrected, prepared)
        )
        mask = uncorrected.mask
        ramp = (1 + 0.3 * np.linspace(-1, 1, mask.shape[1], dtype=np.float32))[:, None]
        planted = preprocess.correct_bias(scan * ramp, mask, PreprocessSettings())
        seen = mask & (np.abs(uncorrected.image) < 1) & (np.abs(prepared.image) < 1)
        before = np.log(np.broadcast_to(ramp, mask.shape)[seen]).std()
        after = np.log(planted[seen] / clean[seen]).std()
        assert after < 0.5 * before

    def test_negative_values(self, phantom: Phantom) -> None:
        """An offset below zero is no reason to fail, and comes back."""
        after = preprocess.correct_bias(phantom.data - 400, phantom.mask, PreprocessSettings())
        assert np.isfinite(after).all()
        assert after[phantom.mask].min() < -200
        assert np.corrcoef(after[phantom.mask], phantom.data[phantom.mask])[0, 1] > 0.98


class TestPrepare:
    def test_phantom_without_resampling(self, phantom: Phantom) -> None:
        """On 1 mm voxels only the orientation changes: known answer, percentile by percentile."""
        result = preprocess.prepare(image_of(phantom.data), phantom.mask, PLAIN)
        box = bounding_box(phantom.mask, 4)
        np.testing.assert_array_equal(result.mask, phantom.mask[box][::-1])
        values = phantom.data[phantom.mask]
        lower, upper = np.percentile(values, [0.5, 99.5])
        assert (result.lower, result.upper) == pytest.approx((lower, upper), rel=1e-3)
        expected = np.clip(2 * (phantom.data[box][::-1] - lower) / (upper - lower) - 1, -1, 1)
        np.testing.assert_allclose(
            result.image[result.mask], expected[result.mask], atol=5e-3, rtol=0
        )

    def test_grid(self, phantom: Phantom) -> None:
        result = preprocess.prepare(image_of(phantom.data), phantom.mask, PLAIN)
        assert result.grid.shape == result.image.shape
        assert nib.aff2axcodes(result.grid.affine) == ("R", "A", "S")
        # the mask's centre of mass is one point of the world, on either grid
        native = nib.affines.apply_affine(LAS, ndimage.center_of_mass(phantom.mask))
        model = nib.affines.apply_affine(result.grid.affine, ndimage.center_of_mass(result.mask))
        np.testing.assert_allclose(model, native, atol=1e-6)

    @pytest.mark.parametrize("n4", [False, True])
    @pytest.mark.parametrize("spacing", [(1, 1, 1), (0.868, 0.868, 1)])
    def test_gain(self, phantom: Phantom, n4: bool, spacing: tuple[float, ...]) -> None:
        affine = np.diag([*spacing, 1])
        settings = PreprocessSettings(n4=n4)
        plain = preprocess.prepare(image_of(phantom.data, affine), phantom.mask, settings)
        louder = preprocess.prepare(image_of(3.7 * phantom.data, affine), phantom.mask, settings)
        np.testing.assert_allclose(louder.image, plain.image, atol=1e-3)
        assert louder.upper == pytest.approx(3.7 * plain.upper, rel=1e-3)

    def test_gain_and_offset(self, phantom: Phantom) -> None:
        plain = preprocess.prepare(image_of(phantom.data), phantom.mask, PLAIN)
        moved = preprocess.prepare(image_of(3.7 * phantom.data - 250), phantom.mask, PLAIN)
        np.testing.assert_allclose(moved.image, plain.image, atol=1e-4)
        assert moved.lower == pytest.approx(3.7 * plain.lower - 250, abs=0.5)

    @pytest.mark.parametrize(
        "settings", [PLAIN, PreprocessSettings(n4_shrink=2)], ids=["plain", "n4"]
    )
    @pytest.mark.parametrize("poison", [1e6, -1e6, np.nan])
    def test_outside_has_no_influence(
        self, phantom: Phantom, settings: PreprocessSettings, poison: float
    ) -> None:
        affine = np.diag([0.868, 0.868, 1, 1])
        poisoned = np.where(phantom.mask, phantom.data, poison).astype(np.float32)
        clean = preprocess.prepare(image_of(phantom.data, affine), phantom.mask, settings)
        result = preprocess.prepare(image_of(poisoned, affine), phantom.mask, settings)
        np.testing.assert_array_equal(result.image, clean.image)
        np.testing.assert_array_equal(result.mask, clean.mask)
        assert (result.lower, result.upper) == (clean.lower, clean.upper)

    def test_constant_brain(self, phantom: Phantom) -> None:
        constant = np.where(phantom.mask, 5.0, 0).astype(np.float32)
        with pytest.raises(InputError, match="constant"):
            preprocess.prepare(image_of(constant), phantom.mask, PLAIN)

    def test_empty_mask(self, phantom: Phantom) -> None:
        with pytest.raises(InputError, match="mask is empty"):
            preprocess.prepare(image_of(phantom.data), np.zeros_like(phantom.mask), PLAIN)

    def test_real_scan(
        self,
        prepared: preprocess.Prepared,
        target_scan: nib.Nifti1Image,
        target_mask: np.ndarray,
    ) -> None:
        inside = prepared.image[prepared.mask]
        assert prepared.image.dtype == np.float32
        assert prepared.mask.dtype == bool
        assert (inside.min(), inside.max()) == (-1, 1)
        assert not prepared.image[~prepared.mask].any()
        # half a percent is clipped at either end
        assert np.mean(inside == -1) == pytest.approx(0.005, abs=5e-4)
        assert np.mean(inside == 1) == pytest.approx(0.005, abs=5e-4)
        assert 0 < prepared.lower < prepared.upper
        native_ml = target_mask.sum() * abs(np.linalg.det(target_scan.affine[:3, :3])) / 1000
        assert prepared.mask.sum() / 1000 == pytest.approx(native_ml, rel=0.01)
        np.testing.assert_allclose(nib.affines.voxel_sizes(prepared.grid.affine), 1, atol=1e-5)
        assert nib.aff2axcodes(prepared.grid.affine) == ("R", "A", "S")
