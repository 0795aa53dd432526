"""Measures of whole groups of scans, for one method or all: pairs, features, ages, site audit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from isochroma.evaluation.measures import audit, closeness, pairs
from isochroma.evaluation.measures.age import scores
from isochroma.evaluation.measuring import Tools, code, spread
from isochroma.evaluation.methods import Method, Raw
from isochroma.evaluation.study import Scan

if TYPE_CHECKING:
    from isochroma.evaluation.run import Evaluation
    from isochroma.evaluation.workspace import Workspace


class Row(NamedTuple):
    """Values of one scan, or of a group of `scans` scans with their interval, under a method."""

    part: str
    group: str
    scan: str
    person: str
    method: str
    values: dict[str, float]
    interval: tuple[float, float] = (np.nan, np.nan)
    scans: int = 1


def name_of(scan: Scan) -> str:
    """The group of a scan: its site, and what was simulated or else its contrast."""
    return f"{scan.site}, {scan.preset or scan.contrast}"


def of_method(evaluation: Evaluation, method: Method, tools: Tools) -> Iterator[Row]:
    """All group measures of one method."""
    yield from pair_rows(evaluation, method)
    yield from feature_rows(evaluation, method, tools)
    yield from age_rows(evaluation, method)


def pair_rows(evaluation: Evaluation, method: Method) -> Iterator[Row]:
    """Agreement of the scans of one person."""
    work = evaluation.work
    for group, a, b in pairs.same_person(evaluation.scans_of(method)):
        name = f"{a.scan} | {b.scan}"
        with evaluation.catching(name, method.name):
            repeated = group == pairs.RESCAN
            shown = group if repeated else f"{group} {a.contrast}-{b.contrast}"
            kept = work.memory.cache(agreement, ignore=["work", "method", "a", "b"])
            key = [code(), *(work.output_key(method, scan) for scan in (a, b))]
            found = kept(work, method, a, b, repeated, key)
            yield Row("pairs", shown, name, a.person, method.name, found)


def feature_rows(evaluation: Evaluation, method: Method, tools: Tools) -> Iterator[Row]:
    """Frechet distance of each group of scans to as many of the target's training scans."""
    rng = np.random.default_rng(evaluation.seed)
    members: dict[str, list[Scan]] = {}
    for scan in evaluation.scans_of(method):
        members.setdefault(name_of(scan), []).append(scan)
    for group, scans in members.items():
        with evaluation.catching(group, method.name):
            work = evaluation.work
            kept = work.memory.cache(patch_features, ignore=["work", "method", "scan", "space"])
            features = []
            for scan in scans:
                key = f"{code()} {work.output_key(method, scan)}"
                features.append(kept(work, method, scan, tools.features, key))
            target = tools.target_features[: len(scans)]
            value, interval = closeness.frechet_interval(features, target, rng)
            about = (group, group, group, method.name)
            yield Row("closeness", *about, {"frechet": value}, interval, len(scans))


def agreement(
    work: Workspace, method: Method, a: Scan, b: Scan, repeated: bool, key: list[str]
) -> dict[str, float]:
    """`pairs.agreement` of two outputs, aligned first if one scan repeats the other; kept under a
    key, so that the volumes are read only once.
    """
    first, case_a = work.volume(method, a)
    second, case_b = work.volume(method, b)
    align = work.memory.cache(pairs.rigid_motion)
    motion = align(case_a.prepared, case_b.prepared) if repeated else None
    return pairs.agreement(first, second, case_a, case_b, motion)


def patch_features(
    work: Workspace, method: Method, scan: Scan, space: closeness.FeatureSpace, key: str
) -> np.ndarray:
    """`closeness.patch_features` of an output as float32, kept under a key."""
    volume, case = work.volume(method, scan)
    return closeness.patch_features(volume, case.prepared.mask, space).astype(np.float32)


