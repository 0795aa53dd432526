"""Simulated travelling subjects: a scan of the target scanner, as other sequences would show it.

The signal of each tissue follows from its relaxation times and the sequence's equation, so the
contrasts are those of known protocols. It is a simulation, and called one wherever it is used.
Only the brain is simulated: no skull, no scalp. Left out, too: B1+ (flip angles are exact), slice
profiles and gaps, chemical shift, flow and pulsation, susceptibility, motion, stimulated echoes
and T2 decay within an echo train, the scan's other tissues (vessels, iron-rich nuclei, lesions),
and the limits of a real field of view. Within a tissue, the anatomy's texture is carried along by
intensity alone, so structures that look alike in the source look alike here. Voxels that hold CSF
and white matter look like grey matter in a T1-weighted scan, and are simulated as such: expect a
thin grey rim around the ventricles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage

from isochroma.errors import InputError
from isochroma.images.grid import Grid
from isochroma.images.preprocess import Prepared
from isochroma.method.recontrast import bias_field

BRIGHT = 1000.0  # the scan's 99.5th in-mask percentile


class Tissue(NamedTuple):
    """T1, T2 and T2* in ms, proton density relative to CSF."""

    t1: float
    t2: float
    t2_star: float
    density: float


TISSUES: dict[float, tuple[Tissue, Tissue, Tissue]] = {
    1.5: (
        Tissue(2569, 329, 58, 1.0),
        Tissue(833, 83, 69, 0.86),
        Tissue(500, 70, 61, 0.77),
    ),
    3.0: (
        Tissue(4309, 1886, 58, 1.0),
        Tissue(1331, 110, 52, 0.86),
        Tissue(832, 80, 45, 0.77),
    ),
}
"""Field strength in T to CSF, grey matter and white matter, the order of the tissue fractions.

