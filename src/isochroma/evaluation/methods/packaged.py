"""Adapt in-mask values to the normalizers of the package intensity-normalization."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from intensity_normalization.adapters.images import create_image

PACKAGE = f"intensity-normalization {version('intensity-normalization')}"


def as_images(values: Sequence[np.ndarray]) -> tuple[list[Any], list[Any]]:
    """Wrap in-mask values as the package's images, with masks that are True everywhere.

    The package would take values of 0 and less for background. Without background voxels, and with
    a full mask, model units below 0 count as brain.

    Parameters
    ----------
    values : sequence of (V,) ndarray
        In-mask values of each scan.

    Returns
    -------
    images, masks : list
        One image and one mask a scan.
    """
    return (
        [create_image(np.asarray(brain, np.float32)) for brain in values],
        [create_image(np.ones(brain.shape, np.float32)) for brain in values],
    )
