"""Agreement of two volumes inside a mask. Voxels outside it count for nothing, borders included."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray, data_range: float) -> float:
    """Compute the peak signal-to-noise ratio, 10 log10(range^2 / MSE). Higher is better.

    Parameters
    ----------
    a, b : (I, J, K) ndarray
        Two volumes in one unit.
    mask : (I, J, K) ndarray of bool
        Voxels that count.
    data_range : float
        Width of the unit's range.

    Returns
    -------
    psnr : float
        In dB; infinite for equal volumes.
    """
    error = np.mean(np.square(a[mask].astype(np.float64) - b[mask]))
    return float(10 * np.log10(data_range**2 / error)) if error > 0 else float("inf")


def ncc(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """Compute the Pearson correlation of in-mask voxels. Higher is better.

    Parameters
    ----------
    a, b : (I, J, K) ndarray
        Two volumes, each in any unit.
    mask : (I, J, K) ndarray of bool
        Voxels that count.

    Returns
    -------
    ncc : float
        In [-1, 1].
    """
    return float(np.corrcoef(a[mask].astype(np.float64), b[mask])[0, 1])


def ssim(
    a: np.ndarray, b: np.ndarray, mask: np.ndarray, data_range: float, sigma: float = 1.5
) -> float:
    """Compute the mean structural similarity over a mask. Higher is better.

    The local moments are taken over in-mask voxels alone (normalised convolution), so that a shared
    empty background cannot raise the score.

    Parameters
    ----------
    a, b : (I, J, K) ndarray
        Volumes in one unit whose zero is black. Signed units such as model units must be shifted
        first: with negative means, an inverted image would score as a likeness.
    mask : (I, J, K) ndarray of bool
        Voxels that count.
    data_range : float
        Width of the unit's range.
    sigma : float
        Standard deviation of the Gaussian window, voxels.

    Returns
    -------
    ssim : float
        In [-1, 1].

    References
    ----------
    Wang et al. 2004, doi:10.1109/TIP.2003.819861, with K1 = 0.01, K2 = 0.03, in 3D.
    """
    mask = np.asarray(mask, dtype=bool)
    weight = np.maximum(ndimage.gaussian_filter(mask.astype(np.float32), sigma), 1e-6)

    def local_mean(volume: np.ndarray) -> np.ndarray:
        inside = np.where(mask, volume, 0).astype(np.float32)
        return (ndimage.gaussian_filter(inside, sigma) / weight)[mask]

    a, b = np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32)
    mean_a, mean_b = local_mean(a), local_mean(b)
    var_a = np.maximum(local_mean(a * a) - mean_a**2, 0)
    var_b = np.maximum(local_mean(b * b) - mean_b**2, 0)
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return float(np.mean(luminance * structure))
