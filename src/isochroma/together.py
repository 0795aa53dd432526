"""Several contrasts of one session, rendered as one image.

Each scan is harmonized by itself, with its own curve and variance. Since all outputs show one
contrast, the target's, they are registered rigidly to the first, and averaged with the inverse of
their expected squared errors (`doubt.expected_error`) as weights: where a thick slice or a flat
curve tells little, the other scans decide.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from isochroma.checks import Doubt, ScanWarning, check_agreement, check_doubt, check_outside
from isochroma.errors import InputError, about
from isochroma.images import metrics
from isochroma.images.grid import Grid, resample, resample_mask
from isochroma.images.io import like, load, slice_thickness
from isochroma.images.masked import extend_outside
from isochroma.images.registration import register_rigidly
from isochroma.pipeline import Contribution, Harmonizer, Image, Result
from isochroma.stages import record, stage

ALIKE = 0.7  # least correlation of two registered outputs of one head
LEAST_ERROR = 0.03  # model units; bounds a voxel's weight


class Moved(NamedTuple):
    """Hold an output on the grid of another scan of the head: (I, J, K), model units.

    Attributes
    ----------
    output, error : ndarray of float32
        The output and its expected error.
    mask : ndarray of bool
        Its brain.
    """

    output: np.ndarray
    error: np.ndarray
    mask: np.ndarray


def harmonize_together(
    harmonizer: Harmonizer,
    scans: Sequence[Path],
    mask: Image | None = None,
    dtype: DTypeLike = np.float32,
) -> Result:
    """Harmonize several scans of one head into one image, on the grid of the first.

    Parameters
    ----------
    harmonizer : Harmonizer
        With a second stage, which the expected error needs.
    scans : sequence of Path
        Scans of one session in any contrasts; the first gives grid and mask.
    mask : SpatialImage, optional
        Brain mask of the first.
    dtype : dtype
        Voxel type of the result.

    Returns
    -------
    result : Result
        As of the first scan, with what each scan contributed in its record. A scan that cannot be
        used, or is not like the first once it is registered, is left out with a warning.

    Raises
    ------
    InputError
        If the first scan cannot be used, or there is no second stage.
    """
    if not harmonizer.revises:
        msg = "scans are combined by their expected error, which needs the second stage."
        raise InputError(msg, "together")
    alone = copy.copy(harmonizer)  # the mask is needed on the scan's own grid
    alone.grid, alone.outside = "source", "zero"
    with record() as seconds:
        scan = load(scans[0])
        with about(scans[0]):
            reference = alone.run(scan, mask, dtype, slice_thickness(scans[0]))
        parts = [_unmoved(reference)]
        warnings = list(reference.warnings)
        made = [Contribution(scans[0].name, 1.0, 1.0)]
        for path in scans[1:]:
            found, told = _moved(alone, path, reference)
            warnings += told
            if found is not None:
                parts.append(found)
                made.append(Contribution(path.name, 0.0, _likeness(parts[0], found)))
        source, inside = reference.source, reference.source.mask
        weights = [part.mask / np.maximum(part.error, LEAST_ERROR) ** 2 for part in parts]
        total = np.sum(weights, axis=0)
        total[~inside] = 1
        output = sum(w * part.output for w, part in zip(weights, parts, strict=True)) / total
        output = np.where(inside, output, 0).astype(np.float32)
        # not smaller than one scan's alone: errors of one prior are not independent
        error = np.sqrt(np.sum([part.mask for part in parts], axis=0) / total) * inside
        mapped = output
        if harmonizer.config.intensity_map is not None:
            spacing_mm = harmonizer.preprocess.spacing_mm
            mapped = harmonizer.config.intensity_map.apply(output, inside, spacing_mm)
        brain = np.asarray(reference.mask.dataobj) > 0
        values, shown, shown_inside = harmonizer.restore(mapped, source, scan, brain)
    doubt = Doubt.of(error.astype(np.float32), source)
    kept = [each for each in warnings if each.code != "doubtful-region"]
    shares = [float((weight / total)[inside].mean()) for weight in weights]
    return Result(
        like(values, shown, dtype),
        like(shown_inside, shown, np.uint8),
        source,
        dataclasses.replace(reference.rendering, output=output, mapped=mapped),
        doubt,
        (
            *kept,
            *check_doubt(doubt),
            *check_outside(harmonizer.outside, shown, values, shown_inside),
        ),
        dataclasses.replace(
            reference.record,
            outside=harmonizer.outside,
            grid=harmonizer.grid,
            seconds=seconds,
            together=tuple(
                each._replace(share=round(share, 3))
                for each, share in zip(made, shares, strict=True)
            ),
        ),
    )


def _unmoved(result: Result) -> Moved:
    assert result.doubt is not None
    return Moved(result.rendering.output, result.doubt.error, result.source.mask)


def _moved(
    harmonizer: Harmonizer, path: Path, reference: Result
) -> tuple[Moved | None, list[ScanWarning]]:
    """Harmonize a scan and bring it over the reference; None if that is not possible."""
    try:
        result = harmonizer.run(path)
    except InputError as reason:
        return None, [ScanWarning("left-out", f"{path.name} is left out: {reason}", 0.0)]
    first, other = _unmoved(reference), _unmoved(result)
    own, grid = result.source.grid, reference.source.grid
    with stage("register"):
        motion = register_rigidly(first.output, first.mask, grid, other.output, other.mask, own)
        over = Grid(own.shape, np.linalg.inv(motion) @ own.affine)
        output, error = (
            resample(extend_outside(volume, other.mask), over, grid)
            for volume in (other.output, other.error)
        )
        inside = resample_mask(other.mask, over, grid) & first.mask
    moved = Moved(output, np.maximum(error, LEAST_ERROR), inside)
    likeness = _likeness(first, moved)
    if likeness < ALIKE:
        text = (
            f"{path.name} is left out: it is not like the first scan once both are harmonized and "
            f"registered (correlation {likeness:.2f}). Of the same head?"
        )
        return None, [ScanWarning("left-out", text, likeness)]
    told = [each for each in result.warnings if each.code != "doubtful-region"]
    named = [dataclasses.replace(each, text=f"{path.name}: {each.text}") for each in told]
    both = dataclasses.replace(reference.source, mask=inside)
    apart = np.hypot(first.error, moved.error)
    return moved, [
        *named,
        *check_agreement(first.output, moved.output, apart, both, path.name),
    ]


def _likeness(first: Moved, other: Moved) -> float:
    """Return the correlation of two outputs in the common brain; 0 if there is none."""
    common = first.mask & other.mask
    return metrics.ncc(first.output, other.output, common) if common.sum() > 1 else 0.0
