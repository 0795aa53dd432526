"""The paper's refinement: gradient ascent on the correlation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isochroma.images.metrics import ncc
from isochroma.method.correlation import ascend_correlation

SHAPE = (12, 13, 14)


@pytest.fixture
def mask() -> np.ndarray:
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    return sum(a**2 for a in axes) < 0.9


@pytest.fixture
def output() -> np.ndarray:
    return np.random.default_rng(1).uniform(-0.9, 0.9, SHAPE).astype(np.float32)


@pytest.fixture
def source(output: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(2).standard_normal(SHAPE)
    return (0.3 * output + 0.4 * noise + 0.2).astype(np.float32)


class TestBasic:
    def test_correlation_rises_with_every_iteration(
        self, output: np.ndarray, source: np.ndarray, mask: np.ndarray
    ) -> None:
        values = [
            ncc(ascend_correlation(output, source, mask, iterations=n), source, mask)
            for n in range(8)
        ]
        assert values[0] == pytest.approx(ncc(output, source, mask), abs=1e-12)
        assert (np.diff(values) > 1e-4).all()

    def test_mean_is_kept(self, output: np.ndarray, source: np.ndarray, mask: np.ndarray) -> None:
        refined = ascend_correlation(output, source, mask)
        before = output[mask].astype(np.float64).mean()
        assert refined[mask].astype(np.float64).mean() == pytest.approx(before, abs=1e-6)

    @pytest.mark.parametrize("step", [0.005, 0.02])
    def test_one_iteration_moves_by_the_step(
        self, output: np.ndarray, source: np.ndarray, mask: np.ndarray, step: float
    ) -> None:
        moved = ascend_correlation(output, source, mask, step=step, iterations=1) - output
        assert np.sqrt(np.mean(moved[mask].astype(np.float64) ** 2)) == pytest.approx(step, 1e-4)

    def test_by_default_the_voxels_move_by_0_03(
        self, output: np.ndarray, source: np.ndarray, mask: np.ndarray
    ) -> None:
        """The paper's six steps of 0.005, nearly in one direction."""
        moved = (ascend_correlation(output, source, mask) - output)[mask]
        assert 0.029 < np.sqrt(np.mean(moved**2)) <= 0.0301

    def test_direction_is_the_gradient_of_the_correlation(
        self, output: np.ndarray, source: np.ndarray, mask: np.ndarray
    ) -> None:
        y = torch.tensor(output[mask], dtype=torch.float64, requires_grad=True)
        s = torch.tensor(source[mask], dtype=torch.float64)
        torch.corrcoef(torch.stack([y, s]))[0, 1].backward()
        assert y.grad is not None
        gradient = y.grad.numpy()
        moved = ascend_correlation(output, source, mask, step=0.5, iterations=1) - output
        unit = gradient / np.sqrt(np.mean(gradient**2))
        np.testing.assert_allclose(moved[mask], 0.5 * unit, atol=1e-5)

    def test_gain_and_offset_of_the_source_do_not_matter(
        self, output: np.ndarray, source: np.ndarray, mask: np.ndarray
    ) -> None:
        refined = ascend_correlation(output, source, mask)
        other = ascend_correlation(output, 7 * source + 3, mask)
        np.testing.assert_allclose(refined, other, atol=1e-5)

    def test_inverted_source_moves_the_other_way(
        self, output: np.ndarray, source: np.ndarray, mask: np.ndarray
    ) -> None:
        along = ascend_correlation(output, source, mask, iterations=1) - output
        against = ascend_correlation(output, -source, mask, iterations=1) - output
        np.testing.assert_allclose(along, -against, atol=1e-6)

    def test_perfect_correlation_is_left_alone(self, output: np.ndarray, mask: np.ndarray) -> None:
        source = 0.5 * output.astype(np.float64) + 0.1
        refined = ascend_correlation(output.astype(np.float64), source, mask)
        np.testing.assert_allclose(refined, output, atol=1e-6)

    def test_constant_output_stays_finite(self, source: np.ndarray, mask: np.ndarray) -> None:
        """The correlation has no gradient there (an untrained network gives such an image)."""
        constant = np.full(SHAPE, 0.25, dtype=np.float32)
        assert np.isfinite(ascend_correlation(constant, source, mask)).all()


class TestMasking:
    def test_outside_is_unchanged(
        self, output: np.ndarray, source: np.ndarray, mask: np.ndarray
    ) -> None:
        refined = ascend_correlation(output, source, mask)
        np.testing.assert_array_equal(refined[~mask], output[~mask])
        assert (refined[mask] != output[mask]).mean() > 0.9

    def test_outside_has_no_influence(
        self, output: np.ndarray, source: np.ndarray, mask: np.ndarray
    ) -> None:
        elsewhere = np.where(mask, source, 1e6).astype(np.float32)
        np.testing.assert_array_equal(
            ascend_correlation(output, source, mask), ascend_correlation(output, elsewhere, mask)
        )

    def test_input_is_not_modified(
        self, output: np.ndarray, source: np.ndarray, mask: np.ndarray
    ) -> None:
        before = output.copy(), source.copy()
        ascend_correlation(output, source, mask)
        np.testing.assert_array_equal(output, before[0])
        np.testing.assert_array_equal(source, before[1])
