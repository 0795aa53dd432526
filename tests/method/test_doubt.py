"""The expected error: what raises it, what leaves it, and that it is near the truth."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import distance_from_centre
from isochroma.images.masked import smooth
from isochroma.method.doubt import expected_error
from isochroma.method.refinement import follow_source
from isochroma.method.sampling import Revised

SHAPE = (48, 48, 48)
MASK = distance_from_centre(SHAPE) < 22
BALL = distance_from_centre(SHAPE) < 5
ERRORS = (0.17,)


def anatomy(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rough = smooth(rng.standard_normal(SHAPE), np.ones(SHAPE, bool), 2.0)
    return np.where(MASK, np.clip(rough / rough.std() / 2, -1, 1), 0).astype(np.float32)


def noisy(image: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(image + deviation * rng.standard_normal(SHAPE), -1, 1).astype(np.float32)


def error_of(output: np.ndarray, source: np.ndarray, first: np.ndarray | None = None) -> np.ndarray:
    first = noisy(anatomy(), 0.17, 1) if first is None else first
    variance = follow_source(first, source, MASK, ERRORS).variance
    assert variance is not None
    return expected_error(first, output, output, source, MASK, ERRORS, variance)


def test_zero_outside_the_mask_and_positive_inside() -> None:
    error = error_of(anatomy(), noisy(anatomy(), 0.03, 2))
    assert error.shape == SHAPE
    assert error.dtype == np.float32
    assert not error[~MASK].any()
    assert error[MASK].min() > 0


def test_a_source_with_more_noise_tells_less() -> None:
    clear, unclear = (
        error_of(anatomy(), noisy(anatomy(), noise, 2))[MASK].mean() for noise in (0.03, 0.3)
    )
    assert unclear > 1.2 * clear


@pytest.mark.parametrize("sign", [-1, 1])
def test_what_the_source_shows_and_the_output_does_not(sign: int) -> None:
    """The sign of the contrast does not matter: the curve is learned from the rest."""
    shown = np.where(BALL, 0.9, anatomy())
    plain = np.where(BALL, -0.9, anatomy()).astype(np.float32)
    error = error_of(plain, noisy(sign * shown, 0.03, 2))
    assert np.median(error[BALL]) > 2 * np.median(error[MASK & ~BALL])


def test_what_the_output_shows_and_the_source_does_not() -> None:
    invented = np.where(BALL, 0.9, anatomy()).astype(np.float32)
    source = np.where(BALL, -0.5, anatomy())
    error = error_of(invented, noisy(source, 0.03, 2))
    assert np.median(error[BALL]) > 2 * np.median(error[MASK & ~BALL])


def test_what_the_passes_changed() -> None:
    first = np.where(BALL, -0.9, anatomy()).astype(np.float32)
    output = np.where(BALL, 0.9, anatomy()).astype(np.float32)
    error = error_of(output, noisy(output, 0.03, 2), first)
    assert np.median(error[BALL]) > 2 * np.median(error[MASK & ~BALL])


def test_what_the_second_stage_predicts() -> None:
    """Its prediction counts, and so does what was restored after it."""
    image, source = anatomy(), noisy(anatomy(), 0.03, 2)
    first = noisy(image, 0.17, 1)
    variance = follow_source(first, source, MASK, ERRORS).variance
    assert variance is not None

    def error_with(predicted: float, revised: np.ndarray) -> np.ndarray:
        error = np.where(BALL, predicted, 0.1).astype(np.float32)
        known = Revised(revised, error)
        return expected_error(first, image, image, source, MASK, ERRORS, variance, known)

    plain, unsure = error_with(0.1, image), error_with(0.5, image)
    restored = error_with(0.1, np.where(BALL, image - 0.5, image))
    away = MASK & (distance_from_centre(SHAPE) > 13)
    for other in (unsure, restored):
        assert np.median(other[BALL]) > 2 * np.median(plain[BALL])
        np.testing.assert_array_equal(other[away], plain[away])
