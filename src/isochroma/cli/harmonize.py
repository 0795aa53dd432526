"""`isochroma harmonize`: scans in, the same heads as the target scanner shows them out."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isochroma.cli.app import command, registered, report, say
from isochroma.cli.options import (
    INPUT,
    OUTPUT,
    SAMPLING,
    Device,
    MaxMemory,
    ModelName,
    Precision,
    Runtime,
    Seed,
    Threads,
    Verbose,
)
from isochroma.cli.progress import progress_display
from isochroma.errors import InputError, about, printable

if TYPE_CHECKING:
    from isochroma.checks import ScanWarning
    from isochroma.outputs import OutputFiles
    from isochroma.pipeline import Harmonizer, SamplingSettings

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
    mask: Annotated[
        Path | None, typer.Option(help="Brain mask on the scan's grid.", rich_help_panel=INPUT)
    ] = None,
    n4: Annotated[
        bool,
        typer.Option("--n4/--no-n4", help="Correct the bias field.", rich_help_panel=INPUT),
    ] = True,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps of the solver (default: 1; with --paper 15).",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    solver: Annotated[
        str | None,
        registered(
            "isochroma.method.flow:SOLVERS",
            "Solver of the flow (default: euler; with --paper midpoint).",
            SAMPLING,
        ),
    ] = None,
    refine: Annotated[
        str | None,
        registered(
            "isochroma.pipeline:REFINEMENTS",
            "Refinement (default: local; with --paper paper).",
            SAMPLING,
        ),
    ] = None,
    revise: Annotated[
        bool | None,
        typer.Option(
            "--revise/--no-revise",
            help="Second pass after the local refinement (default: if the model can).",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="The paper's sampling: 15 midpoint steps, its refinement.",
            rich_help_panel=SAMPLING,
        ),
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "float32",
    runtime: Runtime = "torch",
    max_memory_gb: MaxMemory = 8.0,
    threads: Threads = None,
    outside: Annotated[
        str,
        registered("isochroma.pipeline:OUTSIDE", "Voxels outside the brain.", OUTPUT),
    ] = "zero",
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
    from isochroma.method.sampling import ComputeSettings
    from isochroma.outputs import plan_outputs
    from isochroma.pipeline import Harmonizer

    planned = plan_outputs(scans, output)
    if mask is not None and len(planned) > 1:
        msg = "a mask goes with one scan. Harmonize scans with masks one at a time."
        raise InputError(msg, "mask")
    if mask is not None and not mask.is_file():
        msg = f"{printable(mask)}: no such file. Check the path."
        raise InputError(msg, "mask")
    harmonizer = Harmonizer.from_pretrained(
        model,
        choose_sampling(paper, seed, steps=steps, solver=solver, refine=refine, revise=revise),
        ComputeSettings(device, precision, runtime, max_memory_gb),
        n4,
        outside,
    )
    if revise and not harmonizer.revises:
        msg = (
            "the second pass needs the local refinement, and a model trained for it. Leave it out."
        )
        raise InputError(msg, "revise")
    if uncertainty and not harmonizer.revises:
        msg = "the expected error is known for outputs of the second pass alone. Leave it out."
        raise InputError(msg, "uncertainty")
    for folder in {files.image.parent for files in planned.values()}:
        remove_leavings(folder)
    count = Counter[str]()
    with progress_display() as display:
        for number, (path, files) in enumerate(planned.items(), 1):
            display.task = f"{path.name} ({number} of {len(planned)})"
            try:
                job = Job(harmonizer, path, files, mask, dtype, uncertainty, preview)
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


def choose_sampling(paper: bool, seed: int, **changes: Any) -> SamplingSettings:
    """Build the sampling settings from options.

    Parameters
    ----------
    paper : bool
        Start from the paper's settings.
    seed : int
        Of the initial noise.
    **changes
        Fields to set; None leaves a field as it is.

    Returns
    -------
    sampling : SamplingSettings
    """
    from isochroma.pipeline import PAPER_SAMPLING, SamplingSettings

    chosen = {name: value for name, value in changes.items() if value is not None}
    start = PAPER_SAMPLING if paper else SamplingSettings()
    return dataclasses.replace(start, seed=seed, **chosen)


@dataclass(frozen=True)
class Job:
    """One scan to harmonize.

    Attributes
    ----------
    harmonizer : Harmonizer
        The model and its settings.
    path : Path
        The scan.
    files : OutputFiles
        Where the outputs go.
    mask : Path or None
        Brain mask on the scan's grid.
    dtype : str
        Name in `DTYPES`.
    uncertainty : bool
        Whether to write a map of the expected error.
    preview : bool
        Whether to write a PNG.
    """

    harmonizer: Harmonizer
    path: Path
    files: OutputFiles
    mask: Path | None
    dtype: str
    uncertainty: bool
    preview: bool

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What determines the outputs."""
        from isochroma.outputs import identity

        return identity(self.harmonizer, self.path, self.mask, self.dtype)

    def is_finished(self) -> bool:
        """Tell whether the same outputs are there already."""
        from isochroma.outputs import is_finished

        return self.path.is_file() and is_finished(
            self.files, self.identity, self.preview, self.uncertainty
        )

    def run(self) -> list[ScanWarning]:
        """Harmonize the scan and write its outputs.

        Returns
        -------
        warnings : list of ScanWarning
            What is unusual about the scan or the result.
        """
        from isochroma.images.io import load, load_mask
        from isochroma.outputs import sidecar, write_outputs
        from isochroma.stages import record, stage

        with record() as seconds:
            with stage("load"):
                scan = load(self.path)
                given = load_mask(self.mask) if self.mask is not None else None
            with about(self.path):
                kind = scan.get_data_dtype() if self.dtype == "input" else self.dtype
                result = self.harmonizer.run(scan, given, kind)
                uncertainty = self.harmonizer.uncertainty(result) if self.uncertainty else None
        content = sidecar(result, self.path, self.identity, seconds)
        write_outputs(self.files, result, content, uncertainty, self.preview)
        return list(result.warnings)
