"""Sampling grids, and resampling from one to another.

A grid is a shape and an affine. The method works on the *model grid*: closest canonical
orientation (RAS+) and isotropic voxels over the scan's own field of view. No template is involved,
so anatomy is never warped, and the way back is one more resampling onto the scan's own grid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, rescale_affine, voxel_sizes
from scipy import ndimage

from isochroma.errors import InputError

THICK = 1.6  # edge of a voxel over the model grid's, from which it counts as a slice


class Grid(NamedTuple):
    """Describe where voxels lie.

    Attributes
    ----------
    shape : tuple of int
        (I, J, K) voxels.
    affine : (4, 4) ndarray of float
        Voxel indices to world coordinates, mm.
    """

    shape: tuple[int, ...]
    affine: np.ndarray

    @classmethod
    def of(cls, image: nib.spatialimages.SpatialImage) -> Grid:
        """Take the grid of a 3D image."""
        return cls(tuple(image.shape[:3]), np.asarray(image.affine, dtype=float))

    @property
    def voxel_mm(self) -> np.ndarray:
        """Edge lengths (3,) of a voxel, mm."""
        return voxel_sizes(self.affine)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel, ml."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000)

    def thick(self, spacing_mm: float) -> np.ndarray:
        """Tell which voxel edges (3,) exceed 1.6 times the model grid's: slices."""
        return self.voxel_mm > THICK * spacing_mm

    def same_as(self, other: Grid, tolerance_mm: float = 1e-2) -> bool:
        """Tell whether both grids have one shape and corners within `tolerance_mm`."""
        return self.shape == other.shape and self.distance_mm(other) <= tolerance_mm

    def distance_mm(self, other: Grid) -> float:
        """Measure how far the corners of two grids of one shape are apart, along an axis."""
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1)
        distance = (self.affine - other.affine) @ np.vstack([corners, np.ones(8)])
        return float(np.abs(distance).max())

    def crop(self, box: tuple[slice, ...]) -> Grid:
        """Take the grid of a sub-volume, whose slices have a start and a stop."""
        affine = self.affine.copy()
        affine[:3, 3] = self.affine[:3, :3] @ [s.start for s in box] + self.affine[:3, 3]
        return Grid(tuple(s.stop - s.start for s in box), affine)


def model_grid(image: nib.spatialimages.SpatialImage, spacing_mm: float = 1.0) -> Grid:
    """Lay isotropic voxels over an image's field of view, in closest canonical orientation.

    Parameters
    ----------
    image : SpatialImage
        A 3D image.
    spacing_mm : float
        Edge of the voxels, mm.

    Returns
    -------
    grid : Grid
        The model grid.
    """
    canonical = nib.as_closest_canonical(image)
    extent = np.array(canonical.shape) * voxel_sizes(canonical.affine)
    shape = tuple(int(n) for n in np.ceil(extent / spacing_mm - 1e-3))
    affine = rescale_affine(canonical.affine, canonical.shape, (spacing_mm,) * 3, shape)
    if Grid.of(canonical).thick(spacing_mm).any():  # that may miss half of the last slice
        middle = (np.array(canonical.shape) - 1) / 2
        affine[:3, 3] = apply_affine(canonical.affine, middle)
        affine[:3, 3] -= affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def resample(data: np.ndarray, source: Grid, target: Grid, order: int = 3) -> np.ndarray:
    """Sample a volume at the voxel centres of another grid by B-splines.

    Parameters
    ----------
    data : (I, J, K) ndarray
        Values on `source`.
    source, target : Grid
        Two grids in one world space.
    order : int
        Spline order: 3 for intensities, 1 for linear weights, 0 for labels.

    Returns
    -------
    resampled : (I', J', K') ndarray
        Values on `target`: float32, or the dtype of `data` for order 0. Positions outside the
        field of view take the nearest voxel's value.
    """
    matrix = np.linalg.inv(source.affine) @ target.affine
    linear, offset = matrix[:3, :3], matrix[:3, 3]
    parallel = np.abs(linear) > 1e-6
    if order > 0 and (parallel.sum(0) == 1).all() and (parallel.sum(1) == 1).all():
        axes = parallel.argmax(0)  # of the source, in the target's order
        weights = [
            interpolation_weights(
                data.shape[axis], linear[axis, n] * np.arange(count) + offset[axis], order
            )
            for n, (axis, count) in enumerate(zip(axes, target.shape, strict=True))
        ]
        return interpolate(np.asarray(data, dtype=np.float32).transpose(axes), *weights)
    output = data.dtype if order == 0 else np.float32
    values = data if order == 0 else np.asarray(data, dtype=np.float32)
    return ndimage.affine_transform(
        values, linear, offset, target.shape, output=output, order=order, mode="nearest"
    )


