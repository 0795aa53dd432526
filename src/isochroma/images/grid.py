"""Volumes and grids: load a scan, resample it between grids, save it whole or not at all.

A *grid* is a shape and an affine. Work happens on the *model grid*: closest canonical
orientation (RAS+), isotropic voxels, the scan's own field of view. No template is involved, so
anatomy is never warped, and going back is one more resampling onto the scan's own grid.
"""

from __future__ import annotations

from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import rescale_affine, voxel_sizes
from scipy import ndimage

from isochroma.errors import InputError


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
