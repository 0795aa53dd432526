"""Apply the measures to the methods' outputs: rows of results, each step kept in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any

import numpy as np

from isochroma.evaluation import downstream
from isochroma.evaluation.measures import PARTS, audit, pairs
from isochroma.evaluation.measures.registry import GROUP, OUTPUT, PAIR, RUN, SEEDS, Measure, Part
from isochroma.evaluation.measures.sample import (
    Group,
    Pair,
    Sample,
    make_sample,
    sample_key,
)
from isochroma.evaluation.methods import Method, Raw
from isochroma.evaluation.plan import Plan
from isochroma.evaluation.results import Results, Row, attempt
from isochroma.evaluation.study import Scan
from isochroma.evaluation.tools import VERSIONS, Tools
from isochroma.evaluation.tools import features as patches

SEED_RUNS = 3


def versions(part: Part, kind: str) -> list[tuple[str, int]]:
    """Return names and versions of the part's measures of one kind of input."""
    return [(measure.name, measure.version) for measure in part.of(kind)]


def measure_scan(plan: Plan, method: Method, scan: Scan, tools: Tools) -> Results:
    """Measure one output: its cost, and all measures that what is known of the scan allows.

    The method is run on the scan if its output is not in the store. If anything fails, the results
    are the failure alone.
    """
    return attempt(scan.scan, method.name, lambda: list(scan_rows(plan, method, scan, tools)))


def scan_rows(plan: Plan, method: Method, scan: Scan, tools: Tools) -> Iterator[Row]:
    """Yield the rows of one output."""
    work = plan.work
    about = (scan.scan, scan.person, method.name)
    output = work.output(method, scan)
    for part in PARTS.values():
        for measure in part.of(RUN):
            yield Row(part.name, "all", *about, measure.name, measure.compute(output))
    classical = scan.core and plan.budget.classical
    sample = cache(lambda: make_sample(work, method, scan, tools, classical))
    known = [work.output_key(method, scan), *sample_key(work, scan), classical]
    fitted = [plan.budget.segmenter_steps, VERSIONS]
    for part in PARTS.values():
        if not part.of(OUTPUT):
            continue
        key = ("measures", part.name, versions(part, OUTPUT), *known, *fitted)
        found = work.store.get(key, partial(measure_part, part, sample))
        group = (scan.preset or "own") if part.name == "truth" else scan.group
        for name, value in found.items():
            yield Row(part.name, group, *about, name, value)
    if tools.space is not None and downstream.is_judged(plan, scan):
        with suppress(Exception):  # what fails here fails again, and is listed, where it is used
            downstream.find(plan, method, scan, tools, sample)


def measure_part(part: Part, sample: Callable[[], Sample]) -> dict[str, float]:
    """Compute a part's measures of one output, those that it has what they need for."""
    measures = [each for each in part.of(OUTPUT) if sample().has(each.needs)]
    return compute_all(measures, sample)


def compute_all(measures: Sequence[Measure], data: Callable[[], Any]) -> dict[str, float]:
    """Compute the measures of what `data` returns, by name."""
    return {measure.name: float(measure.compute(data())) for measure in measures}


def measure_seeds(plan: Plan, method: Method, scans: Sequence[Scan]) -> Results:
    """Measure how much outputs depend on the seed, on the first core scan of a source.

    If no source scan is core, it is the first of the scans, which the method was run on.
    """
    scan = next((scan for scan in scans if scan.core and scan in plan.sources), scans[0])

    def rows() -> Iterator[Row]:
        seeds = [plan.work.seed + n for n in range(SEED_RUNS)]
        outputs = [plan.work.output(method, scan, seed) for seed in seeds]
        for part in PARTS.values():
            for measure in part.of(SEEDS):
                about = (part.name, "all", scan.scan, scan.person, method.name)
                yield Row(*about, measure.name, measure.compute(outputs))

    return attempt("seeds", method.name, rows)


def measure_pairs(plan: Plan, method: Method, scans: Sequence[Scan]) -> Results:
    """Measure how well the outputs of the scans of one person agree, for all such pairs."""
    results = Results()
    for group, a, b in pairs.same_person(scans):
        name = f"{a.scan} | {b.scan}"
        results += attempt(name, method.name, partial(pair_rows, plan, method, group, a, b))
    return results


def pair_rows(plan: Plan, method: Method, group: str, a: Scan, b: Scan) -> Iterator[Row]:
    """Yield the rows of one pair."""
    repeated = group == pairs.RESCAN
    work = plan.work

    @cache
    def pair() -> Pair:
        first, second = work.case(a), work.case(b)
        motion = pairs.motion_between(work, group, a, b)
        volumes = work.volume(method, first), work.volume(method, second)
        return pairs.bring_together(*volumes, first, second, motion)

    keys = [work.output_key(method, scan) for scan in (a, b)]
    name = f"{a.scan} | {b.scan}"
    for part in PARTS.values():
        measures = part.of(PAIR)
        if not measures:
            continue
        key = ("pair", part.name, versions(part, PAIR), pairs.MOTION_VERSION, repeated, keys)
        found = work.store.get(key, partial(compute_all, measures, pair))
        shown = pairs.shown_group(group, a, b)
        for measure, value in found.items():
            yield Row(part.name, shown, name, a.person, method.name, measure, value)


