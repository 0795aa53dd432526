"""How much a result varies over runs that differ as repeated scans of the head would."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from isochroma.checks import ScanWarning
from isochroma.errors import InputError
from isochroma.images.grid import Grid
from isochroma.images.io import like
from isochroma.images.preprocess import Prepared
from isochroma.method.refinement import noise_variance
from isochroma.pipeline import Harmonizer, Result
from isochroma.stages import advance, stage

UNCERTAIN_SHARE = 0.05  # of the brain
FRACTIONS = (0.85, 1.15)  # of the model's share of edge voxels


@dataclass(frozen=True)
class Uncertainty:
    """The spread of a result over runs.

    Attributes
    ----------
    image : SpatialImage
        Standard deviation, in the target's intensity units, on the scan's grid.
    runs : int
        How many runs it rests on.
    uncertain_share : float
        Share of the brain whose deviation exceeds the model's error on validation scans.
    warnings : tuple of ScanWarning
        One if that share is above 5 %.
    """

    image: nib.spatialimages.SpatialImage
    runs: int
    uncertain_share: float
    warnings: tuple[ScanWarning, ...]


def estimate_uncertainty(harmonizer: Harmonizer, result: Result, runs: int) -> Uncertainty:
    """Measure the spread of a result over repeated runs.

    Errors that all runs share, those of the network first of all, do not show: this is no
    confidence interval.

    Parameters
    ----------
    harmonizer : Harmonizer
        The one that made the result; its seed is that of the runs.
    result : Result
        A harmonized scan.
    runs : int
        2 or more.

    Returns
    -------
    uncertainty : Uncertainty

    Raises
    ------
    InputError
        If there are fewer than 2 runs.
    """
    if runs < 2:
        msg = f"an uncertainty map takes 2 runs or more, not {runs}."
        raise InputError(msg, "uncertainty")
    source, target = result.source, harmonizer.config.target
    with stage("uncertainty"):
        deviation = spread_over_runs(harmonizer, source, runs)
    share = float((deviation[source.mask] > harmonizer.config.validation.rmse).mean())
    found = []
    if share > UNCERTAIN_SHARE:
        text = (
            f"{share:.0%} of the brain is less certain than the model's error on held-out "
            "target scans: see the uncertainty map."
        )
        found.append(ScanWarning("uncertain", text, share))
    grid = Grid.of(result.image)
    spread = harmonizer.to_scan_grid(deviation, source, grid) * ((target.upper - target.lower) / 2)
    inside = np.asanyarray(result.mask.dataobj) > 0
    image = like(np.where(inside, np.clip(spread, 0, None), 0), result.image, np.float32)
    return Uncertainty(image, runs, round(share, 4), tuple(found))


def spread_over_runs(harmonizer: Harmonizer, source: Prepared, runs: int) -> np.ndarray:
    """Compute the standard deviation of the output over runs.

    Each run adds noise of the source's own level to it, and finds a share of edge voxels that is up
    to 15 % smaller or larger.

    Parameters
    ----------
    harmonizer : Harmonizer
        Its seed is that of the runs.
    source : Prepared
        The scan on the model grid.
    runs : int
        2 or more.

    Returns
    -------
    deviation : (I, J, K) ndarray of float32
        Model units, 0 outside the mask.
    """
    rng = np.random.default_rng(harmonizer.sampling.seed)
    level = np.sqrt(noise_variance(source.image, source.mask))
    edges = harmonizer.config.edges
    total, squares = np.zeros(source.mask.shape), np.zeros(source.mask.shape)
    for done in range(runs):
        advance(done, runs)
        noise = level * rng.standard_normal(source.mask.shape)
        image = np.clip(source.image + np.where(source.mask, noise, 0), -1, 1)
        output = harmonizer.render(
            dataclasses.replace(source, image=image.astype(np.float32)),
            dataclasses.replace(edges, fraction=edges.fraction * rng.uniform(*FRACTIONS)),
        ).output.astype(np.float64)
        total += output
        squares += output**2
    variance = np.maximum(squares / runs - (total / runs) ** 2, 0) * runs / (runs - 1)
    return np.sqrt(variance).astype(np.float32)
