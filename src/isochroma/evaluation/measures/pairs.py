"""Agreement of two scans of one person, both harmonized.

Co-registered contrasts (same `grid`) are compared voxel by voxel; a scan and its repetition are
aligned rigidly first. Two scans of one contrast and scanner show how well any pair can agree: the
noise floor.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import SimpleITK as sitk

from isochroma.evaluation.measures.registry import PAIR, Part
from isochroma.evaluation.measures.sample import Pair
from isochroma.evaluation.study import Case, Scan
from isochroma.evaluation.workspace import Workspace
from isochroma.images import metrics
from isochroma.images.grid import Grid, resample, resample_mask
from isochroma.images.masked import extend_outside
from isochroma.images.preprocess import Prepared, from_model_units
from isochroma.images.registration import matrix_of, to_sitk

RESCAN = "rescan"
MOTION_VERSION = 1
SEED = 1  # of the jitter of the sampled voxels; 0 would be the clock

part = Part(
    "pairs",
    "Truth unknown: one person, scanned twice",
    "Agreement of two contrasts of one person, both harmonized; `rescan` is one contrast repeated "
    "on one scanner, the noise floor.",
)


@part.measure(
    "ssim",
    "SSIM of two scans of one person",
    better=1,
    of=PAIR,
    source="Wang et al. 2004, doi:10.1109/TIP.2003.819861",
)
def ssim(pair: Pair) -> float:
    """Return the mean structural similarity where both brains are, intensities on [0, 1]."""
    return metrics.ssim(pair.first, pair.second, pair.mask, 1)


@part.measure("ncc", "Correlation of two scans of one person", better=1, of=PAIR)
def ncc(pair: Pair) -> float:
    """Return the Pearson correlation of the voxels where both brains are."""
    return metrics.ncc(pair.first, pair.second, pair.mask)


def same_person(scans: Sequence[Scan]) -> Iterator[tuple[str, Scan, Scan]]:
    """List the pairs that should look alike once harmonized.

    Parameters
    ----------
    scans : sequence of Scan
        Simulations among them are left out: their truth is known.

    Yields
    ------
    group : str
        The shared `grid` of co-registered contrasts; "rescan" for two scans of one person, site and
        contrast.
    first, second : Scan
        The pair.
    """
    real = [scan for scan in scans if not scan.preset]
    for a, b in itertools.combinations(real, 2):
        if a.grid and a.grid == b.grid and a.contrast != b.contrast:
            yield a.grid, a, b
        elif a.person == b.person and a.site == b.site and a.contrast == b.contrast:
            yield RESCAN, a, b


def shown_group(group: str, a: Scan, b: Scan) -> str:
    """Return the group in the report of a pair from `same_person`."""
    return group if group == RESCAN else f"{group} {a.contrast}-{b.contrast}"


def motion_between(work: Workspace, group: str, a: Scan, b: Scan) -> np.ndarray | None:
    """Return the world motion (4, 4) from a rescan to the first scan; None for other groups."""
    if group != RESCAN:
        return None
    return work.store.get(
        ("motion", MOTION_VERSION, work.case_key(a), work.case_key(b)),
        lambda: rigid_motion(work.case(a).prepared, work.case(b).prepared),
    )


def bring_together(
    a: np.ndarray, b: np.ndarray, case_a: Case, case_b: Case, motion: np.ndarray | None = None
) -> Pair:
    """Resample the second of two outputs onto the grid of the first.

    Parameters
    ----------
    a, b : (I, J, K) ndarray
        Outputs for the two cases, each on its own model grid, model units.
    case_a, case_b : Case
        The scans.
    motion : (4, 4) ndarray, optional
        World motion from the second scan to the first; none for co-registered scans.

    Returns
    -------
    pair : Pair
        Both on the grid of the first.
    """
    moved, common = overlap(case_a, case_b, motion)
    second = resample(extend_outside(b, case_b.prepared.mask), moved, case_a.prepared.grid)
    return Pair(from_model_units(a, 0, 1), from_model_units(second, 0, 1), common)


def overlap(
    case_a: Case, case_b: Case, motion: np.ndarray | None = None
) -> tuple[Grid, np.ndarray]:
    """Find where the second of two scans lies, as the first lies, and where both brains are.

    Parameters
    ----------
    case_a, case_b : Case
        The scans.
    motion : (4, 4) ndarray, optional
        World motion from the second scan to the first; none for co-registered scans.

    Returns
    -------
    moved : Grid
        The second scan's grid in the first one's world.
    common : (I, J, K) ndarray of bool
        On the first scan's grid, where both brains are.
    """
    grid, moved = case_a.prepared.grid, case_b.prepared.grid
    if motion is not None:
        moved = Grid(moved.shape, motion @ moved.affine)
    return moved, case_a.prepared.mask & resample_mask(case_b.prepared.mask, moved, grid)


def rigid_motion(fixed: Prepared, moving: Prepared) -> np.ndarray:
    """Find the rigid motion that brings one scan of a person onto another.

    By SimpleITK: Mattes mutual information on a regular tenth of the voxels, jittered with a fixed
    seed; four resolutions. Two runs agree within 1e-5 radians: threads sum in any order.

    Parameters
    ----------
    fixed, moving : Prepared
        Two scans of one contrast.

    Returns
    -------
    motion : (4, 4) ndarray
        World motion from the moving scan to the fixed one, mm.
    """
    images = [brain_in_sitk(scan) for scan in (fixed, moving)]
    start = sitk.CenteredTransformInitializer(
        *images, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.1, seed=SEED)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([8, 4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2, 1, 0])
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(start, inPlace=False)
    return np.linalg.inv(matrix_of(method.Execute(*images)))


def brain_in_sitk(scan: Prepared) -> sitk.Image:
    """Convert a scan to SimpleITK, positive inside the brain and 0 outside."""
    values = np.where(scan.mask, from_model_units(scan.image, 0.05, 1), 0).astype(np.float32)
    return to_sitk(values, scan.grid)
