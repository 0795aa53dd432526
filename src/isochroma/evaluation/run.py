"""Every method on every scan, every measure on every output, one report.

plan -> prepare -> fit -> apply and measure -> summarise -> report. What took time is kept in the
store, OUT/cache, so a stopped run resumes and a further method costs only itself. A scan on which
something fails is listed and left out.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import joblib
import pandas as pd

from isochroma.evaluation.downstream import measure_downstream
from isochroma.evaluation.measuring import (
    measure_groups,
    measure_pairs,
    measure_scan,
    measure_seeds,
    measure_sites,
)
from isochroma.evaluation.methods import Control, Method, Ours
from isochroma.evaluation.plan import FULL, Budget, Plan, make_plan, notes
from isochroma.evaluation.regions import measure_regions
from isochroma.evaluation.report.figures import draw
from isochroma.evaluation.report.page import write_page
from isochroma.evaluation.report.worst import draw_worst, worst_cases
from isochroma.evaluation.results import Results, failure_of, table_of
from isochroma.evaluation.study import Scan
from isochroma.evaluation.summary import REFERENCE, Summary, summarise
from isochroma.evaluation.tools import Tools, fit_tools
from isochroma.evaluation.workspace import Workspace
from isochroma.files import write_atomically
from isochroma.stages import advance, stage

PACKAGES = ("isochroma", "torch", "SimpleITK", "dipy", "monai", "scikit-learn")
Measured = dict[str, tuple[Method, list[Scan]]]


def evaluate(
    study: Path,
    out: Path,
    methods: Sequence[Method],
    only_core: Sequence[str] = (),
    budget: Budget = FULL,
    seed: int = 0,
    jobs: int = 2,
    segmenter: str | None = None,
) -> Summary:
    """Evaluate methods on a study and write report.html, results.csv and summary.json.

    Parameters
    ----------
    study : Path
        The study file or BIDS folder.
    out : Path
        Folder of the report and of the store, made if it is not there.
    methods : sequence of Method
        What is compared; raw scans, N4 and histogram matching are always among them.
    only_core : sequence of str
        Names of methods that are too slow for all scans: they get the core scans alone.
    budget : Budget
        How much is computed.
    seed : int
        Seed of the methods.
    jobs : int
        Processes that preprocess, harmonize and measure side by side, a scan each.
    segmenter : str, optional
        Command line with `{input}` and `{output}` of a program that labels regions: an outside
        judge of the outputs. What it finds is written to regions.csv.

    Returns
    -------
    summary : Summary
        What summary.json has.

    Raises
    ------
    InputError
        If the study cannot be used, `only_core` names a method that is not compared, or the
        segmenter's command does not name its files.
    """
    plan = make_plan(study, out, methods, only_core, budget, seed, jobs, segmenter)
    with stage("preprocessing and tissues"):
        prepare_scans(plan)
    with stage("tools for the measures"):
        tools = fit_tools(plan.work, plan.budget.segmenter_steps)
    measured: Measured = {}
    results = Results()
    for method in plan.methods:
        with stage(f"{method.name}: fitting"):
            fitted, found = fit_method(plan.work, method)
        results += found
        if fitted is None:
            continue
        with stage(f"{method.name}: harmonizing and measuring"):
            scans, found = measure_method(plan, fitted, tools)
        measured[method.name] = fitted, scans
        results += found
        write_rows(plan.out, results)
    with stage("age and tissue volumes across sites"):
        results += measure_downstream(plan, measured, tools)
    if plan.segmenter is not None:
        with stage("regions by an outside segmenter"):
            found, volumes = measure_regions(plan, measured)
        results += found
        write_table(plan.out / "regions.csv", volumes)
    with stage("site audit"):
        results += measure_sites(plan, measured)
    table = write_rows(plan.out, results)
    summary = summary_of(plan, tools, measured, results)
    text = json.dumps(dataclasses.asdict(summary), indent=1)
    write_atomically(plan.out / "summary.json", lambda to: to.write_text(text + "\n"))
    with stage("report"):
        figures = draw(plan.work, measured, plan.sources, table)
        worst = draw_worst(plan.work, *measured[summary.ours], worst_cases(table, summary.ours))
        write_page(plan.out / "report.html", summary, figures, worst)
    return summary


def prepare_scans(plan: Plan) -> None:
    """Preprocess all scans and label their tissues, several side by side."""
    scans = [*plan.work.train, *plan.work.scans]
    one = joblib.delayed(prepare_scan)
    done = joblib.Parallel(plan.jobs, return_as="generator")(one(plan.work, scan) for scan in scans)
    for number, _ in enumerate(done, 1):
        advance(number, len(scans))


def prepare_scan(work: Workspace, scan: Scan) -> None:
    """Bring one scan's case and tissue labels into the store.

    Whatever fails here fails again, and is listed, where the scan is used.
    """
    with suppress(Exception):
        work.tissues(work.case(scan))


def fit_method(work: Workspace, method: Method) -> tuple[Method | None, Results]:
    """Fit a method to the target's training scans; None and the failure if it cannot be."""
    try:
        return work.fitted(method), Results()
    except Exception as error:
        return None, Results([], [failure_of("fitting", method.name, error)])


def measure_method(plan: Plan, method: Method, tools: Tools) -> tuple[list[Scan], Results]:
    """Run a method on its scans and measure its outputs; return the scans it did not fail on."""
    scans = plan.scans_of(method)
    one = joblib.delayed(measure_scan)
    found = joblib.Parallel(plan.jobs, return_as="generator")(
        one(plan, method, scan, tools) for scan in scans
    )
    done, results = [], Results()
    for number, (scan, each) in enumerate(zip(scans, found, strict=True), 1):
        advance(number, len(scans))
        results += each
        if not each.failures:
            done.append(scan)
    if not done:
        return done, results
    return done, (
        results
        + measure_seeds(plan, method, done)
        + measure_pairs(plan, method, done)
        + measure_groups(plan, method, done, tools)
    )


def write_rows(out: Path, results: Results) -> pd.DataFrame:
    """Write results.csv, one row for each value, and return the table."""
    table = table_of(results.rows)
    write_table(out / "results.csv", table)
    return table


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, whole or not at all."""
    write_atomically(path, lambda to: table.to_csv(to, index=False))


def summary_of(plan: Plan, tools: Tools, measured: Measured, results: Results) -> Summary:
    """Summarise all rows and failures, and say how they came about."""
    done = [name for name, (_, scans) in measured.items() if scans] or [*measured]
    ours = next((name for name in done if name.startswith("isochroma")), done[-1])
    return Summary(
        study=str(plan.study),
        scans=len(plan.work.scans),
        persons=len({scan.person for scan in plan.work.scans}),
        sites=len({scan.site for scan in plan.work.scans}),
        target=plan.site,
        fitted=len(plan.work.train),
        command=shlex.join(["isochroma", *sys.argv[1:]]),
        versions=", ".join(f"{name} {version(name)}" for name in PACKAGES),
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        notes=notes(plan, tools),
        failures=results.failures,
        methods={name: method.settings for name, (method, _) in measured.items()},
        reference=REFERENCE,
        ours=ours,
        others=[
            name
            for name in done
            if name != ours and not isinstance(measured[name][0], (Control, Ours))
        ],
        records=summarise(table_of(results.rows), (REFERENCE, ours), plan.budget.resamples),
    )
