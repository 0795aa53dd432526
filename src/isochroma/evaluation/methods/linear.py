"""Reference methods that map the scan's intensities linearly, with intensity-normalization."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from intensity_normalization.domain.exceptions import NormalizationError
from intensity_normalization.domain.protocols import BaseNormalizer
from intensity_normalization.normalizers.individual.whitestripe import WhiteStripeNormalizer
from intensity_normalization.normalizers.individual.zscore import ZScoreNormalizer

from isochroma.errors import InputError
from isochroma.evaluation.methods.base import Role, register
from isochroma.evaluation.methods.packaged import PACKAGE, as_images
from isochroma.images.masked import scatter
from isochroma.images.preprocess import Prepared


class LinearNormalizer:
    """Map the mean and standard deviation of some voxels to the target's averages of the two.

    Subclasses say which normalizer of the package chooses these voxels.
    """

    name: str
    version: int
    make: Callable[[], Any]

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {
            "method": self.name,
            "version": self.version,
            "package": PACKAGE,
        }

    def fit(self, target: Sequence[Prepared]) -> None:
        """Average mean and standard deviation over the target scans; see `Method.fit`."""
        found = [self._measure(scan)[0] for scan in target]
        self.mean = float(np.mean([normalizer.mean for normalizer in found]))
        self.std = float(np.mean([normalizer.std for normalizer in found]))

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        """Map the scan; see `Method.apply`."""
        normalizer, image = self._measure(scan)
        values = normalizer.transform(image).get_data() * self.std + self.mean
        return scatter(values, scan.mask)

    def _measure(self, scan: Prepared) -> tuple[Any, Any]:
        """Fit the package's normalizer to a brain; return it and the brain as its image."""
        (image,), (mask,) = as_images([scan.image[scan.mask]])
        normalizer: BaseNormalizer = self.make()
        try:
            return normalizer.fit(image, mask), image
        except NormalizationError as error:
            msg = f"{self.name} cannot be fitted to the scan ({error}). Leave the method out."
            raise InputError(msg) from error


@register("zscore", Role.REFERENCE)
class ZScore(LinearNormalizer):
    """Give the brain the target's mean and standard deviation."""

    name = "z-score"
    version = 1
    make = ZScoreNormalizer


@register("whitestripe", Role.REFERENCE)
class WhiteStripe(LinearNormalizer):
    """Give the white stripe, around the mode of white matter, the target's mean and deviation.

    White matter is sought as the last mode of the histogram, which is right for T1w only. A blind
    method is not told the contrast, so it is expected to fail on other contrasts.

    References
    ----------
    Shinohara et al. 2014, doi:10.1016/j.nicl.2014.08.008.
    """

    name = "WhiteStripe"
    version = 1
    make = WhiteStripeNormalizer
