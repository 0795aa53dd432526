"""How far a result can be trusted: where it hangs on little, and when a scan is unlike the
target's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from isochroma.images.preprocess import Prepared
from isochroma.method.refinement import noise_variance

if TYPE_CHECKING:
    from isochroma.pipeline import Harmonizer

UNSURE_SHARE = 0.05  # of the brain


def uncertainty(
    harmonizer: Harmonizer,
    prepared: Prepared,
    runs: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> np.ndarray:
    """Standard deviation of the output over runs that differ as repeated scans do.

    Each run adds noise of the source's own level to it once more, and finds a share of edge voxels
    that is up to 15 % smaller or larger. Errors that all runs share, those of the network first of
    all, do not show: this is no confidence interval.

    Parameters
    ----------
    harmonizer
        Its sampling's seed is that of the runs.
    prepared
        The source.
    runs
        2 or more.
    progress
        Called with ("uncertainty", done, total).

    Returns
    -------
    (I, J, K) float32, model units; 0 outside the mask.
    """
    rng = np.random.default_rng(harmonizer.sampling.seed)
    level = np.sqrt(noise_variance(prepared.image, prepared.mask))
    config = harmonizer.config
    total, squares = np.zeros(prepared.mask.shape), np.zeros(prepared.mask.shape)
    for done in range(runs):
        if progress is not None:
            progress("uncertainty", done, runs)
        noise = level * rng.standard_normal(prepared.mask.shape)
        image = np.clip(prepared.image + np.where(prepared.mask, noise, 0), -1, 1)
        fraction = config.edges.fraction * rng.uniform(0.85, 1.15)
        output = harmonizer.translate(
            dataclasses.replace(prepared, image=image.astype(np.float32)),
            edges=dataclasses.replace(config.edges, fraction=fraction),
        ).astype(np.float64)
        total += output
        squares += output**2
    variance = np.maximum(squares / runs - (total / runs) ** 2, 0) * runs / (runs - 1)
    return np.sqrt(variance).astype(np.float32)
