"""Scans of one person: do they agree once harmonized?

Co-registered contrasts (same `grid`) are compared voxel by voxel; a scan and its repetition are
aligned rigidly first. Two scans of one contrast and scanner show how well any pair can agree: the
noise floor.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import SimpleITK as sitk

from isochroma.evaluation.study import Case, Scan
from isochroma.images.grid import Grid, resample, resample_mask
from isochroma.images.masked import extend_outside
from isochroma.images.metrics import ncc, ssim
from isochroma.images.preprocess import Prepared, from_model_units

RESCAN = "rescan"


def same_person(scans: list[Scan]) -> Iterator[tuple[str, Scan, Scan]]:
    """Pairs that should look alike: (group, first, second).

    The group is the shared `grid` for co-registered contrasts, "rescan" for two scans of one
    person, site and contrast. Simulations are left out: their truth is known.
    """
    real = [scan for scan in scans if not scan.preset]
    for a, b in itertools.combinations(real, 2):
        if a.grid and a.grid == b.grid and a.contrast != b.contrast:
            yield a.grid, a, b
        elif a.person == b.person and a.site == b.site and a.contrast == b.contrast:
            yield RESCAN, a, b


def agreement(
    a: np.ndarray, b: np.ndarray, case_a: Case, case_b: Case, motion: np.ndarray | None = None
) -> dict[str, float]:
    """SSIM and correlation of two outputs where both brains are. Higher is better.

    Parameters
    ----------
    a, b
        Outputs for the two cases, (I, J, K) each on its own model grid, model units.
    motion
        (4, 4) world motion from the second scan to the first; None for co-registered scans.
    """
    grid, moved = case_a.prepared.grid, moved_grid(case_b.prepared.grid, motion)
    brain = case_b.prepared.mask
    second = resample(extend_outside(b, brain), moved, grid)
    inside = resample_mask(brain, moved, grid)
    common = case_a.prepared.mask & inside
    first, second = (from_model_units(volume, 0, 1) for volume in (a, second))
    return {"ssim": ssim(first, second, common, 1), "ncc": ncc(first, second, common)}


def moved_grid(grid: Grid, motion: np.ndarray | None) -> Grid:
    """The same voxels after a world motion."""
    return grid if motion is None else Grid(grid.shape, motion @ grid.affine)


def rigid_motion(fixed: Prepared, moving: Prepared) -> np.ndarray:
    """World motion (4, 4) that brings one scan of a person onto another (SimpleITK, rigid,
    Mattes mutual information, four resolutions; deterministic).
    """
    images = [to_sitk(scan) for scan in (fixed, moving)]
    start = sitk.CenteredTransformInitializer(
        *images, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.1)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([8, 4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2, 1, 0])
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(start, inPlace=False)
    found = sitk.CompositeTransform(method.Execute(*images)).GetNthTransform(0)
    rigid = sitk.Euler3DTransform(found)
    matrix = np.array(rigid.GetMatrix()).reshape(3, 3)
    centre, shift = np.array(rigid.GetCenter()), np.array(rigid.GetTranslation())
    fixed_to_moving = np.eye(4)
    fixed_to_moving[:3, :3] = matrix
    fixed_to_moving[:3, 3] = centre + shift - matrix @ centre
    return np.linalg.inv(fixed_to_moving)


def to_sitk(scan: Prepared) -> sitk.Image:
    """The scan for SimpleITK, in nibabel's world (both axes and world are RAS here): positive
    inside the brain, 0 outside.
    """
    values = np.where(scan.mask, from_model_units(scan.image, 0.05, 1), 0).astype(np.float32)
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    affine = scan.grid.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image
