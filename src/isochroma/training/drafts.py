"""Training examples for the second pass: drafts of target scans, and what they should become.

The first pass sees the edges alone. The local refinement adds the source's detail, but also its
noise, and it errs where the source's contrast does not separate two tissues. The second pass starts
from that image, the draft (`flow.DRAFT_TIME`), and learns to correct it. To make an example, a
random scanner shows a target scan, and the first pass and the refinement make a draft of it.

Spots of random intensity are planted in the target scan first. They resemble no anatomy, so only
the draft shows them: the network learns not to remove lesions.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isochroma.files import replacing
from isochroma.images.grid import Grid
from isochroma.images.preprocess import (
    Prepared,
    PreprocessSettings,
    from_model_units,
    intensity_limits,
    to_model_units,
)
from isochroma.method.recontrast import random_scanner
from isochroma.pipeline import Harmonizer
from isochroma.training.data import Example, Scans, TargetScan

logger = logging.getLogger(__name__)

SPOTS = 100
SPOT_RADII = (1.0, 5.0)  # voxels
RESIDUAL_BIAS = 1 / 3  # share of a scanner's bias field that is assumed to outlast N4


def add_examples(scans: Scans, harmonizer: Harmonizer, copies: int) -> Scans:
    """Give each scan its examples for the second pass; make those that the cache lacks.

    Parameters
    ----------
    scans : Scans
        Cached scans.
    harmonizer : Harmonizer
        Makes the drafts: a model of the target domain, without its second pass.
    copies : int
        Examples of each scan.

    Returns
    -------
    scans : Scans
        The scans with their examples.
    """

    def complete(part: Sequence[TargetScan]) -> tuple[TargetScan, ...]:
        completed = []
        for scan in part:
            logger.info("drafts of %s", scan.folder.name)
            numbers = range(copies)
            examples = (open_example(cache_example(scan, harmonizer, n)) for n in numbers)
            completed.append(scan._replace(examples=tuple(examples)))
        return tuple(completed)

    return Scans(complete(scans.train), complete(scans.val))


def cache_example(scan: TargetScan, harmonizer: Harmonizer, number: int) -> Path:
    """Make an example beside its cached scan, unless it is there already.

    Parameters
    ----------
    scan : TargetScan
        A cached scan.
    harmonizer : Harmonizer
        See `add_examples`.
    number : int
        Which example of this scan; it seeds the random choices.

    Returns
    -------
    folder : Path
        The example's folder, which names the model that made the draft.
    """
    folder = scan.folder / f"drafts-{harmonizer.config.sha256[:8]}" / str(number)
    if folder.is_dir():
        return folder
    image, mask = np.asarray(scan.image, dtype=np.float32), np.asarray(scan.mask)
    seed = [int(scan.folder.name[-8:], 16), number]  # the name ends in the file's hash
    example = make_example(image, mask, harmonizer, np.random.default_rng(seed))
    with replacing(folder) as work:
        for name, volume in example._asdict().items():
            kind = volume.dtype if volume.dtype == bool else np.float16
            np.save(work / f"{name}.npy", volume.astype(kind))
    return folder


def open_example(folder: Path) -> Example:
    """Memory-map an example that `cache_example` made."""
    return Example(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in Example._fields))


def make_example(
    image: np.ndarray, mask: np.ndarray, harmonizer: Harmonizer, rng: np.random.Generator
) -> Example:
    """Draw one example of a target scan.

    Parameters
    ----------
    image : (I, J, K) ndarray of float32
        The target scan in model units.
    mask : (I, J, K) ndarray of bool
        Its brain mask.
    harmonizer : Harmonizer
        See `add_examples`.
    rng : numpy.random.Generator
        Source of every random choice.

    Returns
    -------
    example : Example
        The scan with spots, the edges of its copy by a random scanner, and the draft made of that
        copy.
    """
    spotted = plant_spots(image, mask, rng)
    scanner = random_scanner(rng)
    scanner = dataclasses.replace(scanner, bias=scanner.bias * RESIDUAL_BIAS)
    copy = scanner.render(from_model_units(spotted, 0, 1), mask, rng)
    limits = intensity_limits(copy[mask], PreprocessSettings())
    grid = Grid(mask.shape, np.diag([*[harmonizer.preprocess.spacing_mm] * 3, 1]))
    source = Prepared(to_model_units(copy, mask, *limits), mask, grid, *limits)
    rendering = harmonizer.render(source)
    return Example(spotted, rendering.edges, rendering.output)


def plant_spots(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add ellipsoids of random place, shape and intensity with soft borders.

    Parameters
    ----------
    image : (I, J, K) ndarray of float
        In model units; it is not changed.
    mask : (I, J, K) ndarray of bool
        Where spots may appear.
    rng : numpy.random.Generator
        Source of every random choice.

    Returns
    -------
    spotted : (I, J, K) ndarray of float32
        The image with 100 spots of 1 to 5 voxels radius, each of one intensity in [-1, 1].
    """
    spotted = image.astype(np.float32)
    places = np.argwhere(mask)
    for centre in rng.choice(places, SPOTS):
        radius = np.exp(rng.uniform(*np.log(SPOT_RADII)))
        axes = radius * np.exp(rng.uniform(-0.3, 0.3, 3))
        half = int(np.ceil(axes.max())) + 1
        box = tuple(
            slice(max(0, c - half), min(n, c + half + 1))
            for c, n in zip(centre, image.shape, strict=True)
        )
        offsets = np.mgrid[box] - centre[:, None, None, None]
        distance = np.sqrt(((offsets / axes[:, None, None, None]) ** 2).sum(0))
        weight = np.clip(0.5 + (1 - distance) * radius, 0, 1) * mask[box]
        spotted[box] += weight * (rng.uniform(-1, 1) - spotted[box])
    return spotted
