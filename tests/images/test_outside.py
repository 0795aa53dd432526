"""What lies outside the brain."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import distance_from_centre
from isochroma.images.outside import FILLINGS, matched

SHAPE = (50, 50, 50)
DISTANCE = distance_from_centre(SHAPE)
BRAIN, SCALP = DISTANCE < 15, (DISTANCE > 18) & (DISTANCE < 21)
VOXEL_MM = np.ones(3)


def head(seed: int = 0) -> np.ndarray:
    """A brain of 200 to 800, a scalp of 1000, air of 10."""
    rng = np.random.default_rng(seed)
    source = np.full(SHAPE, 10.0)
    source[BRAIN] = rng.uniform(200, 800, BRAIN.sum())
    source[SCALP] = 1000
    return source


def result(values: np.ndarray) -> np.ndarray:
    return np.where(BRAIN, values, 0).astype(np.float32)


@pytest.mark.parametrize("filling", FILLINGS)
def test_the_brain_is_the_results(filling: str) -> None:
    harmonized = result(3 * head())
    filled = FILLINGS[filling](harmonized, head(), BRAIN, VOXEL_MM)
    assert filled.dtype == np.float32
    np.testing.assert_array_equal(filled[BRAIN], harmonized[BRAIN])


def test_zero_and_source() -> None:
    harmonized, source = result(3 * head()), head()
    assert not FILLINGS["zero"](source, source, BRAIN, VOXEL_MM)[~BRAIN].any()
    kept = FILLINGS["source"](harmonized, source, BRAIN, VOXEL_MM)
    np.testing.assert_allclose(kept[~BRAIN], source[~BRAIN])


class TestMatched:
    @pytest.mark.parametrize("gain", [0.1, 3.0, 1000.0])
    def test_like_contrast_takes_the_brains_curve(self, gain: float) -> None:
        filled = matched(result(gain * (head() - 10)), head(), BRAIN, VOXEL_MM)
        assert filled[SCALP & (DISTANCE > 19)] == pytest.approx(gain * 990, rel=0.05)
        assert filled[DISTANCE > 22] == pytest.approx(0, abs=gain)

    def test_other_contrast_is_scaled_by_the_median(self) -> None:
        """The scalp, twice as far above air as the brain's median, stays so."""
        filled = matched(result(1000 - head()), head(), BRAIN, VOXEL_MM)
        assert filled[SCALP & (DISTANCE > 19)] == pytest.approx(500 * 990 / 490, rel=0.03)

    def test_no_step_at_the_rim(self) -> None:
        """Bone within 4 mm begins at the value of the brain beside it."""
        source = head()
        filled = matched(result(np.full(SHAPE, 500.0)), source, BRAIN, VOXEL_MM)
        beside = (DISTANCE >= 15) & (DISTANCE < 15.5)
        assert filled[beside].min() > 300
        assert filled[(DISTANCE > 17.5) & (DISTANCE < 18)].max() < 250

    def test_no_halo_around_a_stripped_brain(self) -> None:
        stripped = result(head())
        assert not matched(stripped, stripped, BRAIN, VOXEL_MM)[~BRAIN].any()

    def test_nothing_is_far_brighter_than_the_brain(self) -> None:
        source = head()
        source[SCALP] = 100_000
        filled = matched(result(source), source, BRAIN, VOXEL_MM)
        assert filled.max() == pytest.approx(1.5 * 800, rel=0.01)

    def test_a_brain_that_fills_the_volume(self) -> None:
        filled = matched(head(), head(), np.ones(SHAPE, bool), VOXEL_MM)
        np.testing.assert_allclose(filled, head(), rtol=1e-6)
