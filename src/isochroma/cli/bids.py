"""`isochroma bids`: a BIDS data set in, a BIDS derivative out (a BIDS App)."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.main import get_command

from isochroma.cli.app import (
    Command,
    app,
    command,
    main,
    registered,
    require,
    say,
    show_version,
)
from isochroma.cli.options import (
    INPUT,
    N4,
    OUTPUT,
    Device,
    GridName,
    ModelName,
    Outside,
    Paper,
    Precision,
    Refine,
    Revise,
    Seed,
    Solver,
    Steps,
    Verbose,
    check_revise,
    choose_sampling,
)
from isochroma.cli.progress import progress_display
from isochroma.errors import InputError, printable
from isochroma.stages import advance
from isochroma.version import __version__

if TYPE_CHECKING:
    from distributed import Client

    from isochroma.cohort.plan import Found, Scan
    from isochroma.cohort.work import Outcome, Recipe

WORKERS = "Workers"
NOT_FETCHED = "its content is not there. Fetch it (datalad get, git lfs pull), and run again."

journalist = logging.getLogger("isochroma.journal")
journalist.propagate = False


class SpreadCommand(Command):
    """A command whose repeatable options also take several values: `--modalities T1w T2w`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option before each of its values."""
        several = {opt for each in self.params if getattr(each, "multiple", 0) for opt in each.opts}
        spread: list[str] = []
        option, bare = "", False  # an option without a value stays, and is an error
        for word in args:
            if word.startswith("-"):
                option, bare = (word, True) if word in several else ("", False)
                spread.append(word)
            elif option and not bare:
                spread += [option, word]
            else:
                spread.append(word)
                bare = False
        return super().parse_args(ctx, spread)


@command("bids", cls=SpreadCommand)
def bids(
    context: typer.Context,
    bids_dir: Annotated[Path, typer.Argument(help="The BIDS data set; nothing is written to it.")],
    out_dir: Annotated[Path, typer.Argument(help="The BIDS derivative.")],
    level: Annotated[
        Literal["participant", "group"],
        typer.Argument(
            help="participant: harmonize the scans. group: one table of what became of each."
        ),
    ],
    participants: Annotated[
        list[str] | None,
        typer.Option("--participant-label", help="These participants only.", rich_help_panel=INPUT),
    ] = None,
    sessions: Annotated[
        list[str] | None,
        typer.Option("--session-id", help="These sessions only.", rich_help_panel=INPUT),
    ] = None,
    filters: Annotated[
        Path | None,
        typer.Option(
            "--bids-filter-file",
            help="JSON of entities for each modality, as for fMRIPrep.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    modalities: Annotated[
        list[str] | None,
        registered(
            "isochroma.cohort.plan:MODALITIES", "These modalities only (default: all).", INPUT
        ),
    ] = None,
    together: Annotated[
        bool,
        typer.Option(
            "--together",
            help="Make one image of all scans of a session, on the grid of its T1w scan if any.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    model: ModelName = "default",
    n4: N4 = True,
    steps: Steps = None,
    solver: Solver = None,
    refine: Refine = None,
    revise: Revise = None,
    paper: Paper = False,
    seed: Seed = 0,
    nprocs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Workers at most (default: as many as cores and memory allow; with --slurm 1).",
            rich_help_panel=WORKERS,
        ),
    ] = None,
    omp_nthreads: Annotated[
        int, typer.Option(min=1, help="CPU threads of each worker.", rich_help_panel=WORKERS)
    ] = 1,
    memory_gb: Annotated[
        float | None,
        typer.Option(
            "--mem",
            min=0.1,
            help="Memory of all workers together, GB (default: 90 % of the machine's; with --slurm "
            "4 for each, with --scheduler 8 for each).",
            rich_help_panel=WORKERS,
        ),
    ] = None,
    slurm: Annotated[
        str | None,
        typer.Option(
            metavar="'PARTITION OPTIONS'",
            help="Submit each worker as a SLURM job, with these options of sbatch.",
            rich_help_panel=WORKERS,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Use a Dask cluster that is running.", rich_help_panel=WORKERS
        ),
    ] = None,
    work_dir: Annotated[
        Path | None,
        typer.Option("--work-dir", "-w", help="For temporary files.", rich_help_panel=WORKERS),
    ] = None,
    device: Device = "auto",
    precision: Precision = "float32",
    outside: Outside = "zero",
    grid: GridName = "source",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="List what would be done, and do nothing.", rich_help_panel=OUTPUT
        ),
    ] = False,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty", help="Also write maps of the expected error.", rich_help_panel=OUTPUT
        ),
    ] = False,
    reports_only: Annotated[
        bool,
        typer.Option(
            "--reports-only",
            help="Make the pages of finished scans again, and harmonize nothing.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    verbose: Verbose = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Harmonize a BIDS data set into a BIDS derivative, on this machine or a cluster.

    Options that take several values (--participant-label 01 02) come after the folders and the
    level. Run the same command again to do what is missing, changed or failed.
    """
    if level == "group":
        require("bids", "isochroma.cohort.pages")
        say(str(write_pages(bids_dir, out_dir, table=True)))
        return
    cluster = require("bids", "isochroma.cohort.cluster")
    from isochroma.cohort import plan, work
    from isochroma.cohort.derivative import LOGS, check_output, describe_dataset
    from isochroma.cohort.run import split_finished
    from isochroma.method.sampling import ComputeSettings
    from isochroma.models.folder import find_model, shipped_models

    if slurm is not None and scheduler is not None:
        msg = "a SLURM cluster and a running Dask cluster exclude each other. Give one of them."
        raise InputError(msg, "scheduler")
    selection = plan.Selection(
        tuple(participants or ()),
        tuple(sessions or ()),
        tuple(modalities or ()),
        plan.read_filters(filters) if filters else None,
    )
    found = plan.find_scans(bids_dir, selection)
    if together:
        found = dataclasses.replace(found, scans=plan.by_session(found.scans))
    check_output(bids_dir, out_dir)
    connect: AbstractContextManager[Client]
    if scheduler is not None:
        share_gb = ComputeSettings().max_memory_gb
        connect = cluster.remote_workers(scheduler)
    elif slurm is not None:
        count = nprocs or 1
        share_gb = memory_gb / count if memory_gb else cluster.SLURM_GB
        workers = cluster.Workers(count, omp_nthreads, share_gb)
        connect = cluster.slurm_workers(slurm, workers, out_dir.resolve() / LOGS / "slurm")
    else:
        workers = cluster.plan_workers(nprocs, omp_nthreads, memory_gb)
        share_gb = workers.memory_gb
        connect = cluster.local_workers(workers, work_dir)
    recipe = work.Recipe(
        out_dir.resolve(),
        # workers start in other folders
        model if model in shipped_models() else str(find_model(model).resolve()),
        choose_sampling(paper, seed, steps=steps, solver=solver, refine=refine, revise=revise),
        ComputeSettings(device, precision, share_gb),
        n4,
        omp_nthreads,
        uncertainty,
        outside,
        grid,
    )
    # here the model only tells what is finished: it computes nothing, and needs no GPU
    harmonizer = dataclasses.replace(recipe, compute=ComputeSettings("cpu")).harmonizer()
    check_revise(revise, harmonizer, uncertainty)
    waiting, finished = split_finished(recipe, harmonizer, found.scans)
    if reports_only:
        waiting, finished = finished, []
    if dry_run:
        show_plan(found, {scan.name for scan in finished})
        return
    describe_dataset(bids_dir, out_dir, harmonizer.config.target.suffix)
    counted = work_through(found, waiting, finished, recipe, connect, verbose, reports_only)
    write_pages(bids_dir, out_dir)
    if counted["failed"] or counted["not fetched"]:
        raise typer.Exit(1)


