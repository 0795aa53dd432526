from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg, ndimage, stats

from conftest import Phantom, ball
from isochroma.errors import InputError
from isochroma.evaluation.measures import closeness
from isochroma.evaluation.tissues import CSF, GREY, WHITE

SHAPE = (24, 26, 22)
MASK = ball(SHAPE, 9)
PROBABILITIES = np.linspace(0, 1, 1001)


def labels() -> np.ndarray:
    return np.select([ball(SHAPE, 4), ball(SHAPE, 7), MASK], [WHITE, GREY, CSF], 0)


def head(csf: float, grey: float, white: float) -> np.ndarray:
    """One value a tissue."""
    return np.choose(labels(), [0, csf, grey, white]).astype(np.float32)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, SHAPE).astype(np.float32)


def phantom_scan(phantom: Phantom, seed: int) -> np.ndarray:
    """Model units; every seed is another texture on the same head."""
    grain = np.random.default_rng(seed).standard_normal(phantom.mask.shape)
    image = phantom.data / 500 - 1 + 0.3 * ndimage.gaussian_filter(grain, 1)
    return np.where(phantom.mask, np.clip(image, -1, 1), 0).astype(np.float32)


class TestWasserstein:
    @pytest.mark.parametrize("shift", [-0.25, 0.0, 0.1])
    def test_of_a_shift(self, shift: float) -> None:
        image = noise(0)
        quantiles = np.quantile(image[MASK], PROBABILITIES)
        found = closeness.wasserstein(image + np.float32(shift), MASK, quantiles)
        assert found == pytest.approx(abs(shift), abs=1e-6)

    def test_same_as_scipy(self) -> None:
        a, b = noise(0), np.square(noise(1)) - 0.2
        found = closeness.wasserstein(a, MASK, np.quantile(b[MASK], PROBABILITIES))
        assert found == pytest.approx(stats.wasserstein_distance(a[MASK], b[MASK]), abs=2e-3)

    def test_outside_does_not_matter(self) -> None:
        image = noise(0)
        quantiles = np.quantile(image[MASK], PROBABILITIES)
        assert closeness.wasserstein(np.where(MASK, image, 9), MASK, quantiles) == 0

    def test_per_tissue(self) -> None:
        target = head(-0.5, 0.1, 0.75)
        profile = closeness.target_profile([target], [MASK], [labels()])
        found = closeness.histogram_distances(head(-0.5, 0.3, 0.75), MASK, labels(), profile)
        assert found["grey matter"] == pytest.approx(0.2, abs=1e-6)
        assert found["CSF"] == found["white matter"] == 0
        assert 0 < found["brain"] < 0.2

    def test_without_labels(self) -> None:
        profile = closeness.target_profile([noise(0)], [MASK], [labels()])
        found = closeness.histogram_distances(noise(0), MASK, None, profile)
        assert found == {"brain": 0}

    def test_profile_is_the_mean_of_the_scans(self) -> None:
        scans = iter([noise(0), noise(0) + 0.2])
        profile = closeness.target_profile(scans, [MASK] * 2, [labels()] * 2)
        expected = np.quantile(noise(0)[MASK], PROBABILITIES) + 0.1
        np.testing.assert_allclose(profile.quantiles["brain"], expected, atol=1e-6)

    def test_no_scans(self) -> None:
        with pytest.raises(InputError, match="no scans"):
            closeness.target_profile([], [], [])


class TestContrast:
    def test_known(self) -> None:
        """White 0.8 and grey 0.4 on [0, 1]: 0.4 / 1.2."""
        assert closeness.contrast_ratio(head(-0.5, -0.2, 0.6), labels()) == pytest.approx(1 / 3)

    def test_inverted_is_further_than_none(self) -> None:
        profile = closeness.target_profile([head(-0.5, -0.2, 0.6)], [MASK], [labels()])
        gaps = [
            closeness.contrast_gap(image, labels(), profile)
            for image in (head(-0.5, -0.2, 0.6), head(-0.5, 0, 0.4), head(0, 0, 0), head(0, 0.6, 0))
        ]
        assert gaps[0] == pytest.approx(0, abs=1e-7)
        assert gaps == sorted(gaps)
        assert gaps[2] == pytest.approx(1 / 3)

    def test_change(self) -> None:
        image = noise(0)
        assert closeness.change(image, image, MASK) == 0
        assert closeness.change(image + 0.3, image, MASK) == pytest.approx(0.3)


def gaussian(mean: np.ndarray, covariance: np.ndarray, count: int = 500) -> np.ndarray:
    """Samples with exactly this mean and covariance."""
    x = np.random.default_rng(0).standard_normal((count, len(mean)))
    x -= x.mean(0)
    own = np.atleast_2d(np.cov(x, rowvar=False))
    x = x @ np.linalg.inv(np.linalg.cholesky(own)).T
    return x @ np.linalg.cholesky(covariance).T + mean


