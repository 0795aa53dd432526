from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fixtures_methods import prepared_head, recontrasted
from isochroma.evaluation.methods import N4, Blur, Method, Raw, TargetMean
from isochroma.images import metrics
from isochroma.images.preprocess import Prepared


class TestUnchanged:
    @pytest.mark.parametrize("method", [Raw(), N4()])
    def test_is_the_scan(self, source: Prepared, method: Method) -> None:
        np.testing.assert_array_equal(method.apply(source), source.image)


class TestBlur:
    def test_constant_stays_up_to_the_border(self, source: Prepared) -> None:
        flat = recontrasted(source, lambda image: np.full_like(image, 0.7))
        np.testing.assert_allclose(Blur().apply(flat)[source.mask], 0.7, atol=1e-5)

    def test_point_becomes_a_gaussian(self, source: Prepared) -> None:
        """Deep inside the mask, neighbours of a bright voxel fall off as exp(-d^2 / 2 sigma^2)."""
        image = np.zeros_like(source.image)
        image[22, 25, 21] = 1
        point = dataclasses.replace(source, image=image, mask=np.ones_like(source.mask))
        blurred = Blur(1.5).apply(point)
        falls = blurred[23:26, 25, 21] / blurred[22, 25, 21]
        np.testing.assert_allclose(falls, np.exp(-np.array([1, 4, 9]) / (2 * 1.5**2)), rtol=1e-4)

    def test_detail_is_lost(self, source: Prepared) -> None:
        output = Blur().apply(source)
        assert metrics.ssim(output + 1, source.image + 1, source.mask, 2) < 0.95


class TestTargetMean:
    def test_does_not_depend_on_intensity(self, target: list[Prepared]) -> None:
        method = TargetMean()
        method.fit(target)
        scan = prepared_head(3)
        output = method.apply(scan)
        inverted = recontrasted(scan, lambda image: -image)
        np.testing.assert_array_equal(method.apply(inverted), output)
        assert metrics.ncc(output, scan.image, scan.mask) > 0.5
