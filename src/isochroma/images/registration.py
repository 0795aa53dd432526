"""Rigid registration of two images of one head that show the same contrast, by SimpleITK."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from isochroma.images.grid import Grid
from isochroma.images.masked import extend_outside

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SAMPLED = 0.2  # share of the fixed image's voxels that the metric sees


def register_rigidly(
    fixed: np.ndarray,
    fixed_mask: np.ndarray,
    fixed_grid: Grid,
    moving: np.ndarray,
    moving_mask: np.ndarray,
    moving_grid: Grid,
) -> np.ndarray:
    """Find the rigid motion that brings one image over another.

    Parameters
    ----------
    fixed : (I, J, K) ndarray of float
        Image of a head.
    fixed_mask : (I, J, K) ndarray of bool
        Its brain.
    fixed_grid : Grid
        Where its voxels lie.
    moving : (I', J', K') ndarray of float
        Another image of the head, in the same contrast.
    moving_mask : (I', J', K') ndarray of bool
        Its brain.
    moving_grid : Grid
        Where its voxels lie. The world coordinates of both are expected to agree within a few
        centimetres, as those of one session do.

    Returns
    -------
    motion : (4, 4) ndarray of float
        World coordinates of a place in the fixed image, mm, to those in the moving one.

    References
    ----------
    Metric: correlation of the images; optimiser: regular step gradient descent over three levels
    (Lowekamp et al. 2013, doi:10.3389/fninf.2013.00045).
    """
    fixed_grid, moving_grid = (
        grid._replace(affine=RAS_TO_LPS @ grid.affine) for grid in (fixed_grid, moving_grid)
    )
    target = to_sitk(extend_outside(fixed.astype(np.float32), fixed_mask), fixed_grid)
    source = to_sitk(extend_outside(moving.astype(np.float32), moving_mask), moving_grid)
    start = sitk.CenteredTransformInitializer(
        target, target, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetMetricFixedMask(to_sitk(fixed_mask.astype(np.uint8), fixed_grid))
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(SAMPLED, seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 100)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(sitk.Euler3DTransform(start), inPlace=False)
    return RAS_TO_LPS @ matrix_of(method.Execute(target, source)) @ RAS_TO_LPS


def to_sitk(volume: np.ndarray, grid: Grid) -> sitk.Image:
    """Convert a volume to SimpleITK, in the world of its grid.

    Parameters
    ----------
    volume : (I, J, K) ndarray
        Any type that SimpleITK knows.
    grid : Grid
        Where its voxels lie.

    Returns
    -------
    image : sitk.Image
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.T))
    image.SetSpacing(grid.voxel_mm.tolist())
    image.SetOrigin(grid.affine[:3, 3].tolist())
    image.SetDirection((grid.affine[:3, :3] / grid.voxel_mm).ravel().tolist())
    return image


def matrix_of(motion: sitk.Transform) -> np.ndarray:
    """Return the (4, 4) matrix of a rigid or affine transform, mm."""
    origin = np.array(motion.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(motion.TransformPoint(tuple(axis))) - origin for axis in np.eye(3)]
    return nib.affines.from_matvec(np.stack(columns, axis=1), origin)
