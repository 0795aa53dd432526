"""How far an output may be from the truth, voxel by voxel, by what the source says about it.

The expected squared error is a weighted sum of what is known without the truth:

- the posterior variance P R / (d^2 P + R): what neither edges nor source tell (`refinement`),
- the squares of what each pass changed: by the first refinement, and from there to the output,
- what is left of the source's residual about the curve, as a change of the output: what the source
  shows and the output does not, or the reverse,
- what the second stage's network predicts.

The weights are a non-negative least squares fit to squared errors on 72 simulated sources of three
validation scans: nine protocols, three of balanced steady-state free precession, lesions, tumours,
vessels, remnants of skull, thick slices. Fitted on two of the scans and tried on the third, the
expected calibration error is 0.002 to 0.004 of the intensity range, 0.005 without the network
(docs/experiments.md, "Doubt").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isochroma.images.masked import scatter, smoother
from isochroma.images.resolution import Blur
from isochroma.method.refinement import compare, noise_variance
from isochroma.method.sampling import Revised

PREDICTED = {"posterior": 0.36, "contradicted": 0.045, "predicted": 0.46, "restored": 1.06}
NOT_PREDICTED = {"posterior": 0.62, "changed": 1.57, "refined": 0.35, "contradicted": 0.16}
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
    revised: Revised | None = None,
    blur: Blur | None = None,
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
    revised : Revised, optional
        What the second stage made.
    blur : Blur, optional
        What the source's slices average, if they are thick.

    Returns
    -------
    error : (I, J, K) ndarray of float32
        Model units; 0 outside the mask.
    """
    terms = error_terms(first, refined, output, source, mask, errors, variance, revised, blur)
    weights = PREDICTED if "predicted" in terms else NOT_PREDICTED
    squares = sum(weight * terms[name] for name, weight in weights.items())
    return scatter(np.sqrt(squares), mask)


def error_terms(
    first: np.ndarray,
    refined: np.ndarray,
    output: np.ndarray,
    source: np.ndarray,
    mask: np.ndarray,
    errors: Sequence[float],
    variance: float,
    revised: Revised | None = None,
    blur: Blur | None = None,
) -> dict[str, np.ndarray]:
    """Compute the terms of which the expected squared error is a weighted sum.

    Parameters
    ----------
    first, refined, output, source : (I, J, K) ndarray of float
        As for `expected_error`.
    mask : (I, J, K) ndarray of bool
        The brain.
    errors, variance : sequence of float, float
        As for `expected_error`.
    revised : Revised, optional
        As for `expected_error`.
    blur : Blur, optional
        As for `expected_error`.

    Returns
    -------
    terms : dict of str to (V,) ndarray of float
        Model units squared, at the in-mask voxels: "posterior", "changed" (by the second stage),
        "refined" (by the refinement) and "contradicted"; with a prediction also "predicted" and
        "restored" (since the network's image).
    """
    smooth = smoother(mask, WIDTH)

    def around(values: np.ndarray) -> np.ndarray:
        return smooth(scatter(values, mask))[mask]

    prior = np.interp(first[mask], np.linspace(-1, 1, len(errors)), errors) ** 2
    seen = compare(output, source, mask, blur)
    excess = np.maximum(around(seen.residual**2) - noise_variance(source, mask), 0)
    slope = np.maximum(np.abs(seen.slope), FLATTEST)
    terms = {
        "posterior": prior * variance / (seen.slope**2 * prior + variance),
        "changed": around((output - refined)[mask] ** 2),
        "refined": around((refined - first)[mask] ** 2),
        "contradicted": np.minimum(excess / slope**2, LARGEST),
    }
    if revised is not None and revised.error is not None:
        terms["predicted"] = revised.error[mask].astype(np.float64) ** 2
        terms["restored"] = around((output - revised.image)[mask] ** 2)
    return terms
