"""White matter lesions of graded size and contrast, planted into a scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from isochroma.errors import InputError
from isochroma.evaluation.tissues import GREY, WHITE

# Around a lesion, white matter of SHELL_WIDTH voxels is its reference, SHELL_GAP voxels from it.
SHELL_GAP, SHELL_WIDTH = 1, 2
SOFT_EDGE_MM = 1.0
STRETCH = 0.15  # largest change of the logarithm of an axis, before its mean is removed
LONGEST = float(np.exp(4 / 3 * STRETCH))  # longest possible axis over the lesion's radius


@dataclass(frozen=True)
class Lesion:
    """One planted lesion.

    Attributes
    ----------
    label : int
        Its value in the label volume.
    radius_mm : float
        Geometric mean of its three radii, mm.
    amount : float
        Share of lesion tissue in its middle.
    volume_mm3 : float
        Volume of its label, mm^3.
    centre : tuple of 3 ints
        Voxel indices.
    """

    label: int
    radius_mm: float
    amount: float
    volume_mm3: float
    centre: tuple[int, int, int]


def plant_lesions(
    tissues: np.ndarray,
    rng: np.random.Generator,
    radii_mm: Sequence[float] = (2, 3, 4, 6),
    amounts: Sequence[float] = (0.25, 0.5, 1.0),
    spacing_mm: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, list[Lesion]]:
    """Place one white matter lesion for each radius and amount, the largest first.

    A lesion is an ellipsoid, randomly rotated and stretched by up to a fifth, with an edge 1 mm
    soft. Lesions keep a distance from other tissue, from the mask's border and from the shells in
    which other lesions' contrast is measured. Lesions for which no place is left are omitted.

    Parameters
    ----------
    tissues : (I, J, K) ndarray of int
        Labels as in `isochroma.evaluation.tissues`.
    rng : numpy.random.Generator
        Source of places and shapes.
    radii_mm : sequence of float
        Geometric mean radii, mm.
    amounts : sequence of float
        Shares of lesion tissue in the lesions' middles.
    spacing_mm : float
        Edge of a voxel, mm.

    Returns
    -------
    amount : (I, J, K) ndarray of float32
        Share of lesion tissue in each voxel; 0 outside white matter.
    labels : (I, J, K) ndarray of int32
        The lesions' labels; 0 elsewhere.
    lesions : list of Lesion
        One record a lesion.

    Raises
    ------
    InputError
        If there is no place for any lesion.
    """
    depth = white_depth(tissues)
    amount = np.zeros(tissues.shape, dtype=np.float32)
    labels = np.zeros(tissues.shape, dtype=np.int32)
    placed: list[Lesion] = []
    for radius_mm, most in sorted(product(radii_mm, amounts), reverse=True):
        places = np.argwhere(depth >= radius_mm / spacing_mm + SHELL_GAP)
        for other in placed:
            reach = LONGEST * (radius_mm + other.radius_mm) / spacing_mm
            apart = np.linalg.norm(places - np.array(other.centre), axis=1)
            places = places[apart >= reach + SHELL_GAP + SHELL_WIDTH]
        if not len(places):
            continue
        i, j, k = (int(index) for index in rng.choice(places))
        weight = ellipsoid(radius_mm / spacing_mm, SOFT_EDGE_MM / spacing_mm, rng)
        box, part = overlap(tissues.shape, weight.shape, (i, j, k))
        weight = np.where(depth[box] > 0, weight[part], 0)
        amount[box] += most * weight
        label = len(placed) + 1
        labels[box][weight >= 0.5] = label
        volume = float((weight >= 0.5).sum()) * spacing_mm**3
        placed.append(Lesion(label, radius_mm, most, volume, (i, j, k)))
    if not placed:
        msg = "no lesion fits into the white matter. Use smaller radii, or check the tissue labels."
        raise InputError(msg)
    return amount, labels, placed


def show_lesions(
    image: np.ndarray, tissues: np.ndarray, amount: np.ndarray, contrast: float = 1.0
) -> np.ndarray:
    """Show planted lesions in a T1w scan.

    Parameters
    ----------
    image : (I, J, K) ndarray of float32
        The scan without them, model units. Its texture stays.
    tissues : (I, J, K) ndarray of int
        Labels as in `isochroma.evaluation.tissues`.
    amount : (I, J, K) ndarray
        As `plant_lesions` gives it.
    contrast : float
        What pure lesion tissue differs from white matter by, over the difference of mean white and
        grey matter: 1 is grey matter's brightness.

    Returns
    -------
    changed : (I, J, K) ndarray of float32
        The scan with lesions, clipped to [-1, 1] in them.
    """
    step = float(image[tissues == WHITE].mean() - image[tissues == GREY].mean())
    darker = np.clip(image - amount * contrast * step, -1, 1)
    return np.where(amount > 0, darker, image).astype(np.float32)


def white_depth(tissues: np.ndarray) -> np.ndarray:
    """Measure the distance of each white matter voxel to other tissue.

    Specks of other labels inside the white matter, of a voxel or two, do not count.

    Parameters
    ----------
    tissues : (I, J, K) ndarray of int
        Labels as in `isochroma.evaluation.tissues`.

    Returns
    -------
    depth : (I, J, K) ndarray of float
        Distance in voxels; 0 outside white matter.
    """
    white = tissues == WHITE
    filled = ndimage.binary_closing(white) & (tissues > 0)
    return ndimage.distance_transform_edt(np.pad(filled, 1))[1:-1, 1:-1, 1:-1]


def ellipsoid(radius: float, soft: float, rng: np.random.Generator) -> np.ndarray:
    """Draw an ellipsoid of random shape and orientation.

    Parameters
    ----------
    radius : float
        Geometric mean radius, voxels.
    soft : float
        Width of the edge in which the weight falls from 1 to 0, voxels.
    rng : numpy.random.Generator
        Source of shape and orientation.

    Returns
    -------
    weight : (n, n, n) ndarray of float32
        In [0, 1]; n is odd.
    """
    stretch = rng.uniform(-STRETCH, STRETCH, 3)
    axes = radius * np.exp(stretch - stretch.mean())
    turn = Rotation.random(None, rng).as_matrix()
    half = int(np.ceil(LONGEST * (radius + soft)))
    offsets = np.stack(np.meshgrid(*[np.arange(-half, half + 1)] * 3, indexing="ij"), axis=-1)
    relative = np.linalg.norm(offsets @ turn / axes, axis=-1)
    return np.clip(0.5 + (1 - relative) * radius / soft, 0, 1).astype(np.float32)


def overlap(
    shape: tuple[int, ...], size: tuple[int, ...], centre: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Find where a small volume, centred at a voxel of a large one, overlaps it.

    Parameters
    ----------
    shape, size : tuple of int
        Shapes of the large and of the small volume; `size` is odd.
    centre : tuple of int
        Voxel of the large volume.

    Returns
    -------
    box, part : tuple of slices
        The overlap in the large and in the small volume.
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
