"""`isochroma simulate`: travelling subjects, simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isochroma.cli.app import command, names_in, registered, require
from isochroma.cli.options import OUTPUT, Seed, Verbose
from isochroma.cli.progress import progress_display
from isochroma.stages import advance, stage

PRESETS = "isochroma.evaluation.phantoms.sequences:PRESETS"


@command("simulate")
def simulate(
    scans: Annotated[list[Path], typer.Argument(metavar="IN...", help="T1w scans.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder of the simulated scans.", rich_help_panel=OUTPUT
        ),
    ],
    preset: Annotated[
        list[str] | None,
        registered(PRESETS, "Simulated scanner (repeat; default: all)."),
    ] = None,
    lesions: Annotated[
        bool, typer.Option("--lesions", help="Insert graded white matter lesions first.")
    ] = False,
    seed: Seed = 0,
    verbose: Verbose = False,
) -> None:
    """Show scans as other scanners would: travelling subjects, simulated.

    Writes NAME_PRESET.nii.gz with a JSON sidecar, and study.tsv with each scan's truth; scans that
    study.tsv already names stay in it.
    """
    travelling = require("evaluate", "isochroma.evaluation.phantoms.travelling")
    presets = preset or names_in(PRESETS)
    rows = []
    with progress_display(), stage("simulating"):
        for number, path in enumerate(scans):
            advance(number, len(scans))
            rows += travelling.write_travelling_subject(path, output, presets, lesions, seed)
    travelling.add_to_study(output / "study.tsv", [{**row, "site": "simulated"} for row in rows])
    typer.echo(output / "study.tsv")
