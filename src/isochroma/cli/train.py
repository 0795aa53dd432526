"""`isochroma train`: a model of your own scanner."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Literal

import typer

from isochroma.cli.app import command, require
from isochroma.errors import InputError

Architecture = Literal["compact", "paper"]


@command("train")
def train(
    target: Annotated[Path, typer.Argument(help="Folder of the target scanner's scans.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The model folder to make.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the model [default: the folder's].")
    ] = None,
    architecture: Annotated[
        Architecture, typer.Option(help="compact (4.5 M parameters) or paper (98.5 M).")
    ] = "compact",
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 30000,
    batch_size: Annotated[int, typer.Option(min=1, help="Patches a step and device.")] = 2,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    edge_variants: Annotated[
        int, typer.Option(min=0, help="Re-contrasted copies whose edges are learned too.")
    ] = 3,
    variant_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of patches with a copy's edges.")
    ] = 0.5,
    start_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of patches at t = 0.")
    ] = 0.5,
    draft_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of patches that train the second pass.")
    ] = 0.0,
    draft_copies: Annotated[
        int, typer.Option(min=1, help="Drafts of each scan, for the second pass.")
    ] = 3,
    edge_fraction: Annotated[float, typer.Option(help="Edge voxels over brain voxels.")] = 0.16,
    patch_size: Annotated[int, typer.Option(help="Edge of a patch in samples.")] = 64,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 1000,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, gpu, ... (Lightning).")] = "auto",
    devices: Annotated[str, typer.Option(help="Number of devices, or auto.")] = "auto",
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed, 16-mixed.")] = "bf16-mixed",
    workers: Annotated[int, typer.Option(min=0, help="Processes that draw patches.")] = 0,
    compile_network: Annotated[
        bool, typer.Option("--compile", help="Compile the network first (needs a C++ compiler).")
    ] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder of preprocessed scans.")] = None,
    start_from: Annotated[
        str | None, typer.Option(help="Model whose weights to start from.")
    ] = None,
) -> None:
    """Train a model on the scans of ONE scanner; no other scan is ever read.

    Run the same command again to go on where a stopped run left off.
    """
    fit = require("train", "isochroma.training.fit").train
    from isochroma.method.edges import EdgeSettings
    from isochroma.method.network import COMPACT, PAPER
    from isochroma.method.patches import PatchSettings
    from isochroma.models.config import ModelConfig
    from isochroma.models.folder import load_model
    from isochroma.training.settings import TrainingSettings

    if devices != "auto" and not devices.isdecimal():
        msg = f"--devices {devices}: give a number or auto."
        raise InputError(msg)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Lightning has its own handler, for SLURM
    config = ModelConfig(
        name=name or output.resolve().name,
        edges=EdgeSettings(fraction=edge_fraction),
        network=PAPER if architecture == "paper" else COMPACT,
        patches=PatchSettings(size=patch_size),
    )
    settings = TrainingSettings(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        edge_variants=edge_variants,
        variant_share=variant_share,
        start_share=start_share,
        draft_share=draft_share,
        draft_copies=draft_copies,
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
        seed=seed,
    )
    initial = None
    if start_from is not None:
        initial = load_model(start_from)
        if initial[1].network != config.network:
            msg = f"{start_from}: its network is {initial[1].network}, not {config.network}."
            raise InputError(msg)
    fit(
        target,
        output,
        config,
        settings,
        accelerator=accelerator,
        devices=int(devices) if devices.isdecimal() else devices,
        precision=precision,
        workers=workers,
        compile_network=compile_network,
        cache=cache,
        initial=initial,
    )
    typer.echo(output)
