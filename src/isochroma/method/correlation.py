"""Refinement: bring the output nearer to the source, without invented structure.

The paper ascends the Pearson correlation between the harmonized image y and the source s

    r(y, s) = <y - mean y, s - mean s> / (||y - mean y|| ||s - mean s||)

by 6 gradient steps of 0.005, mean kept, against hallucinated structure. The scale of its gradient
is not published; ours is normalised to a root mean square of 1 over the mask, so a step moves the
voxels by 0.005 model units on average. The correlation is global: where the source's contrast is
inverted (T2w), ascending it pulls the output the wrong way.

"local" asks instead which intensity the source gives to each intensity of the output, nearby, and
moves the output to where the source says. Every structure of the source then shows, lesions too,
and no structure that it lacks, whatever the sign of its contrast; see `follow_source`.
"""

from __future__ import annotations

import numpy as np

from isochroma.method.refinement import placed


def ascend_correlation(
    output: np.ndarray,
    source: np.ndarray,
    mask: np.ndarray,
    step: float = 0.005,
    iterations: int = 6,
) -> np.ndarray:
    """Gradient ascent on the in-mask Pearson correlation with the source (Jeong et al. 2025).

    Parameters
    ----------
    output, source
        (I, J, K) volumes in model units.
    mask
        (I, J, K) bool.
    step
        Root-mean-square change of the voxels in one iteration, model units.
    iterations
        Number of steps.

    Returns
    -------
    (I, J, K) float32 with the mean of `output`; unchanged outside the mask.
    """
    y = output[mask].astype(np.float64)
    mean = y.mean()
    y -= mean
    if np.ptp(y) == 0:  # a constant correlates with nothing
        return output.astype(np.float32, copy=True)
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
    return placed(y + mean, output, mask)