1.5 T: all values are BrainWeb's (Collins et al. 1998, doi:10.1109/42.712135; Kwan et al. 1999,
doi:10.1109/42.816072). 3 T: grey and white matter by Wansapura et al. 1999
(doi:10.1002/(SICI)1522-2586(199904)9:4<531::AID-JMRI4>3.0.CO;2-L; T2* of the frontal lobe),
T1 and T2 of subarachnoid CSF measured at 3 T (Magn Reson Med 2023, PMC10696635). Proton densities
do not depend on the field, and the T2* of CSF hardly matters at the echo times of gradient echoes:
BrainWeb's serve both.
"""


def spin_echo(tissue: Tissue, tr: float, te: float, train: float = 0) -> float:
    """Spin echo, and fast spin echo with its effective echo time.

    S = PD (1 - exp(-(TR - train) / T1)) exp(-TE / T2); `train` (ms) is the time from the
    excitation to the last echo, in which nothing recovers. Times in ms.
    """
    return tissue.density * -np.expm1(-(tr - train) / tissue.t1) * np.exp(-te / tissue.t2)


def inversion_recovery(tissue: Tissue, tr: float, te: float, ti: float, train: float = 0) -> float:
    """Inversion-recovery (fast) spin echo, such as FLAIR; magnitude.

    S = PD |1 - 2 exp(-TI / T1) + exp(-(TR - train) / T1)| exp(-TE / T2). Times in ms.
    """
    recovered = 1 - 2 * np.exp(-ti / tissue.t1) + np.exp(-(tr - train) / tissue.t1)
    return tissue.density * abs(recovered) * np.exp(-te / tissue.t2)


def spoiled_gradient_echo(tissue: Tissue, tr: float, te: float, flip: float) -> float:
    """Spoiled gradient echo (FLASH, SPGR) in its steady state.

    S = PD sin a (1 - E) / (1 - E cos a) exp(-TE / T2*), E = exp(-TR / T1) (Ernst and Anderson
    1966, doi:10.1063/1.1719961). Times in ms, the flip angle a in degrees.
    """
    angle, e = np.deg2rad(flip), np.exp(-tr / tissue.t1)
    steady = (1 - e) / (1 - e * np.cos(angle))
    return tissue.density * np.sin(angle) * steady * np.exp(-te / tissue.t2_star)


def mprage(
    tissue: Tissue, tr: float, te: float, ti: float, flip: float, spacing: float, count: float
) -> float:
    """Magnetisation-prepared rapid gradient echo at the centre of its echo train; magnitude.

    The model of Deichmann et al. 2000 (doi:10.1006/nimg.2000.0601) and Wang et al. 2014
    (doi:10.1371/journal.pone.0096899): a perfect inversion, a recovery, `count` pulses of `flip`
    degrees (a) every `spacing` ms, a second recovery; `tr` is the whole cycle and `ti` the time
    from the inversion to the middle pulse, ms. With E = exp(-spacing / T1), u = E cos a and
    s = (1 - E) / (1 - u), a train of n pulses takes the magnetisation m to s + (m - s) u^n, and a
    recovery of t takes it to 1 + (m - 1) exp(-t / T1). Both are linear, so the cycle's steady
    state has a closed form. S = PD sin a |m| exp(-TE / T2*).
    """
    angle, e = np.deg2rad(flip), np.exp(-spacing / tissue.t1)
    u = e * np.cos(angle)
    s = (1 - e) / (1 - u)
    half = count / 2
    before = np.exp(-(ti - half * spacing) / tissue.t1)
    after = np.exp(-(tr - ti - half * spacing) / tissue.t1)
    # The cycle takes m, just before the inversion, to offset - before * u^count * after * m.
    offset = 1 + (s + (1 - before - s) * u**count - 1) * after
    end = offset / (1 + before * u**count * after)
    first = 1 - (1 + end) * before
    middle = s + (first - s) * u**half
    return tissue.density * np.sin(angle) * abs(middle) * np.exp(-te / tissue.t2_star)


SEQUENCES: dict[str, Callable[..., float]] = {
    "SE": spin_echo,
    "IR": inversion_recovery,
    "SPGR": spoiled_gradient_echo,
    "MPRAGE": mprage,
}


@dataclass(frozen=True)
class Preset:
    """One simulated scanner and protocol.

    contrast
        T1w, T2w, PDw or FLAIR.
    sequence, parameters
        Name in `SEQUENCES` and the arguments of its equation (ms, degrees).
    field
        Field strength in T, a key of `TISSUES`.
    voxel_mm
        Voxel edges along right, anterior and superior.
    source
        The protocol that it imitates.
    bias
        Peak deviation of the smooth multiplicative field from 1.
    noise
        Standard deviation of each channel of the Rician noise, relative to white matter's signal.
    blur_mm
        Gaussian sigma of the blur that comes on top of the voxel size.
    """

    contrast: str
    sequence: str
    parameters: Mapping[str, float]
    field: float
    voxel_mm: tuple[float, float, float]
    source: str
    bias: float = 0.2
    noise: float = 0.03
    blur_mm: float = 0.4

    def signals(self) -> np.ndarray:
        """(3,) signal of pure CSF, grey matter and white matter, relative to fully relaxed CSF."""
        equation = SEQUENCES[self.sequence]
        return np.array([equation(tissue, **self.parameters) for tissue in TISSUES[self.field]])


OASIS = "OASIS-1 (doi:10.1162/jocn.2007.19.9.1498): TI 20 ms before, TD 200 ms after the train"
ADNI = "ADNI (doi:10.1002/jmri.21049); echo spacing and number of partitions assumed"
BRAINWEB = "ICBM protocol of BrainWeb (doi:10.1109/42.712135); slice thickness chosen here"
MPM = "T1w scan of multi-parameter mapping (doi:10.3389/fnins.2013.00095), first echo"
MS_SMART = "MS-SMART (doi:10.1136/bmjopen-2018-021944); slices thinner, length of the train assumed"
PRESETS: dict[str, Preset] = {
    "mprage-1.5T": Preset(
        "T1w",
        "MPRAGE",
        {"tr": 1462, "te": 4.0, "ti": 641, "flip": 10, "spacing": 9.7, "count": 128},
        1.5,
        (1.25, 1.0, 1.0),
        OASIS,
        bias=0.25,
        noise=0.04,
    ),
    "mprage-3T": Preset(
        "T1w",
        "MPRAGE",
        {"tr": 2300, "te": 2.98, "ti": 900, "flip": 9, "spacing": 7.1, "count": 160},
        3.0,
        (1.2, 1.0, 1.0),
        ADNI,
        bias=0.3,
        noise=0.02,
    ),
    "spgr-1.5T": Preset(
        "T1w", "SPGR", {"tr": 18, "te": 10, "flip": 30}, 1.5, (1.0, 1.0, 1.0), BRAINWEB
    ),
    "spgr-3T": Preset(
        "T1w", "SPGR", {"tr": 18.7, "te": 2.2, "flip": 20}, 3.0, (1.0, 1.0, 1.0), MPM, bias=0.3
    ),
    "se-t1-1.5T": Preset(
        "T1w", "SE", {"tr": 518, "te": 12}, 1.5, (1.0, 1.0, 2.5), MS_SMART, noise=0.02
    ),
    "tse-t2-3T": Preset(
        "T2w", "SE", {"tr": 2700, "te": 97, "train": 97}, 3.0, (1.0, 1.0, 2.0), MS_SMART, bias=0.3
    ),
    "se-t2-1.5T": Preset(
        "T2w",
        "SE",
        {"tr": 3300, "te": 120, "train": 120},
        1.5,
        (1.0, 1.0, 2.5),
        BRAINWEB,
        noise=0.05,
    ),
    "tse-pd-1.5T": Preset(
        "PDw",
        "SE",
        {"tr": 3300, "te": 16, "train": 100},
        1.5,
        (1.0, 1.0, 2.0),
        MS_SMART,
        noise=0.02,
    ),
    "flair-3T": Preset(
        "FLAIR",
        "IR",
        {"tr": 9500, "te": 100, "ti": 2400, "train": 150},
        3.0,
        (1.0, 1.0, 2.0),
        MS_SMART,
        bias=0.3,
    ),
}


def acquire(
    image: np.ndarray, mask: np.ndarray, fractions: np.ndarray, preset: Preset
) -> np.ndarray:
    """The scan's anatomy in the preset's contrast: no bias field, no noise, full resolution.

    Each voxel mixes the tissues' signals by its fractions. On top comes the scan's own texture:
    let M be the piecewise linear map from the tissues' mean intensities in the scan to their
    signals; then texture = M(image) - M(mixture of the means). So structure within a tissue stays,
    with the sign and strength of the map's local slope. Beyond the means of CSF and white matter
    the map goes on with the slope of its last piece, but no steeper than its average. Where the
    fractions mix neighbouring tissues alone, the sum is M(image): a class that changes from one
    voxel to the next makes no step. They matter where CSF and white matter meet.

    Parameters
    ----------
    image
        (I, J, K) T1w scan in model units.
    mask
        (I, J, K) bool.
    fractions
        (I, J, K, 3) fractions of CSF, grey matter and white matter (`tissues.classify`).
    preset
        The simulated protocol.

    Returns
    -------
    (I, J, K) float32, in units of fully relaxed CSF's signal, not negative, 0 outside the mask.

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
    beyond = 2.0  # model units: further than any voxel is from the means
    knots = [means[0] - beyond, *means, means[2] + beyond]
    levels = [signals[0] - beyond * low, *signals, signals[2] + beyond * high]
    texture = np.interp(values, knots, levels) - np.interp(mixed @ means, knots, levels)
    result = np.zeros(image.shape, dtype=np.float32)
    result[mask] = np.maximum(mixed @ signals + texture, 0)
    return result


