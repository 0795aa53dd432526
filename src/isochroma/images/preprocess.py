"""From a scan to the image that the model sees: model grid, bias field, intensity scale.

All parameters are in `PreprocessSettings`, which only the model's config holds, so that training
and use cannot differ.

*Model units*: in-mask intensities from -1 to 1 between two percentiles of the scan, 0 outside the
mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from pydantic import Field, model_validator
from scipy import ndimage

from isochroma.errors import InputError
from isochroma.images.grid import Grid, bounding_box, model_grid, resample, resample_mask
from isochroma.images.masked import extend_outside
from isochroma.images.resolution import Blur, blur_of
from isochroma.settings import settings
from isochroma.stages import stage

MARGIN_VOXELS = 4  # around the brain, so that cubic splines see no border


@settings
class PreprocessSettings:
    """Parameters of the preprocessing.

    Attributes
    ----------
    spacing_mm : float
        Edge of the model grid's isotropic voxels, 0.5 to 4 mm.
    n4 : bool
        Correct the bias field.
    n4_shrink : int
        N4 fits its field on every n-th voxel.
    n4_iterations : tuple of int
        Iterations of each of N4's resolution levels.
    lower_percentile, upper_percentile : float
        In-mask percentiles that become -1 and 1; values beyond them are clipped (winsorised).
    """

    spacing_mm: Annotated[float, Field(ge=0.5, le=4)] = 1.0
    n4: bool = True
    n4_shrink: Annotated[int, Field(ge=1, le=16)] = 4
    n4_iterations: Annotated[
        tuple[Annotated[int, Field(ge=1, le=200)], ...], Field(min_length=1, max_length=5)
    ] = (50, 50, 50, 50)
    lower_percentile: Annotated[float, Field(ge=0, le=100)] = 0.5
    upper_percentile: Annotated[float, Field(ge=0, le=100)] = 99.5

    @model_validator(mode="after")
    def _ordered(self) -> PreprocessSettings:
        if not self.lower_percentile < self.upper_percentile:
            msg = "upper_percentile must be above lower_percentile"
            raise ValueError(msg)
        return self


@dataclass(frozen=True)
class Prepared:
    """A scan on the model grid, cropped to the brain.

    Attributes
    ----------
    image : (I, J, K) ndarray of float32
        Model units.
    mask : (I, J, K) ndarray of bool
        The brain.
    grid : Grid
        Where the voxels lie.
    lower, upper : float
        Intensities, after bias correction, that became -1 and 1.
    blur : Blur or None
        What the scan's slices average, if they are thick.
    """

    image: np.ndarray
    mask: np.ndarray
    grid: Grid
    lower: float
    upper: float
    blur: Blur | None = None


def prepare(
    scan: nib.spatialimages.SpatialImage,
    mask: np.ndarray,
    settings: PreprocessSettings,
    slice_mm: float | None = None,
) -> Prepared:
    """Resample to the model grid, correct the bias field and scale the intensities.

    Nothing outside the mask influences the inside: it is replaced by the nearest brain voxel before
    any interpolation.

    Parameters
    ----------
    scan : SpatialImage
        One 3D scan.
    mask : (I, J, K) ndarray of bool
        Brain mask on the scan's own grid.
    settings : PreprocessSettings
        The model's preprocessing.
    slice_mm : float, optional
        Thickness of thick slices, mm, if another than the voxels' edge (`resolution.blur_of`).

    Returns
    -------
    prepared : Prepared
        The scan as the model sees it.

    Raises
    ------
    InputError
        If the mask is empty, or the scan constant inside it.
    """
    with stage("resample"):
        box = bounding_box(mask, MARGIN_VOXELS)
        source = Grid.of(scan).crop(box)
        inside = mask[box]
        data = extend_outside(np.asarray(scan.dataobj[box], dtype=np.float32), inside)
        target = model_grid(nib.Nifti1Image(data, source.affine), settings.spacing_mm)
        brain = resample_mask(inside, source, target)
        values = resample(data, source, target)
    if settings.n4:
        with stage("n4"):
            values = correct_bias(values, brain, settings)
    with stage("scale"):
        lower, upper = intensity_limits(values[brain], settings)
        image = to_model_units(values, brain, lower, upper)
    return Prepared(image, brain, target, lower, upper, blur_of(source, target, slice_mm))


def intensity_limits(values: np.ndarray, settings: PreprocessSettings) -> tuple[float, float]:
    """Find the in-mask intensities that become -1 and 1.

    Parameters
    ----------
    values : (V,) ndarray
        In-mask intensities.
    settings : PreprocessSettings
        With the two percentiles.

    Returns
    -------
    lower, upper : float
        In the unit of `values`.

    Raises
    ------
    InputError
        If both are equal.
    """
    lower, upper = np.percentile(values, [settings.lower_percentile, settings.upper_percentile])
    if not upper > lower:
        msg = "the scan is constant inside the brain mask. Check the mask and the scan."
        raise InputError(msg)
    return float(lower), float(upper)


def to_model_units(values: np.ndarray, mask: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """Map intensities to model units.

    Parameters
    ----------
    values : (I, J, K) ndarray
        Intensities.
    mask : (I, J, K) ndarray of bool
        The brain.
    lower, upper : float
        Intensities that become -1 and 1; values beyond them are clipped.

    Returns
    -------
    image : (I, J, K) ndarray of float32
        0 outside the mask.
    """
    scaled = np.clip(2 * (values - lower) / (upper - lower) - 1, -1, 1)
    return np.where(mask, scaled, 0).astype(np.float32)


def from_model_units(values: np.ndarray, lower: float, upper: float) -> np.ndarray:
    """Map model units to intensities: the inverse of `to_model_units` inside the mask.

    Parameters
    ----------
    values : ndarray
        Model units.
    lower, upper : float
        Intensities for -1 and 1; 0 and 1 give the unit scale that metrics use.

    Returns
    -------
    intensities : ndarray

    Examples
    --------
    >>> from_model_units(np.array([-1.0, 0.0, 1.0]), 100, 500)
    array([100., 300., 500.])
    """
    return (values + 1) / 2 * (upper - lower) + lower


def white_matter_mode(values: np.ndarray) -> float:
    """Find the most frequent intensity in the brighter half: white matter's in a T1w brain.

    Parameters
    ----------
    values : (V,) ndarray
        In-mask intensities, model units.

    Returns
    -------
    mode : float
        Model units.

    References
    ----------
    After Shinohara et al. 2014, doi:10.1016/j.nicl.2014.08.008.
    """
    count, limits = np.histogram(values, bins=400, range=(-1, 1))
    density = ndimage.gaussian_filter1d(count.astype(float), 6)
    centres = (limits[1:] + limits[:-1]) / 2
    bright = centres >= np.median(values)
    return float(centres[bright][density[bright].argmax()])


def correct_bias(values: np.ndarray, mask: np.ndarray, settings: PreprocessSettings) -> np.ndarray:
    """Divide by the smooth multiplicative field that N4 finds inside a mask.

    Parameters
    ----------
    values : (I, J, K) ndarray of float32
        Intensities.
    mask : (I, J, K) ndarray of bool
        The brain; the field's mean logarithm in it is 0.
    settings : PreprocessSettings
        With N4's parameters.

    Returns
    -------
    corrected : (I, J, K) ndarray of float32
        In the unit of `values`.

    References
    ----------
    Tustison et al. 2010, doi:10.1109/TMI.2010.2046908; by SimpleITK.
    """
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
