"""Label the outputs with a program of the user's own, and compare the regions that it finds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import joblib
import numpy as np
import pandas as pd

from isochroma.errors import InputError
from isochroma.evaluation.measures.pairs import RESCAN, motion_between, overlap, shown_group
from isochroma.evaluation.measures.regions import (
    LEAST_PERSONS,
    Regions,
    Volumes,
    judged,
    large_regions,
    pairs_to_judge,
    part,
    volumes_of,
)
from isochroma.evaluation.measures.registry import GIVEN_LABELS, PAIR_LABELS, RAW_LABELS, RESCANS
from isochroma.evaluation.measures.sample import needed
from isochroma.evaluation.methods import Method, Raw
from isochroma.evaluation.plan import Plan
from isochroma.evaluation.program import run_program
from isochroma.evaluation.results import Failure, Results, Row, attempt, failure_of
from isochroma.evaluation.study import Scan, labels_on
from isochroma.images.grid import resample
from isochroma.stages import advance

VERSION = 1
LARGEST_LABEL = 65535
NAME = "the segmenter"  # in messages
COLUMNS = ("scan", "person", "site", "contrast", "method", "label", "ml")
Found = dict[Scan, Volumes]


def measure_regions(
    plan: Plan, measured: Mapping[str, tuple[Method, Sequence[Scan]]]
) -> tuple[Results, pd.DataFrame]:
    """Run the segmenter on the outputs on which it can be judged, and compare what it finds.

    Parameters
    ----------
    plan : Plan
        The evaluation, with a segmenter.
    measured : mapping of str to (Method, sequence of Scan)
        Fitted methods by name, and the scans that they did not fail on.

    Returns
    -------
    results : Results
        Rows of the part `regions`. An output on which the segmenter fails is listed and left out.
    volumes : DataFrame
        The volume of each region in each output, ml.
    """
    known, failures = label_outputs(plan, measured)
    raw = known.get(Raw.name, {})
    tasks = []
    for name, found in known.items():
        method = measured[name][0]
        for group, a, b in pairs_to_judge(list(found)):
            rows = partial(pair_rows, plan, method, group, a, b)
            tasks.append((f"{a.scan} | {b.scan}", name, rows))
        for scan in found:
            anchor = scan if scan.contrast == "T1w" else plan.work.partner(scan)
            if anchor in raw and not (anchor is scan and name == Raw.name):
                rows = partial(raw_rows, plan, method, scan, anchor)
                tasks.append((scan.scan, name, rows))
            if scan.regions:
                tasks.append((scan.scan, name, partial(given_rows, plan, method, scan)))
        tasks.append(("rescans", name, partial(rescan_rows, plan, name, found)))
    compared = joblib.Parallel(plan.jobs)(joblib.delayed(attempt)(*task) for task in tasks)
    table = [
        (scan.scan, scan.person, scan.site, scan.contrast, name, label, ml)
        for name, found in known.items()
        for scan, volumes in found.items()
        for label, ml in volumes.items()
    ]
    return sum(compared, Results([], failures)), pd.DataFrame(table, columns=list(COLUMNS))


def label_outputs(
    plan: Plan, measured: Mapping[str, tuple[Method, Sequence[Scan]]]
) -> tuple[dict[str, Found], list[Failure]]:
    """Return the volumes that the segmenter finds, by method and scan, and what it failed on."""
    wanted = [(method, scan) for method, done in measured.values() for scan in judged(done)]
    one = joblib.delayed(try_to_label)
    done = joblib.Parallel(plan.jobs, return_as="generator")(one(plan, *each) for each in wanted)
    known: dict[str, Found] = {}
    failures = []
    for number, ((method, scan), found) in enumerate(zip(wanted, done, strict=True), 1):
        advance(number, len(wanted))
        if isinstance(found, Failure):
            failures.append(found)
        else:
            known.setdefault(method.name, {})[scan] = found
    return known, failures


def try_to_label(plan: Plan, method: Method, scan: Scan) -> Volumes | Failure:
    """Return the volumes of the regions in an output, or the failure."""
    try:
        labels = find_labels(plan, method, scan)
        return volumes_of(labels, plan.work.case(scan).prepared.grid.voxel_ml)
    except Exception as error:
        return failure_of(scan.scan, method.name, error)


def find_labels(plan: Plan, method: Method, scan: Scan) -> np.ndarray:
    """Return the segmenter's labels (I, J, K) of an output, from the store if they are there.

    Raises
    ------
    InputError
        If it fails, or what it writes are not labels on the output's grid.
    """
    work, command = plan.work, needed(plan.segmenter)

    def make() -> np.ndarray:
        case = work.case(scan)
        output = replace(case.prepared, image=work.volume(method, case))
        return as_labels(run_program(NAME, command, output), NAME)

    return work.store.get(("regions", VERSION, command, *work.output_key(method, scan)), make)


def as_labels(values: np.ndarray, name: str) -> np.ndarray:
    """Return values that are labels as uint16.

    Parameters
    ----------
    values : (I, J, K) ndarray
        Numbers of any type.
    name : str
        How messages call what they are from.

    Returns
    -------
    labels : (I, J, K) ndarray of uint16

    Raises
    ------
    InputError
        If they are not whole numbers from 0 to 65535, or all 0.
    """
    if (values != np.rint(values)).any() or values.min() < 0 or values.max() > LARGEST_LABEL:
        msg = f"{name}: values that are no labels. Write whole numbers from 0 to {LARGEST_LABEL}."
        raise InputError(msg)
    if not values.any():
        msg = f"{name}: no label but 0. Check what wrote it."
        raise InputError(msg)
    return values.astype(np.uint16)


def pair_rows(plan: Plan, method: Method, group: str, a: Scan, b: Scan) -> Iterator[Row]:
    """Return the rows of two outputs of one person."""
    first, second = ((scan, find_labels(plan, method, scan)) for scan in (a, b))
    regions = bring_together(plan, first, second, motion_between(plan.work, group, a, b))
    about = (shown_group(group, a, b), f"{a.scan} | {b.scan}", a.person, method.name)
    return rows_of(PAIR_LABELS, regions, *about)


def raw_rows(plan: Plan, method: Method, scan: Scan, anchor: Scan) -> Iterator[Row]:
    """Return the rows of an output and the raw T1w scan, the anchor."""
    raw, own = find_labels(plan, Raw(), anchor), find_labels(plan, method, scan)
    regions = bring_together(plan, (anchor, raw), (scan, own))
    return rows_of(RAW_LABELS, regions, scan.group, scan.scan, scan.person, method.name)


def given_rows(plan: Plan, method: Method, scan: Scan) -> Iterator[Row]:
    """Return the rows of an output and the study's labels."""
    grid = plan.work.case(scan).prepared.grid
    given = as_labels(needed(labels_on(scan.regions, grid, np.float32)), str(scan.regions))
    regions = bring_together(plan, (scan, given), (scan, find_labels(plan, method, scan)))
    return rows_of(GIVEN_LABELS, regions, scan.group, scan.scan, scan.person, method.name)


