"""Fine structure of a volume: what one blur leaves and a wider one does not."""

from __future__ import annotations

import numpy as np

from isochroma.images.masked import smooth

FINE, COARSE = 1.0, 2.0  # voxels
STRONG = 0.99  # quantile of its size from which detail is strong


def detail(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Compute the difference of two Gaussian blurs inside a mask.

    Parameters
    ----------
    image : (I, J, K) ndarray
        Any unit.
    mask : (I, J, K) ndarray of bool
        Voxels that count.

    Returns
    -------
    detail : (I, J, K) ndarray of float32
        Bright spots above 0, dark ones below; 0 outside the mask.

    References
    ----------
    Marr and Hildreth 1980, doi:10.1098/rspb.1980.0020.
    """
    fine, coarse = (smooth(image, mask, sigma) for sigma in (FINE, COARSE))
    return np.where(mask, fine - coarse, 0).astype(np.float32)
