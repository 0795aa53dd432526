"""Our refinement: the output is the prior, the source the measurement.

Let x be the truth, y the first pass with x ~ N(y, P), and s the source,

    s = q(x) + n,   n ~ N(0, R),

where the curve q gives the source's intensity for each target intensity, nearby; it may rise, fall
or turn. R is the source's noise and whatever it shows that is no function of x. The maximum a
posteriori image then shows every structure of the source, lesions included, whatever the sign of
the source's contrast, and none that the source lacks (`follow_source`). After the second stage,
`keep_structure` restores by the same rule what that took away beside noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from isochroma.images.grid import interpolate, interpolation_weights
from isochroma.images.masked import scatter
from isochroma.images.resolution import Blur

LEVELS = 12  # output intensities at which the curve is known; linear between them
DARK = 4  # levels that the target shows for fluid, dura, bone and vessels alike, up to -0.45
FINE = 45  # intensities among which `explain` searches
SIGMA = 12.0  # voxels; Gaussian neighbourhood from which a local curve is estimated
CELL = 4  # voxels; edge of the cells over which the curve is averaged
PRIOR_VOXELS = 0.1  # weight of the whole brain's curve in each cell, voxels
SURPRISE = 2.0  # upper bound of P where the source contradicts the output, over its mean
STRUCTURE = 0.8  # voxels; Gaussian width within which disagreement counts as structure, not noise
DISTRUSTED = 0.2  # predicted error, model units, at which half of P is left to what is restored
MISMATCH = 0.005  # least variance of what a source shows beside any function of x, model units^2
OUTLIER = 3.0  # standard deviations from which a residual counts as an outlier


class Refined(NamedTuple):
    """Hold a refined image.

    Attributes
    ----------
    image : (I, J, K) ndarray of float32
        Model units.
    variance : float or None
        R, the variance of the source around the curve, model units squared; None if the refinement
        does not estimate it.
    explained : float or None
        See `explained_share`.
    slope, residual : (I, J, K) ndarray of float32, or None
        Of the source's curve at the first pass (`Comparison`); 0 outside the mask.
    """

    image: np.ndarray
    variance: float | None = None
    explained: float | None = None
    slope: np.ndarray | None = None
    residual: np.ndarray | None = None


def follow_source(
    output: np.ndarray,
    source: np.ndarray,
    mask: np.ndarray,
    errors: Sequence[float] = (0.17,),
    blur: Blur | None = None,
) -> Refined:
    """Compute the maximum a posteriori image given the first pass and the source.

    To first order, with d = q'(y),

        x = y + d P / (d^2 P + R) (s - q(y)).

    - q is the mean of s over nearby voxels of like y, without those far from the whole brain's
      curve (`typical_voxels`). Since y is a posterior mean, its error is uncorrelated with it, and
      the curve is not flattened (Berkson error).
    - P depends on y: a model that is sure of white matter may not be of the folds. Where the source
      contradicts the output by more than d^2 P + R, as at a lesion, P grows with the squared
      residual, up to twice its mean over the brain.
    - R is the mean of (s - q(y))^2 - d^2 P without outliers, at least the noise and `MISMATCH`.
    - Where the curve is flat, the source tells nothing and the output stays. Outliers, such as
      vessels with a contrast agent, have little or no influence (`limit_influence`).
    - Voxels far from the curve are searched on all of it (`explain`): a tumour that the first pass
      does not know.

    Parameters
    ----------
    output, source : (I, J, K) ndarray of float
        First pass and source, model units.
    mask : (I, J, K) ndarray of bool
        The brain.
    errors : sequence of L floats
        Standard deviations of the output's error, P^(1/2), at L equally spaced output levels from
        -1 to 1, linear between them: the model's on validation scans (`error_levels`).
    blur : Blur, optional
        What the source's slices average, if they are thick.

    Returns
    -------
    refined : Refined
        The image, within [-1, 1] in the mask and unchanged outside, and what was found on the way.

    References
    ----------
    Berkson 1950, doi:10.1080/01621459.1950.10483349.
    """
    seen = compare(output, source, mask, blur)
    slope = seen.slope
    expected = np.interp(output[mask], np.linspace(-1, 1, len(errors)), errors) ** 2
    error = np.sqrt(expected.mean())
    least = noise_variance(source, mask) + MISMATCH
    variance = max(unexplained_variance(seen.residual, slope**2 * expected), least)
    explained = explained_share(seen)
    told = (scatter(values, mask) for values in (slope, seen.residual))
    seen = limit_influence(seen, error, variance)
    surprise = seen.residual**2 / (slope**2 * expected + variance)
    prior = np.maximum(np.minimum(surprise * expected, SURPRISE * error**2), expected)
    x = move_towards_source(seen, prior, variance)
    far = np.flatnonzero(~seen.typical)
    x[far] = explain(seen, far, x[far], error, variance)
    return Refined(replace_inside(output, mask, x), variance, explained, *told)


def error_levels(output: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Measure the output's error as a function of its intensity.

    Parameters
    ----------
    output, truth : (I, J, K) ndarray of float
        Model units. An output voxel counts for the two levels next to it.
    mask : (I, J, K) ndarray of bool
        Voxels that count.

    Returns
    -------
    errors : (12,) ndarray of float
        Root mean square error where the output is at each of 12 levels from -1 to 1. A level that
        few voxels show (of the order of a thousandth) has the error of the whole.
    """
    level = to_level(output[mask])
    squares = (output[mask].astype(np.float64) - truth[mask]) ** 2
    few = 0.001 * len(squares)
    count = deposit(level)[:, 0] + few
    total = deposit(level, squares)[:, 0] + few * squares.mean()
    return np.sqrt(total / count)


