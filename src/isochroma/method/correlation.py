"""The paper's refinement: ascend the correlation with the source, against hallucinated structure.

With y the harmonized image and s the source, both without their means,

    r(y, s) = <y, s> / (||y|| ||s||)

is ascended by 6 gradient steps of 0.005, the mean of y kept. The paper does not publish the scale
of its gradient; here it is normalised to a root mean square of 1 over the mask, so that a step
moves the voxels by 0.005 model units on average. The correlation is global: where the source's
contrast is inverted (T2w), ascending it pulls the output the wrong way.
"""

from __future__ import annotations

import numpy as np


def ascend_correlation(
    output: np.ndarray,
    source: np.ndarray,
    mask: np.ndarray,
    step: float = 0.005,
    iterations: int = 6,
) -> np.ndarray:
    """Move the output up the gradient of its Pearson correlation with the source.

    Parameters
    ----------
    output, source : (I, J, K) ndarray of float
        Model units.
    mask : (I, J, K) ndarray of bool
        The brain.
    step : float
        Root mean square change of the voxels in one iteration, model units.
    iterations : int
        Number of steps.

    Returns
    -------
    refined : (I, J, K) ndarray of float32
        With the in-mask mean of `output`; unchanged outside the mask.

    References
    ----------
    Jeong et al. 2025, arXiv:2505.00133.
    """
    refined = output.astype(np.float32, copy=True)
    y = output[mask].astype(np.float64)
    mean = y.mean()
    y -= mean
    if np.ptp(y) == 0:  # a constant correlates with nothing
        return refined
    s = source[mask].astype(np.float64)
    s -= s.mean()
    s /= np.linalg.norm(s)
    for _ in range(iterations):
        unit = y / np.linalg.norm(y)
        gradient = s - (unit @ s) * unit  # of r, up to the factor 1 / ||y||; its mean is 0
        size = np.sqrt(np.mean(gradient**2))
        if size < 1e-12:  # perfectly correlated already
            break
        y += step * gradient / size
    refined[mask] = y + mean
    return refined