def box_average(
    data: np.ndarray, mask: np.ndarray, grid: Grid, voxel_mm: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray, Grid]:
    """Average over voxels of another size, along the same axes and around the same centre.

    Old voxels count by how much of the new one they fill, so that uneven sizes may shift content
    by up to an eighth of an old voxel.

    Parameters
    ----------
    data, mask
        (I, J, K) volume and bool mask on `grid`; voxels outside the mask count for nothing.
    voxel_mm
        Edges of the new voxels.

    Returns
    -------
    data, mask, grid
        (I', J', K') averages, 0 outside the new mask; bool, the voxels that the old mask fills by
        half or more; where they lie.
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


def simulate(
    prepared: Prepared, fractions: np.ndarray, preset: Preset, rng: np.random.Generator
) -> nib.Nifti1Image:
    """The scan of a travelling subject: this head, as the preset's scanner would write it.

    The brain alone, already skull-stripped: exactly 0 outside the mask, above 0 inside.

    Parameters
    ----------
    prepared
        A T1w scan of the target scanner.
    fractions
        (I, J, K, 3) its tissue fractions (`tissues.classify`).
    preset
        The simulated scanner and protocol.
    rng
        Source of the bias field and the noise.

    Returns
    -------
    float32 image with the preset's voxel size, in world space where the head was; the 99.5th
    in-mask percentile is 1000.

    Raises
    ------
    InputError
        As in `acquire`.
    """
    signal = acquire(prepared.image, prepared.mask, fractions, preset)
    sigma = preset.blur_mm / nib.affines.voxel_sizes(prepared.grid.affine)
    weight = ndimage.gaussian_filter(prepared.mask.astype(np.float32), sigma)
    signal = ndimage.gaussian_filter(signal, sigma) / np.maximum(weight, 1e-3)
    signal, inside, grid = box_average(signal, prepared.mask, prepared.grid, preset.voxel_mm)
    signal *= bias_field(grid.shape, preset.bias, rng)
    noise = preset.noise * preset.signals()[2] * rng.standard_normal((2, *grid.shape))
    scan = np.hypot(signal + noise[0], noise[1])
    scan *= BRIGHT / np.percentile(scan[inside], 99.5)
    scan = np.where(inside, np.maximum(scan, 1e-3), 0)
    return nib.Nifti1Image(scan.astype(np.float32), grid.affine)