def keep_structure(
    output: np.ndarray,
    source: np.ndarray,
    mask: np.ndarray,
    error: float,
    variance: float,
    blur: Blur | None = None,
    predicted: np.ndarray | None = None,
) -> np.ndarray:
    """Restore the structure that the second stage removed beside noise, such as lesions.

    As in `follow_source`, x = y + d P / (d^2 P + R) (s - q(y)), but P is found at each voxel. The
    least-squares estimate of the error around it, with Gaussian weights g of 0.8 voxels,

        b = sum g d (s - q(y)) / sum g d^2,

    has the variance R sum g^2 / sum g d^2 where the source differs by R alone. What b^2 has above
    that is P, up to twice the first pass's: noise stays removed, and what neighbours agree on comes
    back. Where the second stage predicts an error e of its own, P is divided by 1 + (e / 0.2)^4: it
    has found that the curve does not hold there, as in vessels, CSF and remnants of skull.

    Parameters
    ----------
    output, source : (I, J, K) ndarray of float
        Second pass and source, model units.
    mask : (I, J, K) ndarray of bool
        The brain.
    error, variance : float
        P^(1/2) and R of the first pass; the second has seen the source, so its residuals tell less.
    blur : Blur, optional
        What the source's slices average, if they are thick.
    predicted : (I, J, K) ndarray of float, optional
        Standard deviation of the output's error as the second stage predicts it, model units.

    Returns
    -------
    restored : (I, J, K) ndarray of float32
        Within [-1, 1] in the mask, unchanged outside.
    """
    seen = limit_influence(compare(output, source, mask, blur), error, variance)

    def around(values: np.ndarray) -> np.ndarray:
        volume = np.zeros(mask.shape)
        volume[mask] = values
        return ndimage.gaussian_filter(volume, STRUCTURE)[mask]

    power = np.maximum(around(seen.slope**2), 1e-6)
    squares = (4 * np.pi * STRUCTURE**2) ** -1.5  # sum of g^2
    excess = (around(seen.slope * seen.residual) / power) ** 2 - variance * squares / power
    prior = np.clip(excess, 0, SURPRISE * error**2)
    if predicted is not None:
        spread = around(predicted[mask] ** 2) / around(np.ones(len(prior)))
        prior /= 1 + (spread / DISTRUSTED**2) ** 2
    return replace_inside(output, mask, move_towards_source(seen, prior, variance))


