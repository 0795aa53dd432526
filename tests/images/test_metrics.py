"""Agreement of two volumes inside a mask."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from conftest import Phantom, ball
from isochroma.images import metrics

SHAPE = (24, 26, 22)
MASK = ball(SHAPE, 9)


def noise(seed: int) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), 1)
    return np.clip(smooth, -1, 1).astype(np.float32)


class TestBasic:
    def test_identical(self) -> None:
        image = noise(0)
        assert metrics.psnr(image, image, MASK, 2) == float("inf")
        assert metrics.ncc(image, image, MASK) == pytest.approx(1)
        assert metrics.ssim(image, image, MASK, 2) == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize(("error", "data_range", "db"), [(0.2, 2, 20), (0.1, 1, 20), (2, 2, 0)])
    def test_known_psnr(self, error: float, data_range: float, db: float) -> None:
        image = np.zeros(SHAPE, dtype=np.float32)
        assert metrics.psnr(image, image + error, MASK, data_range) == pytest.approx(db, abs=1e-4)

    def test_psnr_of_half_the_voxels(self) -> None:
        other = np.zeros(SHAPE)
        other[:, ::2] = 0.2
        mask = np.ones(SHAPE, dtype=bool)
        expected = 20 + 10 * np.log10(2)
        assert metrics.psnr(np.zeros(SHAPE), other, mask, 2) == pytest.approx(expected, abs=1e-4)

    def test_psnr_of_unsigned_integers(self) -> None:
        """10 - 40 is -30, and its square 900: neither fits into a byte."""
        a, b = np.full(SHAPE, 10, dtype=np.uint8), np.full(SHAPE, 40, dtype=np.uint8)
        expected = 20 * np.log10(255 / 30)
        assert metrics.psnr(a, b, MASK, 255) == pytest.approx(expected)

    def test_ncc_sees_contrast_inversion_and_no_gain(self) -> None:
        image = noise(0)
        assert metrics.ncc(image, 3 * image + 5, MASK) == pytest.approx(1)
        assert metrics.ncc(image, -image, MASK) == pytest.approx(-1)
        assert abs(metrics.ncc(image, noise(1), MASK)) < 0.2

    def test_symmetric(self) -> None:
        a, b = noise(0), noise(1)
        for metric in (metrics.psnr, metrics.ssim):
            assert metric(a, b, MASK, 2) == pytest.approx(metric(b, a, MASK, 2), rel=1e-5)
        assert metrics.ncc(a, b, MASK) == pytest.approx(metrics.ncc(b, a, MASK))


class TestMasking:
    def test_outside_does_not_matter(self) -> None:
        a, b = noise(0), noise(1)
        other_a = np.where(MASK, a, 50).astype(np.float32)
        other_b = np.where(MASK, b, -30).astype(np.float32)
        assert metrics.psnr(other_a, other_b, MASK, 2) == metrics.psnr(a, b, MASK, 2)
        assert metrics.ncc(other_a, other_b, MASK) == metrics.ncc(a, b, MASK)
        assert metrics.ssim(other_a, other_b, MASK, 2) == metrics.ssim(a, b, MASK, 2)

    def test_empty_background_gives_no_credit(self) -> None:
        """A constant shift inside the mask scores the same however much background there is."""
        a, b = np.where(MASK, 0.5, 0), np.where(MASK, -0.5, 0)
        padded = [np.pad(volume, 10) for volume in (a, b, MASK)]
        assert metrics.ssim(a, b, MASK, 2) < 0
        assert metrics.ssim(*padded, 2) == pytest.approx(metrics.ssim(a, b, MASK, 2), abs=1e-4)

    def test_inside_matters(self) -> None:
        a, b = noise(0), noise(0)
        b[10:14, 10:14, 10:14] += 0.5
        assert metrics.psnr(a, b, MASK, 2) < 40
        assert metrics.ssim(a, b, MASK, 2) < 0.995


class TestSsim:
    def test_blur_lowers_it(self, phantom: Phantom) -> None:
        image = phantom.data / 500 - 1
        scores = [
            metrics.ssim(image, ndimage.gaussian_filter(image, sigma), phantom.mask, 2)
            for sigma in (0.5, 1, 2)
        ]
        assert 1 > scores[0] > scores[1] > scores[2] > 0

    def test_noise_lowers_it(self, phantom: Phantom) -> None:
        image = phantom.data / 500 - 1
        rng = np.random.default_rng(0)
        grain = rng.standard_normal(image.shape)
        scores = [
            metrics.ssim(image, image + level * grain, phantom.mask, 2) for level in (0.02, 0.1)
        ]
        assert 1 > scores[0] > scores[1] > 0

    def test_constant_images(self) -> None:
        """Two constants: structure 1, luminance by the formula."""
        a, b = np.full(SHAPE, 0.5), np.full(SHAPE, 0.1)
        c1 = (0.01 * 2) ** 2
        expected = (2 * 0.05 + c1) / (0.26 + c1)
        assert metrics.ssim(a, b, MASK, 2) == pytest.approx(expected, abs=1e-4)

    def test_same_as_scikit_image(self) -> None:
        skimage = pytest.importorskip("skimage.metrics")
        a = noise(0)
        b = (a + 0.3 * noise(1)).astype(np.float32)
        expected, per_voxel = skimage.structural_similarity(
            a, b, data_range=2, gaussian_weights=True, use_sample_covariance=False, full=True
        )
        everywhere = np.ones(SHAPE, dtype=bool)
        ours = metrics.ssim(a, b, everywhere, 2)
        assert ours == pytest.approx(per_voxel.mean(), abs=1e-3)
        assert ours == pytest.approx(expected, abs=0.02)  # theirs leaves out a border of 5
        assert 0.3 < ours < 0.95
