"""`isochroma evaluate`: judge harmonization methods on a study."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from isochroma.cli.app import command, registered, require, say
from isochroma.cli.options import OUTPUT, ModelName, Seed, Threads, Verbose
from isochroma.cli.progress import progress_display
from isochroma.errors import InputError
from isochroma.files import alone

METHODS = "isochroma.evaluation.methods:METHODS"


@command("evaluate")
def evaluate(
    study: Annotated[Path, typer.Argument(help="Study file (.tsv, .yaml) or BIDS folder.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder of the report.", rich_help_panel=OUTPUT),
    ],
    method: Annotated[
        list[str] | None,
        registered(METHODS, "Method to compare (repeat; default: all), see docs/evaluation.md."),
    ] = None,
    own: Annotated[
        list[str] | None,
        typer.Option(
            "--command", help="Your own method: 'NAME=COMMAND {input} {output}' (repeat)."
        ),
    ] = None,
    model: ModelName = "default",
    core: Annotated[
        list[str] | None,
        typer.Option(help="Limit this slow method to the study's core scans (repeat)."),
    ] = None,
    segmenter: Annotated[
        str | None,
        typer.Option(
            help="Program that labels regions, an outside judge: 'COMMAND {input} {output}'. It "
            "runs on the outputs of rescans, and of those core scans that have a co-registered "
            "contrast or region labels in the study."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One scan a group, few methods: a look, no verdict.")
    ] = False,
    audit: Annotated[
        bool,
        typer.Option("--audit/--no-audit", help="Probe the outputs for the site: takes long."),
    ] = True,
    seed: Seed = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes and threads at once.")] = 2,
    threads: Threads = None,
    verbose: Verbose = False,
) -> None:
    """Judge harmonization: one report on closeness, anatomy, downstream tasks and the site audit.

    Writes report.html, results.csv and summary.json. Run the command again to resume.
    """
    plan = require("evaluate", "isochroma.evaluation.plan")
    methods = require("evaluate", "isochroma.evaluation.methods")
    run = require("evaluate", "isochroma.evaluation.run")

    compared = methods.named_methods(method or methods.method_names(quick), model)
    own_names = []
    for text in own or []:
        name, separator, template = text.partition("=")
        if not separator:
            msg = f"--command {text!r}: write NAME=COMMAND."
            raise InputError(msg)
        compared.append(methods.Command(name, template))
        own_names.append(name)
    shipped = methods.named_methods([n for n in core or [] if n not in own_names], model)
    limited = [known.name for known in shipped] + [n for n in core or [] if n in own_names]
    budget = plan.QUICK if quick else plan.FULL
    if not audit:
        budget = dataclasses.replace(budget, permutations=0, convnet_permutations=0)
    with progress_display(), alone(output):
        summary = run.evaluate(study, output, compared, limited, budget, seed, jobs, segmenter)
    for failure in summary.failures:
        say(f"isochroma: {failure.scan}, {failure.method}: {failure.error}", err=True)
    typer.echo(output / "report.html")
