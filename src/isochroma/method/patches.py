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

from isochroma.method.condition import condition_channels, coordinates


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
