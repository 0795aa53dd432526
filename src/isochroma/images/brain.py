"""Brain masks: given by the user, taken from a skull-stripped scan, or found by deepbet."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage

from isochroma.errors import InputError
from isochroma.images.grid import Grid, bounding_box
from isochroma.images.masked import extent

BRAIN_ML = (200, 3000)  # plausible volumes of a brain mask, from infants to large masks
STRIPPED_ML = 2000  # more than this around exact zeros is a whole head
SKULL = 0.7  # see `valley_under_surface`
FILLED = 0.8  # share of a stripped scan that deepbet's mask fills: 0.98 on stripped scans, 0.5 on
# a child's whole head
FAINT, HALO = 0.02, 0.05  # of the 99th percentile; share of such voxels, 0.017 at most elsewhere
THINNEST_MM = 40
WIDE_MM = 300  # fields of view beyond are cut before deepbet
ROUNDING_MM = 0.1  # between the corners of a scan and its mask


class Brain(NamedTuple):
    """Hold a brain mask and how it was found.

    Attributes
    ----------
    mask : (I, J, K) ndarray of bool
        On the scan's own grid.
    origin : str
        "given", or the name of the extractor that found it.
    """

    mask: np.ndarray
    origin: str


def find_brain(
    scan: nib.spatialimages.SpatialImage, given: nib.spatialimages.SpatialImage | None = None
) -> Brain:
    """Take the given brain mask, or ask the `EXTRACTORS` in turn.

    Parameters
    ----------
    scan : SpatialImage
        One 3D scan.
    given : SpatialImage, optional
        Mask on the scan's grid, in any orientation: labels (not 0 is brain) or probabilities (at
        least half of their maximum is brain).

    Returns
    -------
    brain : Brain
        The mask and its origin.

    Raises
    ------
    InputError
        If the given mask lies on another grid, or no brain of plausible size is found.
    """
    if given is not None:
        brain = Brain(_given(scan, given), "given")
    else:
        found = (extract(scan) for extract in EXTRACTORS.values())
        brain = next(each for each in found if each is not None)
    _check_size(brain, Grid.of(scan))
    return brain


def _check_size(brain: Brain, grid: Grid) -> None:
    volume_ml = brain.mask.sum() * grid.voxel_ml
    if not BRAIN_ML[0] <= volume_ml <= BRAIN_ML[1]:
        msg = (
            f"the brain mask ({brain.origin}) holds {volume_ml:.0f} ml; a head has {BRAIN_ML[0]} "
            f"to {BRAIN_ML[1]} ml. Check the scan, or give its brain mask."
        )
        raise InputError(msg, "mask")
    thinnest = (extent(brain.mask) * grid.voxel_mm).min()
    if thinnest < THINNEST_MM:
        msg = (
            f"the brain mask ({brain.origin}) is {thinnest:.0f} mm thin; a brain has at least "
            f"{THINNEST_MM} mm. Check the scan, or give its brain mask."
        )
        raise InputError(msg, "mask")


def stripped(scan: nib.spatialimages.SpatialImage) -> Brain | None:
    """Take the mask of a scan that is skull-stripped already.

    A whole head on a background of zeros, such as a small child's, looks stripped too. Where the
    intensities under the surface suggest a skull, deepbet is asked: its mask must fill most of the
    region, or is taken instead.

    Parameters
    ----------
    scan : SpatialImage
        One 3D scan.

    Returns
    -------
    brain : Brain or None
        The non-zero voxels without a faint halo, holes filled, or deepbet's mask; None if no exact
        zeros surround one region.
    """
    data, grid = np.asanyarray(scan.dataobj), Grid.of(scan)
    inside = without_halo(data)
    if not is_stripped(data) or inside.sum() * grid.voxel_ml > STRIPPED_ML:
        return None
    box = bounding_box(inside, 1)  # zeros around it may be many
    mask = np.zeros(data.shape, dtype=bool)
    mask[box] = ndimage.binary_fill_holes(largest_component(inside[box]))
    taken = Brain(mask, "stripped")
    if valley_under_surface(data, taken.mask, grid.voxel_mm) > SKULL:
        return taken
    try:
        found = deepbet(scan)
    except InputError:  # what deepbet does not know as a head is no whole head
        return taken
    filled = (found.mask & taken.mask).sum()
    return taken if filled >= FILLED * taken.mask.sum() else found


def valley_under_surface(data: np.ndarray, mask: np.ndarray, voxel_mm: np.ndarray) -> float:
    """Measure how dark the layers under a surface are, against those above and below them.

    Scalp, dark skull and brain make a valley in any contrast; a stripped brain has none.

    Parameters
    ----------
    data : (I, J, K) ndarray
        A scan.
    mask : (I, J, K) ndarray of bool
        The region; not empty.
    voxel_mm : (3,) ndarray of float
        Edges of the voxels.

    Returns
    -------
    ratio : float
        The 25th percentile of the darkest layer of 2 mm within 30 mm of the surface, over the
        brightest such layer above it or below it, whichever is darker. 0.9 and more on ten stripped
        scans in T1w, T2w and FLAIR; 0.5 on a head made as small as a child's.
    """
    box = bounding_box(mask)
    coarse = tuple(slice(None, None, max(1, round(2 / size))) for size in voxel_mm)
    inside = np.pad(mask[box][coarse], 1)
    values = np.pad(np.asarray(data[box][coarse], dtype=np.float32), 1)
    edges_mm = voxel_mm * [each.step for each in coarse]
    depth = ndimage.distance_transform_edt(inside, sampling=edges_mm)
    layers = []
    for start in range(0, 30, 2):
        layer = values[(depth > start) & (depth <= start + 2)]
        if len(layer):
            layers.append(float(np.percentile(layer, 25)))
    ratios = [
        layers[n] / max(min(max(layers[:n]), max(layers[n + 1 :])), 1e-6)
        for n in range(1, len(layers) - 1)
    ]
    return min(ratios, default=1.0)


def without_halo(data: np.ndarray) -> np.ndarray:
    """Select the voxels of a stripped scan, without a faint halo around them.

    Interpolation by a windowed sinc leaves values of about 1 % of the brain's around it. They count
    as a halo if there are more of them than any stripped brain has of its own.

    Parameters
    ----------
    data : (I, J, K) ndarray
        A scan.

    Returns
    -------
    inside : (I, J, K) ndarray of bool
    """
    inside = data != 0
    if not inside.any():
        return inside
    limit = FAINT * np.percentile(data[inside], 99)
    faint = inside & (np.abs(data) < limit)
    return inside & ~faint if faint.sum() > HALO * inside.sum() else inside


def deepbet(scan: nib.spatialimages.SpatialImage) -> Brain:
    """Find the brain of a whole head by the neural network deepbet.

    deepbet squeezes the field of view into 128 x 128 x 128 voxels, so a wide constant border is cut
    off first.

    Parameters
    ----------
    scan : SpatialImage
        One 3D scan.

    Returns
    -------
    brain : Brain

    Raises
    ------
    InputError
        If deepbet finds none.

    References
    ----------
    Fisch et al. 2024, doi:10.1016/j.compbiomed.2024.108845.
    """
    data, grid = np.asanyarray(scan.dataobj), Grid.of(scan)
    box = tuple(slice(0, n) for n in data.shape)
    if (np.array(data.shape) * grid.voxel_mm).max() > WIDE_MM:
        box = bounding_box(data != data[0, 0, 0], 4)
    plain = nib.Nifti1Image(np.asarray(data[box], dtype=np.float32), grid.crop(box).affine)
    try:
        _, found, _ = _deepbet_network().run(plain)
    except (AssertionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        said = f"deepbet found no brain{f' ({reason})' if reason else ''}."
        msg = f"{said} Check the scan, or give its brain mask."
        raise InputError(msg, "mask") from error
    mask = np.zeros(data.shape, dtype=bool)
    mask[box] = np.asanyarray(found.dataobj) > 0
    return Brain(mask, "deepbet")


EXTRACTORS: dict[str, Callable[[nib.spatialimages.SpatialImage], Brain | None]] = {
    "stripped": stripped,
    "deepbet": deepbet,
}
"""Brain extractors by name, in the order in which they are asked; None passes the scan on."""


def is_stripped(data: np.ndarray) -> bool:
    """Tell whether exact zeros surround one connected region.

    The border of the volume must be zero almost everywhere (99 %), zeros must fill a tenth of the
    volume or more, and 99 % of the other voxels must be connected.

    Parameters
    ----------
    data : (I, J, K) ndarray
        A scan.

    Returns
    -------
    stripped : bool
    """
    inside = data != 0
    faces = [np.take(inside, index, axis) for axis in range(3) for index in (0, -1)]
    if np.mean(np.concatenate([face.ravel() for face in faces])) > 0.01 or inside.mean() > 0.9:
        return False
    if not inside.any():
        return False
    cropped = inside[bounding_box(inside)]
    return bool(largest_component(cropped).sum() >= 0.99 * cropped.sum())


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Keep the largest 6-connected component of a mask.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
        May be empty.

    Returns
    -------
    largest : (I, J, K) ndarray of bool
    """
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def _given(
    scan: nib.spatialimages.SpatialImage, given: nib.spatialimages.SpatialImage
) -> np.ndarray:
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(given.affine), nib.io_orientation(scan.affine)
    )
    given = given.as_reoriented(turn)
    mine, other = Grid.of(scan), Grid.of(given)
    if np.prod(given.shape) != np.prod(scan.shape) or not mine.same_as(other, ROUNDING_MM):
        same = mine.shape == other.shape
        apart = f"; it is off by {mine.distance_mm(other):.1f} mm" if same else ""
        msg = (
            f"the mask's grid {given.shape} is not the scan's {scan.shape}{apart}. "
            "Resample the mask to the scan."
        )
        raise InputError(msg, "mask")
    values = np.asanyarray(given.dataobj).reshape(scan.shape)
    soft = np.issubdtype(values.dtype, np.floating) and (values != np.rint(values)).any()
    return values >= values.max() / 2 if soft else values > 0


@functools.cache
def _deepbet_network():  # type: ignore[no-untyped-def]
    from deepbet import BrainExtraction

    with warnings.catch_warnings():  # torch 2.14 deprecates the format of deepbet's weights
        warnings.filterwarnings("ignore", "`torch.jit.load`", FutureWarning)
        return BrainExtraction(no_gpu=True)
