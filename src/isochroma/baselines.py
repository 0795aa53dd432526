"""What a user would do without a model: match histograms."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk


def match_histogram(image: np.ndarray, mask: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Histogram matching to the target domain (Nyul et al. 2000, doi:10.1109/42.836373), by
    SimpleITK, inside the mask.

    Parameters
    ----------
    image
        (I, J, K) scan, any unit.
    mask
        (I, J, K) bool.
    quantiles
        (Q,) in-mask quantiles of the target domain at equal probabilities 0 to 1.

    Returns
    -------
    (I, J, K) float32 in the unit of `quantiles`, 0 outside the mask.
    """
    grid = np.linspace(0, 1, len(quantiles))
    reference = np.interp(np.linspace(0, 1, 20001), grid, quantiles).astype(np.float32)
    source = image[mask].astype(np.float32)
    matched = sitk.HistogramMatching(
        sitk.GetImageFromArray(source[None]),
        sitk.GetImageFromArray(reference[None]),
        numberOfHistogramLevels=1024,
        numberOfMatchPoints=100,
        thresholdAtMeanIntensity=False,
    )
    output = np.zeros(image.shape, dtype=np.float32)
    output[mask] = sitk.GetArrayFromImage(matched)[0]
    return output
