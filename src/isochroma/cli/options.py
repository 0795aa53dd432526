"""Options that several commands share, in the groups in which the help shows them."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from isochroma.cli.app import registered

INPUT, SAMPLING, COMPUTE, OUTPUT = "Input", "Sampling", "Compute", "Output"

ModelName: TypeAlias = Annotated[
    str,
    typer.Option(help="A shipped model's name, or a model folder.", rich_help_panel=INPUT),
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
Runtime: TypeAlias = Annotated[
    str,
    registered(
        "isochroma.method.runtime:RUNTIMES",
        "What runs the network; openvino is faster on CPUs.",
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
    typer.Option(min=1, help="CPU threads (default: all cores).", rich_help_panel=COMPUTE),
]
Seed: TypeAlias = Annotated[
    int,
    typer.Option(min=0, help="Seed of every random choice.", rich_help_panel=SAMPLING),
]
Verbose: TypeAlias = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log details; show tracebacks of errors.")
]
