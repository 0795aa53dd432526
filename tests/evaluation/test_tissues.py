from __future__ import annotations

import numpy as np
import pytest

from conftest import ball
from isochroma.evaluation.tissues import CSF, GREY, WHITE, classify

SHAPE = (32, 34, 30)


@pytest.fixture(scope="module")
def shells() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, mask and labels: white matter in grey matter in CSF, with noise."""
    labels = np.zeros(SHAPE, np.uint8)
    for label, radius in ((CSF, 14), (GREY, 12), (WHITE, 8)):
        labels[ball(SHAPE, radius)] = label
    levels = np.array([0.0, -0.6, 0.1, 0.75])
    noise = 0.08 * np.random.default_rng(0).standard_normal(SHAPE)
    mask = labels > 0
    return np.where(mask, levels[labels] + noise, 0).astype(np.float32), mask, labels


class TestClassify:
    def test_shells_are_found(self, shells: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        image, mask, expected = shells
        labels, fractions = classify(image, mask)
        assert labels.dtype == np.uint8
        assert (labels[~mask] == 0).all()
        assert (labels == expected)[mask].mean() > 0.97
        assert fractions.shape == (*SHAPE, 3)
        np.testing.assert_allclose(fractions[mask].sum(-1), 1, atol=1e-4)
        assert (fractions[~mask] == 0).all()

    def test_two_runs_agree_to_the_bit(
        self, shells: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> None:
        image, mask, _ = shells
        for first, second in zip(classify(image, mask), classify(image, mask), strict=True):
            np.testing.assert_array_equal(first, second)

    def test_inverted_contrast_is_labelled_by_brightness(
        self, shells: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> None:
        image, mask, expected = shells
        labels, _ = classify(np.where(mask, -image, 0), mask)
        assert (labels[expected == WHITE] == CSF).mean() > 0.9
