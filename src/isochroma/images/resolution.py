"""What a scan's voxels average: thick slices as a linear map of the model grid.

A voxel of a scan holds the mean over its slice, s = A x, and the scan is brought to the model grid
by interpolation, U. What the scan shows of an image x on the model grid is then U A x (`Blur`):
between slices that is interpolation, within them the scan's own detail.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from isochroma.images.grid import Grid, interpolate, interpolation_weights, resample
from isochroma.images.masked import extend_outside


class Blur(NamedTuple):
    """What a scan of thick slices shows of an image on the model grid.

    Attributes
    ----------
    weights : tuple of 3 ndarrays of float32
        For each axis (N, N), the mean over each slice and the interpolation back.
    slice_mm : float or None
        Thickness of the slices, mm, if another than the voxels' edge.
    """

    weights: tuple[np.ndarray, np.ndarray, np.ndarray]
    slice_mm: float | None = None

    def apply(self, volume: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Blur a volume as the scan does.

        Parameters
        ----------
        volume : (I, J, K) ndarray of float
            On the model grid.
        mask : (I, J, K) ndarray of bool
            The brain; values outside are those of the nearest brain voxel.

        Returns
        -------
        blurred : (I, J, K) ndarray of float32
        """
        return interpolate(extend_outside(volume.astype(np.float32), mask), *self.weights)


def blur_of(scan: Grid, model: Grid, slice_mm: float | None = None) -> Blur | None:
    """Find what a scan's voxels average, on a model grid whose axes are parallel to the scan's.

    Parameters
    ----------
    scan, model : Grid
        Two grids in one world space.
    slice_mm : float, optional
        Thickness of the slices along the scan's axis of the largest voxel edge, if another than
        that edge: less if there are gaps, more if slices overlap.

    Returns
    -------
    blur : Blur or None
        None if no voxel edge exceeds 1.6 times the model grid's.
    """
    averages = slice_averages(scan, model, slice_mm)
    if averages is None:
        return None
    matrix = np.linalg.inv(scan.affine) @ model.affine
    weights = []
    for n, (axis, average) in enumerate(zip(axes_of(scan, model), averages, strict=True)):
        if average is None:
            weights.append(np.eye(model.shape[n], dtype=np.float32))
            continue
        positions = matrix[axis, n] * np.arange(model.shape[n]) + matrix[axis, 3]
        weights.append(interpolation_weights(scan.shape[axis], positions, 3) @ average)
    return Blur((weights[0], weights[1], weights[2]), slice_mm)


def sample_slices(
    volume: np.ndarray, model: Grid, scan: Grid, slice_mm: float | None = None
) -> np.ndarray:
    """Bring a volume from the model grid to a scan's: the mean over each slice where it is thick.

    Parameters
    ----------
    volume : (I, J, K) ndarray of float
        On the model grid.
    model, scan : Grid
        Two grids in one world space, whose axes are parallel.
    slice_mm : float, optional
        As for `blur_of`.

    Returns
    -------
    sampled : (I', J', K') ndarray of float32
        On the scan's grid.
    """
    averages = slice_averages(scan, model, slice_mm)
    if averages is None:
        return resample(volume, model, scan)
    matrix = np.linalg.inv(model.affine) @ scan.affine
    axes = axes_of(scan, model)
    weights = []
    for n, (axis, average) in enumerate(zip(axes, averages, strict=True)):
        if average is None:
            positions = matrix[n, axis] * np.arange(scan.shape[axis]) + matrix[n, 3]
            average = interpolation_weights(model.shape[n], positions, 3)
        weights.append(average)
    sampled = interpolate(volume.astype(np.float32), *weights)
    return sampled.transpose(np.argsort(axes))


def slice_averages(
    scan: Grid, model: Grid, slice_mm: float | None = None
) -> list[np.ndarray | None] | None:
    """Compute the mean over each slice of a scan along each axis of the model grid.

    Parameters
    ----------
    scan, model : Grid
        As for `blur_of`.
    slice_mm : float, optional
        As for `blur_of`.

    Returns
    -------
    averages : list of 3 (M, N) ndarrays of float32 or None, or None
        From N voxels of the model grid to the scan's M along that axis, a box profile; None for
        axes that are not thick, and if none is.
    """
    matrix = np.linalg.inv(model.affine) @ scan.affine
    thick = scan.thick(model.voxel_mm[0])
    if not thick.any():
        return None
    found: list[np.ndarray | None] = []
    for n, axis in enumerate(axes_of(scan, model)):
        if not thick[axis]:
            found.append(None)
            continue
        size = float(scan.voxel_mm[axis])
        if slice_mm is not None and axis == scan.voxel_mm.argmax():
            size = slice_mm
        half = size / model.voxel_mm[n] / 2
        where = np.arange(scan.shape[axis])
        centres = (matrix[n, axis] * where + matrix[n, 3])[:, None]
        voxels = np.arange(model.shape[n])
        low, high = centres - half, centres + half
        overlap = np.minimum(high, voxels + 0.5) - np.maximum(low, voxels - 0.5)
        weights = np.clip(overlap, 0, 1)
        nearest = np.clip(np.rint(centres[:, 0]), 0, model.shape[n] - 1).astype(int)
        beyond = weights.sum(1) < 1e-6
        weights[beyond, nearest[beyond]] = 1
        found.append((weights / weights.sum(1, keepdims=True)).astype(np.float32))
    return found


def axes_of(scan: Grid, model: Grid) -> np.ndarray:
    """Return the scan's axes (3,) in the order of the model grid's."""
    return np.abs((np.linalg.inv(scan.affine) @ model.affine)[:3, :3]).argmax(0)
