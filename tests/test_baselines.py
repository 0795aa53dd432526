"""The baselines that need no model, and the controls."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from fixtures_pipeline import head
from isochroma.evaluation.methods.baselines import (
    blur,
    brain_frame,
    match_histogram,
    mean_head,
    place_head,
    specify_histogram,
    specify_histogram_by_ssim,
    ssim_gradient,
)
from isochroma.images import metrics

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


class TestBlur:
    def test_only_inside_the_mask(self, image: np.ndarray, mask: np.ndarray) -> None:
        other = np.where(mask, image, 1e4)
        np.testing.assert_array_equal(blur(image, mask, 2), blur(other, mask, 2))
        assert (blur(other, mask, 2)[~mask] == 0).all()

    def test_constant_stays_up_to_the_border(self, mask: np.ndarray) -> None:
        flat = np.where(mask, 0.7, 0)
        np.testing.assert_allclose(blur(flat, mask, 2)[mask], 0.7, atol=1e-5)

    def test_detail_is_lost(self, image: np.ndarray, mask: np.ndarray) -> None:
        assert blur(image, mask, 2)[mask].std() < 0.9 * image[mask].std()


class TestSpecification:
    def test_exact_quantiles(self, image: np.ndarray, mask: np.ndarray) -> None:
        reference = np.sort(np.random.default_rng(3).normal(0, 0.4, 101))
        rough = np.round(image, 1)  # many ties
        found = np.quantile(specify_histogram(rough, mask, reference)[mask], PROBABILITIES)
        np.testing.assert_allclose(found, reference, atol=1e-3)

    def test_ranks_are_kept(
        self, image: np.ndarray, mask: np.ndarray, quantiles: np.ndarray
    ) -> None:
        order = np.argsort(image[mask])
        rises = np.diff(image[mask][order]) > 0
        specified = specify_histogram(image, mask, quantiles)[mask][order]
        assert rises.sum() > 20000
        assert np.diff(specified)[rises].min() >= 0

    def test_ties_go_by_the_neighbourhood(self) -> None:
        image = np.zeros((9, 9, 9), dtype=np.float32)
        image[6] = 1
        output = specify_histogram(image, np.ones(image.shape, dtype=bool), np.linspace(0, 1, 11))
        assert output[5].min() > output[:5].max()  # next to the bright plane
        assert output[6].min() > output[5].max()


class TestSsimAscent:
    def test_gradient(self, image: np.ndarray, mask: np.ndarray) -> None:
        """Against central differences, along random directions; the score is `metrics.ssim`."""
        rng = np.random.default_rng(0)
        x = image + 1
        y = np.where(mask, x**0.8 + 0.2 * rng.standard_normal(x.shape), 0)
        score, gradient = ssim_gradient(y, x, mask, 2)
        assert score == pytest.approx(metrics.ssim(y, x, mask, 2), abs=1e-5)
        assert (gradient[~mask] == 0).all()
        for direction in (gradient / np.abs(gradient).max(), np.where(mask, x - y, 0)):
            change = 0.02 * direction
            up, down = (ssim_gradient(y + sign * change, x, mask, 2)[0] for sign in (1, -1))
            assert np.sum(gradient * change) == pytest.approx((up - down) / 2, rel=0.02)

    def test_no_gradient_at_the_source(self, image: np.ndarray, mask: np.ndarray) -> None:
        score, gradient = ssim_gradient(image + 1, image + 1, mask, 2)
        assert score == pytest.approx(1, abs=1e-6)
        assert np.abs(gradient).max() * mask.sum() < 1e-2

    def test_more_ssim_same_histogram(self, image: np.ndarray, mask: np.ndarray) -> None:
        reference = np.sort(np.random.default_rng(3).normal(0, 0.4, 101)).clip(-1, 1)
        plain = specify_histogram(image, mask, reference)
        better = specify_histogram_by_ssim(image, mask, reference)
        np.testing.assert_array_equal(np.sort(plain[mask]), np.sort(better[mask]))
        scores = [metrics.ssim(other + 1, image + 1, mask, 2) for other in (plain, better)]
        assert scores[1] > scores[0]


class TestMeanHead:
    def test_frame_of_a_box(self) -> None:
        mask = np.zeros((20, 24, 18), dtype=bool)
        mask[4:10, 5:17, 8:9] = True
        centre, spread = brain_frame(mask)
        np.testing.assert_allclose(centre, [6.5, 10.5, 8])
        np.testing.assert_allclose(spread, np.sqrt([35 / 12, 143 / 12, 0]))

    def test_one_head_comes_back(self, image: np.ndarray, mask: np.ndarray) -> None:
        placed = place_head(mean_head([(image, mask)]), mask)
        assert metrics.ncc(placed, image, mask) > 0.98
        assert (placed[~mask] == 0).all()
        assert placed.dtype == np.float32

    def test_place_and_size_do_not_matter(self, image: np.ndarray, mask: np.ndarray) -> None:
        """A shifted copy and a stretched one have the mean of the original."""
        shifted = [np.pad(volume, ((5, 0), (0, 0), (0, 7))) for volume in (image, mask)]
        wide = [
            ndimage.zoom(image, (1, 1.2, 0.9), order=1),
            ndimage.zoom(mask.astype(float), (1, 1.2, 0.9), order=1) > 0.5,
        ]
        mean = mean_head([(image, mask), tuple(shifted), tuple(wide)])
        assert metrics.ncc(place_head(mean, mask), image, mask) > 0.95
        assert metrics.ncc(place_head(mean, wide[1]), wide[0], wide[1]) > 0.95