def unexplained_variance(residual: np.ndarray, explained: np.ndarray) -> float:
    """Estimate the variance of residuals beyond what is explained, without outliers.

    Parameters
    ----------
    residual : (V,) ndarray of float
        Residuals.
    explained : (V,) ndarray of float
        The variance of each that is explained already.

    Returns
    -------
    variance : float
        Mean of residual^2 - explained by sigma clipping at 3 standard deviations; not negative.
    """
    variance = float(np.mean(residual**2))
    for _ in range(10):
        kept = residual**2 <= OUTLIER**2 * (explained + variance)
        variance = max(float(np.mean(residual[kept] ** 2 - explained[kept])), 0.0)
    return variance


class Comparison(NamedTuple):
    """Hold a source beside an output, at the V in-mask voxels.

    Attributes
    ----------
    output, source : (V,) ndarray of float64
        y and s.
    residual, slope : (V,) ndarray of float64
        s - q(y) and q'(y).
    typical : (V,) ndarray of bool
        See `typical_voxels`.
    curve : callable
        (voxels, intensities x) to q(x) there.
    """

    output: np.ndarray
    source: np.ndarray
    residual: np.ndarray
    slope: np.ndarray
    typical: np.ndarray
    curve: Callable[[np.ndarray, np.ndarray], np.ndarray]


