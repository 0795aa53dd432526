"""Agreement of two volumes inside a mask. Voxels outside it count for nothing, borders included."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray, data_range: float) -> float:
    """Peak signal-to-noise ratio over the mask, 10 log10(range^2 / MSE), dB. Higher is better."""
    error = np.mean(np.square(a[mask].astype(np.float64) - b[mask]))
    return float(10 * np.log10(data_range**2 / error)) if error > 0 else float("inf")


def ncc(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    """Pearson correlation of the voxels in the mask, in [-1, 1]. Higher is better."""
    return float(np.corrcoef(a[mask].astype(np.float64), b[mask])[0, 1])


def ssim(
    a: np.ndarray, b: np.ndarray, mask: np.ndarray, data_range: float, sigma: float = 1.5
) -> float:
    """Mean structural similarity over the mask, in [-1, 1]. Higher is better.

    Wang et al. 2004 (doi:10.1109/TIP.2003.819861): 3D Gaussian window of `sigma` voxels,
    K1 = 0.01, K2 = 0.03. The local moments are taken over the voxels inside the mask alone
    (normalised convolution), so that a shared empty background cannot raise the score.

    Parameters
    ----------
    a, b
        (I, J, K) volumes in one unit whose zero is black. Signed units such as model units must be
        shifted first: with negative means, an inverted image would score as a likeness.
    mask
        (I, J, K) bool.
    data_range
        Width of the unit's range.
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