def measure_groups(plan: Plan, method: Method, scans: Sequence[Scan], tools: Tools) -> Results:
    """Measure the outputs of each group of scans together."""
    features = partial(output_features, plan, method, tools)
    groups: dict[str, list[Scan]] = {}
    for scan in scans:
        groups.setdefault(scan.group, []).append(scan)
    results = Results()
    for part in PARTS.values():
        for measure in part.of(GROUP):
            rng = np.random.default_rng(plan.work.seed)
            for name, members in groups.items():
                group = Group(members, features, tools.target_features, plan.budget.resamples)
                about = (part.name, name, name, name, method.name, measure.name)
                results += attempt(
                    name,
                    method.name,
                    lambda: [Row(*about, *measure.compute(group, rng))],  # noqa: B023
                )
    return results


def output_features(plan: Plan, method: Method, tools: Tools, scan: Scan) -> np.ndarray:
    """Return the patch features (N, D) float32 of an output."""
    work = plan.work

    def make() -> np.ndarray:
        case = work.case(scan)
        volume = work.volume(method, case)
        found = patches.patch_features(volume, case.prepared.mask, tools.features)
        return found.astype(np.float32)

    return work.store.get(("features", patches.VERSION, work.output_key(method, scan)), make)


def measure_sites(plan: Plan, measured: dict[str, tuple[Method, list[Scan]]]) -> Results:
    """Probe the outputs of all T1w scans for the site.

    The target's scans stay as they are, the others are as each method makes them. Methods that did
    not get, or failed on, any of these scans are left out.
    """
    return attempt("site audit", "all", lambda: list(site_rows(plan, measured)))


def site_rows(plan: Plan, measured: dict[str, tuple[Method, list[Scan]]]) -> Iterator[Row]:
    """Yield the rows of the site audit."""
    usable = measured[Raw.name][1]
    own = [scan for scan in usable if scan.site == plan.site and not scan.preset]
    other = [
        scan
        for scan in usable
        if scan in plan.sources and not scan.preset and scan.contrast == "T1w"
    ]
    scans = [*plan.work.train, *own, *other]
    methods = [method for method, known in measured.values() if {*own, *other} <= set(known)]
    sites, persons = [scan.site for scan in scans], [scan.person for scan in scans]
    budget, work = plan.budget, plan.work
    permutations = {
        "histogram": budget.permutations,
        "shape": budget.permutations,
        "network": budget.convnet_permutations,
    }
    features = cache(lambda: site_features(plan, methods, scans, permutations["network"] > 0))
    keys = [work.case_key(scan) for scan in scans]

    def probe(name: str) -> audit.Audit:
        outputs = features()[name]
        raw = outputs["any" if name == "shape" else Raw.name]
        return audit.audit(
            audit.PROBES[name],
            raw,
            outputs,
            sites,
            persons,
            permutations=permutations[name],
            jobs=plan.jobs,
        )

    for name, count in permutations.items():
        if not count:
            continue
        known = [work.method_key(method) for method in methods] if name != "shape" else []
        key = ("audit", audit.VERSION, name, count, sites, persons, keys, known, work.seed)
        found = work.store.get(key, partial(probe, name))
        yield from audit_rows(name, found, len(scans))


def audit_rows(probe: str, found: audit.Audit, scans: int) -> Iterator[Row]:
    """Yield the rows of one probe: each method's score, and the chance levels as methods."""
    group = f"{' against '.join(found.sites)}, {found.persons} persons"
    for row in found.rows:
        values = {row.method: row.balanced_accuracy}
        if row.method in (Raw.name, "any"):
            values |= {"chance": row.chance, "chance, 95th percentile": row.chance_95}
        for method, value in values.items():
            measure = f"{probe} probe, {row.training}"
            yield Row("audit", group, group, group, method, measure, value, scans=scans)


def site_features(
    plan: Plan, methods: Sequence[Method], scans: Sequence[Scan], thumbnails: bool
) -> dict[str, dict[str, np.ndarray]]:
    """Compute what the site probes see, by probe and method, reading each volume once.

    The shapes, which are of no method, are those of "any". Thumbnails are for the network probe.
    """
    work = plan.work
    cases = [work.case(scan) for scan in scans]
    masks = [case.prepared.mask for case in cases]
    found: dict[str, dict[str, np.ndarray]] = {"histogram": {}, "network": {}}
    for method in methods:
        volumes = [
            case.prepared.image if case.scan.site == plan.site else work.volume(method, case)
            for case in cases
        ]
        both = list(zip(volumes, masks, strict=True))
        found["histogram"][method.name] = np.stack([audit.histogram(*each) for each in both])
        if thumbnails:
            found["network"][method.name] = np.stack([audit.thumbnail(*each) for each in both])
    found["shape"] = {"any": np.stack([audit.shape_features(mask) for mask in masks])}
    return found
