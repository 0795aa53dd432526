from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from isochroma.evaluation.measures.segmentation import (
    area_under_curve,
    best_dice,
    class_limits,
    dice,
    mean_dice,
)
from isochroma.evaluation.tissues import CSF, GREY, NAMES, WHITE

EVERYWHERE = np.ones((2, 2, 2), dtype=bool)


def labels(*values: int) -> np.ndarray:
    return np.array(values).reshape(2, 2, 2)


class TestDice:
    def test_identical(self) -> None:
        a = labels(1, 1, 2, 2, 3, 3, 0, 0)
        assert [dice(a, a, EVERYWHERE, label) for label in NAMES] == [1, 1, 1]
        assert mean_dice(a, a, EVERYWHERE) == 1

    def test_disjoint(self) -> None:
        a = labels(1, 2, 3, 1, 2, 3, 1, 2)
        assert mean_dice(a, a % 3 + 1, EVERYWHERE) == 0

    def test_by_hand(self) -> None:
        """CSF 1 of 2 and 2 voxels, grey matter 1 of 2 and 3, white matter 3 of 4 and 3."""
        a, b = labels(1, 1, 2, 2, 3, 3, 3, 3), labels(1, 2, 1, 2, 2, 3, 3, 3)
        found = [dice(a, b, EVERYWHERE, label) for label in (CSF, GREY, WHITE)]
        assert found == pytest.approx([2 / 4, 2 / 5, 6 / 7])
        assert mean_dice(a, b, EVERYWHERE) == pytest.approx((1 / 2 + 2 / 5 + 6 / 7) / 3)

    def test_only_the_mask_counts(self) -> None:
        a, b = labels(1, 1, 2, 2, 3, 3, 3, 3), labels(1, 1, 2, 2, 3, 3, 1, 2)
        mask = labels(1, 1, 1, 1, 1, 1, 0, 0).astype(bool)
        assert mean_dice(a, b, mask) == 1
        assert mean_dice(a, b, EVERYWHERE) < 1

    def test_absent_tissue_is_nan_and_not_in_the_mean(self) -> None:
        a = labels(1, 1, 1, 1, 2, 2, 2, 2)
        assert np.isnan(dice(a, a, EVERYWHERE, WHITE))
        assert mean_dice(a, a, EVERYWHERE) == 1
        assert np.isnan(mean_dice(a, a, ~EVERYWHERE))


class TestAreaUnderCurve:
    def test_two_normal_distributions(self) -> None:
        """Phi(d / sqrt(2)) for two of unit variance, d apart, whichever is brighter."""
        quantiles = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
        expected = stats.norm.cdf(1.5 / np.sqrt(2))
        assert area_under_curve(quantiles, quantiles + 1.5) == pytest.approx(expected, abs=1e-3)
        assert area_under_curve(quantiles + 1.5, quantiles) == pytest.approx(expected, abs=1e-3)

    def test_apart_equal_and_absent(self) -> None:
        low, high = np.array([1.0, 2]), np.array([3.0, 4, 5])
        assert area_under_curve(low, high) == area_under_curve(high, low) == 1
        assert area_under_curve(low, low) == 0.5
        assert np.isnan(area_under_curve(low, np.array([])))


class TestBestDice:
    def test_apart(self) -> None:
        low, high = np.linspace(0, 1, 100), np.linspace(2, 3, 50)
        assert best_dice(low, high) == best_dice(high, low) == 1
        assert np.isnan(best_dice(low, np.array([])))

    def test_by_hand(self) -> None:
        """The best limit, between 2 and 3, takes one of b for a: (6 / 7 + 4 / 5) / 2."""
        a, b = np.array([0.0, 1, 2]), np.array([1.5, 3, 4])
        assert best_dice(a, b) == pytest.approx((6 / 7 + 4 / 5) / 2)
        assert best_dice(-a, -b) == pytest.approx((6 / 7 + 4 / 5) / 2)


class TestClassLimits:
    def test_equal_normal_distributions_part_in_the_middle(self) -> None:
        each = 0.15 * stats.norm.ppf(np.linspace(1e-6, 1 - 1e-6, 20001))
        means = {CSF: -0.6, GREY: 0.0, WHITE: 0.5}
        limits = class_limits({NAMES[tissue]: mean + each for tissue, mean in means.items()})
        assert limits == pytest.approx([-0.3, 0.25], abs=2e-3)