def compare(
    output: np.ndarray, source: np.ndarray, mask: np.ndarray, blur: Blur | None = None
) -> Comparison:
    """Estimate the local curve q and compare the source with it.

    A source of thick slices shows B q(x), where B is the mean over a slice and the interpolation
    back. The curve is then estimated between s and B y, and the source becomes s + q(y) - B q(y):
    it has the output's own detail between slices, and its residual is s - B q(y).

    Parameters
    ----------
    output, source : (I, J, K) ndarray of float
        Model units.
    mask : (I, J, K) ndarray of bool
        The brain.
    blur : Blur, optional
        B, if the slices are thick.

    Returns
    -------
    comparison : Comparison
    """
    y, s = (np.clip(volume[mask], -1, 1).astype(np.float64) for volume in (output, source))
    level = to_level(y if blur is None else blur.apply(output, mask)[mask])
    kept = typical_voxels(level, s)
    levels = local_curve(level[kept], s[kept], np.argwhere(mask)[kept], mask.shape)
    weights = [
        interpolation_weights(-(-n // CELL), (np.arange(n) - (CELL - 1) / 2) / CELL, 1)
        for n in mask.shape
    ]
    curves = np.stack([interpolate(each.astype(np.float32), *weights)[mask] for each in levels])

    def curve(voxels: np.ndarray, x: np.ndarray) -> np.ndarray:
        at = to_level(x)
        lower = np.minimum(at.astype(int), LEVELS - 2)
        below, above = curves[lower, voxels], curves[lower + 1, voxels]
        return below + (at - lower) * (above - below)

    everywhere, step = np.arange(len(y)), 2 / (LEVELS - 1)
    above, below = np.minimum(y + step, 1), np.maximum(y - step, -1)
    slope = (curve(everywhere, above) - curve(everywhere, below)) / (above - below)
    shown = curve(everywhere, y)
    if blur is not None:
        s = s + shown - blur.apply(scatter(shown, mask), mask)[mask]
    return Comparison(y, s, s - shown, slope, kept, curve)


def explained_share(seen: Comparison) -> float:
    """Compute the share of the source's variance that the curve explains, among typical voxels.

    Parameters
    ----------
    seen : Comparison
        Source beside output.

    Returns
    -------
    share : float
        At most 1. Of a first pass on simulated MR scans 0.82 to 0.95, on noise 0.
    """
    typical = seen.typical
    unexplained = float(np.mean(seen.residual[typical] ** 2))
    return 1 - unexplained / max(float(seen.source[typical].var()), 1e-12)


def limit_influence(seen: Comparison, error: float, variance: float) -> Comparison:
    """Apply Hampel's redescending influence to the residuals.

    Residuals are kept up to 3 standard deviations and fall linearly to zero at 6: beyond, the
    source shows what no intensity near the output's explains, and tells nothing about x.

    Parameters
    ----------
    seen : Comparison
        Source beside output.
    error, variance : float
        P^(1/2) and R; a standard deviation is that of d^2 P + R with the largest P.

    Returns
    -------
    limited : Comparison
        With smaller residuals.

    References
    ----------
    Hampel 1974, doi:10.1080/01621459.1974.10482962.
    """
    limit = OUTLIER * np.sqrt(SURPRISE * (seen.slope * error) ** 2 + variance)
    size = np.abs(seen.residual)
    size = np.minimum(size, np.maximum(2 * limit - size, 0))
    return seen._replace(residual=np.copysign(size, seen.residual))


def move_towards_source(seen: Comparison, prior: np.ndarray, variance: float) -> np.ndarray:
    """Move the output by d P / (d^2 P + R) (s - q(y)).

    Parameters
    ----------
    seen : Comparison
        Source beside output.
    prior : (V,) ndarray of float
        P of each voxel.
    variance : float
        R.

    Returns
    -------
    moved : (V,) ndarray of float64
        Within [-1, 1].
    """
    gain = seen.slope * prior / (seen.slope**2 * prior + variance)
    return np.clip(seen.output + gain * seen.residual, -1, 1)


def replace_inside(volume: np.ndarray, mask: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return a copy of a volume, as float32, with new in-mask values (V,)."""
    changed = volume.astype(np.float32, copy=True)
    changed[mask] = values
    return changed


def explain(
    seen: Comparison, far: np.ndarray, otherwise: np.ndarray, error: float, variance: float
) -> np.ndarray:
    """Search all intensities for the one that explains the source best.

        x = argmin (s - q(x))^2 / R + (x - y)^2 / P,   with the largest P.

    Parameters
    ----------
    seen : Comparison
        Source beside output.
    far : (F,) ndarray of int
        Voxels, as indices into V, that lie far from the curve.
    otherwise : (F,) ndarray of float
        What they become where even the best x leaves the source unexplained by 3 standard
        deviations, as at a vessel with a contrast agent.
    error, variance : float
        P^(1/2) and R.

    Returns
    -------
    x : (F,) ndarray of float
        Model units.
    """
    grid = np.linspace(-1, 1, FINE)
    shown = np.stack([seen.curve(far, np.full(len(far), x)) for x in grid])
    misfit = (seen.source[far] - shown) ** 2
    change = (grid[:, None] - seen.output[far]) ** 2
    best = np.argmin(misfit / variance + change / (SURPRISE * error**2), axis=0)
    explained = np.take_along_axis(misfit, best[None], axis=0)[0] <= OUTLIER**2 * variance
    return np.where(explained, grid[best], otherwise)


def to_level(values: np.ndarray) -> np.ndarray:
    """Map model units in [-1, 1] (clipped) to levels in [0, LEVELS - 1], as float64."""
    return (np.clip(values, -1, 1).astype(np.float64) + 1) / 2 * (LEVELS - 1)


def deposit(
    level: np.ndarray, values: np.ndarray | float = 1.0, cell: np.ndarray | int = 0, cells: int = 1
) -> np.ndarray:
    """Sum values by level and cell, each shared linearly between the two levels next to its own.

    Parameters
    ----------
    level : (V,) ndarray of float
        In [0, LEVELS - 1].
    values : (V,) ndarray of float or float
        What is summed; 1 counts voxels.
    cell : (V,) ndarray of int or int
        Cell of each voxel.
    cells : int
        Number of cells.

    Returns
    -------
    sums : (LEVELS, cells) ndarray of float
    """
    lower = np.minimum(level.astype(int), LEVELS - 2)
    share = level - lower
    below, above = (
        np.bincount((lower + step) * cells + cell, part * values, LEVELS * cells)
        for step, part in ((0, 1 - share), (1, share))
    )
    return (below + above).reshape(LEVELS, cells)


def whole_curve(level: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Average values by level over the whole brain.

    Parameters
    ----------
    level : (V,) ndarray of float
        In [0, LEVELS - 1].
    values : (V,) ndarray of float
        What is averaged.

    Returns
    -------
    curve : (LEVELS,) ndarray of float
        Interpolated over levels that less than a thousandth of the voxels show.
    """
    count, total = deposit(level)[:, 0], deposit(level, values)[:, 0]
    there = count > 0.001 * len(level)
    return np.interp(np.arange(LEVELS), np.flatnonzero(there), total[there] / count[there])


def typical_voxels(level: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Select the voxels within 3 standard deviations of the whole brain's curve (sigma clipping).

    The others, such as a tumour or a vessel with a contrast agent, say nothing about healthy tissue
    nearby and are left out of the local curves. The standard deviation is that of all levels
    together, without the dark ones if that is less, but where the output is dark each level's own:
    there a T2w source shows bright fluid and dark dura, neither is an outlier, and the local curves
    tell them apart.

    Parameters
    ----------
    level : (V,) ndarray of float
        In [0, LEVELS - 1].
    values : (V,) ndarray of float
        The source there.

    Returns
    -------
    typical : (V,) ndarray of bool
    """
    kept, bright = np.ones(len(values), dtype=bool), level >= DARK
    for _ in range(3):
        curve = whole_curve(level[kept], values[kept])
        squares = (values - np.interp(level, np.arange(LEVELS), curve)) ** 2
        pooled = [squares[each].mean() for each in (kept, kept & bright) if each.any()]
        variance = np.full(LEVELS, min(pooled))
        variance[:DARK] = whole_curve(level[kept], squares[kept])[:DARK]
        spread = np.interp(level, np.arange(LEVELS), variance)
        kept = squares <= OUTLIER**2 * np.maximum(spread, MISMATCH)
    return kept


def local_curve(
    level: np.ndarray, values: np.ndarray, where: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Average values by level in a Gaussian neighbourhood of each cell.

    Parameters
    ----------
    level : (V,) ndarray of float
        In [0, LEVELS - 1].
    values : (V,) ndarray of float
        What is averaged.
    where : (V, 3) ndarray of int
        Voxel indices.
    shape : tuple of int
        (I, J, K) of the volume.

    Returns
    -------
    curve : (LEVELS, I/4, J/4, K/4) ndarray of float
        The whole brain's mean where a level does not occur nearby.
    """
    cells = tuple(-(-n // CELL) for n in shape)
    cell = np.ravel_multi_index(tuple((where // CELL).T), cells)
    count, total = (
        deposit(level, each, cell, int(np.prod(cells))).reshape(LEVELS, *cells)
        for each in (1.0, values)
    )
    mean = whole_curve(level, values)
    width = (0, *[SIGMA / CELL] * 3)
    count, total = (ndimage.gaussian_filter(each, width) for each in (count, total))
    return (total + PRIOR_VOXELS * mean[:, None, None, None]) / (count + PRIOR_VOXELS)


def noise_variance(image: np.ndarray, mask: np.ndarray) -> float:
    """Estimate the variance of the noise from differences between neighbouring voxels.

    Parameters
    ----------
    image : (I, J, K) ndarray of float
        Any unit.
    mask : (I, J, K) ndarray of bool
        The brain; its two outermost layers are left out.

    Returns
    -------
    variance : float
        From the median magnitude of a voxel's difference to the mean of its six neighbours. Fine
        texture counts as noise.
    """
    inside = ndimage.binary_erosion(mask, iterations=2)
    if not inside.any():
        return 1e-4
    weights = ndimage.generate_binary_structure(3, 1) / 6.0
    weights[1, 1, 1] = 0
    difference = (image - ndimage.convolve(image.astype(np.float64), weights))[inside]
    deviation = 1.4826 * float(np.median(np.abs(difference)))
    return max(deviation**2 / (1 + 1 / 6), 1e-5)