class TestFrechet:
    def test_identical(self) -> None:
        a = gaussian(np.arange(3.0), np.diag([1.0, 4, 9]))
        assert closeness.frechet(a, a) == pytest.approx(0, abs=1e-10)

    def test_shifted_means(self) -> None:
        a = gaussian(np.zeros(3), np.eye(3))
        assert closeness.frechet(a, a + np.array([3, 0, 4])) == pytest.approx(25)

    def test_diagonal_covariances(self) -> None:
        """(1 - 2)^2 + (3 - 3)^2 + (5 - 1)^2 for standard deviations."""
        a = gaussian(np.zeros(3), np.diag([1.0, 9, 25]))
        b = gaussian(np.zeros(3), np.diag([4.0, 9, 1]))
        assert closeness.frechet(a, b) == pytest.approx(17)

    def test_one_dimension(self) -> None:
        a = gaussian(np.zeros(1), np.eye(1))
        assert closeness.frechet(a, 3 * a + 1) == pytest.approx(5)

    def test_any_covariances(self) -> None:
        rng = np.random.default_rng(1)
        a, b = (rng.standard_normal((400, 4)) @ rng.standard_normal((4, 4)) for _ in range(2))
        cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(
            cov_a + cov_b - 2 * linalg.sqrtm(cov_a @ cov_b).real
        )
        assert closeness.frechet(a, b) == pytest.approx(expected)
        assert closeness.frechet(b, a) == pytest.approx(expected)

    def test_few_samples_bias_upwards(self) -> None:
        rng = np.random.default_rng(0)
        few, many = (
            closeness.frechet(rng.standard_normal((n, 8)), rng.standard_normal((n, 8)))
            for n in (40, 4000)
        )
        assert few > 10 * many > 0

    def test_too_few(self) -> None:
        with pytest.raises(InputError, match="7 samples are too few for 4"):
            closeness.frechet(np.zeros((7, 4)), np.zeros((20, 4)))


class TestFeatures:
    @pytest.fixture(scope="class")
    def space(self, phantom: Phantom) -> closeness.FeatureSpace:
        images = [phantom_scan(phantom, seed) for seed in (1, 2, 3)]
        return closeness.fit_features(images, [phantom.mask] * 3, dimensions=8, per_scan=300)

    def test_network_is_deepbets(self, phantom: Phantom) -> None:
        """With the volume's own statistics, the activations are those of the shipped network."""
        from deepbet.utils import DATA_PATH, load_model

        model = load_model(f"{DATA_PATH}/models/model.pt", no_gpu=True)
        volume = closeness.fill(phantom_scan(phantom, 0), phantom.mask)
        relu = getattr(model.conv, "2")
        with torch.no_grad():
            first = model.init(relu, torch.from_numpy(volume)[None, None])
            second = model.down0(relu, first.clone())
        found, _ = closeness.activations(volume)
        torch.testing.assert_close(found, torch.cat([first, second], 1)[0], atol=1e-3, rtol=1e-3)

    def test_one_every_four_voxels(self, phantom: Phantom, space: closeness.FeatureSpace) -> None:
        found = closeness.patch_features(phantom_scan(phantom, 0), phantom.mask, space)
        assert found.shape == (phantom.mask[::4, ::4, ::4].sum(), 8)

    def test_reproducible(self, phantom: Phantom, space: closeness.FeatureSpace) -> None:
        image = phantom_scan(phantom, 0)
        a, b = (closeness.patch_features(image, phantom.mask, space) for _ in range(2))
        np.testing.assert_array_equal(a, b)

    def test_outside_does_not_matter(self, phantom: Phantom, space: closeness.FeatureSpace) -> None:
        image = phantom_scan(phantom, 0)
        a, b = (
            closeness.patch_features(np.where(phantom.mask, image, value), phantom.mask, space)
            for value in (0, 5)
        )
        np.testing.assert_array_equal(a, b)

    def test_changes_are_seen(self, phantom: Phantom, space: closeness.FeatureSpace) -> None:
        """A held-out scan is closest; gain, blur and inversion are further away."""
        mask = phantom.mask

        def sample(image: np.ndarray) -> np.ndarray:
            return closeness.pool([closeness.patch_features(image, mask, space)], 400)

        target = sample(phantom_scan(phantom, 1))
        other = phantom_scan(phantom, 9)
        same = closeness.frechet(target, sample(other))
        smooth = ndimage.gaussian_filter(other, 1)
        for changed in (0.7 * (other + 1) - 1, smooth, -other):
            assert closeness.frechet(target, sample(changed)) > 3 * same

    def test_pool_takes_as_many_of_each(self) -> None:
        found = closeness.pool([np.full((50, 2), 1.0), np.full((20, 2), 2.0)], 20)
        assert found.shape == (40, 2)
        assert (found == 1).sum() == (found == 2).sum()

    def test_pool_of_too_few(self) -> None:
        with pytest.raises(InputError, match="20 patches"):
            closeness.pool([np.zeros((50, 2)), np.zeros((20, 2))], 21)
