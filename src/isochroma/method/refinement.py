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

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

REFINEMENTS = ("paper", "local", "none")
LEVELS = 12  # of the output, at which the source's curve is known; linear between them
FINE = 45  # intensities among which one is sought for voxels far from the curve
SIGMA = 12.0  # voxels; width of the Gaussian neighbourhood that a curve is made from
CELL = 4  # voxels; the source's curve is averaged over cells of this edge
PRIOR_VOXELS = 0.1  # a cell's weight of the whole brain's curve
SURPRISE = 2.0  # at most so many times the mean error variance where the source contradicts
STRUCTURE = 0.8  # voxels; what source and second pass disagree on within this width is no noise
MISMATCH = 0.005  # variance of what a source shows beside any function of the target's intensity
OUTLIER = 3.0  # standard deviations; beyond, the source shows what the output does not: a tumour,
# or the target neither: vessels


def follow_source(
    output: np.ndarray,
    source: np.ndarray,
    mask: np.ndarray,
    errors: Sequence[float] = (0.17,),
) -> tuple[np.ndarray, float]:
    """Maximum a posteriori image, with the output as the prior and the source as the measurement.

    Let x be the truth, y the output with x ~ N(y, P), and s = q(x) + n the source, n ~ N(0, R):
    its noise, and what it shows that is no function of x. P depends on y: a model that is sure of
    white matter may not be of the folds.
    The curve q, the source's intensity for each target intensity, may rise, fall or turn. It is
    the mean of s over voxels of like y, nearby, without those far from the whole brain's curve
    (`typical`). Since y is a posterior mean, its error is uncorrelated with it, and the curve is
    not flattened (Berkson 1950, doi:10.1080/01621459.1950.10483349). With d = q'(y), to first order

        x = y + d P / (d^2 P + R) (s - q(y)).

    Where the curve is flat, the source tells nothing, and the output stays. Where the source
    contradicts the output by more than d^2 P + R, as at a lesion, P grows with the squared
    residual, up to twice its mean over the brain. Voxels far from the curve are not near y, and
    are sought on all of it (`explain`): a tumour that the output does not know.
    R is the mean of (s - q(y))^2 - d^2 P, which holds if the output knows the source by its edges
    alone; at least the noise and `MISMATCH`. Outliers, such as vessels with a contrast agent, are
    left out of the mean, and tell little or nothing where they are (`without_outliers`).

    Parameters
    ----------
    output, source
        (I, J, K) volumes in model units.
    mask
        (I, J, K) bool.
    errors
        (L,) standard deviations of the output's error, P^(1/2), model units, where the output is
        at equally spaced levels from -1 to 1, linear between them: those of the model on validation
        scans (`error_levels`).

    Returns
    -------
    (I, J, K) float32 within [-1, 1], unchanged outside the mask; and R, model units squared.
    """
    seen = compare(output, source, mask)
    slope = seen.slope
    expected = np.interp(output[mask], np.linspace(-1, 1, len(errors)), errors) ** 2
    error = np.sqrt(expected.mean())
    least = noise_variance(source, mask) + MISMATCH
    variance = max(unexplained_variance(seen.residual, slope**2 * expected), least)
    seen = without_outliers(seen, error, variance)
    surprise = seen.residual**2 / (slope**2 * expected + variance)
    doubt = np.maximum(np.minimum(surprise * expected, SURPRISE * error**2), expected)
    x = correct(seen, doubt, variance)
    far = np.flatnonzero(~seen.typical)
    x[far] = explain(seen, far, x[far], error, variance)
    return placed(x, output, mask), variance


