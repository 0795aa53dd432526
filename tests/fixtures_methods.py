"""Heads for the tests of compared methods, as `prepare` would give them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from fixtures_pipeline import RAS, head
from isochroma.images.grid import Grid
from isochroma.images.preprocess import (
    Prepared,
    PreprocessSettings,
    from_model_units,
    intensity_limits,
    to_model_units,
)


def prepared_head(seed: int) -> Prepared:
    """Draw a head with partial volume and texture, in model units."""
    data, mask = head(seed=seed)
    data = ndimage.gaussian_filter(data, 1.0)
    rng = np.random.default_rng(seed)
    data += 20 * ndimage.gaussian_filter(rng.standard_normal(data.shape), 1)
    lower, upper = intensity_limits(data[mask], PreprocessSettings())
    image = to_model_units(data, mask, lower, upper)
    return Prepared(image, mask, Grid(data.shape, RAS), lower, upper)


def recontrasted(scan: Prepared, change: Callable[[np.ndarray], np.ndarray]) -> Prepared:
    """Change the intensities inside the mask."""
    image = np.where(scan.mask, change(scan.image), 0).astype(np.float32)
    return dataclasses.replace(scan, image=image)


def gamma(image: np.ndarray) -> np.ndarray:
    """Apply a gamma curve to model units."""
    return 2 * from_model_units(image, 0, 1) ** 0.6 - 1
