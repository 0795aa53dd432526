"""Multi-stride training patches.

One patch size gives local detail and global anatomy (Jeong et al. 2025, arXiv:2505.00133). A patch
holds `size`^3 samples. Most patches take neighbouring voxels; a share of `strided_probability` has
a stride above 1, so that one patch can span the head. Unlike plain subsampling, a strided patch
averages the image over each block of voxels (a low-pass filter) and takes the maximum of its edges;
the coordinates are those of the block centres.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from isochroma.method.condition import condition_channels, coordinates
from isochroma.settings import settings


@settings
class PatchSettings:
    """How training patches are drawn.

    Attributes
    ----------
    size : int
        Samples along each edge; a multiple of the network's divisor.
    strided_probability : float
        Share of patches with a stride above 1, in [0, 1]; 0.2 in the paper.
    """

    size: Annotated[int, Field(ge=1, le=512)] = 64
    strided_probability: Annotated[float, Field(ge=0, le=1)] = 0.2


class Volumes(NamedTuple):
    """Hold what patches are cut from, on the model grid and cropped to the brain.

    Attributes
    ----------
    image : (I, J, K) ndarray of float
        Target image in model units, [-1, 1].
    mask : (I, J, K) ndarray of bool
        Brain mask.
    edges : (I, J, K) ndarray of bool
        Edge map.
    centroid : (3,) ndarray of float
        Centroid of the mask, in voxels.
    draft : (I, J, K) ndarray of float, optional
        Draft of the image that the second pass starts from, in model units.
    """

    image: np.ndarray
    mask: np.ndarray
    edges: np.ndarray
    centroid: np.ndarray
    draft: np.ndarray | None = None


class Patch(NamedTuple):
    """Hold one training patch; all arrays are float32.

    Attributes
    ----------
    image, mask, draft : (1, S, S, S) ndarray
        The draft is 0 where there is none.
    condition : (4, S, S, S) ndarray
        Edges and coordinates, see `condition.condition_channels`.
    """

    image: np.ndarray
    mask: np.ndarray
    draft: np.ndarray
    condition: np.ndarray


def draw(
    volumes: Volumes,
    settings: PatchSettings,
    rng: np.random.Generator,
    spacing_mm: float = 1.0,
) -> Patch:
    """Draw one patch at a random place, with a random stride and a random left-right flip.

    Parameters
    ----------
    volumes : Volumes
        What to cut from.
    settings : PatchSettings
        Size and share of strided patches.
    rng : numpy.random.Generator
        Source of every random choice.
    spacing_mm : float
        Edge of a voxel in mm.

    Returns
    -------
    patch : Patch
        The patch.
    """
    size = settings.size
    shape = np.array(volumes.image.shape)
    stride = np.ones(3, dtype=int)
    if rng.random() < settings.strided_probability:
        span = np.maximum(2, np.ceil(shape / size)).astype(int)
        while stride.max() == 1:
            stride = rng.integers(1, span + 1)
    slack = shape - size * stride
    start = rng.integers(np.minimum(slack, 0), np.maximum(slack, 0) + 1)
    flip = bool(rng.random() < 0.5)
    return extract(volumes, start, stride, size, flip, spacing_mm)


def extract(
    volumes: Volumes,
    start: np.ndarray,
    stride: np.ndarray,
    size: int,
    flip: bool = False,
    spacing_mm: float = 1.0,
) -> Patch:
    """Cut out one patch.

    Parameters
    ----------
    volumes : Volumes
        What to cut from. Voxels beyond its border count as outside the mask.
    start : (3,) ndarray of int
        First voxel along each axis; may be negative.
    stride : (3,) ndarray of int
        Voxels that a sample stands for, along each axis.
    size : int
        Samples along each edge.
    flip : bool
        Mirror the anatomy left to right; its coordinates are mirrored with it.
    spacing_mm : float
        Edge of a voxel in mm.

    Returns
    -------
    patch : Patch
        A sample is inside the mask if at least half of its block is. Image and draft are means over
        the block's voxels inside the mask; a sample is an edge if any voxel of its block is.
    """
    box, pads = [], []
    for first, step, n in zip(start, stride, volumes.image.shape, strict=True):
        low, high = max(0, int(first)), min(n, int(first + size * step))
        box.append(slice(low, high))
        pads.append((low - int(first), int(first + size * step) - high))
    cells = [value for step in stride for value in (size, int(step))]

    def blocks(volume: np.ndarray) -> np.ndarray:
        return np.pad(volume[tuple(box)], pads).reshape(cells)

    inside = blocks(volumes.mask).astype(np.float32)
    count = inside.sum((1, 3, 5))
    mask = (count >= np.prod(stride) / 2).astype(np.float32)

    def average(volume: np.ndarray) -> np.ndarray:
        total = (blocks(volume).astype(np.float32) * inside).sum((1, 3, 5))
        return total / np.maximum(count, 1) * mask

    image = average(volumes.image)
    draft = np.zeros_like(image) if volumes.draft is None else average(volumes.draft)
    edges = blocks(volumes.edges).max((1, 3, 5)) * mask
    where = coordinates(volumes.centroid, start, (size,) * 3, stride, spacing_mm)
    condition = condition_channels(edges, mask, where)
    parts = [image[None], mask[None], draft[None], condition]
    if flip:
        condition[1] *= -1
        parts = [part[:, ::-1] for part in parts]
    return Patch(*(np.ascontiguousarray(part) for part in parts))
