"""The mean head of several scans, and its alignment with a brain mask by shift and scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from isochroma.images.masked import extend_outside, profile
from isochroma.images.preprocess import Prepared


class MeanHead(NamedTuple):
    """A mean image and the frame of its brain.

    Attributes
    ----------
    image : (I, J, K) ndarray of float32
        Mean intensities, extended beyond the mean brain.
    centre, spread : (3,) ndarray of float
        The brain's centroid and standard deviation along each axis, voxels.
    """

    image: np.ndarray
    centre: np.ndarray
    spread: np.ndarray


def brain_frame(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measure the position and size of a brain along each axis.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
        Brain mask.

    Returns
    -------
    centre, spread : (3,) ndarray of float
        Mean and standard deviation of the mask's voxel indices.
    """
    centre, spread = [], []
    for axis, size in enumerate(mask.shape):
        counts = profile(mask, axis)
        middle = np.average(np.arange(size), weights=counts)
        centre.append(middle)
        spread.append(np.sqrt(np.average((np.arange(size) - middle) ** 2, weights=counts)))
    return np.array(centre), np.array(spread)


def average_heads(scans: Sequence[Prepared]) -> MeanHead:
    """Average scans after a shift and a scale along each axis that align their brain masks.

    Heads lie upright on the model grid, so none is turned.

    Parameters
    ----------
    scans : sequence of Prepared
        Scans of one contrast.

    Returns
    -------
    head : MeanHead
        In the unit of the scans.
    """
    pairs = [(np.asarray(scan.image, np.float32), np.asarray(scan.mask)) for scan in scans]
    frames = [brain_frame(mask) for _, mask in pairs]
    spread = np.mean([frame[1] for frame in frames], axis=0)
    centre = np.ceil(3 * spread)  # the surface of an ellipsoid is at sqrt(5) = 2.24 spreads
    shape = tuple((2 * centre + 1).astype(int))
    total, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for (image, mask), (middle, width) in zip(pairs, frames, strict=True):
        scale = width / spread
        for volume, into in ((np.where(mask, image, 0), total), (mask.astype(np.float32), weight)):
            into += ndimage.affine_transform(
                volume, scale, middle - scale * centre, shape, order=1, prefilter=False
            )
    mean = total / np.maximum(weight, 1e-6)
    return MeanHead(extend_outside(mean, weight > len(pairs) / 2), centre, spread)


def place_head(head: MeanHead, mask: np.ndarray) -> np.ndarray:
    """Shift and scale a mean head to the position and size of a brain mask.

    Parameters
    ----------
    head : MeanHead
        As `average_heads` returns it.
    mask : (I, J, K) ndarray of bool
        Brain mask.

    Returns
    -------
    image : (I, J, K) ndarray of float32
        In the head's unit; 0 outside the mask.
    """
    centre, spread = brain_frame(mask)
    scale = head.spread / spread
    placed = ndimage.affine_transform(
        head.image, scale, head.centre - scale * centre, mask.shape, order=1, mode="nearest"
    )
    return np.where(mask, placed, 0).astype(np.float32)
