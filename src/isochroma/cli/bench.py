"""`isochroma bench`: what a scan costs on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isochroma.cli.app import command
from isochroma.cli.options import Device, ModelName, Precision, Threads, Verbose


@command("bench")
def bench(
    scan: Annotated[Path, typer.Argument(help="A scan, better a whole head of 1 mm.")],
    model: ModelName = "default",
    device: Device = "auto",
    precision: Precision = "float32",
    threads: Threads = None,
    verbose: Verbose = False,
) -> None:
    """Time each stage on this machine, beside the paper's network: seconds and peak memory."""
    import tempfile

    from isochroma.evaluation.bench import measure, paper_network, table
    from isochroma.method.sampling import ComputeSettings, choose_device
    from isochroma.pipeline import Harmonizer

    compute = ComputeSettings(device, precision)
    harmonizer = Harmonizer.from_pretrained(model, compute=compute)
    with tempfile.TemporaryDirectory() as folder:
        costs, voxels = measure(scan, harmonizer, Path(folder) / "harmonized.nii.gz")
    typer.echo(table(costs, paper_network(voxels, choose_device(device))))
