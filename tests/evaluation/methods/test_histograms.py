from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from fixtures_methods import gamma, prepared_head, recontrasted
from fixtures_pipeline import head
from isochroma.evaluation.methods import Nyul, SSIMHistogramMatching, named_methods
from isochroma.evaluation.methods.histograms import (
    PROBABILITIES,
    match_histogram,
    specify_histogram,
    specify_histogram_by_ssim,
    ssim_gradient,
    target_quantiles,
)
from isochroma.images import metrics
from isochroma.images.preprocess import Prepared


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


class TestMatching:
    def test_own_quantiles_are_near_identity(
        self, image: np.ndarray, mask: np.ndarray, quantiles: np.ndarray
    ) -> None:
        error = np.abs(match_histogram(image, mask, quantiles) - image)[mask]
        assert error.mean() < 0.01
        assert np.quantile(error, 0.99) < 0.04

    @pytest.mark.parametrize("power", [0.5, 2.0])
    def test_gamma_is_undone(
        self, image: np.ndarray, mask: np.ndarray, quantiles: np.ndarray, power: float
    ) -> None:
        changed = np.where(mask, 1000 * ((image + 1) / 2) ** power, 0)
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


class TestMethods:
    """The registered methods, on heads whose histogram is known."""

    @pytest.mark.parametrize(
        ("name", "error"), [("histogram-matching", 0.02), ("nyul", 0.05), ("ssimh", 0.02)]
    )
    def test_gamma_is_undone(self, name: str, error: float) -> None:
        scan = prepared_head(0)
        changed = recontrasted(scan, gamma)
        (method,) = named_methods([name])
        method.fit([scan])
        before = np.abs(changed.image - scan.image)[scan.mask].mean()
        after = np.abs(method.apply(changed) - scan.image)[scan.mask].mean()
        assert before > 0.15
        assert after < error

    def test_nyul_keeps_ranks_and_landmarks(self, target: list[Prepared], source: Prepared) -> None:
        method = Nyul()
        method.fit(target)
        output = method.apply(source)[source.mask]
        assert np.diff(output[np.argsort(source.image[source.mask])]).min() >= -1e-5
        wanted = np.mean([np.percentile(t.image[t.mask], [1, 99]) for t in target], axis=0)
        np.testing.assert_allclose(np.percentile(output, [1, 99]), wanted, atol=5e-3)

    def test_ssimh_has_the_quantiles_and_more_ssim(self, target: list[Prepared]) -> None:
        scan = recontrasted(prepared_head(3), lambda image: np.sin(3 * image))
        plain, ascended = SSIMHistogramMatching(iterations=0), SSIMHistogramMatching()
        for method in (plain, ascended):
            method.fit(target)
        output = ascended.apply(scan)
        found = np.quantile(output[scan.mask], PROBABILITIES)
        np.testing.assert_allclose(found, target_quantiles(target), atol=1e-3)
        scores = [
            metrics.ssim(image + 1, scan.image + 1, scan.mask, 2)
            for image in (plain.apply(scan), output)
        ]
        assert scores[1] > scores[0]