def rows_of(
    kind: str, regions: Regions, group: str, scan: str, person: str, method: str
) -> Iterator[Row]:
    """Yield the rows of all measures of one kind."""
    for measure in part.of(kind):
        yield Row(part.name, group, scan, person, method, measure.name, measure.compute(regions))


def bring_together(
    plan: Plan,
    first: tuple[Scan, np.ndarray],
    second: tuple[Scan, np.ndarray],
    motion: np.ndarray | None = None,
) -> Regions:
    """Take the labels of the second of two scans on the grid of the first.

    Parameters
    ----------
    plan : Plan
        The evaluation.
    first, second : tuple of Scan and (I, J, K) ndarray of uint16
        The scans with their labels, each on its own model grid.
    motion : (4, 4) ndarray, optional
        World motion from the second scan to the first; none for co-registered scans.

    Returns
    -------
    regions : Regions
        Volumes are those before the second scan was resampled.
    """
    (a, labels), (b, others) = first, second
    case_a, case_b = plan.work.case(a), plan.work.case(b)
    grid = case_a.prepared.grid
    moved, common = overlap(case_a, case_b, motion)
    volumes = volumes_of(labels, grid.voxel_ml), volumes_of(others, moved.voxel_ml)
    brought = resample(others, moved, grid, order=0)
    return Regions(labels[common], brought[common], *large_regions(volumes))


def rescan_rows(plan: Plan, method: str, found: Found) -> Iterator[Row]:
    """Yield the rows of all people of a site and contrast who were scanned twice."""
    groups: dict[str, dict[str, list[Volumes]]] = {}
    for group, a, b in pairs_to_judge(list(found)):
        if group == RESCAN:
            groups.setdefault(a.group, {}).setdefault(a.person, [found[a], found[b]])
    for group, people in groups.items():
        if len(people) < LEAST_PERSONS:
            continue
        _, volumes = large_regions([each for both in people.values() for each in both])
        table = volumes.T.reshape(len(people), 2, -1)
        for measure in part.of(RESCANS):
            rng = np.random.default_rng(plan.work.seed)
            value = measure.compute(table, rng, plan.budget.resamples)
            yield Row(part.name, group, group, group, method, measure.name, *value)
