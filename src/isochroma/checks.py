"""What is unusual about a scan or a result: warnings with a code, a text and a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage

from isochroma.images.brain import largest_component
from isochroma.images.grid import Grid
from isochroma.images.io import spatial_unit
from isochroma.images.masked import extent, smooth
from isochroma.images.outside import ALIKE, rank_correlation, samples
from isochroma.images.preprocess import Prepared
from isochroma.method.refinement import noise_variance
from isochroma.models.config import TargetDomain

FINE = 0.8  # voxel edge, over the model grid's
SMALLER, LARGER = 0.1, 0.2  # than the target's brains; templates are large (MNI space: 15 %)
APART_MM = 0.1  # of the voxels that qform and sform place; the rounding of their numbers is below
AIR_HU, TISSUE_HU = -900, (-20, 100)  # Hounsfield units of air, and of what a skull holds
UNLIKE = 2 / 3  # of the usual share explained; real T2w and FLAIR scans have three quarters of it
SUSPECT, TURNED = 0.065, 0.05  # above the usual share; gain by turning a head
NOISIEST = 0.32  # noise over contrast: 0.29 at most in simulated MR scans, 0.35 and more in CT
DOUBTFUL = 0.3  # expected error, model units
DOUBTFUL_ML = 10  # bright arteries reached 8.4 ml in four real T1w scans of healthy people
MOST_REGIONS, SMALLEST_ML = 5, 0.1
UNEXPLAINED_ERRORS = 3  # times the model's error
UNEXPLAINED_ML = 2.5  # healthy validation scans have 0.6 ml at most


@dataclass(frozen=True)
class ScanWarning:
    """Something unusual that a user should look at.

    Attributes
    ----------
    code : str
        Stable identifier for programs, such as "brain-size".
    text : str
        One sentence for people: what is unusual, and what to do.
    value : float
        The measured quantity; its unit is in the text.
    """

    code: str
    text: str
    value: float


def check_file(scan: nib.spatialimages.SpatialImage, mask: np.ndarray) -> list[ScanWarning]:
    """Look for a header that contradicts itself, and for intensities that no MR scan has.

    Parameters
    ----------
    scan : SpatialImage
        One 3D scan.
    mask : (I, J, K) ndarray of bool
        The brain.

    Returns
    -------
    warnings : list of ScanWarning
        With the codes "qform-sform", "units" and "hounsfield-units".
    """
    found = []
    if isinstance(scan.header, nib.Nifti1Header):
        qform, sform = scan.header.get_qform(coded=True)[0], scan.header.get_sform(coded=True)[0]
        if qform is not None and sform is not None:
            apart = Grid(scan.shape, qform).distance_mm(Grid(scan.shape, sform))
            if apart > APART_MM:
                text = (
                    f"its qform and sform place voxels up to {apart:.1f} mm apart, and the sform "
                    "was used: are sizes, left and right as they should be?"
                )
                found.append(ScanWarning("qform-sform", text, apart))
    unit = spatial_unit(scan)
    if unit not in ("mm", "unknown"):
        size = float(Grid.of(scan).voxel_mm.max())
        text = f"its header's unit is {unit}, and its voxels of {size:g} were read as mm."
        found.append(ScanWarning("units", text, size))
    data = np.asanyarray(scan.dataobj)
    middle = float(np.median(data[mask]))
    if data.min() <= AIR_HU and TISSUE_HU[0] <= middle <= TISSUE_HU[1]:
        text = (
            f"a median of {middle:.0f} in the brain and {data.min():.0f} around it look like "
            "Hounsfield units: the model knows MR scans alone, so trust no output from CT."
        )
        found.append(ScanWarning("hounsfield-units", text, middle))
    return found


def check_scan(source: Prepared, scan_grid: Grid, target: TargetDomain) -> list[ScanWarning]:
    """Compare a scan with those that the model was trained on.

    Parameters
    ----------
    source : Prepared
        The scan on the model grid.
    scan_grid : Grid
        The scan's own grid.
    target : TargetDomain
        With the sizes of the training scans' brains, if the model has them.

    Returns
    -------
    warnings : list of ScanWarning
        With the codes "noise", "thick-voxels", "fine-voxels" and "brain-size".
    """
    found = []
    contrast = float(source.image[source.mask].std())
    noise = noise_variance(source.image, source.mask) ** 0.5 / max(contrast, 1e-6)
    if noise > NOISIEST:
        text = (
            f"noise has {noise:.0%} of the contrast's standard deviation, in simulated MR scans "
            "29% at most: a very noisy scan, or CT? Compare source and output before you use it."
        )
        found.append(ScanWarning("noise", text, noise))
    spacing = source.grid.voxel_mm
    voxel_mm = scan_grid.voxel_mm
    shown = " x ".join(f"{size:.1f}" for size in voxel_mm)
    if scan_grid.thick(spacing[0]).any():
        text = (
            f"voxels of {shown} mm: between slices the output is the model's guess. "
            "Do not measure small structures there."
        )
        found.append(ScanWarning("thick-voxels", text, float(voxel_mm.max())))
    if voxel_mm.min() < FINE * spacing[0]:
        text = f"voxels of {shown} mm: detail finer than {spacing[0]:.0f} mm is lost."
        found.append(ScanWarning("fine-voxels", text, float(voxel_mm.min())))
    if target.smallest_mm:
        sizes = extent(source.mask) * spacing
        for axis, size, low, high in zip(
            ("wide", "long", "high"), sizes, target.smallest_mm, target.largest_mm, strict=True
        ):
            if not low * (1 - SMALLER) <= size <= high * (1 + LARGER):
                text = (
                    f"the brain is {size:.0f} mm {axis}, those of the target {low:.0f} to "
                    f"{high:.0f}: is part of it missing, or the mask wrong?"
                )
                found.append(ScanWarning("brain-size", text, float(size)))
    return found


def check_explained(
    explained: float | None, usual: float | None, turned: Callable[[], tuple[float, float]]
) -> list[ScanWarning]:
    """Ask whether a scan shows what the model knows: a brain, by MR, the right way up.

    Parameters
    ----------
    explained : float or None
        Share of the source's variance that the first pass explains (`refinement.explained_share`).
    usual : float or None
        The least such share on validation scans; nothing is checked where either is None.
    turned : callable
        Gives two shares at half the resolution, of the head as it is and upside down; asked where
        the share is not well above usual.

    Returns
    -------
    warnings : list of ScanWarning
        One at most: "upside-down" or "unlike-mr".
    """
    if explained is None or usual is None or explained > usual + SUSPECT:
        return []
    upright, other = turned()
    if other > upright + TURNED:
        text = (
            f"the model explains {other:.0%} of it upside down and {upright:.0%} as it is: is the "
            "orientation in its header right?"
        )
        return [ScanWarning("upside-down", text, other - upright)]
    if explained < UNLIKE * usual:
        text = (
            f"its edges explain {explained:.0%} of what it shows, those of simulated MR scans "
            f"{usual:.0%} or more: another kind of image, a wrong mask, or a contrast that the "
            "model reads badly? Compare source and output before you use it."
        )
        return [ScanWarning("unlike-mr", text, explained)]
    return []


@dataclass(frozen=True)
class Region:
    """A connected region in which the output is doubtful.

    Attributes
    ----------
    volume_ml : float
        Its volume.
    centre_mm : tuple of 3 floats
        World coordinates of its voxel nearest to its centre of mass.
    """

    volume_ml: float
    centre_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Doubt:
    """How far an output may be from the truth.

    Attributes
    ----------
    error : (I, J, K) ndarray of float32
        Expected error of each voxel, model units (`doubt.expected_error`).
    mean : float
        Its root mean square over the brain.
    regions : tuple of Region
        Where it is above 0.3: 6-connected, the largest first, five at most, from 0.1 ml.
    """

    error: np.ndarray
    mean: float
    regions: tuple[Region, ...]

    @classmethod
    def of(cls, error: np.ndarray, source: Prepared) -> Doubt:
        """Summarise the expected error (I, J, K) of a source's output."""
        mean = float(np.sqrt(np.mean(error[source.mask] ** 2)))
        return cls(error, mean, tuple(_doubtful_regions(error, source.grid)))


