"""Simulate scanners and heads for the training of the second stage.

The second stage learns from pairs (draft, truth). The truth is a target scan with structure planted
in it; the draft comes from a simulated source. Only target scans are used, so the method stays
blind. What a simulated source shows is on purpose *not* a function of the target's intensity:

- lesions and tumours have relaxation times, and under random curves intensities, of their own, and
  lie in truth and source alike: most heads have several;
- vessels and flow voids run through the source alone, or through both;
- tissues of one class differ by region, by smooth fields that the target does not show;
- a mask that is too loose holds skull and dura, which the target shows dark; or it is too tight;
- thick slices, ringing, ghosts, bias and noise are those of the source.

Half of the contrasts are drawn from signal equations, half from curves of the target's intensity.
Draws near the protocols of the evaluation are rejected (`near_preset`), and balanced steady-state
free precession (`balanced_ssfp`) is never drawn, to see what generalises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.interpolate import PchipInterpolator

from isochroma.evaluation.phantoms.acquisition import ideal_signal
from isochroma.evaluation.phantoms.sequences import PRESETS, SEQUENCES, TISSUES, Preset, Tissue
from isochroma.method.recontrast import CSF, KNOTS

MARGIN = 4  # voxels around the brain that a loose mask may take in
NEAR = 0.04  # of the brightest tissue's signal; draws nearer to a preset than this are rejected
RIM = -0.53  # model units; median of the outermost voxels of the target scans' masks
TARGET_NOISE = 0.04  # model units; what planted structure gets, as the target scans have it
CURVES = {
    "low-contrast": (0.0, 0.2, 0.62, 0.74, 0.9),
    "t2-like": (1.0, 0.85, 0.5, 0.28, 0.1),
    "pd-like": (0.55, 0.7, 1.0, 0.8, 0.7),
}
"""Fixed curves for validation: source intensities at `KNOTS`."""
GAMMA = 0.55  # of one more fixed curve


class Head(NamedTuple):
    """Hold a target scan.

    Attributes
    ----------
    image : (I, J, K) ndarray of float32
        Model units, 0 outside the mask.
    mask : (I, J, K) ndarray of bool
        The brain.
    fractions : (I, J, K, 3) ndarray of float32
        Of CSF, grey and white matter.
    """

    image: np.ndarray
    mask: np.ndarray
    fractions: np.ndarray


class Structure(NamedTuple):
    """Hold one planted structure.

    Attributes
    ----------
    box : tuple of 3 slices
        Where it is.
    weight : ndarray of float32
        Share of each voxel of the box that it fills.
    target : float
        Its intensity in the target, model units.
    tissue : Tissue
        Its relaxation times at 3 T.
    """

    box: tuple[slice, ...]
    weight: np.ndarray
    target: float
    tissue: Tissue


@dataclass(frozen=True)
class Subject:
    """Hold a head with everything that its scans share.

    Attributes
    ----------
    head : Head
        The healthy head, warped or not; its mask is without remnants.
    truth : (I, J, K) ndarray of float32
        What the target scanner shows, planted structure included; model units.
    mask : (I, J, K) ndarray of bool
        The mask as a user gives it.
    structures : sequence of Structure
        Lesions and tumours.
    vessels : (I, J, K) ndarray of bool or None
        Vessels of the sources.
    remnants : (I, J, K) ndarray of bool or None
        Skull and dura inside the mask.
    """

    head: Head
    truth: np.ndarray
    mask: np.ndarray
    structures: Sequence[Structure] = ()
    vessels: np.ndarray | None = None
    remnants: np.ndarray | None = None

    def planted(self) -> np.ndarray:
        """Map the structures, small ones more; (I, J, K) float32.

        The share that a structure fills, times 4 voxels over its radius, from 0.3 to 3.
        """
        found = np.zeros(self.mask.shape, dtype=np.float32)
        for box, weight, _, _ in self.structures:
            radius = np.cbrt(0.75 / np.pi * max(float(weight.sum()), 1e-3))
            share = weight * np.float32(np.clip(4 / radius, 0.3, 3))
            found[box] = np.maximum(found[box], share)
        return np.where(self.mask, found, 0)


def smooth(volume: np.ndarray, sigma: float | Sequence[float]) -> np.ndarray:
    """Filter by a Gaussian that is cut off at 3 sigma; float32."""
    return ndimage.gaussian_filter(volume, sigma, truncate=3, output=np.float32)


def lumps(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a random field of mean 0 and variance 1.

    Parameters
    ----------
    shape : tuple of 3 ints
        (I, J, K) voxels.
    sigma : float
        Smoothness, voxels; wide fields are drawn on a coarser grid and interpolated linearly.
    rng : numpy.random.Generator
        Source of the noise.

    Returns
    -------
    field : (I, J, K) ndarray of float32
    """
    step = max(1, int(sigma / 2))
    coarse = tuple(-(-n // step) + 4 for n in shape)
    field_ = smooth(rng.standard_normal(coarse, dtype=np.float32), sigma / step)
    field_ /= max(float(field_.std()), 1e-6)
    if step == 1:
        return field_[tuple(slice(2, n + 2) for n in shape)]
    for axis, n in enumerate(shape):
        field_ = along(field_, interpolation(coarse[axis], n, 1 / step, 1.5, order=1), axis)
    return field_


def along(volume: np.ndarray, matrix: np.ndarray, axis: int) -> np.ndarray:
    """Apply an (m, n) matrix along one axis of length n; float32."""
    moved = np.tensordot(matrix.astype(np.float32), volume, (1, axis))
    return np.ascontiguousarray(np.moveaxis(moved, 0, axis))


def bias_of(shape: tuple[int, ...], peak: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a field as `recontrast.bias_field` does, axis by axis, which is faster."""
    volume = rng.standard_normal((4, 4, 4)).astype(np.float32)
    for axis, n in enumerate(shape):
        volume = along(volume, interpolation(4, n, 4 / n, 2 / n - 0.5), axis)
    volume -= volume.mean()
    return 1 + peak * volume / max(float(np.abs(volume).max()), 1e-6)


def interpolation(n: int, count: int, step: float, offset: float, order: int = 3) -> np.ndarray:
    """Return the (count, n) matrix that interpolates n samples at offset + step * index.

    By B-splines, as `grid.resample` does; beyond the ends, the nearest sample.
    """
    return ndimage.affine_transform(
        np.eye(n), [step, 1.0], [offset, 0.0], (count, n), order=order, mode="nearest"
    )


# ---------------------------------------------------------------- anatomy


def warp(head: Head, rng: np.random.Generator) -> Head:
    """Make another head of one.

    Turned by up to 8 degrees, scaled by up to a tenth along each axis, and bent by about 2 voxels;
    by cubic splines, so that the target's sharpness stays.

    Parameters
    ----------
    head : Head
        A target scan.
    rng : numpy.random.Generator
        Source of all choices.

    Returns
    -------
    warped : Head
    """
    shape = np.array(head.mask.shape)
    centre = (shape - 1) / 2
    angles = np.deg2rad(rng.uniform(-8, 8, 3))
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [a for a in range(3) if a != axis]
        one = np.eye(3)
        one[i, i] = one[j, j] = np.cos(angle)
        one[i, j], one[j, i] = -np.sin(angle), np.sin(angle)
        turn = turn @ one
    scale = np.exp(rng.uniform(-0.1, 0.1, 3))
    matrix = turn @ np.diag(1 / scale)
    bend = [rng.uniform(0, 2.5) * lumps(tuple(shape), rng.uniform(12, 30), rng) for _ in range(3)]
    grid = np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij")
    offsets = [g - np.float32(c) for g, c in zip(grid, centre, strict=True)]
    where = np.stack(
        [
            sum(np.float32(matrix[a, b]) * offsets[b] for b in range(3))
            + np.float32(centre[a])
            + bend[a]
            for a in range(3)
        ]
    )
    inside = ndimage.map_coordinates(head.mask.astype(np.float32), where, order=1) > 0.5
    faces = np.ones(head.mask.shape, dtype=bool)
    faces[2:-2, 2:-2, 2:-2] = False
    inside &= ~faces
    at = where[:, inside]
    spline = ndimage.spline_filter(np.where(head.mask, head.image, RIM), 3, output=np.float32)
    image = np.zeros(head.mask.shape, dtype=np.float32)
    image[inside] = np.clip(ndimage.map_coordinates(spline, at, order=3, prefilter=False), -1, 1)
    fractions = np.zeros(head.fractions.shape, dtype=np.float32)
    parts = [ndimage.map_coordinates(head.fractions[..., k], at, order=1) for k in (0, 2)]
    outside = np.clip(1 - ndimage.map_coordinates(head.mask.astype(np.float32), at, order=1), 0, 1)
    parts[0] += outside  # what the interpolation takes from beyond the brain counts as CSF
    fractions[inside] = np.stack([parts[0], 1 - parts[0] - parts[1], parts[1]], axis=1).clip(0, 1)
    return Head(image, inside, fractions)


def tissue_means(head: Head) -> np.ndarray:
    """Return the mean intensities of CSF, grey and white matter, model units."""
    mixed = head.fractions[head.mask].astype(np.float64)
    return head.image[head.mask].astype(np.float64) @ mixed / np.maximum(mixed.sum(0), 1e-9)


def random_tissue(rng: np.random.Generator) -> Tissue:
    """Draw relaxation times at 3 T of something that is no healthy tissue.

    T1 from 250 to 4000 ms, T2 from 30 to 1500 ms and not above T1.
    """
    t1 = float(np.exp(rng.uniform(np.log(250), np.log(4000))))
    t2 = min(float(np.exp(rng.normal(np.log(0.1 * t1), 0.6))), 0.7 * t1)
    t2 = float(np.clip(t2, 30, 1500))
    return Tissue(t1, t2, float(rng.uniform(0.2, 0.8)) * min(t2, 100), float(rng.uniform(0.7, 1.1)))


def lesion_tissue(rng: np.random.Generator, black: bool = False) -> Tissue:
    """Draw relaxation times at 3 T of demyelination, gliosis or oedema: T1 and T2 both long.

    T1 from 950 to 2300 ms. T2 rises with it and is longer than that of grey matter of the same T1,
    so that lesions dark in T1w are bright in T2w and FLAIR. A `black` hole is nearly water.
    """
    if black:
        t1 = rng.uniform(2500, 4300)
        return Tissue(
            float(t1), float(rng.uniform(0.12, 0.45) * t1), 58, float(rng.uniform(0.9, 1))
        )
    t1 = float(np.exp(rng.uniform(np.log(950), np.log(2300))))
    t2 = float(90 * (t1 / 832) ** 1.2 * np.exp(rng.normal(0, 0.2)))
    return Tissue(
        t1, t2, float(rng.uniform(0.4, 0.8)) * min(t2, 100), float(rng.uniform(0.78, 0.95))
    )


def seen_by_target(tissue: Tissue, means: np.ndarray) -> float:
    """Return the intensity of a tissue in the target's T1w scan, model units.

    It follows from T1 alone: linear in log T1 between the healthy tissues' means.
    """
    known = [np.log(t.t1) for t in TISSUES[3.0]][::-1]
    value = float(np.interp(np.log(tissue.t1), known, means[::-1]))
    return value + 0.3 * max(0.0, known[0] - np.log(tissue.t1))


def where_lesions_lie(head: Head, places: np.ndarray) -> np.ndarray:
    """Return the odds of a lesion at places (V, 3): (V,), of sum 1.

    A third beside the ventricles, the rest below the cortex, in white matter, in the brainstem and
    anywhere.
    """
    coarse = head.mask[::4, ::4, ::4]
    depth = 4 * ndimage.distance_transform_edt(coarse)[tuple(places.T // 4)]
    x, y, z = (places - places.mean(0)).T
    white = head.fractions[..., 2]
    ventricles = np.zeros(head.mask.shape, dtype=np.float32)
    ventricles[head.mask] = head.fractions[..., 0][head.mask] * (depth > 22)
    near, around = smooth(ventricles, 3)[head.mask], smooth(white, 2.5)[head.mask]
    white = white[head.mask]
    parts = {
        0.35: white * near,
        0.20: white * (1 - around),
        0.22: white,
        0.10: (np.abs(x) < 14) & (y > -30) & (y < 8) & (z < -22),
        0.13: np.ones_like(white),
    }
    odds = sum(share * part / max(float(part.sum()), 1.0) for share, part in parts.items())
    return np.asarray(odds / odds.sum())


def plant(head: Head, rng: np.random.Generator) -> list[Structure]:
    """Draw lesions, and sometimes a tumour.

    Lesions are ellipsoids and irregular shapes with radii of 1 to 10 voxels, most of them small,
    with blurred margins and graded strength; some have a black hole. Tumours have 10 to 40 ml,
    often a core, often an oedema around them.

    Parameters
    ----------
    head : Head
        Where to plant.
    rng : numpy.random.Generator
        Source of all choices.

    Returns
    -------
    structures : list of Structure
    """
    means = tissue_means(head)
    places = np.argwhere(head.mask)
    chances = np.cumsum(where_lesions_lie(head, places))
    rough = lumps(head.mask.shape, 2.0, rng)
    structures: list[Structure] = []

    def somewhere() -> np.ndarray:
        return places[min(int(np.searchsorted(chances, rng.random())), len(places) - 1)]

    def add(at: np.ndarray, radius: float, tissue: Tissue, scatter: float) -> None:
        target = float(np.clip(seen_by_target(tissue, means) + rng.normal(0, scatter), -1, 1))
        found = blob(head.mask, at, radius, stretch, rough, roughness, soft)
        if found is not None:
            box, weight = found
            structures.append(Structure(box, weight * np.float32(share), target, tissue))

    count = 0 if rng.random() < 0.12 else int(np.exp(rng.uniform(np.log(8), np.log(80))))
    for _ in range(count):
        at, radius = somewhere(), float(10 ** rng.random() ** 1.3)
        stretch = np.exp(rng.uniform(-0.35, 0.35, 3))
        soft = rng.uniform(0.5, 2.5)
        roughness = rng.uniform(0, 0.5) if radius > 2 and rng.random() < 0.6 else 0.0
        share = 1.0 if rng.random() < 0.5 else rng.uniform(0.3, 1)
        if rng.random() < 0.2:
            add(at, radius, random_tissue(rng), 0.3)
            continue
        add(at, radius, lesion_tissue(rng), 0.05)
        if radius > 2.5 and rng.random() < 0.2:
            share = rng.uniform(0.6, 1)
            add(at, radius * rng.uniform(0.3, 0.75), lesion_tissue(rng, black=True), 0.05)
    if rng.random() < 0.12:
        radius = (rng.uniform(10, 40) * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
        stretch = np.exp(rng.uniform(-0.25, 0.25, 3))
        soft, roughness = rng.uniform(0.5, 2), rng.uniform(0, 0.35)
        at, share = somewhere(), 1.0
        if rng.random() < 0.6:  # oedema around it
            roughness, share = 0.4, rng.uniform(0.4, 0.9)
            add(at, radius * rng.uniform(1.15, 1.4), lesion_tissue(rng), 0.05)
            roughness, share = rng.uniform(0, 0.35), 1.0
        add(at, radius, random_tissue(rng), 0.15)
        if rng.random() < 0.7:  # another core
            add(at, radius * rng.uniform(0.4, 0.85), random_tissue(rng), 0.15)
    return structures


def blob(
    mask: np.ndarray,
    centre: np.ndarray,
    radius: float,
    stretch: np.ndarray,
    rough: np.ndarray,
    roughness: float,
    soft: float,
) -> tuple[tuple[slice, ...], np.ndarray] | None:
    """Shape a blob around a voxel.

    Its surface lies where the distance over the stretched radius, plus `roughness` times the random
    field `rough`, is 1. Its edge is about `soft` voxels wide.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
        The brain.
    centre : (3,) ndarray
        Voxel.
    radius : float
        Voxels.
    stretch : (3,) ndarray of float
        Factor of the radius along each axis.
    rough : (I, J, K) ndarray of float
        Random field.
    roughness : float
        Its weight.
    soft : float
        Width of the edge, voxels.

    Returns
    -------
    box, weight : tuple of 3 slices, ndarray of float32
        Where it is and how much of each voxel it fills; None if it lies outside the volume.
    """
    axes = radius * stretch
    half = np.ceil(axes * (1 + 1.5 * roughness)).astype(int) + 2
    box = tuple(
        slice(max(0, int(c) - int(h)), min(n, int(c) + int(h) + 1))
        for c, h, n in zip(centre, half, mask.shape, strict=True)
    )
    if any(b.stop <= b.start for b in box):
        return None
    grid = np.ogrid[box]
    distance = np.sqrt(
        sum(
            ((g - c) / a).astype(np.float32) ** 2
            for g, c, a in zip(grid, centre, axes, strict=True)
        )
    )
    distance = distance + np.float32(roughness) * rough[box]
    weight = np.clip(0.5 + (1 - distance) * (radius / soft), 0, 1)
    return box, (weight * mask[box]).astype(np.float32)


def vessel_map(head: Head, rng: np.random.Generator) -> np.ndarray:
    """Draw strands of 1.5 to 6 voxels where vessels lie; (I, J, K) bool.

    Most run through the CSF, some along the brain's surface: where two random fields are both near
    0.
    """
    sigma = float(np.exp(rng.uniform(np.log(2.2), np.log(6))))
    width = float(np.exp(rng.uniform(np.log(1.2), np.log(4))))
    thin = min(0.8, 0.5 * width / sigma)
    near = np.hypot(lumps(head.mask.shape, sigma, rng), lumps(head.mask.shape, sigma, rng)) < thin
    where = (head.image + 1) / 2 < CSF
    if rng.random() < 0.4:
        depth = int(rng.integers(2, 6))
        where |= ~ndimage.binary_erosion(head.mask, iterations=depth)
    elif rng.random() < 0.3:  # those of 3 voxels are wider than the CSF around them
        where = ndimage.binary_dilation(where)
    return head.mask & where & near


def change_mask(head: Head, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a mask as masks are: right, or too tight or too loose, in places or throughout.

    Parameters
    ----------
    head : Head
        With the right mask.
    rng : numpy.random.Generator
        Source of all choices.

    Returns
    -------
    mask : (I, J, K) ndarray of bool
        The mask.
    remnants : (I, J, K) ndarray of bool
        What it holds beyond the brain.
    """
    mask, nothing = head.mask, np.zeros_like(head.mask)
    kind = rng.choice(["right", "tight", "loose"], p=[0.5, 0.15, 0.35])
    if kind == "right":
        return mask, nothing
    everywhere = rng.random() < 0.4
    region = np.ones_like(mask)
    if not everywhere:
        region = lumps(mask.shape, rng.uniform(8, 20), rng) > rng.uniform(-0.3, 1.2)
    if kind == "tight":
        depth = int(rng.integers(1, 3))
        return mask & ~(region & ~ndimage.binary_erosion(mask, iterations=depth)), nothing
    depth = int(rng.integers(1, 3 if everywhere else MARGIN + 1))
    box = np.zeros_like(mask)
    box[1:-1, 1:-1, 1:-1] = True
    remnants = ndimage.binary_dilation(mask, iterations=depth) & ~mask & region & box
    return mask | remnants, remnants


def make_subject(head: Head, rng: np.random.Generator, warp_share: float = 0.7) -> Subject:
    """Draw a subject from a target scan: warped, with planted structure, vessels and a mask."""
    if rng.random() < warp_share:
        head = warp(head, rng)
    structures = plant(head, rng)
    truth = head.image.copy()
    for structure in structures:
        noise = TARGET_NOISE * rng.standard_normal(structure.weight.shape, dtype=np.float32)
        truth[structure.box] += structure.weight * (
            np.float32(structure.target) + noise - truth[structure.box]
        )
    vessels = None
    if rng.random() < 0.6:
        vessels = vessel_map(head, rng)
        if rng.random() < 0.5:
            vessels |= vessel_map(head, rng)
        if rng.random() < 0.3:  # in places, the target shows them too
            both = vessels & (lumps(head.mask.shape, 12, rng) > 0.5)
            inside = smooth(both.astype(np.float32), 0.4)
            value = rng.uniform(0.4, 1) if rng.random() < 0.6 else rng.uniform(-1, -0.7)
            truth += np.where(head.mask, inside * (np.float32(value) - truth), 0)
    mask, remnants = change_mask(head, rng)
    if remnants.any():
        level = RIM + rng.uniform(-0.3, 0.15)
        dark = level + 0.2 * lumps(mask.shape, 1.2, rng)
        truth = np.where(remnants, dark, truth).astype(np.float32)
    truth = np.where(mask, np.clip(truth, -1, 1), 0).astype(np.float32)
    return Subject(head, truth, mask, structures, vessels, remnants)


# ---------------------------------------------------------------- contrasts


def balanced_ssfp(tissue: Tissue, tr: float, flip: float) -> float:
    """Compute the signal of balanced steady-state free precession on resonance, TE = TR / 2.

    S = PD sin a (1 - E1) / (1 - (E1 - E2) cos a - E1 E2) exp(-TE / T2), E1,2 = exp(-TR / T1,2). No
    training example is drawn from it.

    Parameters
    ----------
    tissue : Tissue
        Relaxation times and proton density.
    tr : float
        Repetition time, ms.
    flip : float
        Flip angle a, degrees.

    Returns
    -------
    signal : float
        Relative to the fully relaxed signal of CSF.

    References
    ----------
    Scheffler and Lehnhardt 2003, doi:10.1007/s00330-003-1957-x.
    """
    angle = np.deg2rad(flip)
    e1, e2 = np.exp(-tr / tissue.t1), np.exp(-tr / tissue.t2)
    steady = (1 - e1) / (1 - (e1 - e2) * np.cos(angle) - e1 * e2)
    return float(tissue.density * np.sin(angle) * steady * np.exp(-tr / 2 / tissue.t2))


BALANCED = {
    "bssfp-1.5T": (1.5, {"tr": 5.0, "flip": 60}),
    "bssfp-3T": (3.0, {"tr": 4.5, "flip": 40}),
    "bssfp-3T-low": (3.0, {"tr": 6.0, "flip": 15}),
}


def random_protocol(rng: np.random.Generator) -> tuple[str, dict[str, float]]:
    """Draw the name of an equation in `SEQUENCES` and its arguments."""

    def log(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    kind = rng.choice(["SE-T1", "SE-T2", "SE", "FLAIR", "IR", "SPGR", "MPRAGE"])
    if kind == "SE-T1":
        return "SE", {"tr": log(300, 900), "te": log(7, 25)}
    if kind == "SE-T2":
        te = log(50, 180)
        return "SE", {"tr": log(1800, 9000), "te": te, "train": te * rng.uniform(0, 1.5)}
    if kind == "SE":
        te = log(7, 150)
        return "SE", {"tr": log(600, 9000), "te": te, "train": te * rng.uniform(0, 1)}
    if kind == "FLAIR":
        tr, train = log(5000, 12000), rng.uniform(0, 300)
        ti = rng.uniform(1600, 2900)
        return "IR", {"tr": tr, "te": log(60, 180), "ti": ti, "train": train}
    if kind == "IR":
        tr = log(1800, 8000)
        return "IR", {"tr": tr, "te": log(7, 60), "ti": log(100, 0.4 * tr), "train": 0.0}
    if kind == "SPGR":
        if rng.random() < 0.25:
            return "SPGR", {"tr": log(100, 700), "te": log(3, 25), "flip": rng.uniform(20, 90)}
        return "SPGR", {"tr": log(5, 45), "te": log(1.5, 15), "flip": rng.uniform(3, 45)}
    spacing, count = rng.uniform(5, 12), rng.integers(80, 200)
    ti = max(log(500, 1300), spacing * count / 2 + 20)
    tr = ti + spacing * count / 2 + log(50, 1500)
    return "MPRAGE", {
        "tr": tr, "te": rng.uniform(1.5, 5), "ti": ti, "flip": rng.uniform(5, 16),
        "spacing": spacing, "count": float(count),
    }  # fmt: skip


def jittered(tissue: Tissue, rng: np.random.Generator, spread: float = 0.1) -> Tissue:
    """Draw the tissue of another head, whose relaxation times differ by about a tenth."""
    t1, t2, t2_star = np.exp(rng.normal(0, spread, 3)) * tissue[:3]
    density = tissue.density * (1 + rng.normal(0, 0.03))
    return Tissue(float(t1), float(min(t2, t1)), float(min(t2_star, t2)), float(density))


def near_preset(signals: np.ndarray) -> bool:
    """Return whether signals of CSF, grey and white matter are those of an evaluation protocol.

    That is, within `NEAR` of them, both over their largest.
    """
    shown = signals / signals.max()
    known = (preset.signals() for preset in PRESETS.values())
    return any(np.abs(shown - each / each.max()).max() < NEAR for each in known)


class Contrast(NamedTuple):
    """Tell how a scanner shows tissue.

    Attributes
    ----------
    healthy : callable
        Head to its signal, (I, J, K) ndarray.
    structure : callable
        Planted structure to its signal.
    largest : float
        Largest signal of a tissue.
    name : str
        Of the contrast.
    """

    healthy: Callable[[Head], np.ndarray]
    structure: Callable[[Structure], float]
    largest: float
    name: str


@dataclass(frozen=True)
class Signals:
    """Hold the signals of CSF, grey and white matter in the place of a `sequences.Preset`."""

    values: np.ndarray

    def signals(self) -> np.ndarray:
        """Return the three signals."""
        return self.values


def sequence_contrast(
    equation: Callable[..., float],
    parameters: dict[str, float],
    tissues: Sequence[Tissue],
    field_tesla: float,
    rng: np.random.Generator,
    name: str,
) -> Contrast:
    """Make a contrast by a signal equation.

    A structure's T1 at 1.5 T is two thirds of that at 3 T.

    Parameters
    ----------
    equation : callable
        A value of `SEQUENCES`, or `balanced_ssfp`.
    parameters : dict of str to float
        Its arguments.
    tissues : sequence of Tissue
        CSF, grey and white matter.
    field_tesla : float
        Field strength.
    rng : numpy.random.Generator
        Source of the structures' scatter.
    name : str
        Of the contrast.

    Returns
    -------
    contrast : Contrast
    """
    values = np.array([equation(tissue, **parameters) for tissue in tissues])

    def structure(planted: Structure) -> float:
        t1, t2, t2_star, density = planted.tissue
        shorter = 0.65 if field_tesla < 2 else 1.0
        tissue = jittered(Tissue(max(t1 * shorter, t2), t2, t2_star, density), rng, 0.05)
        return float(equation(tissue, **parameters))

    def healthy(head: Head) -> np.ndarray:
        return ideal_signal(head.image, head.mask, head.fractions, Signals(values))

    return Contrast(healthy, structure, float(values.max()), name)


def random_sequence(rng: np.random.Generator) -> Contrast:
    """Draw an equation, its arguments, field and relaxation times.

    Two tissues differ by 12 % of the largest signal or more, grey and white matter by 3 % or more.
    """
    while True:
        kind, parameters = random_protocol(rng)
        field_tesla = float(rng.choice([1.5, 3.0]))
        tissues = [jittered(tissue, rng) for tissue in TISSUES[field_tesla]]
        values = np.array([SEQUENCES[kind](tissue, **parameters) for tissue in tissues])
        if not (np.isfinite(values).all() and values.max() > 1e-3):
            continue
        shown = values / values.max()
        if np.ptp(shown) < 0.12 or abs(shown[1] - shown[2]) < 0.03 or near_preset(values):
            continue
        return sequence_contrast(SEQUENCES[kind], parameters, tissues, field_tesla, rng, kind)


def curve_contrast(values: Sequence[float], rng: np.random.Generator, name: str) -> Contrast:
    """Make a contrast by a curve of the target's intensity.

    Structures lie on the curve, or all of them off it by about the same amount; a few are anything.

    Parameters
    ----------
    values : sequence of 5 floats
        Signals at `KNOTS`.
    rng : numpy.random.Generator
        Source of the structures' signals.
    name : str
        Of the contrast.

    Returns
    -------
    contrast : Contrast
    """
    curve = PchipInterpolator(KNOTS, values)
    low, high = float(np.min(values)), float(np.max(values))

    def healthy(head: Head) -> np.ndarray:
        shown = curve(np.clip((head.image + 1) / 2, 0, 1))
        return np.where(head.mask, shown, 0).astype(np.float32)

    shift = 0.0 if rng.random() < 0.6 else rng.uniform(-0.6, 0.6) * (high - low)

    def structure(planted: Structure) -> float:
        if rng.random() < 0.9:
            value = float(curve((planted.target + 1) / 2)) + shift * rng.uniform(0.7, 1.3)
            return max(0.0, value + rng.normal(0, 0.02))
        return float(max(0.0, rng.uniform(low - 0.1, high + 0.15 * (high - low))))

    return Contrast(healthy, structure, high, name)


def random_curve(rng: np.random.Generator) -> Contrast:
    """Draw a gamma curve, or random values that rise, fall or do neither.

    As `recontrast.random_scanner` draws them, but none near the fixed curves of the validation.
    """
    known = [np.array(values) for values in (*CURVES.values(), np.array(KNOTS) ** GAMMA)]
    means = np.array([0.32, 0.61, 0.89])
    while True:
        order = rng.choice(["gamma", "rising", "falling", "free"])
        values = np.array(KNOTS) ** np.exp(rng.uniform(-0.7, 0.7))
        if order != "gamma":
            values = rng.uniform(0, 1, len(KNOTS))
            if order != "free":
                values = np.sort(values) if order == "rising" else np.sort(values)[::-1]
            if np.abs(np.diff(values)).min() < 0.05:
                continue
        shown = values / values.max()
        near = any(np.abs(shown - each / each.max()).max() < NEAR for each in known)
        if near or near_preset(PchipInterpolator(KNOTS, values)(means)):
            continue
        return curve_contrast(values, rng, str(order))


# ---------------------------------------------------------------- acquisition


@dataclass(frozen=True)
class Acquisition:
    """Tell how a contrast becomes a scan.

    Attributes
    ----------
    voxel : tuple of 3 floats
        Edges of the voxels in voxels of the model grid.
    phase : tuple of 3 floats or None
        Where the first voxel begins, in model voxels before the grid's edge; None to centre.
    box : bool
        Whether the slice profile is a box; else a Gaussian of that full width at half maximum.
    blur : tuple of 3 floats
        Gaussian sigma of each axis, voxels.
    bias : float
        Peak of the bias field that the correction leaves.
    noise : float
        Standard deviation of each channel of the Rician noise, over the largest tissue signal.
    outside : float or None
        Signal around the brain, over the largest tissue signal; None for what lies next to it.
    ringing : tuple of 3 floats
        For each axis, the share of spatial frequencies that was sampled.
    ghost : tuple of float, int and int
        Strength, axis and shift (voxels) of a ghost; strength 0 for none.
    """

    voxel: tuple[float, float, float] = (1.0, 1.0, 1.0)
    phase: tuple[float, float, float] | None = None
    box: bool = True
    blur: tuple[float, float, float] = (0.0, 0.0, 0.0)
    bias: float = 0.0
    noise: float = 0.0
    outside: float | None = None
    ringing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ghost: tuple[float, int, int] = (0.0, 0, 0)

    @classmethod
    def random(cls, rng: np.random.Generator) -> Acquisition:
        """Draw an acquisition; two in five have slices of 1.2 to 7 voxels along one axis."""
        voxel, phase = np.ones(3), np.zeros(3)
        if rng.random() < 0.5:
            voxel = rng.uniform(1, 1.35, 3)
            phase = rng.uniform(0, 1, 3)
        if rng.random() < 0.4:
            axis = rng.integers(3)
            voxel[axis] = np.exp(rng.uniform(np.log(1.2), np.log(7)))
            phase[axis] = rng.uniform(0, voxel[axis])
        ringing = np.ones(3)
        if rng.random() < 0.2:
            ringing[rng.integers(3)] = rng.uniform(0.65, 0.95)
        ghost = (0.0, 0, 0)
        if rng.random() < 0.15:
            near = rng.random() < 0.5
            shift = rng.choice([-2, -1, 1, 2]) if near else rng.integers(20, 90)
            strength = rng.uniform(0.05, 0.35) if near else rng.uniform(0.005, 0.05)
            ghost = (float(strength), int(rng.integers(3)), int(shift))
        return cls(
            tuple(voxel),
            tuple(phase),
            bool(rng.random() < 0.5),
            tuple(np.full(3, rng.uniform(0, 0.75)) + (rng.random(3) < 0.1) * rng.uniform(0, 1, 3)),
            bias=rng.uniform(0, 0.12) if rng.random() < 0.9 else rng.uniform(0.1, 0.3),
            noise=float(np.exp(rng.uniform(np.log(0.003), np.log(0.06)))),
            outside=rng.uniform(0, 1.2) if rng.random() < 0.5 else None,
            ringing=tuple(ringing),
            ghost=ghost,
        )

    def operators(self, shape: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray] | None]:
        """Return, for each axis, the matrices from the grid's voxels to the scan's and back.

        None where the two are the same.
        """
        found: list[tuple[np.ndarray, np.ndarray] | None] = []
        for axis, n in enumerate(shape):
            size = self.voxel[axis]
            count = int(np.ceil(n / size - 1e-6))
            start = (n - count * size) / 2
            if self.phase is not None:
                start = -self.phase[axis]
                count = int(np.ceil((n - start) / size))
            if abs(size - 1) < 1e-6 and abs(start) < 1e-6:
                found.append(None)
                continue
            centres = start + size * (np.arange(count) + 0.5) - 0.5
            places = np.arange(n)
            if self.box:
                edges = centres[:, None] + 0.5
                low, high = edges - size / 2, edges + size / 2
                weight = np.clip(np.minimum(high, places + 1) - np.maximum(low, places), 0, 1)
            else:
                sigma = size / 2.355
                weight = np.exp(-0.5 * ((places - centres[:, None]) / sigma) ** 2)
            total = weight.sum(1)
            empty = total < 1e-6
            weight[empty, :] = 0
            weight[empty, np.clip(np.rint(centres[empty]), 0, n - 1).astype(int)] = 1
            weight /= weight.sum(1, keepdims=True)
            back = interpolation(count, n, 1 / size, -(centres[0]) / size)
            found.append((weight, back))
        return found

    def apply(
        self, signal: np.ndarray, mask: np.ndarray, largest: float, rng: np.random.Generator
    ) -> np.ndarray:
        """Image an (I, J, K) signal that is known inside the mask; not negative, 0 outside it."""
        inside = mask.astype(np.float32)
        signal = np.where(mask, signal, 0).astype(np.float32)
        if self.ghost[0]:
            strength, axis, shift = self.ghost
            signal = (1 - strength) * signal + strength * np.roll(signal, shift, axis)
        if self.outside is None:
            width = max(2.0, float(np.max(self.voxel)) / 2)
            reach = smooth(inside, width)
            around = smooth(signal * inside, width) / np.maximum(reach, 1e-3)
            mean = float(signal[mask].mean())
            around = np.where(reach > 1e-3, around, mean)
        else:
            around = np.float32(self.outside * largest)
        signal = np.where(mask, signal, around).astype(np.float32)
        if max(self.blur) > 0:
            signal = smooth(signal, self.blur)
        signal *= bias_of(mask.shape, self.bias, rng).astype(np.float32)
        for axis, share in enumerate(self.ringing):
            if share < 1:
                signal = along(signal, truncation(mask.shape[axis], share), axis)
        operators = self.operators(mask.shape)
        for axis, pair in enumerate(operators):
            if pair is not None:
                signal = along(signal, pair[0], axis)
        level = np.float32(self.noise * largest)
        real = signal + level * rng.standard_normal(signal.shape, dtype=np.float32)
        scan = np.hypot(real, level * rng.standard_normal(signal.shape, dtype=np.float32))
        for axis, pair in enumerate(operators):
            if pair is not None:
                scan = along(scan, pair[1], axis)
        return np.where(mask, np.maximum(scan, 0), 0).astype(np.float32)


def truncation(n: int, share: float) -> np.ndarray:
    """Return the (n, n) matrix that keeps the lowest share of frequencies (Gibbs ringing)."""
    frequencies = np.abs(np.fft.fftfreq(n)) <= 0.5 * share
    return np.fft.ifft(frequencies[:, None] * np.fft.fft(np.eye(n), axis=0), axis=0).real


def as_source(scan: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Scale a scan to model units as `preprocess.prepare` does; no resampling, no correction."""
    low, high = np.percentile(scan[mask], [0.5, 99.5])
    scaled = np.clip(2 * (scan - low) / max(high - low, 1e-6) - 1, -1, 1)
    return np.where(mask, scaled, 0).astype(np.float32)


def show(
    subject: Subject,
    contrast: Contrast,
    acquisition: Acquisition,
    rng: np.random.Generator,
    regional: float = 0.0,
    mottle: float = 0.0,
    vessels: float | None = None,
    both: bool = True,
) -> np.ndarray:
    """Simulate one scan of a subject.

    Parameters
    ----------
    subject : Subject
        The head.
    contrast : Contrast
        How the scanner shows tissue.
    acquisition : Acquisition
        How that becomes a scan.
    rng : numpy.random.Generator
        Source of all choices.
    regional : float
        Size of the smooth offsets of each tissue, over the largest tissue signal.
    mottle : float
        Size of lumps of 2 voxels that the target does not show.
    vessels : float or None
        Their signal over the largest tissue signal; None if this scan does not show them.
    both : bool
        Whether in places the vessels may have another signal.

    Returns
    -------
    scan : (I, J, K) ndarray of float32
        Model units, 0 outside the mask.
    """
    head, largest = subject.head, contrast.largest
    signal = contrast.healthy(head)
    if regional:
        for tissue in range(3):
            offset = regional * largest * lumps(head.mask.shape, rng.uniform(7, 25), rng)
            signal += offset * head.fractions[..., tissue]
    if mottle:
        signal += mottle * largest * lumps(head.mask.shape, 2.0, rng)
    texture = 0.03 * largest * lumps(head.mask.shape, 1.5, rng) if subject.structures else 0
    for planted in subject.structures:
        value = contrast.structure(planted) + texture[planted.box] * rng.uniform(0, 2)
        signal[planted.box] += planted.weight * (value - signal[planted.box])
    if vessels is not None and subject.vessels is not None:
        value = np.float32(vessels * largest)
        if both and rng.random() < 0.3:
            other = np.float32(rng.uniform(0, 1.8) * largest)
            value = np.where(lumps(head.mask.shape, 15, rng) > 0, value, other)
        signal = np.where(subject.vessels, value, signal)
    if subject.remnants is not None and subject.remnants.any():
        bone = rng.uniform(0, 0.25) if rng.random() < 0.7 else rng.uniform(0, 1)
        fat = rng.uniform(0.3, 2.0)
        share = np.clip(0.5 + lumps(head.mask.shape, rng.uniform(1.2, 4), rng), 0, 1)
        skull = np.float32(largest) * (bone + (fat - bone) * share)
        signal = np.where(subject.remnants, skull, signal)
    signal = np.maximum(signal, 0)
    return as_source(acquisition.apply(signal, subject.mask, largest, rng), subject.mask)


def with_gadolinium(contrast: Contrast, rng: np.random.Generator) -> Contrast:
    """Shorten T1 in half of the structures, as a contrast agent does."""

    def structure(planted: Structure) -> float:
        tissue = planted.tissue
        if rng.random() < 0.5:
            t1 = tissue.t1 * rng.uniform(0.25, 0.8)
            tissue = tissue._replace(t1=t1, t2=min(tissue.t2, t1))
        return contrast.structure(planted._replace(tissue=tissue))

    return contrast._replace(structure=structure)


def random_source(subject: Subject, rng: np.random.Generator) -> np.ndarray:
    """Draw a scan of a subject: three in five by sequences, the others by curves.

    What only the source shows is weak or far from white matter, so that a spot in the source is
    more often in the truth than not.
    """
    contrast = random_sequence(rng) if rng.random() < 0.6 else random_curve(rng)
    vessels = None
    if rng.random() < 0.6:
        bright = rng.random() < 0.5
        vessels = rng.uniform(0.9, 2.5) if bright else rng.uniform(0, 0.25)
    if rng.random() < 0.1:
        contrast, vessels = with_gadolinium(contrast, rng), rng.uniform(1.1, 2.5)
    return show(
        subject,
        contrast,
        Acquisition.random(rng),
        rng,
        regional=rng.uniform(0, 0.04) if rng.random() < 0.5 else 0.0,
        mottle=rng.uniform(0, 0.015) if rng.random() < 0.3 else 0.0,
        vessels=vessels,
    )


# ---------------------------------------------------------------- validation


@dataclass(frozen=True)
class Case:
    """Hold a validation source with its truth.

    Attributes
    ----------
    name : str
        One of `CASES`.
    source, truth : (I, J, K) ndarray of float32
        Model units.
    mask : (I, J, K) ndarray of bool
        The brain.
    regions : dict of str to (I, J, K) ndarray of bool
        Where the error is measured apart.
    lesions : dict of str to ndarray
        Where contrast is measured, see `with_lesions`; empty if there are none.
    """

    name: str
    source: np.ndarray
    truth: np.ndarray
    mask: np.ndarray
    regions: dict[str, np.ndarray] = field(default_factory=dict)
    lesions: dict[str, np.ndarray] = field(default_factory=dict)


def preset_acquisition(preset: Preset, **changes: object) -> Acquisition:
    """Return the acquisition of a preset; bias correction leaves a third of its field."""
    signals = preset.signals()
    settings = {
        "voxel": preset.voxel_mm,
        "blur": (preset.blur_mm,) * 3,
        "bias": preset.bias / 3,
        "noise": preset.noise * signals[2] / signals.max(),
    }
    return Acquisition(**(settings | changes))  # type: ignore[arg-type]


BALLS = 14
RADII = (1.5, 2.5, 4.0, 6.5)  # voxels, of validation lesions
CASES = (
    *PRESETS,
    *BALANCED,
    "balls-t2-like",
    "balls-low-contrast",
    "voids-tse-t2-3T",
    "gadolinium-spgr-1.5T",
    "loose-mprage-3T",
    "thick-flair-3T",
    "lesions-mprage-3T",
    "lesions-tse-t2-3T",
    "lesions-flair-3T",
)


def validation_case(head: Head, name: str, seed: int) -> Case:
    """Make one of `CASES` of a validation scan; the same for the same seed."""
    rng = np.random.default_rng([seed, CASES.index(name)])
    subject = Subject(head, head.image, head.mask)

    def by_preset(preset: str) -> Contrast:
        chosen = PRESETS[preset]
        equation = SEQUENCES[chosen.sequence]
        tissues = TISSUES[chosen.field]
        return sequence_contrast(
            equation, dict(chosen.parameters), tissues, chosen.field, rng, preset
        )

    if name in PRESETS:
        source = show(subject, by_preset(name), preset_acquisition(PRESETS[name]), rng)
        return Case(name, source, head.image, head.mask)
    if name in BALANCED:
        tesla, parameters = BALANCED[name]
        contrast = sequence_contrast(balanced_ssfp, parameters, TISSUES[tesla], tesla, rng, name)
        voxel = (1.0, 1.0, 1.5)
        acquisition = Acquisition(voxel, blur=(0.4,) * 3, bias=0.07, noise=0.015)
        return Case(name, show(subject, contrast, acquisition, rng), head.image, head.mask)
    if name.startswith("balls"):
        values = CURVES[name.removeprefix("balls-")]
        value = 0.85 if name.endswith("t2-like") else 0.68
        subject, regions = with_balls(subject, rng)
        contrast = curve_contrast(values, rng, name)._replace(structure=lambda _: value)
        acquisition = Acquisition(blur=(0.5,) * 3, bias=0.2 / 3, noise=0.02)
        source = show(subject, contrast, acquisition, rng)
        return Case(name, source, subject.truth, head.mask, regions)
    preset = name.split("-", 1)[1]
    acquisition = preset_acquisition(PRESETS[preset])
    if name.startswith("lesions"):
        subject, lesions = with_lesions(subject, rng)
        source = show(subject, by_preset(preset), acquisition, rng)
        return Case(name, source, subject.truth, head.mask, lesions=lesions)
    if name.startswith("thick"):
        acquisition = preset_acquisition(PRESETS[preset], voxel=(1.0, 1.0, 5.0))
        source = show(subject, by_preset(preset), acquisition, rng)
        return Case(name, source, head.image, head.mask)
    if name.startswith("loose"):
        box = np.zeros_like(head.mask)
        box[1:-1, 1:-1, 1:-1] = True
        patch = lumps(head.mask.shape, 12, rng) > 0.3
        remnants = ndimage.binary_dilation(head.mask, iterations=3) & ~head.mask & patch & box
        truth = np.where(remnants, RIM, head.image).astype(np.float32)
        mask = head.mask | remnants
        subject = Subject(head, truth, mask, remnants=remnants)
        source = show(subject, by_preset(preset), acquisition, rng)
        return Case(name, source, truth, mask, {"remnants": remnants})
    near = np.hypot(lumps(head.mask.shape, 3, rng), lumps(head.mask.shape, 3, rng)) < 0.5
    vessels = head.mask & ((head.image + 1) / 2 < CSF) & near
    subject = Subject(head, head.image, head.mask, vessels=vessels)
    signal = 0.1 if name.startswith("voids") else 1.5
    if name.startswith("voids"):
        acquisition = preset_acquisition(PRESETS[preset], voxel=(1.0, 1.0, 1.0))
    contrast = by_preset(preset)
    source = show(subject, contrast, acquisition, rng, vessels=signal, both=False)
    return Case(name, source, head.image, head.mask, {"vessels": vessels})


def with_balls(subject: Subject, rng: np.random.Generator) -> tuple[Subject, dict[str, np.ndarray]]:
    """Plant 14 balls with radii of 3 to 5 voxels in white matter, 0 in the truth.

    Returns
    -------
    subject : Subject
        With the balls.
    regions : dict of str to (I, J, K) ndarray of bool
        "core", more than 1.5 voxels inside, and "rim", within 1.5 voxels of the surface.
    """
    head = subject.head
    white = head.fractions[..., 2] > 0.9
    deep = np.argwhere(smooth(white.astype(np.float32), 2.5) > 0.8)
    truth, structures = head.image.copy(), []
    core, rim = np.zeros_like(head.mask), np.zeros_like(head.mask)
    taken: list[np.ndarray] = []
    while len(taken) < BALLS:
        centre = deep[rng.integers(len(deep))]
        if any(np.linalg.norm(centre - other) < 16 for other in taken) and rng.random() < 0.999:
            continue
        radius = float(rng.uniform(3, 5))
        found = blob(head.mask, centre, radius, np.ones(3), truth, 0.0, 1.0)
        if found is None:
            continue
        taken.append(centre)
        box, weight = found
        noise = TARGET_NOISE * rng.standard_normal(weight.shape, dtype=np.float32)
        truth[box] += weight * (noise - truth[box])
        structures.append(Structure(box, weight, 0.0, TISSUES[3.0][1]))
        grid = np.ogrid[box]
        distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)))
        core[box] |= distance < radius - 1.5
        rim[box] |= np.abs(distance - radius) <= 1.5
    regions = {"core": core & head.mask, "rim": rim & ~core & head.mask}
    return Subject(head, truth, head.mask, structures), regions


def with_lesions(
    subject: Subject, rng: np.random.Generator
) -> tuple[Subject, dict[str, np.ndarray]]:
    """Plant lesions of 3 to 13 voxels in white matter, three of each size and strength.

    Their T1 at 3 T is 1100 or 1800 ms, their T2 135 or 245 ms. In the truth they are dark.

    Returns
    -------
    subject : Subject
        With the lesions.
    lesions : dict of str to ndarray
        "core", "rim" and "shell", (I, J, K) int16: numbers from 1 of the lesion that a voxel lies
        in more than 1.5 voxels deep (or within 1 voxel of its centre), within 1 voxel of its
        surface, or 2.5 to 4.5 voxels outside it in white matter. "radius": (L,), voxels.
    """
    head = subject.head
    white = head.fractions[..., 2] > 0.9
    deep = np.argwhere(smooth(white.astype(np.float32), 2.5) > 0.75)
    means = tissue_means(head)
    truth, structures = head.image.copy(), []
    maps = {part: np.zeros(head.mask.shape, dtype=np.int16) for part in ("core", "rim", "shell")}
    taken: list[tuple[np.ndarray, float]] = []
    for radius in sorted(3 * RADII, reverse=True):
        for tissue in (Tissue(1100, 135, 70, 0.83), Tissue(1800, 245, 80, 0.9)):
            for _ in range(500):
                centre = deep[rng.integers(len(deep))]
                if all(np.linalg.norm(centre - at) > radius + r + 4.5 for at, r in taken):
                    break
            else:
                continue
            found = blob(head.mask, centre, radius, np.ones(3), truth, 0.0, 1.0)
            if found is None:
                continue
            taken.append((centre, radius))
            box, weight = found
            value = np.float32(seen_by_target(tissue, means))
            noise = TARGET_NOISE * rng.standard_normal(weight.shape, dtype=np.float32)
            truth[box] += weight * (value + noise - truth[box])
            structures.append(Structure(box, weight, float(value), tissue))
            wide = tuple(
                slice(max(0, int(c - radius - 6)), min(n, int(c + radius + 7)))
                for c, n in zip(centre, head.mask.shape, strict=True)
            )
            near = np.ogrid[wide]
            distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(near, centre, strict=True)))
            inside = {
                "core": distance <= max(radius - 1.5, 1.0),
                "rim": np.abs(distance - radius) <= 1,
                "shell": (np.abs(distance - radius - 3.5) <= 1) & white[wide],
            }
            for part, where in inside.items():
                maps[part][wide][where & head.mask[wide]] = len(taken)
    radii = np.array([radius for _, radius in taken], dtype=np.float32)
    return Subject(head, truth, head.mask, structures), {**maps, "radius": radii}