def probe_sites(
    probe: str,
    raw: np.ndarray,
    outputs: dict[str, np.ndarray],
    sites: list[str],
    persons: list[str],
    permutations: int,
    jobs: int,
) -> audit.Audit:
    """`audit.audit` by the probe's name, kept under all of its input."""
    fit = audit.convnet() if probe == "network" else audit.logistic
    return audit.audit(fit, raw, outputs, sites, persons, permutations=permutations, jobs=jobs)


def age_rows(evaluation: Evaluation, method: Method) -> Iterator[Row]:
    """R² of each group's predicted ages, with the interval over resampled persons."""
    rng = np.random.default_rng(evaluation.seed)
    by_name = {scan.scan: scan for scan in evaluation.scans}
    predicted: dict[str, list[tuple[str, float, float]]] = {}
    for row in evaluation.rows:
        if row["measure"] == "predicted" and row["method"] == method.name:
            scan = by_name[row["scan"]]
            predicted.setdefault(row["group"], []).append((scan.person, scan.age, row["value"]))
    for group, found in predicted.items():
        persons = np.array([person for person, _, _ in found])
        truth, guess = (np.array([each[i] for each in found]) for i in (1, 2))
        names = np.unique(persons)
        if len(names) < 5:
            continue
        draws = []
        for _ in range(evaluation.budget.resamples):
            drawn = rng.choice(names, len(names))
            index = np.concatenate([np.flatnonzero(persons == name) for name in drawn])
            if np.ptp(truth[index]) > 0:
                draws.append(scores(truth[index], guess[index])["R2"])
        low, high = np.percentile(draws, [2.5, 97.5])
        value = {"r2": scores(truth, guess)["R2"]}
        about = (group, group, group, method.name)
        yield Row("age", *about, value, (float(low), float(high)), len(found))


def audit_rows(evaluation: Evaluation) -> Iterator[Row]:
    """Site probes on T1w scans: the target's stay as they are, the others as each method makes
    them. Methods that did not get, or failed on, any of these scans are left out.
    """
    work, budget = evaluation.work, evaluation.budget
    usable = evaluation.scans_of(Raw())
    own = [s for s in usable if s.site == evaluation.site and not s.preset]
    other = [s for s in usable if s in evaluation.sources and not s.preset and s.contrast == "T1w"]
    scans = [*evaluation.train, *own, *other]
    cases = [work.case(scan) for scan in scans]
    masks = [case.prepared.mask for case in cases]
    histograms, thumbnails = {}, {}
    for method in evaluation.methods:
        if not {*own, *other} <= set(evaluation.scans_of(method)):
            continue
        volumes = [
            case.prepared.image
            if scan.site == evaluation.site
            else spread(work.output(method, scan, case).values, mask)
            for scan, case, mask in zip(scans, cases, masks, strict=True)
        ]
        pairs_of = list(zip(volumes, masks, strict=True))
        histograms[method.name] = np.stack([audit.histogram(*pair) for pair in pairs_of])
        if budget.convnet_permutations:
            thumbnails[method.name] = np.stack([audit.thumbnail(*pair) for pair in pairs_of])
    shapes = {"any": np.stack([audit.shape_features(mask) for mask in masks])}
    probes = [
        ("histogram", histograms, budget.permutations),
        ("shape", shapes, budget.permutations),
        ("network", thumbnails, budget.convnet_permutations),
    ]
    sites, persons = [scan.site for scan in scans], [scan.person for scan in scans]
    for probe, outputs, permutations in probes:
        if not outputs:
            continue
        raw = outputs["any" if probe == "shape" else Raw.name]
        kept = work.memory.cache(probe_sites, ignore=["jobs"])
        found = kept(probe, raw, outputs, sites, persons, permutations, evaluation.jobs)
        group = f"{' against '.join(found.sites)}, {found.persons} persons"
        for row in found.rows:
            values = {row.method: row.balanced_accuracy}
            if row.method in (Raw.name, "any"):
                values |= {"chance": row.chance, "chance, 95th percentile": row.chance_95}
            for method_name, value in values.items():
                title = {f"{probe} probe, {row.training}": value}
                about = (group, group, group, method_name)
                yield Row("audit", *about, title, scans=len(scans))
