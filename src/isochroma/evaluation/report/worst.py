"""The scans that a method does most harm to, as pictures with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from isochroma.evaluation.measures import anatomy, segmentation, truth
from isochroma.evaluation.measures.registry import OUTPUT, Measure
from isochroma.evaluation.methods import N4, Method
from isochroma.evaluation.report.figures import logged
from isochroma.evaluation.study import Case, Scan
from isochroma.evaluation.workspace import Workspace
from isochroma.images.grid import bounding_box
from isochroma.images.mosaic import MARGIN, PLANES, Cut, enlarge, grey, titled

JUDGED = (truth.part, anatomy.part, segmentation.part)  # what is known of the scan's own anatomy
MOST = 10
SIDE = 200  # pixels of a slice, about


@dataclass(frozen=True)
class Change:
    """What a measure says of one scan, after N4 alone and after a method.

    Attributes
    ----------
    measure : Measure
        The measure.
    before, after : float
        Its value for N4 alone and for the method.
    loss : float
        How much worse it is, as a share of the measure's range; negative if it is better.
    """

    measure: Measure
    before: float
    after: float
    loss: float


@dataclass(frozen=True)
class WorstCase:
    """A scan that a method harms.

    Attributes
    ----------
    scan : str
        Its name.
    changes : tuple of Change
        All measures that count, the largest loss first.
    """

    scan: str
    changes: tuple[Change, ...]


def worst_cases(rows: pd.DataFrame, ours: str, most: int = MOST) -> list[WorstCase]:
    """Find the scans with the largest loss against N4 alone in any one measure.

    All measures of one output count that have a better direction and belong to the parts `JUDGED`.
    A loss is a share of the measure's range, which is its largest value in any scan after any
    method, controls included, minus its smallest.

    Parameters
    ----------
    rows : DataFrame
        The table of results.csv.
    ours : str
        The method.
    most : int
        How many scans at most.

    Returns
    -------
    cases : list of WorstCase
        The worst first; scans that lose nothing in the digits shown are left out.
    """
    changes: dict[str, list[Change]] = {}
    for part in JUDGED:
        for measure in part.of(OUTPUT):
            found = rows[(rows["part"] == part.name) & (rows["measure"] == measure.name)]
            if not measure.better or found.empty:
                continue
            span = float(np.ptp(measure.score(found["value"]))) or 1.0
            by_method = [
                found[found["method"] == name].set_index("scan")["value"]
                for name in (N4.name, ours)
            ]
            both = pd.concat(by_method, axis=1, join="inner", keys=["before", "after"])
            for scan, before, after in both.itertuples():
                gap = measure.score(before) - measure.score(after)
                loss = measure.better * round(gap, measure.digits) / span
                changes.setdefault(scan, []).append(Change(measure, before, after, loss))
    cases = [
        WorstCase(scan, tuple(sorted(found, key=lambda change: -change.loss)))
        for scan, found in changes.items()
    ]
    cases.sort(key=lambda case: -case.changes[0].loss)
    return [case for case in cases if case.changes[0].loss > 0][:most]


def draw_worst(
    work: Workspace, method: Method, scans: Sequence[Scan], cases: Sequence[WorstCase]
) -> list[tuple[WorstCase, Image.Image]]:
    """Draw each case: the scan, the output, and the truth if there is one.

    Parameters
    ----------
    work : Workspace
        The study's scans and outputs.
    method : Method
        The method, fitted.
    scans : sequence of Scan
        The scans that it was run on.
    cases : sequence of WorstCase
        Of these scans.

    Returns
    -------
    drawn : list of (WorstCase, Image)
        What cannot be read is left out and logged.
    """
    by_name = {scan.scan: scan for scan in scans}
    drawn = []
    for each in cases:
        scan = by_name[each.scan]
        with logged(scan, method.name):
            case = work.case(scan)
            drawn.append((each, picture_of(case, method.name, work.volume(method, case))))
    return drawn


def picture_of(case: Case, name: str, output: np.ndarray) -> Image.Image:
    """Draw axial, coronal and sagittal slices of a scan, an output, and the truth, in rows.

    Parameters
    ----------
    case : Case
        The scan. Slices are where its lesions are largest; without lesions, where the brain is.
    name : str
        The method.
    output : (I, J, K) ndarray
        Its output, model units.

    Returns
    -------
    picture : Image
        Black outside the brain.
    """
    mask = case.prepared.mask
    volumes = {"source, N4": case.prepared.image, name: output}
    if case.truth is not None:
        volumes["truth"] = case.truth
    lesions = mask & case.lesions if case.lesions is not None else np.zeros_like(mask)
    about = lesions if lesions.any() else mask
    cuts = [largest_section(about, mask, plane) for plane in reversed(PLANES)]
    box = cuts[0].box
    side = max(extent.stop - extent.start for extent in box)
    rows = []
    for title, volume in volumes.items():
        shown = np.where(mask, volume, -1)
        slices = [
            enlarge(squared(grey(cut.row(shown)), side), max(1, SIDE // side)) for cut in cuts
        ]
        marked = [cut.marked(one) for cut, one in zip(cuts, slices, strict=True)]
        row = Image.fromarray(np.concatenate([np.asarray(one) for one in marked], axis=1))
        rows.append(np.asarray(titled(row.convert("RGB"), title)))
    return Image.fromarray(np.concatenate(rows))


def largest_section(about: np.ndarray, mask: np.ndarray, plane: str) -> Cut:
    """Return the slice of a plane with most voxels of `about`, cut to the mask's box."""
    others = tuple(axis for axis in range(3) if axis != PLANES[plane])
    return Cut(plane, (int(about.sum(others).argmax()),), bounding_box(mask, MARGIN))


def squared(pixels: np.ndarray, side: int) -> np.ndarray:
    """Pad grey levels with black to a square."""
    gaps = [side - extent for extent in pixels.shape]
    return np.pad(pixels, [(gap // 2, gap - gap // 2) for gap in gaps])
