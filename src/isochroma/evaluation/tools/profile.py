"""The intensities of the target domain: histograms of brain and tissues, grey/white contrast."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from isochroma.errors import InputError
from isochroma.evaluation.tissues import GREY, NAMES, WHITE
from isochroma.evaluation.tools.detail import STRONG, detail

VERSION = 2
BRAIN = "brain"
LEVELS = 1001  # quantiles: the mean brain has some 1500 voxels between two of them


@dataclass(frozen=True)
class TargetProfile:
    """Intensities of the target domain's training scans.

    Attributes
    ----------
    quantiles : dict of str to (Q,) ndarray
        For the brain and each tissue: quantiles at equal probabilities 0 to 1, averaged over the
        scans, model units.
    contrast : float
        Mean `contrast_ratio`.
    strong : float
        Mean quantile `STRONG` of the size of `detail`, model units.
    """

    quantiles: dict[str, np.ndarray]
    contrast: float
    strong: float


def target_profile(
    images: Iterable[np.ndarray], masks: Iterable[np.ndarray], tissues: Iterable[np.ndarray]
) -> TargetProfile:
    """Average quantiles, contrast and detail over the target's training scans.

    Parameters
    ----------
    images : iterable of (I, J, K) ndarray
        Model units. May be a generator, so that one scan is held at a time.
    masks : iterable of (I, J, K) ndarray of bool
        Brain masks.
    tissues : iterable of (I, J, K) ndarray of uint8
        Labels as in `isochroma.evaluation.tissues`.

    Returns
    -------
    profile : TargetProfile
        The averages.

    Raises
    ------
    InputError
        If there are no scans.
    """
    probabilities = np.linspace(0, 1, LEVELS)
    found: dict[str, list[np.ndarray]] = {name: [] for name in (BRAIN, *NAMES.values())}
    contrasts, details = [], []
    for image, mask, labels in zip(images, masks, tissues, strict=True):
        for name in found:
            inside = region(name, mask, labels)
            if inside.any():
                found[name].append(np.quantile(image[inside], probabilities))
        contrasts.append(contrast_ratio(image, labels))
        details.append(np.quantile(np.abs(detail(image, mask)[mask]), STRONG))
    if not contrasts:
        msg = "no scans to make the target's profile of. Give its training scans."
        raise InputError(msg)
    quantiles = {name: np.mean(each, axis=0) for name, each in found.items() if each}
    return TargetProfile(quantiles, float(np.mean(contrasts)), float(np.mean(details)))


def region(name: str, mask: np.ndarray, tissues: np.ndarray | None) -> np.ndarray:
    """Return the mask of the brain, or of one tissue in it, by name: (I, J, K) bool."""
    if name == BRAIN:
        return np.asarray(mask, dtype=bool)
    label = next(label for label, known in NAMES.items() if known == name)
    return mask & (tissues == label)


def contrast_ratio(image: np.ndarray, tissues: np.ndarray) -> float:
    """Return the Michelson contrast of white against grey matter, (W - G) / (W + G).

    Parameters
    ----------
    image : (I, J, K) ndarray
        Model units; the means W and G are taken on the scale [0, 1], (x + 1) / 2.
    tissues : (I, J, K) ndarray of uint8
        Labels as in `isochroma.evaluation.tissues`.

    Returns
    -------
    contrast : float
        Positive for T1w scans, negative for T2w scans.
    """
    white, grey = ((image[tissues == label].mean() + 1) / 2 for label in (WHITE, GREY))
    return float((white - grey) / (white + grey))