def work_through(
    found: Found,
    waiting: list[Scan],
    finished: list[Scan],
    recipe: Recipe,
    connect: AbstractContextManager[Client],
    verbose: bool,
    reports_only: bool = False,
) -> Counter[str]:
    """Harmonize the scans that wait, with a line for each in the log, and sum up.

    Parameters
    ----------
    found : Found
        The data set's scans.
    waiting, finished : list of Scan
        Those to harmonize, and those whose outputs are there.
    recipe : Recipe
        How they are harmonized.
    connect : context manager
        Starts the workers; it is entered if there is work.
    verbose : bool
        Show the lines of the log, and tracebacks.
    reports_only : bool
        Make the figures of the waiting scans, which are finished, again.

    Returns
    -------
    counted : Counter of str
        Scans by what became of them.
    """
    from isochroma.cohort.derivative import record_failure
    from isochroma.cohort.run import Rate, harmonize_scans
    from isochroma.cohort.work import harmonize_scan, report_again

    folder = recipe.folder
    counted = Counter({"already there": len(finished)})
    for scan in finished:
        record_failure(folder, scan, "")
    with journal(folder) as log, progress_display() as display:
        note(f"isochroma {__version__}, {recipe}", False)
        if reports_only:
            note(f"figures of {len(waiting)} scans", True)
        else:
            note(f"{len(waiting)} scans to harmonize, {len(finished)} already there", True)
        for relative, reason in found.left_out.items():
            note(f"left out {printable(relative)}: {reason}", verbose)
        for scan in found.missing:
            counted["not fetched"] += 1
            record_failure(folder, scan, NOT_FETCHED)
            note(f"not fetched {printable(scan.relative)}", True)
        rate, highest = Rate(len(waiting)), 0.0
        with connect if waiting else nullcontext() as client:
            display.task = "waiting for the first scans"
            advance(0, len(waiting))
            work = partial(report_again if reports_only else harmonize_scan, recipe)
            for outcome in harmonize_scans(client, work, waiting) if client else ():
                rate.count()
                highest = max(highest, outcome.peak_gb)
                counted["failed" if outcome.failure else "done"] += 1
                counted["with warnings"] += bool(outcome.warnings)
                if not reports_only:
                    record_failure(folder, outcome.scan, outcome.failure, outcome.details)
                if outcome.no_figures:
                    shown = printable(outcome.scan.relative)
                    note(f"no figures of {shown}: {printable(outcome.no_figures)}", True)
                note(describe(outcome), verbose or bool(outcome.failure))
                if verbose and outcome.details:
                    say(outcome.details, err=True)
                done = f"{rate.done} of {rate.total} scans, " if display.terminal else ""
                display.task = f"{done}{rate}"
                advance(rate.done, rate.total)
        parts = ("done", "with warnings", "already there", "failed", "not fetched")
        said = ", ".join(f"{counted[part]} {part}" for part in parts if counted[part])
        summary = f"{len(found.scans) + len(found.missing)} scans: {said}."
        if counted["done"]:
            summary += f" {rate.an_hour:.0f} scans an hour, at most {highest:.1f} GB a worker."
        note(summary, False)
    say(f"isochroma: {summary} Log: {log}", err=True)
    return counted


