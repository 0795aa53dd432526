"""What studies do with the outputs: tissue volumes, age prediction across sites, site effects."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd

from isochroma.evaluation.measures.age import FEATURES, Predicted
from isochroma.evaluation.measures.age import part as age_part
from isochroma.evaluation.measures.closeness import contrast_ratio
from isochroma.evaluation.measures.registry import AGE, AGES, TABLE
from isochroma.evaluation.measures.sample import Sample, make_sample, needed
from isochroma.evaluation.measures.sites import LEAST_PERSONS, VALUES
from isochroma.evaluation.measures.sites import part as sites_part
from isochroma.evaluation.methods import N4, Method, Raw, Uncorrected
from isochroma.evaluation.plan import Plan
from isochroma.evaluation.results import Failure, Results, Row, attempt, failure_of
from isochroma.evaluation.study import Scan
from isochroma.evaluation.tissues import CSF, GREY, WHITE
from isochroma.evaluation.tools import LEAST_WITH_AGE, VERSIONS, Tools
from isochroma.evaluation.tools.age import cross_validated, fit_age
from isochroma.evaluation.tools.space import CommonSpace, Placement, matter
from isochroma.images.grid import resample
from isochroma.images.preprocess import Prepared, from_model_units

VERSION = 1
COMBAT = "ComBat"
LEAST_INSIDE = 0.1  # of a smoothed mask by which intensities are divided


class Findings(NamedTuple):
    """What one output shows.

    Attributes
    ----------
    maps : (F,) ndarray of float32
        Smoothed probabilities of grey and white matter in the common space's brain.
    intensities : (G,) ndarray of float32
        Smoothed intensities there, on [0, 1].
    values : dict of str to float
        The columns `sites.VALUES`.
    """

    maps: np.ndarray
    intensities: np.ndarray
    values: dict[str, float]


def is_judged(plan: Plan, scan: Scan) -> bool:
    """Tell whether a scan is of known age and can be brought to the common space.

    Of simulations those that have no truth: one that has tells nothing of age that the truth has
    not told better.
    """
    return bool(
        np.isfinite(scan.age)
        and (scan.truth is None or not scan.preset)
        and (scan.contrast == "T1w" or plan.work.partner(scan) is not None)
    )


def judged(plan: Plan) -> list[Scan]:
    """List the scans that `is_judged` takes, the target's training scans among them."""
    return [scan for scan in (*plan.work.train, *plan.work.scans) if is_judged(plan, scan)]


def find(
    plan: Plan,
    method: Method,
    scan: Scan,
    tools: Tools,
    sample: Callable[[], Sample] | None = None,
) -> Findings:
    """Return what a method's output for a scan shows; the target's own scans are left as they are.

    Parameters
    ----------
    plan : Plan
        The evaluation.
    method : Method
        Fitted.
    scan : Scan
        One of `judged`.
    tools : Tools
        With a common space.
    sample : callable, optional
        Returns the output as measures take it; made here if it is needed and not given.

    Returns
    -------
    findings : Findings
        Taken from the store where they are kept there.

    Raises
    ------
    InputError
        If the scan cannot be brought to the common space.
    """
    work = plan.work
    if as_it_is(plan, scan):
        method, sample = Raw() if isinstance(method, Uncorrected) else N4(), None
    anchor = scan if scan.contrast == "T1w" else needed(work.partner(scan))
    known = [VERSION, VERSIONS, plan.budget.segmenter_steps, work.case_key(anchor)]

    def make() -> Findings:
        one = sample() if sample else make_sample(work, method, scan, tools, classical=False)
        return describe(
            one, work.case(anchor).prepared, locate(plan, anchor, tools), needed(tools.space)
        )

    return work.store.get(("findings", *known, *work.output_key(method, scan)), make)


def locate(plan: Plan, scan: Scan, tools: Tools) -> Placement:
    """Find where a T1w scan lies in the common space, once for all methods."""
    work = plan.work

    def make() -> Placement:
        prepared = work.case(scan).prepared
        maps = matter(tools.segmenter.segment(prepared.image, prepared.mask)[1])
        return needed(tools.space).locate(maps)

    known = [VERSIONS, plan.budget.segmenter_steps, work.target_key, work.case_key(scan)]
    return work.store.get(("placement", *known), make)


