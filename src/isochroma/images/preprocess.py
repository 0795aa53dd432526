"""From a scan to the image that the model sees: brain mask, bias field, intensity scale.

Every parameter is in `PreprocessSettings`, which is stored in the model's config and nowhere
else: training and use cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from isochroma.errors import InputError
from isochroma.images.grid import Grid, bounding_box, model_grid, resample, resample_mask
from isochroma.images.masked import extend_outside

MARGIN_VOXELS = 4


@dataclass(frozen=True)
class PreprocessSettings:
    """How a scan becomes a model image.

    spacing_mm
        Edge of the model grid's isotropic voxels.
    n4
        Correct the bias field (N4, Tustison et al. 2010, doi:10.1109/TMI.2010.2046908).
    n4_shrink
        N4 fits its field on every n-th voxel.
    n4_iterations
        Iterations of each of N4's resolution levels.
    lower_percentile, upper_percentile
        In-mask percentiles that become -1 and +1; values beyond them are clipped (winsorised).
    """

    spacing_mm: float = 1.0
    n4: bool = True
    n4_shrink: int = 4
    n4_iterations: tuple[int, ...] = (50, 50, 50, 50)
    lower_percentile: float = 0.5
    upper_percentile: float = 99.5


@dataclass(frozen=True)
class Prepared:
    """A scan on the model grid, cropped to the brain.

    image
        (I, J, K) float32, model units: [-1, 1] inside the mask, 0 outside.
    mask
        (I, J, K) bool, the brain.
    grid
        Where these voxels lie.
    lower, upper
        Intensities (after bias correction) that became -1 and +1.
    """

    image: np.ndarray
    mask: np.ndarray
    grid: Grid
    lower: float
    upper: float


def prepare(
    image: nib.spatialimages.SpatialImage,
    mask: np.ndarray,
    settings: PreprocessSettings,
    stage: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
) -> Prepared:
    """Resample to the model grid, correct the bias field and scale the intensities.

    Parameters
    ----------
    image
        One 3D scan.
    mask
        (I, J, K) bool brain mask on the scan's own grid.
    settings
        The model's preprocessing.
    stage
        Entered as stage("resample"), stage("n4") and stage("scale") around these parts, for a
        clock.

    Notes
    -----
    Nothing outside the mask influences the inside: it is replaced by the nearest brain voxel
    before any interpolation.
    """
    with stage("resample"):
        box = bounding_box(mask, MARGIN_VOXELS)
        source = Grid.of(image).crop(box)
        inside = mask[box]
        data = extend_outside(np.asarray(image.dataobj[box], dtype=np.float32), inside)
        cropped = nib.Nifti1Image(data, source.affine)
        target = model_grid(cropped, settings.spacing_mm)
        brain = resample_mask(inside, source, target)
        values = resample(data, source, target)
    if settings.n4:
        with stage("n4"):
            values = correct_bias(values, brain, settings)
    with stage("scale"):
        lower, upper = intensity_limits(values[brain], settings)
        scaled = to_model_units(values, brain, lower, upper)
    return Prepared(scaled, brain, target, lower, upper)


def intensity_limits(values: np.ndarray, settings: PreprocessSettings) -> tuple[float, float]:
    """The in-mask intensities that become -1 and +1."""
    lower, upper = np.percentile(values, [settings.lower_percentile, settings.upper_percentile])
    if not upper > lower:
        msg = "the scan is constant inside the brain mask. Check the mask and the scan."
        raise InputError(msg)
    return float(lower), float(upper)


def to_model_units(values: np.ndarray, mask: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """Winsorise to [lower, upper], map to [-1, 1], set 0 outside the mask. float32."""
    scaled = np.clip(2 * (values - lower) / (upper - lower) - 1, -1, 1)
    return np.where(mask, scaled, 0).astype(np.float32)


def from_model_units(values: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """Intensities for model units in [-1, 1]: the inverse of `to_model_units` in the mask."""
    return (values + 1) / 2 * (upper - lower) + lower


def white_matter_mode(values: np.ndarray) -> float:
    """Most frequent of the brighter half of in-mask intensities, model units: white matter's in a
    T1w brain (after Shinohara et al. 2014, doi:10.1016/j.nicl.2014.08.008).
    """
    count, limits = np.histogram(values, bins=400, range=(-1, 1))
    density = ndimage.gaussian_filter1d(count.astype(float), 6)
    centres = (limits[1:] + limits[:-1]) / 2
    bright = centres >= np.median(values)
    return float(centres[bright][density[bright].argmax()])


def correct_bias(values: np.ndarray, mask: np.ndarray, settings: PreprocessSettings) -> np.ndarray:
    """Divide by the multiplicative field that N4 finds inside `mask` (mean of the field: 1)."""
    low, high = np.percentile(values[mask], [0.5, 99.5])
    shift = min(0.0, float(low))  # magnitudes are not negative; scans in other units may be
    positive = np.clip(values - shift, 1e-3 * (high - low), None)
    image = sitk.GetImageFromArray(positive)
    brain = sitk.GetImageFromArray(mask.astype(np.uint8))
    shrink = [settings.n4_shrink] * 3
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(list(settings.n4_iterations))
    n4.Execute(sitk.Shrink(image, shrink), sitk.Shrink(brain, shrink))
    log_field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image))
    field = np.exp(log_field - log_field[mask].mean())
    return (positive / field).astype(np.float32) + shift
