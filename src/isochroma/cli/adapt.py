"""`isochroma adapt`: your own scanner as the target, from a few of its scans, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isochroma.cli.app import command, say
from isochroma.cli.options import OUTPUT, Device, MaxMemory, ModelName, Precision, Threads, Verbose
from isochroma.cli.progress import progress_display
from isochroma.errors import InputError


@command("adapt")
def adapt(
    scans: Annotated[
        list[Path], typer.Argument(metavar="SCAN...", help="Scans of your target scanner.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The model folder to make.", rich_help_panel=OUTPUT),
    ],
    model: ModelName = "default",
    device: Device = "auto",
    precision: Precision = "float32",
    max_memory_gb: MaxMemory = 8.0,
    threads: Threads = None,
    verbose: Verbose = False,
) -> None:
    """Make a model of your own scanner from one to ten of its scans of one contrast.

    The scans are harmonized by a trained model; a map from its images to yours becomes the last
    step of the new model. Each scan is also compared with what the map of the others makes of it.
    """
    from isochroma.method.sampling import ComputeSettings
    from isochroma.models.folder import CONFIG
    from isochroma.pipeline import Harmonizer
    from isochroma.training.adapt import adapt, save_adapted

    if (output / CONFIG).exists():
        msg = f"{output} holds a model already. Give another folder, or remove it."
        raise InputError(msg, "output")
    compute = ComputeSettings(device, precision, max_memory_gb)
    harmonizer = Harmonizer.from_pretrained(model, compute=compute)
    with progress_display():
        adapted = adapt(harmonizer, scans)
    output.mkdir(parents=True, exist_ok=True)
    save_adapted(adapted, output)
    quality = adapted.config.training["held_out_ssim"]
    if quality:
        say(
            f"isochroma: {len(quality)} scans, each against the map of the others: SSIM "
            f"{min(quality):.3f} to {max(quality):.3f}.",
            err=True,
        )
    typer.echo(output)