def describe(sample: Sample, fixed: Prepared, placement: Placement, space: CommonSpace) -> Findings:
    """Compute what an output shows.

    Parameters
    ----------
    sample : Sample
        The output.
    fixed : Prepared
        The person's T1w scan, which lies in the common space at `placement`.
    placement : Placement
        Where.
    space : CommonSpace
        Where scans are compared.

    Returns
    -------
    findings : Findings
        Volumes are the tissue network's.
    """
    labels, probabilities = sample.segmented
    grid = sample.case.prepared.grid
    image = from_model_units(sample.output, 0, 1) * sample.mask
    volumes = np.concatenate(
        [matter(probabilities), image[..., None], sample.mask[..., None]], axis=-1
    )
    if not grid.same_as(fixed.grid):
        moved = [resample(volumes[..., n], grid, fixed.grid, order=1) for n in range(4)]
        volumes = np.stack(moved, axis=-1) * fixed.mask[..., None]
    placed = space.place(volumes, placement)[space.brain]
    intensities = placed[:, 2] / np.maximum(placed[:, 3], LEAST_INSIDE)
    ml = [float((labels == tissue).sum()) * grid.voxel_ml for tissue in (GREY, WHITE, CSF)]
    values = dict(zip(VALUES, [*ml, contrast_ratio(sample.output, labels)], strict=True))
    return Findings(placed[:, :2].ravel(), intensities, values)


def measure_downstream(
    plan: Plan, measured: Mapping[str, tuple[Method, Sequence[Scan]]], tools: Tools
) -> Results:
    """Predict ages across sites and measure the sites' effects, for each method.

    Parameters
    ----------
    plan : Plan
        The evaluation.
    measured : mapping of str to (Method, sequence of Scan)
        Fitted methods by name, and the scans that they did not fail on. Those that got the core
        scans alone are left out.
    tools : Tools
        Without a common space there are no results.

    Returns
    -------
    results : Results
        Rows of the parts `age` and `sites`. A scan on which something fails is listed, and left
        out for the method.
    """
    results = Results()
    for name, (method, done) in measured.items():
        if tools.space is None or name in plan.only_core or not done:
            continue
        scans = [each for each in judged(plan) if each in done or as_it_is(plan, each)]
        found = joblib.Parallel(plan.jobs)(
            joblib.delayed(try_to_find)(plan, method, scan, tools) for scan in scans
        )
        results += Results([], [each for each in found if isinstance(each, Failure)])
        known = [
            (scan, each)
            for scan, each in zip(scans, found, strict=True)
            if isinstance(each, Findings)
        ]
        results += attempt("age across sites", name, partial(age_rows, plan, name, known))
        results += attempt("site effects", name, partial(site_rows, plan, name, known))
    return results


def as_it_is(plan: Plan, scan: Scan) -> bool:
    """Tell whether a scan is the target's own, which no method changes here."""
    return scan.site == plan.site and not scan.preset


def try_to_find(plan: Plan, method: Method, scan: Scan, tools: Tools) -> Findings | Failure:
    """Return the findings, or the failure."""
    try:
        return find(plan, method, scan, tools)
    except Exception as error:
        return failure_of(scan.scan, method.name, error)


def age_rows(plan: Plan, method: str, found: Sequence[tuple[Scan, Findings]]) -> Iterator[Row]:
    """Yield the rows of the part `age` of one method."""
    groups: dict[str, list[tuple[Scan, Findings]]] = {}
    for scan, findings in found:
        groups.setdefault(scan.group, []).append((scan, findings))
    for kind in FEATURES:
        for learned, members in groups.items():
            first = members[0][0]
            if first.preset or first.contrast != "T1w" or people(members) < LEAST_WITH_AGE:
                continue
            x, ages, persons = table_of_ages(members, kind)
            at_home = cross_validated(x, ages, persons)
            yield from prediction_rows(
                plan, method, kind, f"{learned}, cross-validated", members, at_home
            )
            regressor = fit_age(x, ages)
            for tried, others in groups.items():
                if others[0][0].site != first.site:
                    predicted = regressor.predict(table_of_ages(others, kind)[0])
                    yield from prediction_rows(
                        plan, method, kind, f"{learned} to {tried}", others, predicted
                    )


