from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg, stats

from conftest import ball
from fixtures_evaluation import sample
from isochroma.errors import InputError
from isochroma.evaluation.measures.closeness import (
    change,
    contrast,
    frechet,
    group_frechet,
    part,
    wasserstein,
)
from isochroma.evaluation.measures.sample import Group, Sample
from isochroma.evaluation.study import Scan
from isochroma.evaluation.tissues import CSF, GREY, WHITE
from isochroma.evaluation.tools.profile import target_profile

SHAPE = (24, 26, 22)
MASK = ball(SHAPE, 9)
LABELS = np.select([ball(SHAPE, 4), ball(SHAPE, 7), MASK], [WHITE, GREY, CSF], 0)
PROBABILITIES = np.linspace(0, 1, 1001)


def distance(given: Sample, tissue: str = "") -> float:
    return part.measures[f"wasserstein {tissue}".strip()].compute(given)


def head(csf: float, grey: float, white: float) -> np.ndarray:
    """One value a tissue."""
    return np.choose(LABELS, [0, csf, grey, white]).astype(np.float32)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, SHAPE).astype(np.float32)


def against(target: np.ndarray, output: np.ndarray, source: np.ndarray | None = None) -> Sample:
    """An output, to be compared with a target domain of one scan."""
    profile = target_profile([target], [MASK], [LABELS])
    return sample(output, MASK, source, tissues=LABELS, profile=profile)


class TestWasserstein:
    @pytest.mark.parametrize("shift", [-0.25, 0.0, 0.1])
    def test_of_a_shift(self, shift: float) -> None:
        found = distance(against(noise(0), noise(0) + np.float32(shift)))
        assert found == pytest.approx(abs(shift), abs=1e-6)

    def test_same_as_scipy(self) -> None:
        a, b = noise(0), np.square(noise(1)) - 0.2
        found = wasserstein(a, MASK, np.quantile(b[MASK], PROBABILITIES))
        assert found == pytest.approx(stats.wasserstein_distance(a[MASK], b[MASK]), abs=2e-3)

    def test_outside_does_not_matter(self) -> None:
        assert distance(against(noise(0), np.where(MASK, noise(0), 9))) == 0

    def test_per_tissue(self) -> None:
        found = against(head(-0.5, 0.1, 0.75), head(-0.5, 0.3, 0.75))
        assert distance(found, "grey matter") == pytest.approx(0.2, abs=1e-6)
        assert distance(found, "CSF") == distance(found, "white matter") == 0
        assert 0 < distance(found) < 0.2

    def test_of_nothing(self) -> None:
        assert np.isnan(wasserstein(noise(0), ~np.ones_like(MASK), PROBABILITIES))
        assert np.isnan(wasserstein(noise(0), MASK, None))


class TestContrast:
    def test_inverted_is_further_than_none(self) -> None:
        target = head(-0.5, -0.2, 0.6)
        outputs = (target, head(-0.5, 0, 0.4), head(0, 0, 0), head(0, 0.6, 0))
        gaps = [contrast(against(target, output)) for output in outputs]
        assert gaps[0] == pytest.approx(0, abs=1e-7)
        assert gaps == sorted(gaps)
        assert gaps[2] == pytest.approx(1 / 3)


class TestChange:
    def test_known(self) -> None:
        image = noise(0)
        assert change(against(image, image, image)) == 0
        assert change(against(image, image + 0.3, image)) == pytest.approx(0.3)


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
        assert frechet(a, a) == pytest.approx(0, abs=1e-10)

    def test_shifted_means(self) -> None:
        a = gaussian(np.zeros(3), np.eye(3))
        assert frechet(a, a + np.array([3, 0, 4])) == pytest.approx(25)

    def test_diagonal_covariances(self) -> None:
        """(1 - 2)^2 + (3 - 3)^2 + (5 - 1)^2 for standard deviations."""
        a = gaussian(np.zeros(3), np.diag([1.0, 9, 25]))
        b = gaussian(np.zeros(3), np.diag([4.0, 9, 1]))
        assert frechet(a, b) == pytest.approx(17)

    def test_one_dimension(self) -> None:
        a = gaussian(np.zeros(1), np.eye(1))
        assert frechet(a, 3 * a + 1) == pytest.approx(5)

    def test_any_covariances(self) -> None:
        rng = np.random.default_rng(1)
        a, b = (rng.standard_normal((400, 4)) @ rng.standard_normal((4, 4)) for _ in range(2))
        cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(
            cov_a + cov_b - 2 * linalg.sqrtm(cov_a @ cov_b).real
        )
        assert frechet(a, b) == pytest.approx(expected)
        assert frechet(b, a) == pytest.approx(expected)

    def test_few_samples_bias_upwards(self) -> None:
        rng = np.random.default_rng(0)
        few, many = (
            frechet(rng.standard_normal((n, 8)), rng.standard_normal((n, 8))) for n in (40, 4000)
        )
        assert few > 10 * many > 0

    def test_too_few(self) -> None:
        with pytest.raises(InputError, match="7 samples are too few for 4"):
            frechet(np.zeros((7, 4)), np.zeros((20, 4)))


class TestGroupFrechet:
    def group(self, shift: float, scans: int) -> Group:
        """Scans whose features are the target's, shifted along one axis; 500 patches each."""
        features = gaussian(np.zeros(2), np.eye(2))
        members = [Scan(path=None, site="S", scan=str(n), person=str(n)) for n in range(scans)]  # type: ignore[arg-type]
        return Group(members, lambda scan: features + np.array([shift, 0]), [features] * 9, 10)

    def test_known_shift(self) -> None:
        found = group_frechet(self.group(3, 4), np.random.default_rng(0))
        assert found.value == pytest.approx(9)
        assert found.low == pytest.approx(9)
        assert found.high == pytest.approx(9)
        assert found.scans == 4

    def test_two_scans_have_no_interval(self) -> None:
        found = group_frechet(self.group(0, 2), np.random.default_rng(0))
        assert found.value == pytest.approx(0, abs=1e-9)
        assert np.isnan([found.low, found.high]).all()
