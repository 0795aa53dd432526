"""Options that several commands share, in the groups in which the help shows them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from isochroma.cli.app import registered
from isochroma.errors import InputError

if TYPE_CHECKING:
    from isochroma.pipeline import Harmonizer, SamplingSettings

INPUT, SAMPLING, COMPUTE, OUTPUT = "Input", "Sampling", "Compute", "Output"

ModelName: TypeAlias = Annotated[
    str,
    typer.Option(help="A shipped model's name, or a model folder.", rich_help_panel=INPUT),
]
N4: TypeAlias = Annotated[
    bool, typer.Option("--n4/--no-n4", help="Correct the bias field.", rich_help_panel=INPUT)
]
Outside: TypeAlias = Annotated[
    str, registered("isochroma.images.outside:FILLINGS", "Voxels outside the brain.", OUTPUT)
]
GridName: TypeAlias = Annotated[
    str,
    registered(
        "isochroma.pipeline:GRIDS",
        "Voxels of the output: the scan's, or of 1 mm, the model's, over its field of view.",
        OUTPUT,
    ),
]
Steps: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1, help="Steps of the solver (default: 1; with --paper 15).", rich_help_panel=SAMPLING
    ),
]
Solver: TypeAlias = Annotated[
    str | None,
    registered(
        "isochroma.method.flow:SOLVERS",
        "Solver of the flow (default: euler; with --paper midpoint).",
        SAMPLING,
    ),
]
Refine: TypeAlias = Annotated[
    str | None,
    registered(
        "isochroma.pipeline:REFINEMENTS",
        "Refinement (default: local; with --paper paper).",
        SAMPLING,
    ),
]
Revise: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--revise/--no-revise",
        help="Second stage after the local refinement (default: if the model has one).",
        rich_help_panel=SAMPLING,
    ),
]
Paper: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--paper",
        help="The paper's sampling: 15 midpoint steps, its refinement.",
        rich_help_panel=SAMPLING,
    ),
]
Device: TypeAlias = Annotated[
    str, typer.Option(help="auto, cpu, cuda, cuda:1, ...", rich_help_panel=COMPUTE)
]
Precision: TypeAlias = Annotated[
    str,
    registered(
        "isochroma.method.sampling:PRECISIONS",
        "Of the network; bfloat16 is faster where the processor has it.",
        COMPUTE,
    ),
]
MaxMemory: TypeAlias = Annotated[
    float,
    typer.Option(
        "--max-memory",
        min=0.1,
        help="Bound on the memory, GB: smaller tiles, or a refusal.",
        rich_help_panel=COMPUTE,
    ),
]
Threads: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1, max=1024, help="CPU threads (default: all cores).", rich_help_panel=COMPUTE
    ),
]
Seed: TypeAlias = Annotated[
    int,
    typer.Option(min=0, help="Seed of every random choice.", rich_help_panel=SAMPLING),
]
Verbose: TypeAlias = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log details; show tracebacks of errors.")
]


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


def check_revise(revise: bool | None, harmonizer: Harmonizer, uncertainty: bool = False) -> None:
    """Refuse a second stage that was asked for, or is needed, and cannot be.

    Parameters
    ----------
    revise : bool or None
        The option.
    harmonizer : Harmonizer
        The model and its settings.
    uncertainty : bool
        Whether a map of the expected error is wanted.
    """
    if uncertainty and not harmonizer.revises:
        msg = "the expected error is known for outputs of the second stage alone. Leave it out."
        raise InputError(msg, "uncertainty")
    if revise and not harmonizer.revises:
        msg = "the second stage needs the local refinement, and a model with one. Leave it out."
        raise InputError(msg, "revise")