def people(members: Sequence[tuple[Scan, Findings]]) -> int:
    """Count the persons."""
    return len({scan.person for scan, _ in members})


def table_of_ages(
    members: Sequence[tuple[Scan, Findings]], kind: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features (N, F), ages (N,) and persons (N,)."""
    features = [
        findings.maps if kind == FEATURES[0] else findings.intensities for _, findings in members
    ]
    ages = np.array([scan.age for scan, _ in members])
    return np.stack(features).astype(float), ages, np.array([scan.person for scan, _ in members])


def prediction_rows(
    plan: Plan,
    method: str,
    kind: str,
    group: str,
    members: Sequence[tuple[Scan, Findings]],
    predicted: np.ndarray,
) -> Iterator[Row]:
    """Yield the rows of the ages that one regressor predicts for a group."""
    scans = [scan for scan, _ in members]
    for measure in age_part.of(AGE):
        if measure.name.endswith(kind):
            for scan, age in zip(scans, predicted, strict=True):
                value = float(measure.compute(age, scan.age))
                yield Row("age", group, scan.scan, scan.person, method, measure.name, value)
    _, ages, persons = table_of_ages(members, kind)
    whole = Predicted(persons, ages, predicted, plan.budget.resamples)
    for measure in age_part.of(AGES):
        if measure.name.endswith(kind):
            rng = np.random.default_rng(plan.work.seed)
            about = ("age", group, group, group, method, measure.name)
            yield Row(*about, *measure.compute(whole, rng))


def site_rows(plan: Plan, method: str, found: Sequence[tuple[Scan, Findings]]) -> Iterator[Row]:
    """Yield the rows of the part `sites` of one method; beside N4 also those of ComBat."""
    table = table_of_values(found)
    if table["site"].nunique() < 2:
        return
    tables = {method: table}
    if method == N4.name:
        tables[f"{method}, {COMBAT}"] = combat(table)
    sites = ", ".join(sorted(set(table["site"])))
    for name, each in tables.items():
        for measure in sites_part.of(TABLE):
            rng = np.random.default_rng(plan.work.seed)
            about = ("sites", sites, sites, sites, name, measure.name)
            yield Row(*about, *measure.compute(each, rng, plan.budget.resamples))


def table_of_values(found: Sequence[tuple[Scan, Findings]]) -> pd.DataFrame:
    """Return site, age, sex and `sites.VALUES` of one real T1w scan of each person.

    People of unknown sex, and sites of fewer than five people, are left out.
    """
    rows: dict[str, dict[str, Any]] = {}
    for scan, findings in found:
        if not scan.preset and scan.contrast == "T1w" and scan.sex:
            known = {"site": scan.site, "age": scan.age, "sex": scan.sex}
            rows.setdefault(scan.person, {**known, **findings.values})
    table = pd.DataFrame(list(rows.values()), columns=["site", "age", "sex", *VALUES])
    return table[table.groupby("site")["site"].transform("size") >= LEAST_PERSONS].reset_index(
        drop=True
    )


def combat(table: pd.DataFrame) -> pd.DataFrame:
    """Harmonize the values of a table by ComBat, which keeps the effects of age and sex.

    Parameters
    ----------
    table : DataFrame
        Site, age, sex and `sites.VALUES`.

    Returns
    -------
    harmonized : DataFrame
        The same with other values.

    References
    ----------
    Fortin et al. 2018, doi:10.1016/j.neuroimage.2017.11.024; the package neuroHarmonize.
    """
    from neuroHarmonize import harmonizationLearn

    covariates = pd.DataFrame(
        {
            "SITE": table["site"],
            "AGE": table["age"],
            "AGE2": np.square(table["age"] - table["age"].mean()),
            "SEX": (table["sex"] == "F").astype(float),
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # it uses numpy's matrices
        _, values = harmonizationLearn(table[list(VALUES)].to_numpy(float), covariates)
    return table.assign(**dict(zip(VALUES, np.asarray(values).T, strict=True)))
