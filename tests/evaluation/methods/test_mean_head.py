from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from fixtures_methods import prepared_head
from isochroma.evaluation.methods.mean_head import average_heads, brain_frame, place_head
from isochroma.images import metrics
from isochroma.images.preprocess import Prepared


@pytest.fixture(scope="module")
def scan() -> Prepared:
    return prepared_head(0)


class TestBrainFrame:
    def test_box(self) -> None:
        """A uniform distribution over n voxels has the variance (n^2 - 1) / 12."""
        mask = np.zeros((20, 24, 18), dtype=bool)
        mask[4:10, 5:17, 8:9] = True
        centre, spread = brain_frame(mask)
        np.testing.assert_allclose(centre, [6.5, 10.5, 8])
        np.testing.assert_allclose(spread, np.sqrt([35 / 12, 143 / 12, 0]))


class TestMeanHead:
    def test_one_head_comes_back(self, scan: Prepared) -> None:
        placed = place_head(average_heads([scan]), scan.mask)
        assert metrics.ncc(placed, scan.image, scan.mask) > 0.98
        assert (placed[~scan.mask] == 0).all()
        assert placed.dtype == np.float32

    def test_mean_of_two_contrasts(self, scan: Prepared) -> None:
        """Head and half the head: three quarters of it."""
        half = dataclasses.replace(scan, image=scan.image / 2)
        whole, mean = (
            place_head(average_heads(scans), scan.mask) for scans in ([scan], [scan, half])
        )
        np.testing.assert_allclose(mean, 0.75 * whole, atol=1e-5)

    def test_place_and_size_do_not_matter(self, scan: Prepared) -> None:
        """A shifted copy and a stretched one have the mean of the original."""

        def changed(image: np.ndarray, mask: np.ndarray) -> Prepared:
            return dataclasses.replace(scan, image=image, mask=mask)

        shifted = changed(
            *(np.pad(volume, ((5, 0), (0, 0), (0, 7))) for volume in (scan.image, scan.mask))
        )
        wide = changed(
            ndimage.zoom(scan.image, (1, 1.2, 0.9), order=1),
            ndimage.zoom(scan.mask.astype(float), (1, 1.2, 0.9), order=1) > 0.5,
        )
        mean = average_heads([scan, shifted, wide])
        for each in (scan, wide):
            assert metrics.ncc(place_head(mean, each.mask), each.image, each.mask) > 0.95
