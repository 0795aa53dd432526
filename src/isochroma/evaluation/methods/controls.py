"""The unprocessed scan, and negative controls that no score should reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from isochroma.evaluation.methods.base import Control, Role, Stateless, Uncorrected, register
from isochroma.evaluation.methods.mean_head import average_heads, place_head
from isochroma.images.masked import smooth
from isochroma.images.preprocess import Prepared


class Unchanged(Stateless):
    """Base of the methods that return the scan that they get."""

    name: str
    version = 1

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"method": self.name, "version": self.version}

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        """Copy the scan; see `Method.apply`."""
        return scan.image.copy()


@register("raw", Role.UNPROCESSED, quick=True)
class Raw(Unchanged, Uncorrected):
    """Do nothing to the scan but what comparing needs: brain, model grid, linear scale."""

    name = "raw"


@register("n4", Role.UNPROCESSED, quick=True)
class N4(Unchanged):
    """Correct the bias field alone, as is done before every other method."""

    name = "N4"


@register("blur", Role.CONTROL, quick=True)
class Blur(Stateless, Control):
    """Blur the prepared scan over its mask, so that detail is lost.

    Parameters
    ----------
    sigma : float
        Standard deviation of the Gaussian, voxels.
    """

    name = "blur"
    version = 1

    def __init__(self, sigma: float = 2.0) -> None:
        self.sigma = sigma
        self.settings: dict[str, Any] = {
            "method": self.name,
            "version": self.version,
            "sigma": sigma,
        }

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        """Blur the scan; see `Method.apply`."""
        return np.where(scan.mask, smooth(scan.image, scan.mask, self.sigma), 0)


@register("target-mean", Role.CONTROL)
class TargetMean(Control):
    """Return the target's mean head, stretched to the scan's brain mask: the wrong person."""

    name = "target mean"
    version = 1

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {"method": self.name, "version": self.version}

    def fit(self, target: Sequence[Prepared]) -> None:
        """Average the target's heads; see `Method.fit`."""
        self.head = average_heads(target)

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        """Place the mean head; see `Method.apply`."""
        return place_head(self.head, scan.mask)
