"""Volumes and grids: load a scan, resample it between grids, save it whole or not at all.

A *grid* is a shape and an affine. Work happens on the *model grid*: closest canonical
orientation (RAS+), isotropic voxels, the scan's own field of view. No template is involved, so
anatomy is never warped, and going back is one more resampling onto the scan's own grid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import DTypeLike

from isochroma.errors import InputError
from isochroma.files import write_atomically

SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")
MAX_VOXEL_MM = 2.5


def has_volume_suffix(path: Path | str) -> bool:
    """Whether the file name ends as a volume that can be read and written."""
    return str(path).lower().endswith(SUFFIXES)


def stem(path: Path | str) -> str:
    """File name without its volume suffix.

    >>> stem("a/sub-01_T1w.nii.gz")
    'sub-01_T1w'
    """
    name = Path(path).name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def load(path: Path | str, constant: bool = False) -> nib.spatialimages.SpatialImage:
    """Load one 3D scan (or a 4D file with one volume) and check that it can be harmonized; labels,
    for which `constant` allows one value everywhere, likewise.

    Raises
    ------
    InputError
        If the file is missing, is no volume, holds several volumes, or is unusable (see
        `as_scan`).
    """
    path = Path(path)
    if not path.is_file():
        msg = f"{path}: no such file. Check the path."
        raise InputError(msg)
    if not has_volume_suffix(path):
        msg = f"{path}: not a volume isochroma reads. Convert it to one of {', '.join(SUFFIXES)}."
        raise InputError(msg)
    try:
        image: Any = nib.load(path)
        np.asanyarray(image.dataobj)
    except Exception as error:  # nibabel raises many kinds for a damaged file
        reason = " ".join(str(error).split())
        msg = f"{path}: cannot be read as NIfTI or MGH ({reason}). Export or convert it anew."
        raise InputError(msg) from error
    return as_scan(image, str(path), constant)


def as_scan(
    image: nib.spatialimages.SpatialImage, name: str = "image", constant: bool = False
) -> nib.spatialimages.SpatialImage:
    """The image as one 3D volume, checked: finite, not empty, not constant, not a thick stack."""
    if image.ndim == 4 and image.shape[3] == 1:
        image = nib.funcs.four_to_three(image)[0]
    if image.ndim != 3:
        msg = f"{name}: has shape {image.shape}; one 3D volume is needed. Extract one volume first."
        raise InputError(msg)
    if min(image.shape) < 2:
        msg = f"{name}: has shape {image.shape}; a single slice or empty file cannot be harmonized."
        raise InputError(msg)
    sizes = voxel_sizes(image.affine)
    if not np.isfinite(image.affine).all() or sizes.min() <= 0:
        msg = f"{name}: its affine is not valid. Repair the header's geometry first."
        raise InputError(msg)
    if sizes.max() > MAX_VOXEL_MM + 0.005:  # headers are rounded
        shown = " x ".join(f"{size:.2f}" for size in sizes)
        msg = (
            f"{name}: voxels of {shown} mm are too thick (at most {MAX_VOXEL_MM} mm). "
            "Use a 3D acquisition, or a super-resolution tool first."
        )
        raise InputError(msg)
    data = np.asanyarray(image.dataobj)
    if not np.issubdtype(data.dtype, np.number) or np.iscomplexobj(data):
        msg = (
            f"{name}: voxels of type {data.dtype} are not intensities. Save magnitudes as numbers."
        )
        raise InputError(msg)
    if not np.isfinite(data).all():
        msg = f"{name}: holds NaN or infinite voxels. Replace them (for example by 0) first."
        raise InputError(msg)
    if data.min() == data.max() and not constant:
        msg = f"{name}: every voxel has the value {data.flat[0]}. Check the export."
        raise InputError(msg)
    return image


def like(
    data: np.ndarray, image: nib.spatialimages.SpatialImage, dtype: DTypeLike = np.float32
) -> nib.spatialimages.SpatialImage:
    """`data` as an image of the same class, affine, header and units as `image`.

    Integer types are rounded and clipped to their range; intensity scale factors are reset, so
    stored values are the values.
    """
    dtype = np.dtype(dtype)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        data = np.clip(np.rint(data.astype(np.float64)), limits.min, limits.max)
    header = image.header.copy()
    header.set_data_dtype(dtype)
    if isinstance(header, nib.Nifti1Header):
        header.set_slope_inter(1.0, 0.0)
        header["cal_min"] = header["cal_max"] = 0
    return image.__class__(np.ascontiguousarray(data, dtype=dtype), image.affine, header)


def save(image: nib.spatialimages.SpatialImage, path: Path | str) -> Path:
    """Write `image` to `path` atomically."""
    return write_atomically(path, lambda temporary: nib.save(image, temporary))
