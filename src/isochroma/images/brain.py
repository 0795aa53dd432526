"""From a scan to the image that the model sees: brain mask, bias field, intensity scale.

Every parameter is in `PreprocessSettings`, which is stored in the model's config and nowhere
else: training and use cannot differ.
"""

from __future__ import annotations

import functools

import nibabel as nib
import numpy as np
from scipy import ndimage

from isochroma.errors import InputError
from isochroma.images.grid import Grid

BRAIN_ML = (200, 3000)
STRIPPED_ML = 2000  # more than this around exact zeros is a whole head


def is_stripped(data: np.ndarray) -> bool:
    """Whether a scan is already skull-stripped: exact zeros around one component.

    The border of the volume must be zero almost everywhere, the zeros must fill a tenth of the
    volume or more, and 99 % of what is not zero must hang together.
    """
    inside = data != 0
    faces = [np.take(inside, index, axis) for axis in range(3) for index in (0, -1)]
    if np.mean(np.concatenate([face.ravel() for face in faces])) > 0.01 or inside.mean() > 0.9:
        return False
    return largest_component(inside).sum() >= 0.99 * inside.sum()


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 6-connected component of a boolean volume."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def brain_mask(
    image: nib.spatialimages.SpatialImage, given: nib.spatialimages.SpatialImage | None = None
) -> tuple[np.ndarray, str]:
    """The brain mask on the scan's grid and how it was found: given, stripped or deepbet.

    Returns
    -------
    (I, J, K) bool, and one of "given", "stripped", "deepbet".

    Raises
    ------
    InputError
        If a given mask lies on another grid or is empty, or no plausible brain is found.
    """
    data = np.asanyarray(image.dataobj)
    voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    if given is not None:
        if np.prod(given.shape) != data.size or not Grid.of(image).same_as(Grid.of(given)):
            msg = (
                f"the mask's grid {given.shape} is not the scan's {image.shape}, or its affine "
                "differs. Resample the mask to the scan."
            )
            raise InputError(msg)
        mask, origin = np.asanyarray(given.dataobj).reshape(data.shape) > 0, "given"
    elif is_stripped(data) and (data != 0).sum() * voxel_ml <= STRIPPED_ML:
        mask, origin = ndimage.binary_fill_holes(largest_component(data != 0)), "stripped"
    else:
        mask, origin = _deepbet(image), "deepbet"
    volume_ml = mask.sum() * voxel_ml
    if not BRAIN_ML[0] <= volume_ml <= BRAIN_ML[1]:
        msg = (
            f"the brain mask ({origin}) holds {volume_ml:.0f} ml; a head has {BRAIN_ML[0]} to "
            f"{BRAIN_ML[1]} ml. Check the scan, or give its mask (harmonize --mask)."
        )
        raise InputError(msg)
    return mask, origin


@functools.cache
def _brain_extraction():  # type: ignore[no-untyped-def]
    from deepbet import BrainExtraction

    return BrainExtraction(no_gpu=True)


def _deepbet(image: nib.spatialimages.SpatialImage) -> np.ndarray:
    """Brain mask of a whole head (deepbet, Fisch et al. 2024,
    doi:10.1016/j.compbiomed.2024.108845).
    """
    plain = nib.Nifti1Image(np.asarray(image.dataobj, dtype=np.float32), image.affine)
    try:
        _, mask, _ = _brain_extraction().run(plain)
    except (AssertionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        found = f"deepbet found no brain{f' ({reason})' if reason else ''}."
        msg = f"{found} Check the scan, or give its mask (harmonize --mask)."
        raise InputError(msg) from error
    return np.asanyarray(mask.dataobj) > 0
