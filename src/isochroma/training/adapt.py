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

from isochroma.errors import InputError
from isochroma.files import write_atomically
from isochroma.images import metrics
from isochroma.method.intensity_map import IntensityMap, fit_intensity_map
from isochroma.models.config import ModelConfig
from isochroma.models.folder import CARD, save_model
from isochroma.models.zoo import card_of
from isochroma.pipeline import Harmonizer, Result
from isochroma.training.data import contrast_suffix, describe_target

DIGITS = 6  # of the coefficients, which lie within about [-2, 2]


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
    results = [harmonizer.run(scan) for scan in scans]
    spacing_mm = harmonizer.preprocess.spacing_mm
    config = dataclasses.replace(
        harmonizer.config,
        name=f"{harmonizer.config.name}, like {', '.join(Path(scan).name for scan in scans)}"[:255],
        target=describe_target(
            [each.source for each in results], spacing_mm, contrast_suffix(scans)
        ),
        intensity_map=learn_map(results, spacing_mm),
        training={
            "adapted_from": harmonizer.config.name,
            "held_out_ssim": held_out_ssim(results, spacing_mm),
        },
    )
    adapted = copy.copy(harmonizer)
    adapted.config = config
    return adapted


def learn_map(results: Sequence[Result], spacing_mm: float) -> IntensityMap:
    """Fit the map to the rendered and true images of scans."""
    pairs = ((each.rendering.output, each.source.image, each.source.mask) for each in results)
    return fit_intensity_map(pairs, spacing_mm)


def held_out_ssim(results: Sequence[Result], spacing_mm: float) -> list[float]:
    """Compare each scan with what the map of the other scans makes of it.

    Parameters
    ----------
    results : sequence of Result
        The scans as the model renders them.
    spacing_mm : float
        Edge of the model grid's voxels, mm.

    Returns
    -------
    ssim : list of float
        Structural similarity inside the mask, one a scan; empty for a single scan.
    """
    found = []
    for number, held_out in enumerate(results):
        others = [*results[:number], *results[number + 1 :]]
        if others:
            source = held_out.source
            learned = learn_map(others, spacing_mm)
            mapped = learned.apply(held_out.rendering.output, source.mask, spacing_mm)
            found.append(round(metrics.ssim(mapped, source.image, source.mask, 2), 4))
    return found


def save_adapted(harmonizer: Harmonizer, folder: Path) -> ModelConfig:
    """Write an adapted harmonizer's model and its card as a folder, for `load_model`."""
    config = save_model(folder, harmonizer.sampler.network.state_dict(), harmonizer.config)
    write_atomically(folder / CARD, lambda path: path.write_text(card_of(config)))
    return config
