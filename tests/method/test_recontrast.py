from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from conftest import Phantom, ball
from isochroma.method import recontrast
from isochroma.method.recontrast import Scanner, random_scanner

CLEAN = {"bias": 0.0, "blur": 0.0, "noise": 0.0}
T2_LIKE = Scanner((0.0, 0.15, 0.5, 0.8, 1.0), (1.0, 0.85, 0.5, 0.28, 0.1))
PD_LIKE = Scanner((0.0, 0.15, 0.5, 0.8, 1.0), (0.55, 0.7, 1.0, 0.8, 0.7))  # not monotone
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def unit(phantom: Phantom) -> np.ndarray:
    return np.where(phantom.mask, np.clip(phantom.data / 1000, 0, 1), 0)


class TestBiasField:
    @given(seeds, st.floats(0.01, 0.9), st.tuples(*[st.integers(8, 30)] * 3))
    def test_mean_and_peak(self, seed: int, peak: float, shape: tuple[int, ...]) -> None:
        field = recontrast.bias_field(shape, peak, np.random.default_rng(seed))
        assert field.shape == shape
        assert field.mean() == pytest.approx(1, abs=1e-4)
        assert np.abs(field - 1).max() == pytest.approx(peak, rel=1e-4)
        assert field.min() > 0

    def test_smooth(self) -> None:
        """Over 60 voxels it takes more than 6 to run from one peak to the other."""
        for seed in range(5):
            field = recontrast.bias_field((60, 60, 60), 0.3, np.random.default_rng(seed))
            assert max(np.abs(np.diff(field, axis=axis)).max() for axis in range(3)) < 0.6 / 6

    def test_no_bias(self) -> None:
        np.testing.assert_array_equal(
            recontrast.bias_field((9, 9, 9), 0.0, np.random.default_rng(0)), 1
        )


