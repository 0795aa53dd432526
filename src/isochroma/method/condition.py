"""Input channels that tell the network which anatomy to render: edges, mask and coordinates.

The same function builds them for training patches and for whole scans, so that the two agree.
"""

from __future__ import annotations

import numpy as np

COORDINATE_MM = 100.0  # one unit; with it, coordinates of an adult brain stay within about [-1, 1]


def coordinates(
    centroid: np.ndarray,
    start: np.ndarray,
    shape: tuple[int, ...],
    stride: np.ndarray | tuple[int, ...] = (1, 1, 1),
    spacing_mm: float = 1.0,
) -> np.ndarray:
    """Return the position of each sample relative to the brain's centre, in units of 100 mm.

    With a stride above 1, a sample stands for a block of voxels and lies at the block's centre.

    Parameters
    ----------
    centroid : (3,) ndarray
        Centroid of the brain mask, in voxels.
    start : (3,) ndarray
        First voxel along each axis; may be negative.
    shape : tuple of int
        Number of samples along each axis.
    stride : (3,) ndarray or tuple of int
        Voxels from one sample to the next along each axis.
    spacing_mm : float
        Edge of a voxel in mm.

    Returns
    -------
    where : (3, I, J, K) ndarray of float32
        Positions to the right, to the front and upwards.

    Examples
    --------
    >>> coordinates(np.array([5, 0, 0]), np.array([10, 0, 0]), (2, 1, 1), spacing_mm=2)[0, :, 0, 0]
    array([0.1 , 0.12], dtype=float32)
    """
    axes = []
    for origin, first, count, step in zip(centroid, start, shape, stride, strict=True):
        centres = first + np.arange(count) * step + (step - 1) / 2
        axes.append(((centres - origin) * (spacing_mm / COORDINATE_MM)).astype(np.float32))
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def condition_channels(edges: np.ndarray, mask: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Stack the edge channel and the coordinates.

    Parameters
    ----------
    edges : (I, J, K) ndarray
        Edge map: above 0 on edges.
    mask : (I, J, K) ndarray
        Brain mask: above 0 inside.
    where : (3, I, J, K) ndarray
        Coordinates, see `coordinates`.

    Returns
    -------
    condition : (4, I, J, K) ndarray of float32
        First the edges: 1 on edges, -1 elsewhere in the brain and 0 outside, so that the network
        sees the mask too. Then the coordinates.
    """
    edge, other, outside = np.array([1, -1, 0], dtype=np.float32)
    signed = np.where(mask > 0, np.where(edges > 0, edge, other), outside)
    return np.concatenate([signed[None], where])
