"""Brain masks: given by the user, taken from a skull-stripped scan, or found by deepbet."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage

from isochroma.errors import InputError
from isochroma.images.grid import Grid

BRAIN_ML = (200, 3000)  # plausible volumes of a brain mask, from infants to large masks
STRIPPED_ML = 2000  # more than this around exact zeros is a whole head


class Brain(NamedTuple):
    """Hold a brain mask and how it was found.

    Attributes
    ----------
    mask : (I, J, K) ndarray of bool
        On the scan's own grid.
    origin : str
        "given", or the name of the `EXTRACTORS` entry that found it.
    """

    mask: np.ndarray
    origin: str


def find_brain(
    scan: nib.spatialimages.SpatialImage, given: nib.spatialimages.SpatialImage | None = None
) -> Brain:
    """Take the given brain mask, or ask the `EXTRACTORS` in turn.

    Parameters
    ----------
    scan : SpatialImage
        One 3D scan.
    given : SpatialImage, optional
        Mask on the scan's grid; positive voxels are brain.

    Returns
    -------
    brain : Brain
        The mask and its origin.

    Raises
    ------
    InputError
        If the given mask lies on another grid, or no brain of plausible volume is found.
    """
    if given is not None:
        brain = Brain(_given(scan, given), "given")
    else:
        found = ((name, extract(scan)) for name, extract in EXTRACTORS.items())
        brain = next(Brain(mask, name) for name, mask in found if mask is not None)
    volume_ml = brain.mask.sum() * Grid.of(scan).voxel_ml
    if not BRAIN_ML[0] <= volume_ml <= BRAIN_ML[1]:
        msg = (
            f"the brain mask ({brain.origin}) holds {volume_ml:.0f} ml; a head has {BRAIN_ML[0]} "
            f"to {BRAIN_ML[1]} ml. Check the scan, or give its brain mask."
        )
        raise InputError(msg, "mask")
    return brain


def stripped(scan: nib.spatialimages.SpatialImage) -> np.ndarray | None:
    """Take the mask of a scan that is skull-stripped already.

    Parameters
    ----------
    scan : SpatialImage
        One 3D scan.

    Returns
    -------
    mask : (I, J, K) ndarray of bool or None
        The non-zero voxels, holes filled; None if the scan does not look stripped.
    """
    data = np.asanyarray(scan.dataobj)
    inside = data != 0
    if not is_stripped(data) or inside.sum() * Grid.of(scan).voxel_ml > STRIPPED_ML:
        return None
    return ndimage.binary_fill_holes(largest_component(inside))


def deepbet(scan: nib.spatialimages.SpatialImage) -> np.ndarray:
    """Find the brain of a whole head by the neural network deepbet.

    Parameters
    ----------
    scan : SpatialImage
        One 3D scan.

    Returns
    -------
    mask : (I, J, K) ndarray of bool

    Raises
    ------
    InputError
        If deepbet finds none.

    References
    ----------
    Fisch et al. 2024, doi:10.1016/j.compbiomed.2024.108845.
    """
    plain = nib.Nifti1Image(np.asarray(scan.dataobj, dtype=np.float32), scan.affine)
    try:
        _, mask, _ = _deepbet_network().run(plain)
    except (AssertionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        found = f"deepbet found no brain{f' ({reason})' if reason else ''}."
        msg = f"{found} Check the scan, or give its brain mask."
        raise InputError(msg, "mask") from error
    return np.asanyarray(mask.dataobj) > 0


EXTRACTORS: dict[str, Callable[[nib.spatialimages.SpatialImage], np.ndarray | None]] = {
    "stripped": stripped,
    "deepbet": deepbet,
}
"""Brain extractors by name, in the order in which they are asked; None passes the scan on."""


def is_stripped(data: np.ndarray) -> bool:
    """Tell whether exact zeros surround one connected region.

    The border of the volume must be zero almost everywhere (99 %), zeros must fill a tenth of the
    volume or more, and 99 % of the other voxels must be connected.

    Parameters
    ----------
    data : (I, J, K) ndarray
        A scan.

    Returns
    -------
    stripped : bool
    """
    inside = data != 0
    faces = [np.take(inside, index, axis) for axis in range(3) for index in (0, -1)]
    if np.mean(np.concatenate([face.ravel() for face in faces])) > 0.01 or inside.mean() > 0.9:
        return False
    return bool(largest_component(inside).sum() >= 0.99 * inside.sum())


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Keep the largest 6-connected component of a mask.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
        May be empty.

    Returns
    -------
    largest : (I, J, K) ndarray of bool
    """
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def _given(
    scan: nib.spatialimages.SpatialImage, given: nib.spatialimages.SpatialImage
) -> np.ndarray:
    shape = scan.shape
    if np.prod(given.shape) != np.prod(shape) or not Grid.of(scan).same_as(Grid.of(given)):
        msg = (
            f"the mask's grid {given.shape} is not the scan's {shape}, or its affine "
            "differs. Resample the mask to the scan."
        )
        raise InputError(msg, "mask")
    return np.asanyarray(given.dataobj).reshape(shape) > 0


@functools.cache
def _deepbet_network():  # type: ignore[no-untyped-def]
    from deepbet import BrainExtraction

    return BrainExtraction(no_gpu=True)


brain_mask = find_brain  # until every caller has the new name