def _doubtful_regions(error: np.ndarray, grid: Grid) -> list[Region]:
    labels, _ = ndimage.label(error > DOUBTFUL)
    volumes = np.bincount(labels.ravel())[1:] * grid.voxel_ml
    found = []
    for number in np.argsort(volumes)[::-1][:MOST_REGIONS]:
        if volumes[number] < SMALLEST_ML:
            break
        where = np.argwhere(labels == number + 1)
        centre = where[np.linalg.norm(where - where.mean(0), axis=1).argmin()]
        world = nib.affines.apply_affine(grid.affine, centre).round(1).tolist()
        found.append(Region(round(float(volumes[number]), 2), tuple(world)))
    return found


def check_doubt(doubt: Doubt | None) -> list[ScanWarning]:
    """Warn of a region in which the output is not to be believed.

    Parameters
    ----------
    doubt : Doubt or None
        Of the output, if known.

    Returns
    -------
    warnings : list of ScanWarning
        One, "doubtful-region", if the largest exceeds 10 ml, otherwise none.
    """
    if doubt is None or not doubt.regions or doubt.regions[0].volume_ml <= DOUBTFUL_ML:
        return []
    volume = doubt.regions[0].volume_ml
    place = ", ".join(f"{each:.0f}" for each in doubt.regions[0].centre_mm)
    text = (
        f"{volume:.1f} ml around ({place}) mm are doubtful: source and output do not fit together "
        "there. A vessel, a lesion, a tumour, or not brain? Compare both, or write the uncertainty."
    )
    return [ScanWarning("doubtful-region", text, volume)]


