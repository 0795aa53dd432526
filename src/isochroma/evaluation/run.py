"""Every method on every scan, every measure on every output, one report.

What took time is kept under OUT/cache by the content that determines it, so a stopped run resumes
and a second method costs only itself. A scan on which something fails is listed and left out.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd

from isochroma.errors import InputError
from isochroma.evaluation import figures, groups, report
from isochroma.evaluation.groups import Row
from isochroma.evaluation.measures import pairs
from isochroma.evaluation.measuring import (
    FULL,
    LEAST_TARGET_SCANS,
    Budget,
    Tools,
    code,
    make_tools,
    measures,
)
from isochroma.evaluation.methods import HistogramMatching, Method, Raw
from isochroma.evaluation.study import Scan, read_study
from isochroma.evaluation.summary import summarise
from isochroma.evaluation.workspace import Workspace
from isochroma.files import write_atomically

logger = logging.getLogger(__name__)

FEW = 10  # persons

# One row of results.csv; scans: how many are behind the value.
COLUMNS = ("part", "group", "scan", "person", "method", "measure", "value", "low", "high", "scans")


class Evaluation:
    """One run over one study.

    Parameters
    ----------
    study
        The study file or BIDS folder.
    out
        Folder of the report and the cache.
    methods
        What is compared; raw scans and histogram matching are always among them.
    only_core
        Names of methods that are too slow for all scans: they get the core scans alone.
    budget
        How much is computed.
    seed
        Of the methods.
    jobs
        Processes that preprocess, harmonize and measure side by side, a scan each.
    """

    def __init__(
        self,
        study: Path,
        out: Path,
        methods: Sequence[Method],
        only_core: Sequence[str] = (),
        budget: Budget = FULL,
        seed: int = 0,
        jobs: int = 2,
    ) -> None:
        scans = read_study(study)
        self.train = [scan for scan in scans if scan.split == "train"][: budget.target_scans]
        self.scans = [scan for scan in scans if scan.split not in ("train", "val")]
        if budget.one_a_group:
            first = {groups.name_of(scan): scan for scan in reversed(self.scans)}
            self.scans = [scan for scan in self.scans if scan in first.values()]
        if not self.scans:
            msg = f"{study}: no scans to evaluate beside the target's training scans."
            raise InputError(msg)
        always: list[Method] = [Raw(), HistogramMatching()]
        named = {method.name: method for method in [*always, *methods]}
        unknown = set(only_core) - set(named)
        if unknown:
            msg = f"{min(unknown)!r} is not among the methods: {', '.join(named)}."
            raise InputError(msg)
        self.study, self.out, self.budget = study, out, budget
        self.seed, self.jobs = seed, jobs
        self.only_core = set(only_core)
        self.site = self.train[0].site
        self.sources = [scan for scan in self.scans if scan.site != self.site or scan.preset]
        self.work = Workspace(self.train, self.scans, out / "cache", seed)
        self.methods = list(named.values())
        self.rows: list[dict[str, Any]] = []
        self.failures: list[dict[str, str]] = []

    def run(self, progress: Callable[[str, int, int], None] | None = None) -> dict[str, Any]:
        """Do everything; returns the summary that is also written.

        Parameters
        ----------
        progress
            Called with (what, done, total).
        """
        tell = progress or (lambda what, done, total: None)
        total = len(self.train) + len(self.scans)
        for number, _ in enumerate(self.work.prepare(self.jobs), 1):
            tell("preprocessing and tissues", number, total)
        tools = make_tools(self.work, self.budget, tell)
        fitted: list[Method] = []
        for method in self.methods:
            tell(f"{method.name}: fitting", 0, 1)
            with self.catching("fitting", method.name):
                fitted.append(self.work.fitted(method))
        self.methods = fitted
        for method in self.methods:
            scans = self.scans_of(method)
            one = joblib.delayed(measure_scan)
            found = joblib.Parallel(self.jobs, return_as="generator")(
                one(self.work, method, scan, tools, self.budget) for scan in scans
            )
            for number, (scan, rows) in enumerate(zip(scans, found, strict=True), 1):
                tell(f"{method.name}: {scan.scan}", number, len(scans))
                if isinstance(rows, Exception):
                    self.fail(scan.scan, method.name, rows)
                    continue
                for row in rows:
                    self.note(row)
            tell(f"{method.name}: seeds and groups", 0, 1)
            if not self.scans_of(method):
                continue
            with self.catching("seeds", method.name):
                self.measure_seeds(method)
            for row in groups.of_method(self, method, tools):
                self.note(row)
            self.write_rows()
        tell("site audit", 0, 1)
        with self.catching("site audit", "all"):
            for row in groups.audit_rows(self):
                self.note(row)
        return self.finish(tools)

    def scans_of(self, method: Method) -> list[Scan]:
        """The scans that this method gets, without those that it failed on."""
        failed = {each["scan"] for each in self.failures if each["method"] == method.name}
        return [
            scan
            for scan in self.scans
            if (scan.core or method.name not in self.only_core) and scan.scan not in failed
        ]

    @contextmanager
    def catching(self, scan: str, method: str) -> Iterator[None]:
        """Note any failure of the body and go on."""
        try:
            yield
        except Exception as error:
            self.fail(scan, method, error)

    def fail(self, scan: str, method: str, error: Exception) -> None:
        """Note a failure."""
        text = " ".join(str(error).split()) or type(error).__name__
        self.failures.append({"scan": scan, "method": method, "error": text})
        logger.warning("%s, %s: %s", scan, method, text)
        logger.debug("failure", exc_info=error)

    def note(self, row: Row) -> None:
        """Keep one row's values; NaN is left out."""
        for measure, value in row.values.items():
            if np.isfinite(value):
                about = (row.part, row.group, row.scan, row.person, row.method, measure)
                cells = (*about, float(value), *row.interval, row.scans)
                self.rows.append(dict(zip(COLUMNS, cells, strict=True)))

    def measure_seeds(self, method: Method) -> None:
        """Spread over three seeds, on the first core scan (the first of all if none is core)."""
        mine = self.scans_of(method)
        scan = next((scan for scan in mine if scan.core and scan in self.sources), mine[0])
        case = self.work.case(scan)
        runs = [self.work.output(method, scan, case, self.seed + n).values for n in range(3)]
        spread = float(np.std([values.astype(np.float64) for values in runs], axis=0).mean())
        self.note(Row("cost", "all", scan.scan, scan.person, method.name, {"seed sd": spread}))

    # ------------------------------------------------------------ results

    def write_rows(self) -> pd.DataFrame:
        """results.csv: one row a scan, method and measure."""
        table = pd.DataFrame(self.rows, columns=COLUMNS)
        write_atomically(self.out / "results.csv", lambda to: table.to_csv(to, index=False))
        return table

    def finish(self, tools: Tools) -> dict[str, Any]:
        """results.csv, summary.json and report.html."""
        table = self.write_rows()
        shown = table[table["measure"] != "predicted"]
        records = summarise(shown, HistogramMatching.name, self.budget.resamples)
        about = {
            "study": str(self.study),
            "scans": len(self.train) + len(self.scans),
            "persons": len({scan.person for scan in (*self.train, *self.scans)}),
            "sites": len({scan.site for scan in (*self.train, *self.scans)}),
            "target": self.site,
            "fitted": len(self.train),
            "command": shlex.join(["isochroma", *sys.argv[1:]]),
            "versions": versions(),
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "notes": self.notes(tools),
            "failures": self.failures,
        }
        methods = {method.name: method.settings for method in self.methods}
        result = {**about, "methods": methods, "records": records}
        text = json.dumps(result, indent=1)
        write_atomically(self.out / "summary.json", lambda to: to.write_text(text + "\n"))
        ours = next(
            (name for name in methods if name.startswith("isochroma")), self.methods[-1].name
        )
        report.write_report(
            self.out / "report.html",
            records,
            figures.draw(self, table),
            about,
            HistogramMatching.name,
            ours,
        )
        return result

    def notes(self, tools: Tools) -> list[str]:
        """What this study does not allow to measure, what was limited, what to beware of."""
        lines = []
        needs: dict[str, tuple[str, Callable[[Scan], bool]]] = {
            "truth": ("scans with a truth", lambda scan: scan.truth is not None),
            "pairs": ("co-registered or repeated scans", lambda scan: False),
            "segmentation": ("scans with tissue labels", lambda scan: scan.tissues is not None),
            "lesions": ("scans with a lesion mask", lambda scan: scan.lesions is not None),
            "age": ("scans with ages", lambda scan: np.isfinite(scan.age)),
        }
        for part, (what, known) in needs.items():
            there = (
                any(True for _ in pairs.same_person(self.scans))
                if part == "pairs"
                else any(known(scan) for scan in self.scans)
            )
            if not there:
                lines.append(f"{part}: the study has no {what}.")
        if tools.age is None:
            lines.append(f"age: fewer than {LEAST_TARGET_SCANS} target scans with an age.")
        else:
            own, plain = tools.age.target_scores, tools.age.mean_age_error
            lines.append(
                f"age: cross-validated on the target's own training scans, the regressor errs by "
                f"{own['MAE']:.1f} years (R² {own['R2']:.2f}), always saying the mean age by "
                f"{plain:.1f}. Where the first is not well below the second, the regressor has no "
                "skill, and its results below say nothing for or against a method."
            )
        persons: dict[str, set[str]] = {}
        for scan in self.scans:
            persons.setdefault(groups.name_of(scan), set()).add(scan.person)
        if min(map(len, persons.values())) < FEW:
            lines.append(
                f"a bootstrap over fewer than {FEW} persons gives intervals that are too narrow: "
                "for such groups read them as the spread, not as a test."
            )
        if self.budget != FULL:
            lines.append(f"a reduced budget: {dataclasses.asdict(self.budget)}.")
        for name in sorted(self.only_core):
            count = sum(scan.core for scan in self.scans)
            lines.append(f"{name}: on the {count} core scans only, and not in the site audit.")
        return lines


def measure_scan(
    work: Workspace, method: Method, scan: Scan, tools: Tools, budget: Budget
) -> list[Row] | Exception:
    """All measures that one output allows; what went wrong, if anything did."""
    about = (scan.scan, scan.person, method.name)
    kept = work.memory.cache(measures, ignore=["case", "values", "tools"])
    try:
        case = work.case(scan)
        applied = work.output(method, scan, case)
        found = kept(
            case,
            applied.values,
            work.given(method, case),
            tools,
            scan.core and budget.classical,
            (work.output_key(method, scan), code(), scan.age, [one.age for one in work.train]),
            dataclasses.asdict(budget),
        )
    except Exception as error:
        return error
    cost = {"seconds": applied.seconds, "memory": applied.megabytes}
    rows = [Row("cost", "all", *about, cost)]
    for part, values in found.items():
        group = (scan.preset or "own") if part == "truth" else groups.name_of(scan)
        rows.append(Row(part, group, *about, values))
    return rows


def versions() -> str:
    """Versions of what computed the numbers."""
    packages = ("isochroma", "torch", "SimpleITK", "dipy", "monai", "scikit-learn")
    return ", ".join(f"{name} {version(name)}" for name in packages)
