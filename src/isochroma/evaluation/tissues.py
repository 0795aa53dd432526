"""Tissue classes of a T1w-like volume: CSF, grey matter, white matter, from dark to bright."""

from __future__ import annotations

import numpy as np
from dipy.segment.tissue import TissueClassifierHMRF

CSF, GREY, WHITE = 1, 2, 3
NAMES = {CSF: "CSF", GREY: "grey matter", WHITE: "white matter"}


def classify(
    image: np.ndarray, mask: np.ndarray, beta: float = 0.1, iterations: int = 12
) -> tuple[np.ndarray, np.ndarray]:
    """Hidden Markov random field segmentation (Zhang et al. 2001, doi:10.1109/42.906424), by dipy.

    No training: three Gaussian classes, ordered by brightness, with a smoothness prior.

    Parameters
    ----------
    image
        (I, J, K) T1w-like volume in model units, [-1, 1] inside the mask.
    mask
        (I, J, K) bool.
    beta
        Weight of the smoothness prior.
    iterations
        At most so many rounds of expectation and maximisation.

    Returns
    -------
    labels
        (I, J, K) uint8: 0 outside the mask, 1 CSF, 2 grey matter, 3 white matter.
    fractions
        (I, J, K, 3) float32 partial volumes of the three, summing to 1 inside the mask, 0 outside.
    """
    # dipy's first class is the background, darker than any brain voxel. It would fill exact zeros
    # with unseeded noise, so that no two runs agree: there are none.
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