def check_outside(
    outside: str, scan: nib.spatialimages.SpatialImage, result: np.ndarray, brain: np.ndarray
) -> list[ScanWarning]:
    """Ask whether the surroundings of a brain could be matched to it.

    Parameters
    ----------
    outside : str
        Name in `outside.FILLINGS`; nothing is checked but for "matched".
    scan : SpatialImage
        The source.
    result : (I, J, K) ndarray
        What became of it, on the same grid.
    brain : (I, J, K) ndarray of bool
        The brain.

    Returns
    -------
    warnings : list of ScanWarning
        One, "outside-contrast", if the source's contrast in the brain is another than the result's.
    """
    if outside != "matched":
        return []
    likeness = rank_correlation(samples(np.asanyarray(scan.dataobj), brain), samples(result, brain))
    if likeness >= ALIKE:
        return []
    text = (
        f"source and output have different contrasts (rank correlation {likeness:.2f}): outside "
        "the brain the source was scaled as a whole and keeps its own."
    )
    return [ScanWarning("outside-contrast", text, likeness)]


def check_refinement(
    first: np.ndarray, refined: np.ndarray, source: Prepared, error: float
) -> list[ScanWarning]:
    """Look for a region where the source shows what its edges did not let the model expect.

    A voxel counts if the refinement moved it by more than 3 times the model's error; a region is
    where such voxels are more than half of a Gaussian neighbourhood of 3 mm.

    Parameters
    ----------
    first, refined : (I, J, K) ndarray of float32
        First pass before and after its refinement, model units.
    source : Prepared
        The scan on the model grid.
    error : float
        The model's root mean square error on validation scans, model units.

    Returns
    -------
    warnings : list of ScanWarning
        One, "unexplained-region", if the largest region exceeds 2.5 ml, otherwise none.
    """
    size_ml = _region_ml(np.abs(refined - first) > UNEXPLAINED_ERRORS * error, source)
    if size_ml <= UNEXPLAINED_ML:
        return []
    text = (
        f"a region of {size_ml:.0f} ml is not what its edges suggest: a tumour, a large lesion, or "
        "not brain? Look at the output there."
    )
    return [ScanWarning("unexplained-region", text, size_ml)]


def check_agreement(
    first: np.ndarray, second: np.ndarray, error: np.ndarray, source: Prepared, name: str
) -> list[ScanWarning]:
    """Look for a region where two contrasts of one head are rendered differently.

    A voxel counts if they differ by more than 3 expected errors of the difference; a region is as
    for `check_refinement`.

    Parameters
    ----------
    first, second : (I, J, K) ndarray of float
        Both outputs on the first's grid, model units.
    error : (I, J, K) ndarray of float
        Expected error of their difference, model units.
    source : Prepared
        The first's scan; its mask is that of both brains.
    name : str
        What the second's scan is called.

    Returns
    -------
    warnings : list of ScanWarning
        One, "contrasts-disagree", if the largest region exceeds 2.5 ml, otherwise none.
    """
    size_ml = _region_ml(np.abs(first - second) > UNEXPLAINED_ERRORS * error, source)
    if size_ml <= UNEXPLAINED_ML:
        return []
    text = f"a region of {size_ml:.0f} ml is rendered otherwise from {name}. Look at both there."
    return [ScanWarning("contrasts-disagree", text, size_ml)]


def _region_ml(voxels: np.ndarray, source: Prepared) -> float:
    """Measure the largest region where most voxels of a Gaussian neighbourhood of 3 mm count."""
    mask = source.mask
    counted = mask & voxels
    if not counted.any():
        return 0.0
    share = smooth(counted, mask, tuple(3 / source.grid.voxel_mm), floor=0.3)
    return float(largest_component(mask & (share > 0.5)).sum() * source.grid.voxel_ml)