def interpolation_weights(count: int, positions: np.ndarray, order: int) -> np.ndarray:
    """Compute what each of the samples along an axis contributes to a B-spline at positions.

    Parameters
    ----------
    count : int
        Number N of samples.
    positions : (M,) ndarray of float
        In samples; beyond the ends the nearest sample counts.
    order : int
        Spline order.

    Returns
    -------
    weights : (M, N) ndarray of float32
    """
    where = np.meshgrid(positions, np.arange(count), indexing="ij")
    weights = ndimage.map_coordinates(np.eye(count), where, order=order, mode="nearest")
    return weights.astype(np.float32)


def interpolate(volume: np.ndarray, *weights: np.ndarray) -> np.ndarray:
    """Interpolate along each axis of a volume.

    Parameters
    ----------
    volume : (I, J, K) ndarray of float32
        Samples.
    *weights : 3 ndarrays of float32
        For each axis, (I', I), (J', J) and (K', K): from `interpolation_weights`.

    Returns
    -------
    interpolated : (I', J', K') ndarray of float32
    """
    for each in weights:  # the first axis goes, and comes back as the last
        volume = np.tensordot(volume, each, (0, 1))
    return volume


def resample_mask(mask: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Resample a mask: voxels of which it covers more than half, by linear weights.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
        On `source`.
    source, target : Grid
        Two grids in one world space.

    Returns
    -------
    resampled : (I', J', K') ndarray of bool
        On `target`.
    """
    return resample(mask.astype(np.float32), source, target, order=1) > 0.5


def bounding_box(mask: np.ndarray, margin: int = 0) -> tuple[slice, ...]:
    """Find the smallest box around a mask.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
        A mask that is not empty.
    margin : int
        Voxels to widen the box by, within the volume.

    Returns
    -------
    box : tuple of 3 slices

    Raises
    ------
    InputError
        If the mask is empty.
    """
    box = ndimage.find_objects(mask.astype(np.uint8), max_label=1)
    if not box or box[0] is None:
        msg = "the brain mask is empty. Give one that covers the brain."
        raise InputError(msg, "mask")
    return tuple(
        slice(max(0, s.start - margin), min(n, s.stop + margin))
        for s, n in zip(box[0], mask.shape, strict=True)
    )


def shrink(volume: np.ndarray, reduce: Callable[..., np.ndarray]) -> np.ndarray:
    """Halve a volume's resolution: reduce each block of 2 x 2 x 2 voxels to one.

    Parameters
    ----------
    volume : (I, J, K) ndarray
        Any dtype; padded with zeros to even edges.
    reduce : callable
        Function with an argument `axis`, such as `numpy.mean` or `numpy.max`.

    Returns
    -------
    shrunk : (ceil(I/2), ceil(J/2), ceil(K/2)) ndarray
    """
    padded = pad_to_multiple(volume, 2)
    i, j, k = (n // 2 for n in padded.shape)
    return reduce(padded.reshape(i, 2, j, 2, k, 2), axis=(1, 3, 5))


def pad_to_multiple(volume: np.ndarray, multiple: int) -> np.ndarray:
    """Pad a volume with zeros at the ends of its axes.

    Parameters
    ----------
    volume : (I, J, K) ndarray
        Any dtype.
    multiple : int
        What the edges of the result are multiples of.

    Returns
    -------
    padded : ndarray
    """
    return np.pad(volume, [(0, -n % multiple) for n in volume.shape])
