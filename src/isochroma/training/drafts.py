"""Drafts: what the second pass of the network starts from, and learns to correct.

The first pass knows the edges alone; the local refinement then takes up the source's detail, but
also its noise, and it errs where the source's contrast tells two tissues no better than none. The
network sees the result once more, in place of x_t (`flow.DRAFT_TIME`). It learns this on drafts of
target scans: a random scanner shows them, and the first pass and the refinement do the rest.

Spots of any intensity are planted in the target scan first. They are like no anatomy, so what
can be known of them is what the draft shows: lesions must not be corrected away.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from isochroma.images.grid import Grid
from isochroma.images.preprocess import (
    Prepared,
    PreprocessSettings,
    from_model_units,
    intensity_limits,
    to_model_units,
)
from isochroma.method.edges import canny
from isochroma.method.recontrast import random_scanner
from isochroma.pipeline import Harmonizer

SPOTS = 100
SPOT_RADII = (1.0, 5.0)  # voxels
RESIDUAL_BIAS = 1 / 3  # of a random scanner's bias field, what bias correction leaves


class Example(NamedTuple):
    """A target scan with spots, edges of its copy by another scanner, and the draft made of that
    copy: (I, J, K) each; model units, bool, model units.
    """

    image: np.ndarray
    edges: np.ndarray
    draft: np.ndarray


def make_example(
    image: np.ndarray, mask: np.ndarray, harmonizer: Harmonizer, rng: np.random.Generator
) -> Example:
    """Draw one example of a target scan.

    Parameters
    ----------
    image, mask
        (I, J, K) in model units, and bool.
    harmonizer
        Of the target domain; its second pass is not used.
    """
    spotted = plant_spots(image, mask, rng)
    scanner = random_scanner(rng)
    scanner = dataclasses.replace(scanner, bias=scanner.bias * RESIDUAL_BIAS)
    copy = scanner.render(from_model_units(spotted, 0, 1), mask, rng)
    limits = intensity_limits(copy[mask], PreprocessSettings())
    shown = to_model_units(copy, mask, *limits)
    grid = Grid(mask.shape, np.diag([*[harmonizer.preprocess.spacing_mm] * 3, 1]))
    draft = harmonizer.render(Prepared(shown, mask, grid, *limits)).output
    return Example(spotted, canny(shown, mask, harmonizer.config.edges), draft)


def plant_spots(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ellipsoids of random place, form and intensity, with soft edges: (I, J, K) float32."""
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
