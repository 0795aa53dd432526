"""`isochroma harmonize`: scans in, the same heads as the target scanner shows them out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from isochroma.cli.app import command, registered, report, say
from isochroma.cli.options import (
    INPUT,
    N4,
    OUTPUT,
    Device,
    GridName,
    MaxMemory,
    ModelName,
    Outside,
    Paper,
    Precision,
    Refine,
    Revise,
    Seed,
    Solver,
    Steps,
    Threads,
    Verbose,
    check_revise,
    choose_sampling,
)
from isochroma.cli.progress import progress_display
from isochroma.errors import InputError, printable

DTYPES = ("float32", "input")


@command("harmonize")
def harmonize(
    context: typer.Context,
    scans: Annotated[list[Path], typer.Argument(metavar="IN...", help="Scans: .nii[.gz], .mgz.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="A folder; or a file name, for one scan.", rich_help_panel=OUTPUT
        ),
    ],
    model: ModelName = "default",
    like: Annotated[
        Path | None,
        typer.Option(
            help="A scan of your own target: outputs get its intensities.", rich_help_panel=INPUT
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Brain mask on the scan's grid.", rich_help_panel=INPUT)
    ] = None,
    together: Annotated[
        bool,
        typer.Option(
            "--together",
            help="All scans are of one head, in several contrasts: make one image of them, on the "
            "first one's grid.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    n4: N4 = True,
    steps: Steps = None,
    solver: Solver = None,
    refine: Refine = None,
    revise: Revise = None,
    paper: Paper = False,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "float32",
    max_memory_gb: MaxMemory = 8.0,
    threads: Threads = None,
    outside: Outside = "zero",
    grid: GridName = "source",
    dtype: Annotated[
        str,
        registered("isochroma.cli.harmonize:DTYPES", "Voxel type of the output.", OUTPUT),
    ] = "float32",
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty", help="Also write a map of the expected error.", rich_help_panel=OUTPUT
        ),
    ] = False,
    preview: Annotated[
        bool,
        typer.Option("--preview", help="Also write a before/after PNG.", rich_help_panel=OUTPUT),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Redo scans whose outputs are there.", rich_help_panel=OUTPUT
        ),
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Harmonize scans: each becomes the same head as the target scanner would have shown it.

    Beside each output stand its brain mask and a JSON sidecar that says how it was made. Run the
    same command again to go on after a stop: finished scans are skipped.
    """
    from isochroma.files import remove_leavings
    from isochroma.job import Job
    from isochroma.method.sampling import ComputeSettings
    from isochroma.outputs import plan_outputs
    from isochroma.pipeline import Harmonizer

    scans = list(dict.fromkeys(scans))
    others = tuple(scans[1:]) if together else ()
    planned = plan_outputs(scans[:1] if together else scans, output)
    for other in others:
        if not other.is_file():
            msg = f"{other}: no such file. Check the path."
            raise InputError(msg, "scans")
    if mask is not None and len(planned) > 1:
        msg = "a mask goes with one scan. Harmonize scans with masks one at a time."
        raise InputError(msg, "mask")
    if mask is not None and not mask.is_file():
        msg = f"{mask}: no such file. Check the path."
        raise InputError(msg, "mask")
    harmonizer = Harmonizer.from_pretrained(
        model,
        choose_sampling(paper, seed, steps=steps, solver=solver, refine=refine, revise=revise),
        ComputeSettings(device, precision, max_memory_gb),
        n4,
        outside,
        grid,
    )
    check_revise(revise, harmonizer, uncertainty)
    if like is not None:
        from isochroma.training.adapt import adapt

        with progress_display() as display:
            display.task = f"{like.name} (the target)"
            harmonizer = adapt(harmonizer, [like])
    for folder in {files.image.parent for files in planned.values()}:
        remove_leavings(folder)
    count = Counter[str]()
    with progress_display() as display:
        for number, (path, files) in enumerate(planned.items(), 1):
            display.task = f"{path.name} ({number} of {len(planned)})"
            try:
                source = {"Source": str(path)}
                job = Job(
                    harmonizer, path, files, source, mask, dtype, uncertainty, preview, others
                )
                if not overwrite and job.is_finished():
                    count["already there"] += 1
                    continue
                warnings = job.run()
            except Exception as error:  # whatever one scan raises, the others go on
                count["failed"] += 1
                report(error, path, context.command.params)
                continue
            count["done"] += 1
            count["with warnings"] += bool(warnings)
            say(str(files.image))
            for warning in warnings:
                say(f"isochroma: warning, {printable(path.name)}: {warning.text}", err=True)
    if len(planned) > 1 or count["already there"]:
        parts = ("done", "with warnings", "already there", "failed")
        said = ", ".join(f"{count[part]} {part}" for part in parts if count[part])
        say(f"isochroma: {len(planned)} scans: {said}.", err=True)
    if count["failed"]:
        raise typer.Exit(1)
