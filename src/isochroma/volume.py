"""Volumes and grids: load a scan, resample it between grids, save it whole or not at all.

A *grid* is a shape and an affine. Work happens on the *model grid*: closest canonical
orientation (RAS+), isotropic voxels, the scan's own field of view. No template is involved, so
anatomy is never warped, and going back is one more resampling onto the scan's own grid.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import rescale_affine, voxel_sizes
from numpy.typing import DTypeLike
from scipy import ndimage

from isochroma.errors import InputError

SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")
MAX_VOXEL_MM = 2.5


class Grid(NamedTuple):
    """A sampling grid: `shape` (I, J, K) and the 4 x 4 voxel-to-world `affine` in mm."""

    shape: tuple[int, ...]
    affine: np.ndarray

    @classmethod
    def of(cls, image: nib.spatialimages.SpatialImage) -> Grid:
        """Grid of a 3D image."""
        return cls(tuple(image.shape[:3]), np.asarray(image.affine, dtype=float))

    def same_as(self, other: Grid, tolerance_mm: float = 1e-2) -> bool:
        """Whether both grids have one shape and their corners agree within `tolerance_mm`."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1)
        distance = (self.affine - other.affine) @ np.vstack([corners, np.ones(8)])
        return bool(np.abs(distance).max() <= tolerance_mm)

    def crop(self, box: tuple[slice, ...]) -> Grid:
        """Grid of the sub-volume `box`, whose slices have a start and a stop."""
        affine = self.affine.copy()
        affine[:3, 3] = self.affine[:3, :3] @ [s.start for s in box] + self.affine[:3, 3]
        return Grid(tuple(s.stop - s.start for s in box), affine)


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


def model_grid(image: nib.spatialimages.SpatialImage, spacing_mm: float = 1.0) -> Grid:
    """Closest-canonical grid of isotropic `spacing_mm` voxels over the image's field of view."""
    canonical = nib.as_closest_canonical(image)
    extent = np.array(canonical.shape) * voxel_sizes(canonical.affine)
    shape = tuple(int(n) for n in np.ceil(extent / spacing_mm - 1e-3))
    affine = rescale_affine(canonical.affine, canonical.shape, (spacing_mm,) * 3, shape)
    return Grid(shape, affine)


def resample(data: np.ndarray, source: Grid, target: Grid, order: int = 3) -> np.ndarray:
    """Sample `data`, given on `source`, at the voxel centres of `target` by B-splines.

    Parameters
    ----------
    data
        (I, J, K) array on `source`.
    source, target
        The two grids, in one world space.
    order
        Spline order: 3 for intensities, 0 for masks.

    Returns
    -------
    (I', J', K') array on `target`: float32, or the dtype of `data` for order 0. Positions
    outside the field of view take the nearest voxel's value.
    """
    matrix = np.linalg.inv(source.affine) @ target.affine
    linear, offset = matrix[:3, :3], matrix[:3, 3]
    if np.allclose(linear, np.diag(np.diag(linear)), atol=1e-6):
        linear = np.diag(linear)  # scipy's faster separable path
    output = data.dtype if order == 0 else np.float32
    values = data if order == 0 else np.asarray(data, dtype=np.float32)
    return ndimage.affine_transform(
        values, linear, offset, target.shape, output=output, order=order, mode="nearest"
    )


def resample_mask(mask: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """A mask (I, J, K) bool on another grid: where it covers more than half, by linear weights."""
    return resample(mask.astype(np.float32), source, target, order=1) > 0.5


def bounding_box(mask: np.ndarray, margin: int = 0) -> tuple[slice, ...]:
    """Smallest box of slices around the True voxels of `mask`, widened by `margin` voxels."""
    box = ndimage.find_objects(mask.astype(np.uint8), max_label=1)[0]
    if box is None:
        msg = "the brain mask is empty. Give another one with --mask."
        raise InputError(msg)
    return tuple(
        slice(max(0, s.start - margin), min(n, s.stop + margin))
        for s, n in zip(box, mask.shape, strict=True)
    )


def extend_outside(data: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Replace every voxel outside `mask` by its nearest voxel inside, so that no interpolation
    or filter mixes the inside with what surrounds it.
    """
    nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return data[tuple(nearest)]


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


def write_together(writers: dict[Path, Callable[[Path], object]]) -> None:
    """Let each writer fill a temporary file, then move all of them into place.

    If one fails, none appears. Temporary names end in the final names, so that writers that go by
    the suffix see it.
    """
    with contextlib.ExitStack() as stack:
        moves = []
        for number, (path, write) in enumerate(writers.items()):
            path.parent.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix=f".isochroma-{number}-", dir=path.parent)
            )
            moves.append((Path(folder) / path.name, path))
            write(moves[-1][0])
        for temporary, path in moves:
            temporary.replace(path)


def write_atomically(path: Path | str, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file, then move it to `path` in one step."""
    write_together({Path(path): write})
    return Path(path)


def save(image: nib.spatialimages.SpatialImage, path: Path | str) -> Path:
    """Write `image` to `path` atomically."""
    return write_atomically(path, lambda temporary: nib.save(image, temporary))


def sha256(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file."""
    with Path(path).open("rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()
