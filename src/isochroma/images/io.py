"""Load scans, check them, and save volumes whole or not at all."""

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
    """Tell whether a file name ends as a volume that can be read and written."""
    return str(path).lower().endswith(SUFFIXES)


def split_suffix(path: Path | str) -> tuple[str, str]:
    """Split a file name into its stem and its volume suffix.

    Parameters
    ----------
    path : Path or str
        A file; its folder is ignored.

    Returns
    -------
    stem, suffix : str
        The suffix is empty if the name ends in none of `SUFFIXES`.

    Examples
    --------
    >>> split_suffix("a/sub-01_T1w.nii.gz")
    ('sub-01_T1w', '.nii.gz')
    """
    name = Path(path).name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)], name[-len(suffix) :]
    return name, ""


def stem(path: Path | str) -> str:
    """Return a file's name without its volume suffix.

    Examples
    --------
    >>> stem("a/sub-01_T1w.nii.gz")
    'sub-01_T1w'
    """
    return split_suffix(path)[0]


def load(path: Path | str, constant: bool = False) -> nib.spatialimages.SpatialImage:
    """Load one 3D scan, or a 4D file with one volume, and check that it can be used.

    Parameters
    ----------
    path : Path or str
        A NIfTI or MGH file.
    constant : bool
        Accept one value everywhere, as an empty label map has.

    Returns
    -------
    scan : SpatialImage
        3D.

    Raises
    ------
    InputError
        If the file is missing, is no volume, holds several volumes, or fails `as_scan`.
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
    """Check that an image is one 3D scan that can be harmonized.

    Parameters
    ----------
    image : SpatialImage
        3D, or 4D with one volume.
    name : str
        How messages call it.
    constant : bool
        Accept one value everywhere.

    Returns
    -------
    scan : SpatialImage
        3D: finite numbers, not constant, voxels of at most 2.5 mm, a valid affine.

    Raises
    ------
    InputError
        If any of this does not hold.
    """
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
    """Make an image with the class, affine, header and units of another.

    Parameters
    ----------
    data : (I, J, K) ndarray
        Values of the new image; rounded and clipped for integer types.
    image : SpatialImage
        The image to imitate; it stays as it is.
    dtype : dtype
        Type of the stored voxels. Scale factors are reset: stored values are the values.

    Returns
    -------
    made : SpatialImage
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
    """Write an image whole or not at all.

    Parameters
    ----------
    image : SpatialImage
        What to write.
    path : Path or str
        Where; the suffix chooses the format.

    Returns
    -------
    path : Path
        The written file.
    """
    return write_atomically(path, lambda temporary: nib.save(image, temporary))
