"""Is the anatomy, and above all a lesion, still there in the output?

Every measure compares with a reference on the same grid: the source where nothing else is known,
the truth where there is one. A method that does nothing keeps everything; read with `closeness`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from isochroma.errors import InputError
from isochroma.evaluation.tissues import GREY, WHITE

SHELL_GAP, SHELL_WIDTH = 1, 2  # voxels of white matter around a lesion: left out, taken
SOFT_EDGE_MM = 1.0
LONGEST = float(np.exp(0.2))  # of a planted lesion's axes, over its radius


@dataclass(frozen=True)
class Lesion:
    """One planted lesion: its label, size (geometric mean radius), depth as a fraction of the
    white/grey contrast, volume, and centre (voxels).
    """

    label: int
    radius_mm: float
    contrast: float
    volume_mm3: float
    centre: tuple[int, int, int]


def insert_lesions(
    image: np.ndarray,
    tissues: np.ndarray,
    rng: np.random.Generator,
    radii_mm: Sequence[float] = (2, 3, 4, 6),
    contrasts: Sequence[float] = (0.25, 0.5, 1.0),
    spacing_mm: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, list[Lesion]]:
    """Plant one white matter lesion for each radius and contrast; largest first.

    A lesion is an ellipsoid, randomly turned and stretched by up to a fifth, with an edge 1 mm
    soft. The white matter in it is shifted by `contrast` times the difference of mean white and
    grey matter: 1 brings it to grey matter, more towards CSF. Its texture stays. Lesions keep away
    from other tissue, from the mask's border and from each other's shells; those for which no place
    is left are left out.

    Parameters
    ----------
    image
        (I, J, K) float32, model units.
    tissues
        (I, J, K) labels as in `isochroma.tissues`.

    Returns
    -------
    The image with lesions (clipped to [-1, 1]), (I, J, K) int32 labels (0 where there is none), and
    one record for each lesion.

    Raises
    ------
    InputError
        If there is no place for any.
    """
    depth = white_depth(tissues)
    step = float(image[tissues == WHITE].mean() - image[tissues == GREY].mean())
    changed, labels = image.astype(np.float32), np.zeros(image.shape, dtype=np.int32)
    placed: list[Lesion] = []
    for radius_mm, contrast in sorted(product(radii_mm, contrasts), reverse=True):
        places = np.argwhere(depth >= radius_mm / spacing_mm + SHELL_GAP)
        for other in placed:
            reach = LONGEST * (radius_mm + other.radius_mm) / spacing_mm
            apart = np.linalg.norm(places - np.array(other.centre), axis=1)
            places = places[apart >= reach + SHELL_GAP + SHELL_WIDTH]
        if not len(places):
            continue
        i, j, k = (int(index) for index in rng.choice(places))
        weight = ellipsoid(radius_mm / spacing_mm, SOFT_EDGE_MM / spacing_mm, rng)
        box, part = overlap(image.shape, weight.shape, (i, j, k))
        weight = np.where(depth[box] > 0, weight[part], 0)
        darker = np.clip(changed[box] - weight * contrast * step, -1, 1)
        changed[box] = np.where(weight > 0, darker, changed[box])
        label = len(placed) + 1
        labels[box][weight >= 0.5] = label
        volume = float((weight >= 0.5).sum()) * spacing_mm**3
        placed.append(Lesion(label, radius_mm, contrast, volume, (i, j, k)))
    if not placed:
        msg = "no lesion fits into the white matter. Use smaller radii, or check the tissue labels."
        raise InputError(msg)
    return changed, labels, placed


def white_depth(tissues: np.ndarray) -> np.ndarray:
    """Distance of each white matter voxel to other tissue, voxels (0 outside); specks of other
    labels inside the white matter, of a voxel or two, do not count.
    """
    white = tissues == WHITE
    filled = ndimage.binary_closing(white) & (tissues > 0)
    return ndimage.distance_transform_edt(np.pad(filled, 1))[1:-1, 1:-1, 1:-1]


def ellipsoid(radius: float, soft: float, rng: np.random.Generator) -> np.ndarray:
    """(n, n, n) float32 weights in [0, 1]: an ellipsoid of random form, its edge `soft` voxels."""
    stretch = rng.uniform(-0.15, 0.15, 3)
    axes = radius * np.exp(stretch - stretch.mean())
    turn = Rotation.random(None, rng).as_matrix()
    half = int(np.ceil(LONGEST * (radius + soft)))
    offsets = np.stack(np.meshgrid(*[np.arange(-half, half + 1)] * 3, indexing="ij"), axis=-1)
    relative = np.linalg.norm(offsets @ turn / axes, axis=-1)
    return np.clip(0.5 + (1 - relative) * radius / soft, 0, 1).astype(np.float32)


def overlap(
    shape: tuple[int, ...], size: tuple[int, ...], centre: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a small volume of odd size, centred at a voxel, lies in a large one: the slices of the
    large volume, and those of the small one that are inside it.
    """
    starts = [c - n // 2 for c, n in zip(centre, size, strict=True)]
    box = tuple(
        slice(max(0, start), min(m, start + n))
        for start, n, m in zip(starts, size, shape, strict=True)
    )
    part = tuple(
        slice(s.start - start, s.stop - start) for s, start in zip(box, starts, strict=True)
    )
    return box, part