class TestRender:
    def test_seeded(self, unit: np.ndarray, phantom: Phantom) -> None:
        first, again, other = (
            T2_LIKE.render(unit, phantom.mask, np.random.default_rng(seed)) for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(first, again)
        assert np.abs(first - other).mean() > 0.005

    @pytest.mark.parametrize("seed", range(4))
    def test_output(self, unit: np.ndarray, phantom: Phantom, seed: int) -> None:
        rng = np.random.default_rng(seed)
        result = random_scanner(rng).render(unit, phantom.mask, rng)
        assert result.dtype == np.float32
        assert result.shape == unit.shape
        assert np.isfinite(result).all()
        assert not result[~phantom.mask].any()
        assert result.min() >= 0
        assert result[phantom.mask].std() > 0.03

    def test_outside_has_no_influence(self, unit: np.ndarray, phantom: Phantom) -> None:
        other = np.where(phantom.mask, unit, 0.9)
        results = [
            T2_LIKE.render(image, phantom.mask, np.random.default_rng(0)) for image in (unit, other)
        ]
        np.testing.assert_array_equal(*results)

    def test_intensity_map_alone(self, unit: np.ndarray, phantom: Phantom) -> None:
        """Without bias, blur and noise the map is all: identity and a known curve."""
        rng = np.random.default_rng(0)
        identity = Scanner((0.0, 0.5, 1.0), (0.0, 0.5, 1.0), **CLEAN)
        np.testing.assert_allclose(identity.render(unit, phantom.mask, rng), unit, atol=1e-6)
        knots = np.linspace(0, 1, 9)
        gamma = Scanner(knots, knots**2, **CLEAN)
        np.testing.assert_allclose(gamma.render(unit, phantom.mask, rng), unit**2, atol=5e-3)

    @pytest.mark.parametrize("scanner", [T2_LIKE, PD_LIKE])
    def test_map_passes_through_its_knots(self, scanner: Scanner) -> None:
        image = np.reshape(scanner.knots, (1, 1, -1))
        clean = dataclasses.replace(scanner, **CLEAN)
        result = clean.render(image, np.ones(image.shape, bool), np.random.default_rng(0))
        np.testing.assert_allclose(result.ravel(), scanner.values, atol=1e-6)

    def test_falling_map_inverts(self, unit: np.ndarray, phantom: Phantom) -> None:
        result = T2_LIKE.render(unit, phantom.mask, np.random.default_rng(0))
        assert np.corrcoef(result[phantom.mask], unit[phantom.mask])[0, 1] < -0.7

    def test_noise_is_rician(self) -> None:
        """Without signal: Rayleigh, mean sigma sqrt(pi / 2). With signal: nearly Gaussian."""
        scanner = Scanner((0.0, 1.0), (0.0, 1.0), bias=0, blur=0, noise=0.02)
        mask = np.ones((30, 30, 30), dtype=bool)
        dark = scanner.render(np.zeros(mask.shape), mask, np.random.default_rng(0))
        assert dark.mean() == pytest.approx(0.02 * np.sqrt(np.pi / 2), rel=0.02)
        bright = scanner.render(np.ones(mask.shape), mask, np.random.default_rng(0))
        assert bright.std() == pytest.approx(0.02, rel=0.03)
        assert bright.mean() == pytest.approx(1, abs=1e-3)

    def test_blur(self, unit: np.ndarray, phantom: Phantom) -> None:
        """Blur lowers the roughness, and does not darken the brain's rim."""
        identity = {"knots": (0.0, 1.0), "values": (0.0, 1.0), "bias": 0.0, "noise": 0.0}
        rng = np.random.default_rng(0)
        sharp = Scanner(**identity, blur=0).render(unit, phantom.mask, rng)
        soft = Scanner(**identity, blur=1.5).render(unit, phantom.mask, rng)
        inner = ndimage.binary_erosion(phantom.mask, iterations=3)

        def roughness(image: np.ndarray) -> float:
            return float(np.abs(np.diff(image, axis=0))[inner[1:]].mean())

        assert roughness(soft) < 0.8 * roughness(sharp)
        flat = Scanner(**identity, blur=1.5).render(np.full(unit.shape, 0.5), phantom.mask, rng)
        np.testing.assert_allclose(flat[phantom.mask], 0.5, atol=1e-3)

    def test_blur_along_one_axis(self) -> None:
        """A step across the blurred axis softens, one across another stays."""
        scanner = Scanner((0.0, 1.0), (0.0, 1.0), bias=0, blur=(1.0, 0.0, 0.0), noise=0)
        everywhere = np.ones((20, 20, 20), dtype=bool)
        step = (np.arange(20) >= 10).astype(np.float32)
        rng = np.random.default_rng(0)
        along = scanner.render(np.broadcast_to(step[:, None, None], (20,) * 3), everywhere, rng)
        across = scanner.render(np.broadcast_to(step[None, :, None], (20,) * 3), everywhere, rng)
        assert 0.1 < along[9, 10, 10] < 0.5
        np.testing.assert_allclose(across[10, :, 10], step, atol=1e-6)

    @pytest.mark.parametrize("outside", [0.0, 1.0])
    def test_surroundings_reach_the_border_alone(self, outside: float) -> None:
        mask = ball((40, 40, 40), 15)
        image = np.full(mask.shape, 0.5)
        scanner = Scanner((0.0, 1.0), (0.0, 1.0), bias=0, blur=0.7, outside=outside, noise=0)
        result = scanner.render(image, mask, np.random.default_rng(0))
        rim = mask & ~ndimage.binary_erosion(mask)
        deep = ndimage.binary_erosion(mask, iterations=5)
        assert np.abs(result[rim] - 0.5).mean() > 0.05
        assert np.sign(result[rim].mean() - 0.5) == np.sign(outside - 0.5)
        np.testing.assert_allclose(result[deep], 0.5, atol=1e-4)

    def test_mottle(self) -> None:
        everywhere = np.ones((30, 30, 30), dtype=bool)
        scanner = Scanner((0.0, 1.0), (0.0, 1.0), bias=0, blur=0, mottle=0.04, noise=0)
        result = scanner.render(np.full((30, 30, 30), 0.5), everywhere, np.random.default_rng(0))
        assert result.std() == pytest.approx(0.04, rel=0.01)

    def test_vessels(self, unit: np.ndarray, phantom: Phantom) -> None:
        """Strands as bright as stated, in CSF alone; all else stays."""
        plain = Scanner((0.0, 1.0), (0.0, 1.0), **CLEAN)
        scanner = dataclasses.replace(plain, vessels=2.0)
        result = scanner.render(unit, phantom.mask, np.random.default_rng(0))
        vessels = result == 2
        assert 0.02 < vessels[phantom.mask & (unit < recontrast.CSF)].mean() < 0.4
        assert unit[vessels].max() < recontrast.CSF
        rest = plain.render(unit, phantom.mask, np.random.default_rng(0))
        np.testing.assert_array_equal(result[~vessels], rest[~vessels])

    def test_bias(self) -> None:
        mask = np.ones((20, 20, 20), dtype=bool)
        scanner = Scanner((0.0, 1.0), (0.0, 1.0), bias=0.25, blur=0, noise=0)
        result = scanner.render(np.ones(mask.shape), mask, np.random.default_rng(0))
        assert np.abs(result - 1).max() == pytest.approx(0.25, rel=1e-3)


def gamma_of(scanner: Scanner) -> np.ndarray:
    """The values of the gamma curve through the middle knot."""
    middle = len(scanner.knots) // 2
    exponent = np.log(scanner.values[middle]) / np.log(scanner.knots[middle])
    return np.array(scanner.knots) ** exponent


class TestRandomScanner:
    def test_neighbouring_knots_differ(self) -> None:
        for seed in range(200):
            scanner = random_scanner(np.random.default_rng(seed))
            if not np.allclose(gamma_of(scanner), scanner.values):
                assert np.abs(np.diff(scanner.values)).min() >= 0.05

    def test_a_quarter_are_gamma_curves(self) -> None:
        gammas = 0
        for seed in range(200):
            scanner = random_scanner(np.random.default_rng(seed))
            gammas += np.allclose(gamma_of(scanner), scanner.values)
        assert 30 <= gammas <= 70

    def test_a_quarter_show_vessels(self) -> None:
        scanners = [random_scanner(np.random.default_rng(seed)) for seed in range(200)]
        assert 30 <= sum(scanner.vessels is not None for scanner in scanners) <= 70

    def test_ranges(self) -> None:
        for seed in range(200):
            scanner = random_scanner(np.random.default_rng(seed))
            assert scanner.knots == recontrast.KNOTS
            assert 0 <= min(scanner.values) <= max(scanner.values) <= 1
            assert 0 <= scanner.bias <= 0.3
            assert 0 <= min(scanner.blur) <= 0.7
            assert max(scanner.blur) <= 1.7
            assert np.sum(np.array(scanner.blur) > min(scanner.blur)) <= 1  # thick along one axis
            assert scanner.outside is None or 0 <= scanner.outside <= 1
            assert 0 <= scanner.mottle <= 0.05
            assert scanner.vessels is None or 1 <= scanner.vessels <= 2.5
            assert 0 <= scanner.noise <= 0.05

    def test_seeded(self) -> None:
        first, again, other = (random_scanner(np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert first == again
        assert first != other

    def test_rising_falling_and_neither(self) -> None:
        kinds = set()
        for seed in range(50):
            steps = np.diff(random_scanner(np.random.default_rng(seed)).values)
            kinds.add("rising" if (steps > 0).all() else "falling" if (steps < 0).all() else "free")
        assert kinds == {"rising", "falling", "free"}
