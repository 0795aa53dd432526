"""Operations inside a mask, which nothing outside may influence."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import ball, distance_from_centre
from fixtures_images import texture
from isochroma.images.masked import centroid, extend_outside, extent, profile, scatter, smooth

SHAPE = (24, 26, 22)


class TestSmooth:
    mask = ball(SHAPE, 8)

    def test_a_constant_stays_up_to_the_rim(self) -> None:
        """Where a plain Gaussian would fall to half of it."""
        smoothed = smooth(np.full(SHAPE, 7.0), self.mask, 2)
        assert smoothed.dtype == np.float32
        np.testing.assert_allclose(smoothed[self.mask], 7, rtol=1e-5)

    @pytest.mark.parametrize("outside", [np.nan, np.inf, -1e9])
    def test_outside_has_no_influence(self, outside: float) -> None:
        data = texture(SHAPE)
        poisoned = np.where(self.mask, data, outside)
        np.testing.assert_array_equal(
            smooth(poisoned, self.mask, 1.5), smooth(data, self.mask, 1.5)
        )

    def test_width_is_that_of_the_gaussian(self) -> None:
        """An impulse far from the rim becomes a Gaussian of that variance."""
        impulse = np.zeros((41, 41, 41))
        impulse[20, 20, 20] = 1
        smoothed = smooth(impulse, np.ones(impulse.shape, bool), 2, truncate=6)
        variance = (smoothed * distance_from_centre(impulse.shape) ** 2).sum() / smoothed.sum()
        assert variance == pytest.approx(3 * 2**2, rel=0.01)

    def test_one_width_an_axis(self) -> None:
        """No smoothing along an axis of width 0: planes of one value keep it."""
        planes = np.broadcast_to(np.arange(SHAPE[0], dtype=float)[:, None, None], SHAPE)
        smoothed = smooth(planes, self.mask, (0, 2, 2))
        np.testing.assert_allclose(smoothed[self.mask], planes[self.mask], rtol=1e-4)

    def test_far_outside_it_tends_to_zero(self) -> None:
        smoothed = smooth(np.full((60, 8, 8), 7.0), ball((60, 8, 8), 3), 1)
        assert np.isfinite(smoothed).all()
        assert np.abs(smoothed[:10]).max() < 1e-6


class TestScatter:
    def test_undoes_taking_the_in_mask_values(self) -> None:
        data, mask = texture(SHAPE), ball(SHAPE, 9)
        volume = scatter(data[mask], mask, background=-1)
        assert volume.dtype == np.float32
        np.testing.assert_array_equal(volume, np.where(mask, data, -1))


class TestGeometry:
    box = np.zeros((20, 20, 20), bool)
    box[2:12, 3:18, 5:10] = True

    def test_profile_of_a_box(self) -> None:
        expected = np.zeros(20)
        expected[3:18] = 10 * 5
        np.testing.assert_array_equal(profile(self.box, 1), expected)

    def test_centroid_of_a_box(self) -> None:
        np.testing.assert_allclose(centroid(self.box), [6.5, 10, 7])

    def test_extent_of_a_box(self) -> None:
        np.testing.assert_array_equal(extent(self.box), [10, 15, 5])

    def test_a_stray_voxel_does_not_count_for_the_extent(self) -> None:
        mask = np.zeros((40, 40, 40), bool)
        mask[2:22, 2:22, 2:22] = True
        mask[39, 39, 39] = True
        np.testing.assert_array_equal(extent(mask), [20, 20, 20])


class TestExtendOutside:
    def test_nearest_voxel(self) -> None:
        data = texture((9, 4, 4))
        mask = np.zeros(data.shape, dtype=bool)
        mask[2:4] = True
        data[~mask] = np.nan
        result = extend_outside(data, mask)
        np.testing.assert_array_equal(result[2:4], data[2:4])
        np.testing.assert_array_equal(result[:2], np.stack([data[2]] * 2))
        np.testing.assert_array_equal(result[4:], np.stack([data[3]] * 5))

    def test_type_is_kept(self) -> None:
        labels = np.arange(27, dtype=np.int16).reshape(3, 3, 3)
        assert extend_outside(labels, labels > 5).dtype == np.int16
