"""Multi-stride patches for training, and tiles for use in bounded memory.

One patch size gives local detail and global anatomy. A patch holds `size`^3 samples. Most are
neighbouring voxels; with probability `strided_probability` they are taken at a stride above 1, so
that one patch spans the head (Jeong et al. 2025). The image is averaged over each stride's block
first (a low-pass, which plain subsampling lacks), edges are max-pooled over it, and the coordinates
are those of the block centres: positions really sampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

COORDINATE_MM = 100.0


@dataclass(frozen=True)
class PatchSettings:
    """How training patches are drawn.

    size
        Samples along each edge; a multiple of the network's divisor.
    strided_probability
        Share of patches with a stride above 1 (the paper's 0.2).
    """

    size: int = 64
    strided_probability: float = 0.2


class Patch(NamedTuple):
    """One training example, all float32: image, mask and draft (1, S, S, S; the draft 0 if there
    is none), condition (4, S, S, S).
    """

    image: np.ndarray
    mask: np.ndarray
    draft: np.ndarray
    condition: np.ndarray


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


def draw(
    image: np.ndarray,
    mask: np.ndarray,
    edges: np.ndarray,
    centroid: np.ndarray,
    settings: PatchSettings,
    rng: np.random.Generator,
    spacing_mm: float = 1.0,
    draft: np.ndarray | None = None,
) -> Patch:
    """Draw one patch at a random place, with a random stride and a random left-right flip.

    Parameters
    ----------
    image, mask, edges
        (I, J, K) volumes on the model grid, cropped to the brain: model units, bool, bool.
    centroid
        (3,) the mask's centroid, voxels.
    draft
        (I, J, K) in model units, if there is one.
    """
    size = settings.size
    shape = np.array(image.shape)
    stride = np.ones(3, dtype=int)
    if rng.random() < settings.strided_probability:
        span = np.maximum(2, np.ceil(shape / size)).astype(int)
        while stride.max() == 1:
            stride = rng.integers(1, span + 1)
    slack = shape - size * stride
    start = rng.integers(np.minimum(slack, 0), np.maximum(slack, 0) + 1)
    flip = bool(rng.random() < 0.5)
    return extract(image, mask, edges, centroid, start, stride, size, flip, spacing_mm, draft=draft)


def extract(
    image: np.ndarray,
    mask: np.ndarray,
    edges: np.ndarray,
    centroid: np.ndarray,
    start: np.ndarray,
    stride: np.ndarray,
    size: int,
    flip: bool = False,
    spacing_mm: float = 1.0,
    draft: np.ndarray | None = None,
) -> Patch:
    """The patch of `size`^3 samples from voxel `start` at `stride`; voxels beyond the volume are
    outside the mask. `flip` mirrors the anatomy, position included, left to right.
    """
    box, pads = [], []
    for first, step, n in zip(start, stride, image.shape, strict=True):
        low, high = max(0, int(first)), min(n, int(first + size * step))
        box.append(slice(low, high))
        pads.append((low - int(first), int(first + size * step) - high))
    cells = [value for step in stride for value in (size, int(step))]

    def blocks(volume: np.ndarray) -> np.ndarray:
        return np.pad(volume[tuple(box)], pads).reshape(cells)

    inside = blocks(mask).astype(np.float32)
    count = inside.sum((1, 3, 5))
    sampled_mask = (count >= np.prod(stride) / 2).astype(np.float32)

    def average(volume: np.ndarray) -> np.ndarray:
        total = (blocks(volume).astype(np.float32) * inside).sum((1, 3, 5))
        return total / np.maximum(count, 1) * sampled_mask

    sampled = average(image)
    sampled_draft = np.zeros_like(sampled) if draft is None else average(draft)
    sampled_edges = blocks(edges).max((1, 3, 5)) * sampled_mask
    where = coordinates(centroid, start, (size,) * 3, stride, spacing_mm)
    condition = condition_channels(sampled_edges, sampled_mask, where)
    volumes = [sampled[None], sampled_mask[None], sampled_draft[None], condition]
    if flip:
        condition[1] *= -1
        volumes = [volume[:, ::-1] for volume in volumes]
    return Patch(*(np.ascontiguousarray(volume) for volume in volumes))


def tile_boxes(
    shape: tuple[int, ...], size: int, overlap: int, multiple: int = 1
) -> list[tuple[slice, slice, slice]]:
    """Boxes of at most `size` voxels an edge that cover `shape`, neighbours sharing `overlap`.

    Parameters
    ----------
    shape
        (I, J, K), multiples of `multiple`.
    size, overlap
        Edge of a tile and shared voxels, size > overlap; both are rounded down to `multiple`.
    multiple
        Every box starts and ends at a multiple of this.
    """
    size, overlap = size // multiple * multiple, overlap // multiple * multiple
    if size <= overlap:
        msg = f"tiles of {size} voxels cannot overlap by {overlap}"
        raise ValueError(msg)
    axes = []
    for n in shape:
        starts = [*range(0, max(n - size, 0), size - overlap), max(n - size, 0)]
        axes.append([slice(start, min(start + size, n)) for start in starts])
    return [(i, j, k) for i in axes[0] for j in axes[1] for k in axes[2]]


def tile_window(shape: tuple[int, ...], overlap: int) -> np.ndarray:
    """Smooth positive weight (I, J, K) of a tile: raised-cosine ramps of `overlap` voxels at its
    faces, 1 between them.
    """
    ramps = []
    for n in shape:
        depth = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5
        ramps.append(np.sin(0.5 * np.pi * np.minimum(1, depth / max(overlap, 1))) ** 2)
    i, j, k = ramps
    return (i[:, None, None] * j[None, :, None] * k[None, None, :]).astype(np.float32) + 1e-6
