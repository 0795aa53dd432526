"""Histogram matching: the baseline that needs no model."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from fixtures_pipeline import head
from isochroma.baselines import match_histogram

PROBABILITIES = np.linspace(0, 1, 101)


@pytest.fixture(scope="module")
def mask() -> np.ndarray:
    return head()[1]


@pytest.fixture(scope="module")
def image(mask: np.ndarray) -> np.ndarray:
    """The head with partial volume and texture, in model units: no two tissues merge."""
    data = ndimage.gaussian_filter(head()[0], 1.0)
    data += 20 * ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(data.shape), 1)
    inside = data[mask]
    scaled = 2 * (data - inside.min()) / np.ptp(inside) - 1
    return np.where(mask, scaled, 0).astype(np.float32)


@pytest.fixture(scope="module")
def quantiles(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.quantile(image[mask], PROBABILITIES)


class TestBasic:
    def test_own_quantiles_are_near_identity(
        self, image: np.ndarray, mask: np.ndarray, quantiles: np.ndarray
    ) -> None:
        error = np.abs(match_histogram(image, mask, quantiles) - image)[mask]
        assert error.mean() < 0.01
        assert np.quantile(error, 0.99) < 0.04

    @pytest.mark.parametrize("gamma", [0.5, 2.0])
    def test_gamma_is_undone(
        self, image: np.ndarray, mask: np.ndarray, quantiles: np.ndarray, gamma: float
    ) -> None:
        changed = np.where(mask, 1000 * ((image + 1) / 2) ** gamma, 0)
        before = np.abs(2 * changed / 1000 - 1 - image)[mask].mean()
        after = np.abs(match_histogram(changed, mask, quantiles) - image)[mask].mean()
        assert before > 0.1
        assert after < 0.015

    def test_output_has_the_reference_quantiles(self, image: np.ndarray, mask: np.ndarray) -> None:
        reference = np.sort(np.random.default_rng(3).normal(300, 50, 101))
        matched = match_histogram(image, mask, reference)[mask]
        found = np.quantile(matched, PROBABILITIES[5:-5])
        np.testing.assert_allclose(found, reference[5:-5], atol=0.02 * np.ptp(reference))

    def test_ranks_are_kept(
        self, image: np.ndarray, mask: np.ndarray, quantiles: np.ndarray
    ) -> None:
        changed = np.exp(image)
        order = np.argsort(image[mask])
        matched = match_histogram(changed, mask, quantiles)[mask][order]
        assert np.diff(matched).min() >= -1e-6
        assert len(np.unique(matched)) > 1000


class TestMasking:
    def test_outside_is_zero(
        self, image: np.ndarray, mask: np.ndarray, quantiles: np.ndarray
    ) -> None:
        matched = match_histogram(image + 5, mask, quantiles + 10)
        assert (matched[~mask] == 0).all()
        assert matched[mask].min() > 8
        assert matched.dtype == np.float32
        assert matched.shape == image.shape

    def test_outside_has_no_influence(
        self, image: np.ndarray, mask: np.ndarray, quantiles: np.ndarray
    ) -> None:
        other = np.where(mask, image, 1e4)
        np.testing.assert_array_equal(
            match_histogram(image, mask, quantiles), match_histogram(other, mask, quantiles)
        )
