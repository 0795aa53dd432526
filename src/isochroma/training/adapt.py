"""Another scanner as the target, from a few of its scans and without training.

The scans are rendered by a model as its own target would show them. Pairs of rendered and true
images of the same heads then give a map to the new target (`method.intensity_map`), which becomes
the last step of the pipeline. No other scanner's scans are read.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from isochroma.errors import InputError
from isochroma.files import write_atomically
from isochroma.images import metrics
from isochroma.images.preprocess import Prepared
from isochroma.method.intensity_map import IntensityMap, fit_intensity_map
from isochroma.models.config import ModelConfig
from isochroma.models.folder import CARD, save_model
from isochroma.models.zoo import card_of
from isochroma.pipeline import Harmonizer
from isochroma.training.data import contrast_suffix, describe_target

DIGITS = 6  # of the coefficients, which lie within about [-2, 2]


class Rendered(NamedTuple):
    """A scan of the new target, and what the model makes of it: (I, J, K), model units."""

    source: Prepared
    output: np.ndarray


def adapt(harmonizer: Harmonizer, scans: Sequence[Path]) -> Harmonizer:
    """Make a harmonizer whose target is the scanner of the given scans.

    Parameters
    ----------
    harmonizer : Harmonizer
        With a model that was trained on its target.
    scans : sequence of Path
        One or more scans of one scanner and contrast, which need not be T1w.

    Returns
    -------
    adapted : Harmonizer
        With the same network and settings.

    Raises
    ------
    InputError
        If a scan cannot be used.
    """
    if harmonizer.config.intensity_map is not None:
        msg = f"the model {harmonizer.config.name!r} is adapted already. Adapt what it was made of."
        raise InputError(msg, "model")
    heads = [render(harmonizer, scan) for scan in scans]
    spacing_mm = harmonizer.preprocess.spacing_mm
    config = dataclasses.replace(
        harmonizer.config,
        name=f"{harmonizer.config.name}, like {', '.join(Path(scan).name for scan in scans)}"[:255],
        target=describe_target([each.source for each in heads], spacing_mm, contrast_suffix(scans)),
        intensity_map=learn_map(heads, spacing_mm),
        training={
            "adapted_from": harmonizer.config.name,
            "held_out_ssim": held_out_ssim(heads, spacing_mm),
        },
    )
    adapted = copy.copy(harmonizer)
    adapted.config = config
    return adapted


def render(harmonizer: Harmonizer, scan: Path) -> Rendered:
    """Render a scan, and keep what the map is learned from."""
    result = harmonizer.run(scan)
    return Rendered(result.source, result.rendering.output)


def learn_map(heads: Sequence[Rendered], spacing_mm: float) -> IntensityMap:
    """Fit the map to the rendered and true images of heads."""
    pairs = ((each.output, each.source.image, each.source.mask) for each in heads)
    return fit_intensity_map(pairs, spacing_mm)


def held_out_ssim(heads: Sequence[Rendered], spacing_mm: float) -> list[float]:
    """Compare each scan with what the map of the others makes of it.

    Parameters
    ----------
    heads : sequence of Rendered
        The scans as the model renders them.
    spacing_mm : float
        Edge of the model grid's voxels, mm.

    Returns
    -------
    ssim : list of float
        Structural similarity inside the mask, on [0, 2], one a scan; empty for a single scan.
    """
    found = []
    for number, held_out in enumerate(heads):
        others = [*heads[:number], *heads[number + 1 :]]
        if others:
            source = held_out.source
            mapped = learn_map(others, spacing_mm).apply(held_out.output, source.mask, spacing_mm)
            shown, truth = (np.clip(image, -1, 1) + 1 for image in (mapped, source.image))
            found.append(round(metrics.ssim(shown, truth, source.mask, 2), 4))
    return found


def save_adapted(harmonizer: Harmonizer, folder: Path) -> ModelConfig:
    """Write an adapted harmonizer's model and its card as a folder, for `load_model`."""
    first, second = harmonizer.sampler, harmonizer.revision
    config = save_model(
        folder,
        first.network.state_dict(),
        harmonizer.config,
        None if second is None else second.network.state_dict(),
    )
    write_atomically(folder / CARD, lambda path: path.write_text(card_of(config)))
    return config
