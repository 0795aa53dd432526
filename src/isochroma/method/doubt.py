"""How far an output may be from the truth, voxel by voxel, by what the source says about it.

The expected squared error is a weighted sum of what is known without the truth:

- the posterior variance P R / (d^2 P + R): what neither edges nor source tell (`refinement`),
- the squares of what each pass changed: by the first refinement, and from there to the output,
- what is left of the source's residual about the curve, as a change of the output: what the source
  shows and the output does not, or the reverse.

The weights are a non-negative least squares fit to squared errors on 63 simulated sources of three
validation scans: nine protocols, three of balanced steady-state free precession, lesions, tumours,
vessels, remnants of skull. Fitted on two of the scans and tried on the third, the expected
calibration error is 0.005 of the intensity range (docs/experiments.md, "Doubt").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isochroma.images.masked import scatter, smoother
from isochroma.method.refinement import compare, noise_variance

POSTERIOR, CHANGED, REFINED, CONTRADICTED = 0.62, 1.57, 0.35, 0.16  # weights, see above
WIDTH = 1.0  # voxels; Gaussian within which squares are averaged
FLATTEST = 0.5  # least slope of the curve by which a residual is divided
LARGEST = 1.0  # bound of a residual's square, model units^2


def expected_error(
    first: np.ndarray,
    refined: np.ndarray,
    output: np.ndarray,
    source: np.ndarray,
    mask: np.ndarray,
    errors: Sequence[float],
    variance: float,
) -> np.ndarray:
    """Estimate the root mean square error of an output at each voxel.

    Parameters
    ----------
    first, refined, output : (I, J, K) ndarray of float
        First pass, first pass refined, and final image; model units.
    source : (I, J, K) ndarray of float
        Model units.
    mask : (I, J, K) ndarray of bool
        The brain.
    errors : sequence of float
        Error of the first pass by level (`refinement.error_levels`).
    variance : float
        R of the first pass's refinement.

    Returns
    -------
    error : (I, J, K) ndarray of float32
        Model units; 0 outside the mask.
    """
    weights = (POSTERIOR, CHANGED, REFINED, CONTRADICTED)
    terms = error_terms(first, refined, output, source, mask, errors, variance)
    return scatter(
        np.sqrt(sum(weight * term for weight, term in zip(weights, terms, strict=True))), mask
    )


def error_terms(
    first: np.ndarray,
    refined: np.ndarray,
    output: np.ndarray,
    source: np.ndarray,
    mask: np.ndarray,
    errors: Sequence[float],
    variance: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Compute the terms of which the expected squared error is a weighted sum.

    Parameters
    ----------
    first, refined, output, source : (I, J, K) ndarray of float
        As for `expected_error`.
    mask : (I, J, K) ndarray of bool
        The brain.
    errors, variance : sequence of float, float
        As for `expected_error`.

    Returns
    -------
    posterior, changed, refined, contradicted : (V,) ndarray of float
        Model units squared, at the in-mask voxels.
    """
    smooth = smoother(mask, WIDTH)

    def around(values: np.ndarray) -> np.ndarray:
        return smooth(scatter(values, mask))[mask]

    prior = np.interp(first[mask], np.linspace(-1, 1, len(errors)), errors) ** 2
    seen = compare(output, source, mask)
    posterior = prior * variance / (seen.slope**2 * prior + variance)
    excess = np.maximum(around(seen.residual**2) - noise_variance(source, mask), 0)
    contradicted = np.minimum(excess / np.maximum(np.abs(seen.slope), FLATTEST) ** 2, LARGEST)
    return (
        posterior,
        around((output - refined)[mask] ** 2),
        around((refined - first)[mask] ** 2),
        contradicted,
    )
