"""Simulated acquisition: a T1w scan of a head, shown as another sequence would show it.

The signal of each tissue follows from its relaxation times and the sequence's equation, so the
contrasts are those of known protocols. Only the brain is simulated: no skull, no scalp. Also left
out: B1+ (flip angles are exact), slice profiles and gaps, chemical shift, flow and pulsation,
susceptibility, motion, stimulated echoes and T2 decay within an echo train, the scan's other
tissues (vessels, iron-rich nuclei), and the limits of a real field of view. Within a
tissue, the anatomy's texture is carried along by intensity alone, so structures that look alike in
the source look alike here. Voxels that hold CSF and white matter look like grey matter in a
T1-weighted scan and are simulated as such: expect a thin grey rim around the ventricles.
"""

from __future__ import annotations

import nibabel as nib
import numpy as np

from isochroma.errors import InputError
from isochroma.evaluation.phantoms.sequences import LESION, Preset
from isochroma.images.grid import Grid
from isochroma.images.masked import scatter, smooth
from isochroma.images.preprocess import Prepared
from isochroma.method.recontrast import bias_field

BRIGHT = 1000.0  # the scan's 99.5th in-mask percentile, about the range that scanners write


def ideal_signal(
    image: np.ndarray,
    mask: np.ndarray,
    fractions: np.ndarray,
    preset: Preset,
    lesions: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the signal of each voxel: no bias field, no noise, full resolution.

    Each voxel mixes the tissues' signals by its fractions. The scan's own texture is added: let M
    be the piecewise linear map from the tissues' mean intensities in the scan to their signals;
    then texture = M(image) - M(mixture of the means). So structure within a tissue stays, with the
    sign and strength of the map's local slope. Beyond the means of CSF and white matter the map
    continues with the slope of its last piece, but no steeper than its average. Where the fractions
    mix neighbouring tissues only, the sum is M(image), so a class that changes from one voxel to
    the next makes no step. The fractions matter where CSF and white matter meet. Lesions have
    relaxation times of their own: they add the difference of their signal and white matter's.

    Parameters
    ----------
    image : (I, J, K) ndarray
        T1w scan in model units.
    mask : (I, J, K) ndarray of bool
        Brain mask.
    fractions : (I, J, K, 3) ndarray
        Fractions of CSF, grey matter and white matter (`tissues.classify`).
    preset : Preset
        The simulated protocol.
    lesions : (I, J, K) ndarray, optional
        Share of lesion tissue in place of white matter, which the image does not show.

    Returns
    -------
    signal : (I, J, K) ndarray of float32
        Relative to fully relaxed CSF, not negative; 0 outside the mask.

    Raises
    ------
    InputError
        If the shapes differ, a tissue is absent, or the three are not ordered from dark to bright.
    """
    if image.shape != mask.shape or fractions.shape != (*image.shape, 3):
        msg = (
            f"the fractions {fractions.shape} or the mask {mask.shape} are not of the image "
            f"{image.shape}. Classify the tissues of this image."
        )
        raise InputError(msg)
    mixed = fractions[mask].astype(np.float64)
    values = image[mask].astype(np.float64)
    amounts = mixed.sum(axis=0)
    means = values @ mixed / np.maximum(amounts, 1e-9)
    if amounts.min() <= 0 or not (np.diff(means) > 0).all():
        msg = (
            "the scan's CSF, grey matter and white matter must all be there, from dark to bright. "
            "Simulate from a T1w scan of a whole brain."
        )
        raise InputError(msg)
    signals = preset.signals()
    slopes = np.diff(signals) / np.diff(means)
    steepest = np.ptp(signals) / (means[2] - means[0])
    low, high = np.clip(slopes, -steepest, steepest)
    beyond = 2.0  # model units, the width of their range: no voxel is further from the means
    knots = [means[0] - beyond, *means, means[2] + beyond]
    levels = [signals[0] - beyond * low, *signals, signals[2] + beyond * high]
    texture = np.interp(values, knots, levels) - np.interp(mixed @ means, knots, levels)
    signal = mixed @ signals + texture
    if lesions is not None:
        signal += lesions[mask] * (preset.signal(LESION[preset.field]) - signals[2])
    return scatter(np.maximum(signal, 0), mask)


def box_average(
    data: np.ndarray, mask: np.ndarray, grid: Grid, voxel_mm: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray, Grid]:
    """Average a volume over voxels of another size, along the same axes and around one centre.

    Old voxels count by how much of the new one they fill, so uneven sizes may shift content by up
    to an eighth of an old voxel.

    Parameters
    ----------
    data : (I, J, K) ndarray
        Values on `grid`.
    mask : (I, J, K) ndarray of bool
        Voxels that count.
    grid : Grid
        The present voxels.
    voxel_mm : tuple of 3 floats
        Edges of the new voxels, mm.

    Returns
    -------
    average : (I', J', K') ndarray of float32
        Averages over the old mask; 0 outside the new one.
    inside : (I', J', K') ndarray of bool
        New voxels that the old mask fills by half or more.
    grid : Grid
        The new voxels.
    """
    ratios = np.asarray(voxel_mm) / nib.affines.voxel_sizes(grid.affine)
    shape = tuple(
        int(np.ceil(n / ratio - 1e-6)) for n, ratio in zip(grid.shape, ratios, strict=True)
    )
    starts = (np.array(grid.shape) - np.array(shape) * ratios) / 2  # old voxels' edges: 0, 1, ...
    total, weight = np.where(mask, data, 0).astype(np.float64), mask.astype(np.float64)
    for axis, (ratio, start) in enumerate(zip(ratios, starts, strict=True)):
        edges = start + ratio * np.arange(shape[axis] + 1)
        overlap = np.diff(np.clip(edges[:, None] - np.arange(grid.shape[axis]), 0, 1), axis=0)
        total, weight = (
            np.moveaxis(np.tensordot(overlap / ratio, part, (1, axis)), 0, axis)
            for part in (total, weight)
        )
    affine = grid.affine @ np.diag([*ratios, 1])
    affine[:3, 3] = nib.affines.apply_affine(grid.affine, starts + (ratios - 1) / 2)
    inside = weight > 0.5 - 1e-9
    average = np.where(inside, total / np.maximum(weight, 0.1), 0).astype(np.float32)
    return average, inside, Grid(shape, affine)


def acquire(
    prepared: Prepared,
    fractions: np.ndarray,
    preset: Preset,
    rng: np.random.Generator,
    lesions: np.ndarray | None = None,
) -> nib.Nifti1Image:
    """Simulate the scan of a head under a preset, as that scanner would write it.

    Parameters
    ----------
    prepared : Prepared
        A T1w scan.
    fractions : (I, J, K, 3) ndarray
        Its tissue fractions (`tissues.classify`).
    preset : Preset
        The simulated scanner and protocol.
    rng : numpy.random.Generator
        Source of the bias field and the noise.
    lesions : (I, J, K) ndarray, optional
        Share of lesion tissue, as for `ideal_signal`.

    Returns
    -------
    scan : Nifti1Image
        Float32 with the preset's voxel size, in world space where the head was. The brain alone:
        above 0 inside the mask, with 1000 as the 99.5th percentile; exactly 0 outside.

    Raises
    ------
    InputError
        As in `ideal_signal`.
    """
    signal = ideal_signal(prepared.image, prepared.mask, fractions, preset, lesions)
    sigma = preset.blur_mm / nib.affines.voxel_sizes(prepared.grid.affine)
    signal = smooth(signal, prepared.mask, sigma, floor=1e-3)
    signal, inside, grid = box_average(signal, prepared.mask, prepared.grid, preset.voxel_mm)
    signal *= bias_field(grid.shape, preset.bias, rng)
    noise = preset.noise * preset.signals()[2] * rng.standard_normal((2, *grid.shape))
    scan = np.hypot(signal + noise[0], noise[1])
    scan *= BRIGHT / np.percentile(scan[inside], 99.5)
    scan = np.where(inside, np.maximum(scan, 1e-3), 0)
    return nib.Nifti1Image(scan.astype(np.float32), grid.affine)