def error_levels(output: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Root mean square error where the output is at each of 12 levels from -1 to 1: (12,).

    Parameters
    ----------
    output, truth
        (I, J, K) volumes in model units. An output voxel counts for the two levels next to it.
    mask
        (I, J, K) bool.

    Notes
    -----
    A level that few voxels show (of the order of a thousandth) has the error of the whole.
    """
    level = to_level(output[mask])
    squares = (output[mask].astype(np.float64) - truth[mask]) ** 2
    few = 0.001 * len(squares)
    count = deposit(level)[:, 0] + few
    total = deposit(level, squares)[:, 0] + few * squares.mean()
    return np.sqrt(total / count)


def keep_structure(
    output: np.ndarray, source: np.ndarray, mask: np.ndarray, error: float, variance: float
) -> np.ndarray:
    """Give back to a second pass's output what it took from the source beside noise: lesions.

    As in `follow_source`, x = y + d P / (d^2 P + R) (s - q(y)), but P is found at each voxel. The
    least-squares estimate of the error around it, with Gaussian weights g of 0.8 voxels,

        b = sum g d (s - q(y)) / sum g d^2,

    has the variance R sum g^2 / sum g d^2 where the source differs by R alone. What b^2 has above
    that is P, up to twice the first pass's: noise stays removed, and what neighbours agree on comes
    back. Outliers tell little or nothing, as there.

    Parameters
    ----------
    output, source
        (I, J, K) volumes in model units.
    mask
        (I, J, K) bool.
    error, variance
        P^(1/2) and R of the first pass: the second has seen the source, so its residual tells less.

    Returns
    -------
    (I, J, K) float32 within [-1, 1]; unchanged outside the mask.
    """
    seen = without_outliers(compare(output, source, mask), error, variance)

    def around(values: np.ndarray) -> np.ndarray:
        volume = np.zeros(mask.shape)
        volume[mask] = values
        return ndimage.gaussian_filter(volume, STRUCTURE)[mask]

    power = np.maximum(around(seen.slope**2), 1e-6)
    squares = (4 * np.pi * STRUCTURE**2) ** -1.5  # sum of g^2
    excess = (around(seen.slope * seen.residual) / power) ** 2 - variance * squares / power
    doubt = np.clip(excess, 0, SURPRISE * error**2)
    return placed(correct(seen, doubt, variance), output, mask)


def unexplained_variance(residual: np.ndarray, explained: np.ndarray) -> float:
    """Mean of the squared residuals (V,) above their `explained` variances (V,), without outliers
    (sigma clipping); not negative.
    """
    variance = float(np.mean(residual**2))
    for _ in range(10):
        kept = residual**2 <= OUTLIER**2 * (explained + variance)
        variance = max(float(np.mean(residual[kept] ** 2 - explained[kept])), 0.0)
    return variance


class Comparison(NamedTuple):
    """A source beside an output, at the voxels in the mask (`follow_source`).

    output, source
        (V,) y and s.
    residual, slope
        (V,) s - q(y) and q'(y).
    typical
        (V,) bool, `typical`.
    curve
        (voxels, intensities x) -> q(x) there.
    """

    output: np.ndarray
    source: np.ndarray
    residual: np.ndarray
    slope: np.ndarray
    typical: np.ndarray
    curve: Callable[[np.ndarray | slice, np.ndarray], np.ndarray]


def compare(output: np.ndarray, source: np.ndarray, mask: np.ndarray) -> Comparison:
    """Compare (I, J, K) volumes in model units."""
    y, s = (np.clip(volume[mask], -1, 1).astype(np.float64) for volume in (output, source))
    where = np.argwhere(mask)
    kept = typical(to_level(y), s)
    levels = local_curve(to_level(y[kept]), s[kept], where[kept], mask.shape)
    place = ((where - (CELL - 1) / 2) / CELL).T

    def curve(voxels: np.ndarray | slice, x: np.ndarray) -> np.ndarray:
        at = [to_level(x), *place[:, voxels]]
        return ndimage.map_coordinates(levels, at, order=1, mode="nearest")

    everywhere, step = slice(None), 2 / (LEVELS - 1)
    above, below = np.minimum(y + step, 1), np.maximum(y - step, -1)
    slope = (curve(everywhere, above) - curve(everywhere, below)) / (above - below)
    return Comparison(y, s, s - curve(everywhere, y), slope, kept, curve)


def without_outliers(seen: Comparison, error: float, variance: float) -> Comparison:
    """With residuals that fall from 3 standard deviations, of d^2 P + R with the largest P, to none
    at 6 (a redescending influence, Hampel 1974, doi:10.1080/01621459.1974.10482962): the source
    shows there what no intensity near the output's has in it.
    """
    limit = OUTLIER * np.sqrt(SURPRISE * (seen.slope * error) ** 2 + variance)
    size = np.abs(seen.residual)
    size = np.minimum(size, np.maximum(2 * limit - size, 0))
    return seen._replace(residual=np.copysign(size, seen.residual))


def correct(seen: Comparison, doubt: np.ndarray, variance: float) -> np.ndarray:
    """Output (V,) moved by d P / (d^2 P + R) (s - q(y)); P = `doubt` and R = `variance`."""
    gain = seen.slope * doubt / (seen.slope**2 * doubt + variance)
    return np.clip(seen.output + gain * seen.residual, -1, 1)


def placed(values: np.ndarray, volume: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The volume with these values (V,) inside the mask: (I, J, K) float32."""
    changed = volume.astype(np.float32, copy=True)
    changed[mask] = values
    return changed


def explain(
    seen: Comparison, far: np.ndarray, otherwise: np.ndarray, error: float, variance: float
) -> np.ndarray:
    """The maximum a posteriori intensity, of all that there are, for voxels `far` from the curve:

        x = argmin (s - q(x))^2 / R + (x - y)^2 / P

    with the largest P, (F,) model units; where even that leaves the source unexplained by 3
    standard deviations (a vessel with a contrast agent), `otherwise`.
    """
    grid = np.linspace(-1, 1, FINE)
    shown = np.stack([seen.curve(far, np.full(len(far), x)) for x in grid])
    misfit = (seen.source[far] - shown) ** 2
    change = (grid[:, None] - seen.output[far]) ** 2
    best = np.argmin(misfit / variance + change / (SURPRISE * error**2), axis=0)
    explained = np.take_along_axis(misfit, best[None], axis=0)[0] <= OUTLIER**2 * variance
    return np.where(explained, grid[best], otherwise)


def to_level(values: np.ndarray) -> np.ndarray:
    """Model units in [-1, 1] (beyond: clipped) as levels in [0, LEVELS - 1]: (V,) float64."""
    return (np.clip(values, -1, 1).astype(np.float64) + 1) / 2 * (LEVELS - 1)


def deposit(
    level: np.ndarray, values: np.ndarray | float = 1.0, cell: np.ndarray | int = 0, cells: int = 1
) -> np.ndarray:
    """Sum of the values (V,) at each level in each of the cells: (LEVELS, cells). A value is shared
    between the two levels next to its own.
    """
    lower = np.minimum(level.astype(int), LEVELS - 2)
    share = level - lower
    below, above = (
        np.bincount((lower + step) * cells + cell, part * values, LEVELS * cells)
        for step, part in ((0, 1 - share), (1, share))
    )
    return (below + above).reshape(LEVELS, cells)


def whole_curve(level: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean value at each level, (LEVELS,); of the levels next to it, where it hardly occurs."""
    count, total = deposit(level)[:, 0], deposit(level, values)[:, 0]
    there = count > 0.001 * len(level)
    return np.interp(np.arange(LEVELS), np.flatnonzero(there), total[there] / count[there])


def typical(level: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which voxels (V,) lie within 3 standard deviations of the whole brain's curve (sigma
    clipping): a tumour, or a vessel with a contrast agent, says nothing of healthy tissue nearby.
    """
    kept = np.ones(len(values), dtype=bool)
    for _ in range(3):
        curve = whole_curve(level[kept], values[kept])
        squares = (values - np.interp(level, np.arange(LEVELS), curve)) ** 2
        kept = squares <= OUTLIER**2 * max(squares[kept].mean(), MISMATCH)
    return kept


def local_curve(
    level: np.ndarray,
    values: np.ndarray,
    where: np.ndarray,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Mean value at each level, around each cell: (LEVELS, I/4, J/4, K/4).

    Parameters
    ----------
    level, values
        (V,) levels in [0, LEVELS - 1], and what is averaged; a voxel counts for the two levels next
        to it.
    where
        (V, 3) voxels.
    shape
        Of the volume.

    Notes
    -----
    Where a level does not occur nearby, the whole brain's mean for it is taken.
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
    """Variance of the noise, from the median magnitude of a voxel's difference to the mean of its
    six neighbours, deep enough inside the mask. Fine texture counts as noise.
    """
    inside = ndimage.binary_erosion(mask, iterations=2)
    if not inside.any():
        return 1e-4
    weights = ndimage.generate_binary_structure(3, 1) / 6.0
    weights[1, 1, 1] = 0
    difference = (image - ndimage.convolve(image.astype(np.float64), weights))[inside]
    deviation = 1.4826 * float(np.median(np.abs(difference)))
    return max(deviation**2 / (1 + 1 / 6), 1e-5)