def write_pages(bids_dir: Path, out_dir: Path, table: bool = False) -> Path:
    """Write the pages of a derivative.

    Parameters
    ----------
    bids_dir, out_dir : Path
        The data set and the derivative.
    table : bool
        Whether to write group.tsv too.

    Returns
    -------
    path : Path
        The page of all scans.
    """
    from isochroma.cohort import group, pages

    rows = group.group_rows(out_dir, bids_dir / "participants.tsv")
    if table:
        group.write_group(out_dir, rows)
    return pages.write_pages(out_dir, rows, f"{bids_dir.resolve().name}, harmonized")


def show_plan(found: Found, finished: set[str]) -> None:
    """Print what would become of each scan.

    Parameters
    ----------
    found : Found
        The data set's scans.
    finished : set of str
        Names of scans whose outputs are there.
    """
    for scan in found.scans:
        state = "already there" if scan.name in finished else "to do"
        say(f"{state}\t{printable(scan.relative)}")
    for scan in found.missing:
        say(f"not fetched\t{printable(scan.relative)}")
    for relative, reason in found.left_out.items():
        say(f"left out\t{printable(relative)}\t{reason}")


def describe(outcome: Outcome) -> str:
    """Return what became of a scan as one line."""
    scan = printable(outcome.scan.relative)
    if outcome.failure:
        return f"failed {scan}: {printable(outcome.failure)}"
    warnings = "; ".join(f"{each.code}: {each.text}" for each in outcome.warnings)
    spent = f"{outcome.seconds:.1f} s, {outcome.peak_gb:.1f} GB"
    return f"done {scan}: {spent}{f'; warning, {warnings}' if warnings else ''}"


def note(line: str, tell: bool) -> None:
    """Write a line to the run's log, and to standard error if it is to be told.

    Parameters
    ----------
    line : str
        The line.
    tell : bool
        Whether to.
    """
    journalist.info(line)
    if tell:
        say(f"isochroma: {line}", err=True)


@contextmanager
def journal(folder: Path) -> Iterator[Path]:
    """Write the run's log into the derivative while the body runs.

    Parameters
    ----------
    folder : Path
        The derivative.

    Yields
    ------
    path : Path
        The log: a file of its own for each run.
    """
    from isochroma.cohort.derivative import LOGS

    path = folder / LOGS / time.strftime(f"%Y%m%dT%H%M%S-{os.getpid()}.log")
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    journalist.addHandler(handler)
    try:
        yield path
    finally:
        journalist.removeHandler(handler)
        handler.close()


def bids_main() -> None:
    """Run `isochroma bids` as a program of its own: `isochroma-bids`."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    main(partial(commands["bids"], prog_name="isochroma-bids"))
