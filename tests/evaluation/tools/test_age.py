from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from isochroma.errors import InputError
from isochroma.evaluation.tools.age import (
    AgeRegressor,
    CommonSpace,
    cross_validated,
    r_squared,
)

SPACING = 4.0  # mm: heads of 160 mm in 40 voxels
SHAPE = (44, 50, 42)
AXES = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in SHAPE], indexing="ij")
AGES = np.linspace(20, 80, 24)


def head(ventricle: float = 0.3, size: float = 1.0) -> np.ndarray:
    """Maps (I, J, K, 2) of an ellipsoid of white matter in grey matter, with two CSF ventricles;
    `ventricle` relative to the brain.
    """
    x, y, z = (axis / size for axis in AXES)
    radius = np.sqrt((x / 15) ** 2 + (y / 19) ** 2 + (z / 13) ** 2)
    csf = np.sqrt(((np.abs(x) - 4) / 6) ** 2 + (y / 12) ** 2 + ((z - 2) / 6) ** 2) < ventricle
    white, grey = (radius < 0.75) & ~csf, (radius < 1) & (radius >= 0.75)
    return np.stack([grey, white], axis=-1).astype(np.float32)


def moved(maps: np.ndarray, matrix: np.ndarray, shift: tuple[float, float, float]) -> np.ndarray:
    middle = (np.array(SHAPE) - 1) / 2
    offset = middle - matrix @ (middle + shift)
    return np.stack(
        [ndimage.affine_transform(maps[..., n], matrix, offset, order=1) for n in (0, 1)], axis=-1
    )


def turn(degrees: float, first: int, second: int) -> np.ndarray:
    matrix = np.eye(3)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix[first, first] = matrix[second, second] = c
    matrix[first, second], matrix[second, first] = -s, s
    return matrix


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.sum(-1) > 0.5, b.sum(-1) > 0.5
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.fixture(scope="module")
def space() -> CommonSpace:
    maps = (head(ventricle, size) for ventricle, size in [(0.3, 1), (0.6, 0.95), (0.9, 1.05)])
    return CommonSpace.build(maps, SPACING, voxel_mm=6.0, rounds=1)


@pytest.fixture(scope="module")
def features(space: CommonSpace) -> np.ndarray:
    """Ventricles grow with age; size, pitch and position are chance."""
    rng = np.random.default_rng(0)
    scans = []
    for age in AGES:
        maps = head(0.3 + 0.9 * (age - 20) / 60 + 0.05 * rng.standard_normal())
        matrix = turn(rng.uniform(-6, 6), 1, 2) * rng.uniform(0.93, 1.07)
        scans.append(space.features(moved(maps, matrix, tuple(rng.uniform(-2, 2, 3)))))
    return np.stack(scans)


class TestCommonSpace:
    @pytest.mark.parametrize(
        ("matrix", "shift"),
        [
            (np.eye(3), (3, -2, 1)),
            (turn(12, 1, 2), (2, 2, -2)),
            (turn(-8, 0, 1) @ turn(10, 1, 2), (0, 3, 0)),
            (np.diag([1.12, 0.92, 1.08]), (1, 0, 2)),
            (np.array([[1, 0.1, 0], [0, 1, -0.1], [0.05, 0, 0.95]]), (0, -2, 0)),
        ],
        ids=["shift", "pitch", "turn", "scale", "shear"],
    )
    def test_moved_scan_comes_back(
        self, space: CommonSpace, matrix: np.ndarray, shift: tuple[float, float, float]
    ) -> None:
        scan = head(0.6)
        still, back = space.align(scan), space.align(moved(scan, matrix, shift))
        assert overlap(back, space.template) > 0.95
        assert overlap(back, still) > 0.98
        assert np.abs(back - still).mean() < 0.01

    def test_the_moves_were_large(self) -> None:
        scan = head(0.6)
        assert overlap(moved(scan, turn(12, 1, 2), (2, 2, -2)), scan) < 0.9

    def test_same_twice(self, space: CommonSpace) -> None:
        scan = moved(head(0.6), turn(9, 0, 2), (1, 1, 1))
        np.testing.assert_array_equal(space.align(scan), space.align(scan))

    def test_values_are_probabilities(self, space: CommonSpace) -> None:
        maps = space.align(head())
        assert maps.shape == space.template.shape
        assert maps.dtype == np.float32
        assert maps.min() > -0.01
        assert maps.sum(-1).max() < 1.01
        assert space.template.sum(-1).max() > 0.9

    def test_ventricles_stay(self, space: CommonSpace) -> None:
        """An affine cannot close them, so that they tell age."""
        small, large = (space.align(head(v)).sum() for v in (0.3, 1.2))
        assert small > 1.02 * large

    def test_no_tissue(self, space: CommonSpace) -> None:
        with pytest.raises(InputError, match="no grey or white"):
            space.align(np.zeros((*SHAPE, 2)))

    def test_no_scans(self) -> None:
        with pytest.raises(InputError, match="no tissue maps"):
            CommonSpace.build([])


class TestAgeRegressor:
    def test_held_out_ages(self, features: np.ndarray) -> None:
        train = np.arange(len(AGES)) % 3 > 0
        regressor = AgeRegressor().fit(features[train], AGES[train])
        assert r_squared(AGES[~train], regressor.predict(features[~train])) > 0.7

    def test_cross_validated(self, features: np.ndarray) -> None:
        predicted = cross_validated(features, AGES, folds=3)
        assert r_squared(AGES, predicted) > 0.7

    def test_shuffled_ages_cannot_be_predicted(self, features: np.ndarray) -> None:
        ages = np.random.default_rng(0).permutation(AGES)
        assert r_squared(ages, cross_validated(features, ages, folds=3)) < 0.2

    def test_same_seed_same_ages(self, features: np.ndarray) -> None:
        a, b = (AgeRegressor(1).fit(features, AGES).predict(features) for _ in range(2))
        np.testing.assert_array_equal(a, b)

    def test_linear_known_answer(self) -> None:
        """Two directions carry the age exactly, without noise."""
        rng = np.random.default_rng(0)
        hidden = rng.standard_normal((30, 2))
        features = hidden @ rng.standard_normal((2, 50))
        ages = 40 + hidden @ [5, -3]
        predicted = AgeRegressor().fit(features[:20], ages[:20]).predict(features[20:])
        np.testing.assert_allclose(predicted, ages[20:], atol=0.05)

    @pytest.mark.parametrize("scans", [3, 12])
    def test_too_few_or_unknown_ages(self, scans: int) -> None:
        ages = np.linspace(20, 30, scans)
        ages[-1] = np.nan
        with pytest.raises(InputError, match=f"{scans} scans, {scans - 1} of known age"):
            AgeRegressor().fit(np.zeros((scans, 5)), ages)


class TestRSquared:
    def test_perfect(self) -> None:
        assert r_squared(AGES, AGES) == 1

    def test_by_hand(self) -> None:
        """Errors 2, -1, 5: their squares sum to 30; the ages' about 30 to 200."""
        found = r_squared(np.array([20, 30, 40]), np.array([22, 29, 45]))
        assert found == pytest.approx(1 - 30 / 200)

    def test_mean_age_is_zero(self) -> None:
        assert r_squared(AGES, np.full_like(AGES, AGES.mean())) == pytest.approx(0)

    def test_constant_offset_is_negative(self) -> None:
        assert r_squared(AGES, AGES + 40) < 0

    def test_one_age(self) -> None:
        assert np.isnan(r_squared(np.array([30.0]), np.array([33.0])))
