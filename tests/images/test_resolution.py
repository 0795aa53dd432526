"""Thick slices: what they average, and the way to and from the model grid."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from isochroma.images.grid import Grid, model_grid, resample
from isochroma.images.resolution import blur_of, sample_slices, slice_averages

SHAPE = (20, 24, 8)
FLIPS = {
    "along z": np.diag([1.0, 1.0, 4.0, 1.0]),
    "along y, flipped": np.array([[-1.0, 0, 0, 9], [0, 0, 1, -5], [0, 4, 0, 0], [0, 0, 0, 1]]),
    "along x": np.array([[0, 0, -4.0, 3], [1, 0, 0, 0], [0, -1, 0, 2], [0, 0, 0, 1]]),
}


def turned(affine: np.ndarray) -> np.ndarray:
    """Rotate by 12 degrees about an oblique axis."""
    axis = np.array([0.3, -0.5, 0.8]) / np.linalg.norm([0.3, -0.5, 0.8])
    skew = np.cross(np.eye(3), axis)
    angle = np.deg2rad(12)
    rotation = np.eye(4)
    rotation[:3, :3] += np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew
    return rotation @ affine


def grids(affine: np.ndarray) -> tuple[Grid, Grid]:
    scan = Grid(SHAPE, affine)
    return scan, model_grid(nib.Nifti1Image(np.zeros(SHAPE, np.float32), affine))


def smooth_image(grid: Grid) -> np.ndarray:
    rng = np.random.default_rng(0)
    return ndimage.gaussian_filter(rng.standard_normal(grid.shape), 1.0).astype(np.float32)


@pytest.mark.parametrize("affine", FLIPS.values(), ids=FLIPS.keys())
@pytest.mark.parametrize("oblique", [False, True])
class TestAnyAxis:
    def test_a_slice_is_the_mean_of_what_it_covers(self, affine: np.ndarray, oblique: bool) -> None:
        """Each voxel of the scan is the mean over the 4 voxels of the model grid inside it."""
        scan, model = grids(turned(affine) if oblique else affine)
        image = smooth_image(model)
        sampled = sample_slices(image, model, scan)
        assert sampled.shape == SHAPE
        matrix = np.linalg.inv(model.affine) @ scan.affine
        axis = int(np.abs(matrix[:3, scan.voxel_mm.argmax()]).argmax())
        for voxel in ((3, 5, 2), (10, 20, 6)):
            centre = nib.affines.apply_affine(matrix, voxel)
            covered = [slice(round(c), round(c) + 1) for c in centre]
            first = round(centre[axis] - 1.5)
            assert first == pytest.approx(centre[axis] - 1.5)
            covered[axis] = slice(first, first + 4)
            assert sampled[voxel] == pytest.approx(image[tuple(covered)].mean(), abs=1e-4)

    def test_blur_is_the_scan_interpolated(self, affine: np.ndarray, oblique: bool) -> None:
        scan, model = grids(turned(affine) if oblique else affine)
        image = smooth_image(model)
        blur = blur_of(scan, model)
        assert blur is not None
        expected = resample(sample_slices(image, model, scan), scan, model)
        found = blur.apply(image, np.ones(model.shape, bool))
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert found.std() < 0.8 * image.std()  # it takes something away


class TestThickness:
    def test_thin_slices_are_not_blurred(self) -> None:
        scan, model = grids(np.diag([1.0, 1.3, 1.5, 1]))
        assert blur_of(scan, model) is None
        image = smooth_image(model)
        np.testing.assert_array_equal(
            sample_slices(image, model, scan), resample(image, model, scan)
        )

    def test_gaps_and_overlap(self) -> None:
        """Slices of 2 mm, 4 mm apart, see half of the voxels; of 8 mm, all of them twice."""
        scan, model = grids(FLIPS["along z"])
        gaps, _, overlap = (slice_averages(scan, model, each)[2] for each in (2.0, None, 8.0))
        assert (gaps.sum(0) > 0).mean() == pytest.approx(0.5)
        assert ((overlap > 0).sum(1)[1:-1] == 8).all()
        for weights in (gaps, overlap):
            np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)

    def test_a_constant_stays(self) -> None:
        scan, model = grids(FLIPS["along z"])
        blur = blur_of(scan, model, 5.0)
        assert blur is not None
        ones = np.ones(model.shape, np.float32)
        np.testing.assert_allclose(blur.apply(ones, ones > 0), ones, atol=1e-5)
        np.testing.assert_allclose(sample_slices(ones, model, scan, 5.0), 1, atol=1e-5)

    def test_what_lies_outside_the_mask_does_not_matter(self) -> None:
        scan, model = grids(FLIPS["along z"])
        blur = blur_of(scan, model)
        assert blur is not None
        image, mask = smooth_image(model), np.zeros(model.shape, bool)
        mask[4:-4, 4:-4, 6:-6] = True
        bright = np.where(mask, image, 50).astype(np.float32)
        np.testing.assert_array_equal(blur.apply(bright, mask), blur.apply(image, mask))
