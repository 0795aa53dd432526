"""Classical tissue segmentation of a T1w scan: CSF, grey matter and white matter."""

from __future__ import annotations

import numpy as np
from dipy.segment.tissue import TissueClassifierHMRF

CSF, GREY, WHITE = 1, 2, 3
NAMES = {CSF: "CSF", GREY: "grey matter", WHITE: "white matter"}


def classify(
    image: np.ndarray, mask: np.ndarray, beta: float = 0.1, iterations: int = 12
) -> tuple[np.ndarray, np.ndarray]:
    """Segment CSF, grey matter and white matter by a hidden Markov random field, with dipy.

    There is no training: three Gaussian classes, ordered by brightness, with a smoothness prior.

    Parameters
    ----------
    image : (I, J, K) ndarray
        Volume with T1w contrast in model units: [-1, 1] inside the mask.
    mask : (I, J, K) ndarray of bool
        Brain mask.
    beta : float
        Weight of the smoothness prior.
    iterations : int
        Largest number of rounds of expectation and maximisation.

    Returns
    -------
    labels : (I, J, K) ndarray of uint8
        `CSF`, `GREY` or `WHITE`; 0 outside the mask.
    fractions : (I, J, K, 3) ndarray of float32
        Partial volumes of the three, summing to 1 inside the mask; 0 outside.

    References
    ----------
    Zhang et al. 2001, doi:10.1109/42.906424.
    """
    # dipy's first class is the background, darker than any brain voxel. dipy fills exact zeros with
    # unseeded noise, so that no two runs would agree: give it seeded noise instead of zeros.
    noise = np.random.default_rng(0).standard_normal(mask.shape)
    brain = np.clip((image + 1) / 2, 0, 1) * 0.99 + 0.01
    positive = np.where(mask, brain, 1e-3 + 1e-4 * np.clip(noise, -5, 5)).astype(np.float64)
    classifier = TissueClassifierHMRF(verbose=False)
    _, labels, fractions = classifier.classify(positive, 3, beta, max_iter=iterations)
    inside = mask[..., None]
    return (
        np.where(mask, np.clip(labels, 1, 3), 0).astype(np.uint8),
        np.where(inside, fractions, 0).astype(np.float32),
    )
