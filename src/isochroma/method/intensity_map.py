"""From the images of one target to those of another: a curve for each place.

The image that a model renders shows a head as its own target does. Another target's intensity is
taken for a function of that image's intensity and of the place in the head,

    x' = sum_k phi_k(place) c_k(level),

with low-order polynomials phi_k of the coordinates and curves c_k, linear between levels; rendered
and true images of the same heads give them by least squares.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import numpy as np
from pydantic import Field

from isochroma.errors import InputError
from isochroma.method.condition import coordinates
from isochroma.settings import settings

LEVELS = 17  # of the rendered image, from -1 to 1
PLACES = 7  # polynomials: 1, y, z, x^2, y^2, z^2, yz
SHRINK = 0.01  # weight of the ridge on all but the constant polynomial, over the voxels of a level
ROUGH = 0.002  # weight of the curves' second differences, over all voxels

Curve = Annotated[tuple[float, ...], Field(min_length=LEVELS, max_length=LEVELS)]


@settings
class IntensityMap:
    """A map from a rendered image to another target's, both in model units.

    Attributes
    ----------
    curves : tuple of 7 tuples of 17 floats
        The curves, at equally spaced levels from -1 to 1, that go with the polynomials
        1, y, z, x^2, y^2, z^2 and yz of the coordinates (`condition.coordinates`).
    """

    curves: Annotated[tuple[Curve, ...], Field(min_length=PLACES, max_length=PLACES)]

    def apply(self, image: np.ndarray, mask: np.ndarray, spacing_mm: float) -> np.ndarray:
        """Bring a rendered image to the other target.

        Parameters
        ----------
        image : (I, J, K) ndarray
            Model units.
        mask : (I, J, K) ndarray of bool
            Brain mask.
        spacing_mm : float
            Edge of a voxel, mm.

        Returns
        -------
        mapped : (I, J, K) ndarray of float32
            Model units of the other target; 0 outside the mask.
        """
        lower, share = to_levels(image[mask])
        place = polynomials(mask, spacing_mm)
        curves = np.array(self.curves, np.float32)
        values = np.zeros(len(lower), np.float32)
        for curve, weight in zip(curves, place, strict=True):
            values += weight * (curve[lower] * (1 - share) + curve[lower + 1] * share)
        mapped = np.zeros(mask.shape, np.float32)
        mapped[mask] = values
        return mapped

    @property
    def gain(self) -> float:
        """Root mean square slope of the curve that goes with the constant polynomial."""
        slopes = np.diff(self.curves[0]) * (LEVELS - 1) / 2
        return float(np.sqrt(np.mean(np.square(slopes))))


def fit_intensity_map(
    pairs: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], spacing_mm: float
) -> IntensityMap:
    """Find the map that takes rendered images to true ones with the least squared error.

    Parameters
    ----------
    pairs : iterable of three (I, J, K) ndarray
        Rendered image, true image (model units of each), and brain mask, of each head; taken one by
        one.
    spacing_mm : float
        Edge of a voxel, mm.

    Returns
    -------
    found : IntensityMap
        Where a level is rare, its curves follow their neighbours.

    Raises
    ------
    InputError
        If there are no pairs.
    """
    size = PLACES * LEVELS
    normal, right, voxels = np.zeros((size, size)), np.zeros(size), 0
    for rendered, true, mask in pairs:
        of_head = normal_equations(rendered[mask], polynomials(mask, spacing_mm), true[mask])
        normal, right = normal + of_head[0], right + of_head[1]
        voxels += int(mask.sum())
    if not voxels:
        msg = "no scans to learn from. Give one or more of the target's."
        raise InputError(msg)
    bend = np.diff(np.eye(LEVELS), 2, axis=0)
    rough = np.kron(np.eye(PLACES), bend.T @ bend) * (ROUGH * voxels)
    ridge = np.repeat([0.0, *[SHRINK] * (PLACES - 1)], LEVELS) * voxels / LEVELS
    flat = 1e-9 * voxels * np.eye(size)
    curves = np.linalg.solve(normal + rough + np.diag(ridge) + flat, right)
    return IntensityMap(tuple(map(tuple, curves.reshape(PLACES, LEVELS).tolist())))


def normal_equations(
    rendered: np.ndarray, place: np.ndarray, true: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the normal equations of one head, level by level.

    Parameters
    ----------
    rendered : (V,) ndarray
        In-mask values.
    place : (7, V) ndarray
        As `polynomials` gives them.
    true : (V,) ndarray
        In-mask values.

    Returns
    -------
    normal : (119, 119) ndarray
    right : (119,) ndarray
    """
    lower, share = to_levels(rendered)
    order = np.argsort(lower, kind="stable")
    ends = np.searchsorted(lower[order], np.arange(LEVELS))
    normal, right = np.zeros((PLACES * LEVELS, PLACES * LEVELS)), np.zeros(PLACES * LEVELS)
    for level in range(LEVELS - 1):
        chosen = order[ends[level] : ends[level + 1]]
        near, far = place[:, chosen] * (1 - share[chosen]), place[:, chosen] * share[chosen]
        both = np.concatenate([near, far]).astype(np.float64)
        first = np.arange(PLACES) * LEVELS + level
        index = np.concatenate([first, first + 1])
        normal[np.ix_(index, index)] += both @ both.T
        right[index] += both @ true[chosen]
    return normal, right


def to_levels(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the level below each value, and how far the value is on the way to the next."""
    level = (np.clip(values, -1, 1).astype(np.float32) + 1) / 2 * (LEVELS - 1)
    lower = np.minimum(level.astype(np.int32), LEVELS - 2)
    return lower, level - lower


def polynomials(mask: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Return the polynomials at the mask's voxels: (7, V) float32."""
    centroid = np.argwhere(mask).mean(axis=0)
    x, y, z = coordinates(centroid, np.zeros(3), mask.shape, spacing_mm=spacing_mm)[:, mask]
    return np.stack([np.ones_like(x), y, z, x * x, y * y, z * z, y * z])
