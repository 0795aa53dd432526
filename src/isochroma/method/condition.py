"""Multi-stride patches for training, and tiles for use in bounded memory.

One patch size gives local detail and global anatomy. A patch holds `size`^3 samples. Most are
neighbouring voxels; with probability `strided_probability` they are taken at a stride above 1, so
that one patch spans the head (Jeong et al. 2025). The image is averaged over each stride's block
first (a low-pass, which plain subsampling lacks), edges are max-pooled over it, and the coordinates
are those of the block centres: positions really sampled.
"""

from __future__ import annotations

import numpy as np

COORDINATE_MM = 100.0


def coordinates(
    centroid: np.ndarray,
    start: np.ndarray,
    shape: tuple[int, ...],
    stride: np.ndarray | tuple[int, ...] = (1, 1, 1),
    spacing_mm: float = 1.0,
) -> np.ndarray:
    """Position of each sample relative to the brain's centre, in units of 100 mm.

    Parameters
    ----------
    centroid
        (3,) voxel position of the mask's centroid.
    start, shape, stride
        First voxel, number of samples and stride along each axis.
    spacing_mm
        Edge of a voxel.

    Returns
    -------
    (3, I, J, K) float32, about [-1, 1]: right, anterior, superior.
    """
    axes = []
    for origin, first, count, step in zip(centroid, start, shape, stride, strict=True):
        centres = first + np.arange(count) * step + (step - 1) / 2
        axes.append(((centres - origin) * (spacing_mm / COORDINATE_MM)).astype(np.float32))
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def condition_channels(edges: np.ndarray, mask: np.ndarray, where: np.ndarray) -> np.ndarray:
    """What the network is told: (4, I, J, K) float32.

    The first channel is 1 on edges, -1 elsewhere in the brain and 0 outside it, so that the
    network knows the mask too; the others are the coordinates `where` (3, I, J, K).
    """
    signed = np.where(mask > 0, 2.0 * (edges > 0) - 1, 0)
    return np.concatenate([signed[None], where]).astype(np.float32)


def centroid_of(mask: np.ndarray) -> np.ndarray:
    """(3,) mean voxel position of a boolean mask."""
    return np.array(
        [
            np.average(np.arange(n), weights=mask.sum(tuple({0, 1, 2} - {axis})))
            for axis, n in enumerate(mask.shape)
        ]
    )
