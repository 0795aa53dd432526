"""`isochroma train`: a model of one scanner, from its scans alone."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isochroma.cli.app import command, registered, require
from isochroma.cli.options import INPUT, OUTPUT, Verbose

if TYPE_CHECKING:
    from isochroma.training.settings import Recipe

RECIPE, SCHEDULE, TRAINER = "Recipe", "Schedule", "Trainer"


def recipe_option(help: str, panel: str = RECIPE, **limits: Any) -> Any:
    """Make an option whose default is the recipe's."""
    return typer.Option(help=help, rich_help_panel=panel, show_default=False, **limits)


@command("train")
def train(
    context: typer.Context,
    target: Annotated[Path, typer.Argument(help="Folder of the target scanner's scans.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The model folder to make.", rich_help_panel=OUTPUT),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Name of the model (default: the folder's).", rich_help_panel=OUTPUT),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder of preprocessed scans (default: in the model folder).",
            rich_help_panel=INPUT,
        ),
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(help="Model whose weights to start from.", rich_help_panel=INPUT),
    ] = None,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            help="The paper's recipe, complete; other options change parts of it.",
            rich_help_panel=RECIPE,
        ),
    ] = False,
    network: Annotated[
        str | None,
        registered(
            "isochroma.method.network:NETWORKS",
            "Architecture: compact, 4.5 M parameters; paper, 98.5 M (default: compact).",
            RECIPE,
        ),
    ] = None,
    steps: Annotated[
        int | None, recipe_option("Optimizer steps (30000; paper: 150000).", min=1)
    ] = None,
    batch_size: Annotated[
        int | None, recipe_option("Patches a step and device (2; paper: 8).", min=1)
    ] = None,
    learning_rate: Annotated[
        float | None, recipe_option("Peak learning rate (1e-3; paper: 5e-5).")
    ] = None,
    precision: Annotated[
        str | None,
        registered(
            "isochroma.training.settings:PRECISIONS",
            "Arithmetic (bf16-mixed; paper: 16-mixed).",
            RECIPE,
        ),
    ] = None,
    patch_size: Annotated[
        int | None, recipe_option("Edge of a patch in samples (64).", min=1)
    ] = None,
    edge_fraction: Annotated[
        float | None, recipe_option("Edge voxels over brain voxels (0.16).")
    ] = None,
    edge_variants: Annotated[
        int | None,
        recipe_option("Re-contrasted copies whose edges are learned too (3; paper: 0).", min=0),
    ] = None,
    variant_share: Annotated[
        float | None,
        recipe_option("Share of patches with a copy's edges (0.5; paper: 0).", min=0, max=1),
    ] = None,
    start_share: Annotated[
        float | None, recipe_option("Share of patches at t = 0 (0.5; paper: 0).", min=0, max=1)
    ] = None,
    draft_share: Annotated[
        float | None,
        recipe_option("Share of patches that train the second pass (0).", min=0, max=1),
    ] = None,
    draft_copies: Annotated[
        int | None, recipe_option("Drafts of each scan, for the second pass (3).", min=1)
    ] = None,
    seed: Annotated[int | None, recipe_option("Seed of every random choice (0).", min=0)] = None,
    validate_every: Annotated[
        int | None, recipe_option("Steps between validations (1000).", SCHEDULE, min=1)
    ] = None,
    checkpoint_every: Annotated[
        int | None, recipe_option("Steps between checkpoints (200).", SCHEDULE, min=1)
    ] = None,
    accelerator: Annotated[
        str, typer.Option(help="auto, cpu, gpu, ... (Lightning).", rich_help_panel=TRAINER)
    ] = "auto",
    devices: Annotated[
        str, typer.Option(help="Number of devices, or auto.", rich_help_panel=TRAINER)
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes that draw patches (default: 0; with a GPU all cores but one).",
            rich_help_panel=TRAINER,
        ),
    ] = None,
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the network first (needs a C++ compiler).",
            rich_help_panel=TRAINER,
        ),
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Train a model on the scans of ONE scanner; no other scan is ever read.

    Run the same command again to go on where a stopped run left off.
    """
    fit = require("train", "isochroma.training.fit")
    from isochroma.models.folder import load_model
    from isochroma.training.settings import TrainerSettings

    recipe = choose_recipe(paper, context.params)
    trainer = TrainerSettings(
        accelerator, int(devices) if devices.isdecimal() else devices, workers, compile
    )
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Lightning has its own handler, for SLURM
    initial = load_model(start_from) if start_from is not None else None
    typer.echo(fit.train(target, output, recipe, trainer, initial, name, cache))


def choose_recipe(paper: bool, options: Mapping[str, Any]) -> Recipe:
    """Change a recipe by the options that were given.

    Parameters
    ----------
    paper : bool
        Start from the paper's recipe, not from the compact one.
    options : mapping
        Option name to value; None leaves the recipe as it is. Names of `TrainingSettings` fields
        change these.

    Returns
    -------
    recipe : Recipe
    """
    from isochroma.method.network import NETWORKS
    from isochroma.training.settings import COMPACT_RECIPE, PAPER_RECIPE, TrainingSettings

    recipe = PAPER_RECIPE if paper else COMPACT_RECIPE
    given = {name: value for name, value in options.items() if value is not None}
    fields = {field.name for field in dataclasses.fields(TrainingSettings)}
    changes: dict[str, Any] = {
        "training": dataclasses.replace(
            recipe.training, **{name: value for name, value in given.items() if name in fields}
        )
    }
    if "network" in given:
        changes["network"] = NETWORKS[given["network"]]
    if "patch_size" in given:
        changes["patches"] = dataclasses.replace(recipe.patches, size=given["patch_size"])
    if "edge_fraction" in given:
        changes["edges"] = dataclasses.replace(recipe.edges, fraction=given["edge_fraction"])
    return dataclasses.replace(recipe, **changes)
