"""Volumes and grids: load a scan, resample it between grids, save it whole or not at all.

A *grid* is a shape and an affine. Work happens on the *model grid*: closest canonical
orientation (RAS+), isotropic voxels, the scan's own field of view. No template is involved, so
anatomy is never warped, and going back is one more resampling onto the scan's own grid.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def extend_outside(data: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Replace every voxel outside `mask` by its nearest voxel inside, so that no interpolation
    or filter mixes the inside with what surrounds it.
    """
    nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return data[tuple(nearest)]
