"""How far a result can be trusted: where it hangs on little, and when a scan is unlike the
target's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import voxel_sizes
from scipy import ndimage

from isochroma.images.brain import largest_component
from isochroma.images.preprocess import Prepared
from isochroma.models.config import TargetDomain

if TYPE_CHECKING:
    pass

THICK, FINE = 1.6, 0.8  # over the model grid's voxels
SMALLER, LARGER = 0.1, 0.2  # than the target's heads; templates are large (MNI space: 15 %)
STRANGE_ERRORS, STRANGE_ML = 3, 2.5  # healthy validation scans have 0.6 ml at most


def doubts(prepared: Prepared, voxel_mm: np.ndarray, target: TargetDomain) -> list[str]:
    """What sets a scan apart from those that the model was trained on; one line each.

    Parameters
    ----------
    prepared
        The source.
    voxel_mm
        (3,) edges of its own voxels.
    target
        With the sizes of the training scans' brains, if the model has them.
    """
    found = []
    spacing = voxel_sizes(prepared.grid.affine)
    shown = " x ".join(f"{size:.1f}" for size in voxel_mm)
    if voxel_mm.max() > THICK * spacing[0]:
        found.append(f"voxels of {shown} mm: the model was trained at {spacing[0]:.0f} mm.")
    if voxel_mm.min() < FINE * spacing[0]:
        found.append(f"voxels of {shown} mm: detail finer than {spacing[0]:.0f} mm is lost.")
    if target.smallest_mm:
        extent = brain_extent(prepared.mask) * spacing
        for axis, size, low, high in zip(
            ("wide", "long", "high"), extent, target.smallest_mm, target.largest_mm, strict=True
        ):
            if not low * (1 - SMALLER) <= size <= high * (1 + LARGER):
                found.append(
                    f"the brain is {size:.0f} mm {axis}, those of the target {low:.0f} to "
                    f"{high:.0f}: is part of it missing, or the mask wrong?"
                )
    return found


def strangeness(
    output: np.ndarray, refined: np.ndarray, prepared: Prepared, error: float
) -> list[str]:
    """A doubt, if there is a region where the source shows what the edges did not let expect.

    Parameters
    ----------
    output, refined
        (I, J, K) the first pass before and after its refinement, model units.
    prepared
        The source.
    error
        The model's root mean square error. Voxels that the refinement moved by more than 3 times as
        much count; a region is where they are more than half of what a Gaussian of 3 voxels covers.
    """
    mask = prepared.mask
    moved = mask & (np.abs(refined - output) > STRANGE_ERRORS * error)
    weight = ndimage.gaussian_filter(mask.astype(float), 3)
    share = ndimage.gaussian_filter(moved.astype(float), 3) / np.maximum(weight, 0.3)
    voxels = largest_component(mask & (share > 0.5)).sum()
    size = voxels * voxel_sizes(prepared.grid.affine).prod() / 1000
    if size <= STRANGE_ML:
        return []
    return [
        f"a region of {size:.0f} ml is not what its edges suggest: a tumour, a large lesion, or "
        "not brain? Look at the output there."
    ]


def brain_extent(mask: np.ndarray) -> np.ndarray:
    """(3,) voxels between the planes that cut off a thousandth of the mask at either end."""
    extent = []
    for axis in range(3):
        share = np.cumsum(mask.sum(tuple({0, 1, 2} - {axis}))) / mask.sum()
        extent.append(np.searchsorted(share, 0.999) - np.searchsorted(share, 0.001) + 1)
    return np.array(extent)
