from __future__ import annotations

import numpy as np
import pytest

from conftest import distance_from_centre
from isochroma.errors import InputError
from isochroma.evaluation.measures.segmentation import dice, mean_dice
from isochroma.evaluation.tissues import NAMES
from isochroma.evaluation.tools.segmenter import Segmenter
from isochroma.images.grid import Grid
from isochroma.images.preprocess import Prepared

SHAPE = (36, 40, 33)
TINY = (8, 8, 8)


def shells(seed: int) -> tuple[Prepared, np.ndarray]:
    """White matter inside grey matter inside CSF, of random size, with noise; and the labels."""
    rng = np.random.default_rng(seed)
    radius = distance_from_centre(SHAPE) * rng.uniform(0.9, 1.1)
    labels = np.select([radius < 7, radius < 11, radius < 14], [3, 2, 1], 0).astype(np.uint8)
    values = np.array([0, -0.5, 0.1, 0.75], dtype=np.float32)[labels]
    noise = 0.1 * rng.standard_normal(SHAPE, dtype=np.float32)
    mask = labels > 0
    image = np.where(mask, values + noise, 0)
    return Prepared(image, mask, Grid(SHAPE, np.eye(4)), 0.0, 1.0), labels


def fitted(seed: int = 0, steps: int = 40) -> Segmenter:
    images, labels = zip(*(shells(n) for n in range(4)), strict=True)
    return Segmenter(TINY).fit(images, labels, steps=steps, seed=seed, patch=24, batch=1)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return fitted()


class TestSegmenter:
    def test_learns_the_shells(self, segmenter: Segmenter) -> None:
        prepared, truth = shells(100)
        labels, probabilities = segmenter.segment(prepared.image, prepared.mask)
        assert min(dice(labels, truth, prepared.mask, label) for label in NAMES) > 0.85
        assert (labels.dtype, probabilities.dtype) == (np.uint8, np.float32)
        assert probabilities.shape == (*SHAPE, 3)
        assert np.array_equal(labels > 0, prepared.mask)
        np.testing.assert_allclose(probabilities.sum(-1), prepared.mask, atol=1e-5)

    def test_untrained_does_not_know_them(self) -> None:
        prepared, truth = shells(100)
        labels, _ = Segmenter(TINY).segment(prepared.image, prepared.mask)
        assert mean_dice(labels, truth, prepared.mask) < 0.6

    def test_knows_the_target_contrast_only(self, segmenter: Segmenter) -> None:
        prepared, truth = shells(100)
        inverted = np.where(prepared.mask, 0.25 - prepared.image, 0)
        labels, _ = segmenter.segment(inverted, prepared.mask)
        assert mean_dice(labels, truth, prepared.mask) < 0.6

    def test_outside_the_mask_does_not_matter(self, segmenter: Segmenter) -> None:
        prepared, _ = shells(100)
        other = np.where(prepared.mask, prepared.image, 5)
        for a, b in zip(
            segmenter.segment(prepared.image, prepared.mask),
            segmenter.segment(other, prepared.mask),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)

    def test_same_seed_same_network(self) -> None:
        prepared, _ = shells(100)
        a, b, c = (
            fitted(seed, steps=4).segment(prepared.image, prepared.mask)[1] for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(a, b)
        assert np.abs(a - c).max() > 0.01


class TestErrors:
    def test_labels_of_another_shape(self) -> None:
        prepared, labels = shells(0)
        with pytest.raises(InputError, match="label map"):
            Segmenter(TINY).fit([prepared], [labels[1:]])

    def test_no_scans(self) -> None:
        with pytest.raises(InputError, match="0 scans"):
            Segmenter(TINY).fit([], [])
