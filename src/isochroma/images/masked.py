"""Operations inside a mask that what lies outside cannot influence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage


def smooth(
    data: np.ndarray,
    mask: np.ndarray,
    sigma: float | Sequence[float],
    truncate: float = 4.0,
    floor: float = 1e-6,
) -> np.ndarray:
    """Smooth by a Gaussian over the voxels in a mask (normalised convolution).

    The result is G(data * mask) / G(mask): a weighted mean of in-mask voxels alone.

    Parameters
    ----------
    data : (I, J, K) ndarray
        Any real unit; computed as float32.
    mask : (I, J, K) ndarray of bool
        Voxels that count.
    sigma : float or sequence of 3 floats
        Standard deviation of the Gaussian, voxels.
    truncate : float
        Radius of the kernel, standard deviations.
    floor : float
        Least G(mask) to divide by; far outside the mask the result tends to 0.

    Returns
    -------
    smoothed : (I, J, K) ndarray of float32
        Defined in the mask and near it.

    References
    ----------
    Knutsson and Westin 1993, doi:10.1109/CVPR.1993.341081.
    """
    return smoother(mask, sigma, truncate, floor)(data)


def smoother(
    mask: np.ndarray, sigma: float | Sequence[float], truncate: float = 4.0, floor: float = 1e-6
) -> Callable[[np.ndarray], np.ndarray]:
    """Prepare `smooth` for several volumes with one mask: the mask is smoothed once.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
        Voxels that count.
    sigma : float or sequence of 3 floats
        Standard deviation of the Gaussian, voxels.
    truncate, floor : float
        As for `smooth`.

    Returns
    -------
    smooth_volume : callable
        Function that maps (I, J, K) data to the smoothed volume.
    """
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma, truncate=truncate)
    weight = np.maximum(weight, floor)

    def smooth_volume(data: np.ndarray) -> np.ndarray:
        inside = np.where(mask, data, 0).astype(np.float32)
        smoothed = ndimage.gaussian_filter(inside, sigma, truncate=truncate)
        smoothed /= weight
        return smoothed

    return smooth_volume


def scatter(values: np.ndarray, mask: np.ndarray, background: float = 0.0) -> np.ndarray:
    """Put in-mask values back into a volume.

    Parameters
    ----------
    values : (V,) ndarray
        One value a voxel of the mask, as `volume[mask]` gives them.
    mask : (I, J, K) ndarray of bool
        The mask, with V voxels.
    background : float
        Value of all other voxels.

    Returns
    -------
    volume : (I, J, K) ndarray of float32

    Examples
    --------
    >>> scatter(np.array([1.0, 2.0]), np.array([[[True, False, True]]])).ravel()
    array([1., 0., 2.], dtype=float32)
    """
    volume = np.full(mask.shape, background, dtype=np.float32)
    volume[mask] = values
    return volume


def profile(mask: np.ndarray, axis: int) -> np.ndarray:
    """Count a mask's voxels in each plane across an axis.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
        The mask.
    axis : int
        0, 1 or 2.

    Returns
    -------
    counts : (n,) ndarray of int
        One count for each of the n planes.
    """
    return mask.sum(axis=tuple({0, 1, 2} - {axis}))


def centroid(mask: np.ndarray) -> np.ndarray:
    """Compute the mean voxel position of a mask.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
        A mask that is not empty.

    Returns
    -------
    centre : (3,) ndarray of float
    """
    return np.array(
        [np.average(np.arange(n), weights=profile(mask, axis)) for axis, n in enumerate(mask.shape)]
    )


def extent(mask: np.ndarray) -> np.ndarray:
    """Measure a mask along each axis, without the outermost thousandth at either end.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
        A mask that is not empty.

    Returns
    -------
    voxels : (3,) ndarray of int
        Number of planes between the 0.1 and 99.9 percentile of the mask's voxels.
    """
    found = []
    for axis in range(3):
        share = np.cumsum(profile(mask, axis)) / mask.sum()
        found.append(np.searchsorted(share, 0.999) - np.searchsorted(share, 0.001) + 1)
    return np.array(found)


def extend_outside(data: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Replace every voxel outside a mask by its nearest voxel inside.

    Interpolation and filters then mix nothing from outside into the mask.

    Parameters
    ----------
    data : (I, J, K) ndarray
        Any unit.
    mask : (I, J, K) ndarray of bool
        Voxels that keep their value; not empty.

    Returns
    -------
    extended : (I, J, K) ndarray
        Of the dtype of `data`.
    """
    nearest = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return data[tuple(nearest)]
