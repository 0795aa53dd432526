"""`isochroma models`: what is shipped."""

from __future__ import annotations

import typer

from isochroma.cli.app import command


@command("models")
def models() -> None:
    """List the shipped models."""
    from isochroma.models.folder import load_config, shipped_models

    for name, folder in shipped_models().items():
        typer.echo(f"{name}: {load_config(folder).target.scans} target scans, {folder}")
