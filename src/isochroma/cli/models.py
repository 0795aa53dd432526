"""`isochroma models`: what is shipped and installed, its cards, and installing more."""

from __future__ import annotations

from typing import Annotated

import typer

from isochroma.cli.app import app, command

Name = Annotated[str, typer.Argument(metavar="MODEL", help="A model's name, or its folder.")]

models = typer.Typer(help="List, show, check and install models.", no_args_is_help=True)
app.add_typer(models, name="models")


@command("list", group=models)
def list_models() -> None:
    """List the models that can be used by name."""
    from isochroma.models.folder import installed_models, load_config, shipped_models

    for origin, found in (("shipped", shipped_models()), ("installed", installed_models())):
        for name, folder in found.items():
            target = load_config(folder).target
            typer.echo(f"{name}: {target.suffix}, {target.scans} target scans, {origin}, {folder}")


@command("show", group=models)
def show(model: Name) -> None:
    """Show a model's card: its data, licence, quality and limits."""
    from isochroma.models.folder import find_model
    from isochroma.models.zoo import show_model

    typer.echo(show_model(find_model(model)))


@command("add", group=models)
def add(
    source: Annotated[
        str, typer.Argument(help="A model folder, or the address of a zip file that holds one.")
    ],
    name: Annotated[str | None, typer.Option(help="What to call it (default: its own).")] = None,
    sha256: Annotated[
        str | None, typer.Option(help="Hash of the zip file, needed for an address.")
    ] = None,
) -> None:
    """Install a model for use by name."""
    from isochroma.models.zoo import add_model

    typer.echo(add_model(source, name, sha256))


@command("check", group=models)
def check(model: Name) -> None:
    """Check that a model is whole: its settings, the hash of its weights, and their shapes."""
    from isochroma.models.folder import find_model, load_model

    config = load_model(model).config
    typer.echo(f"{find_model(model)}: {config.name}, {config.target.scans} target scans, is whole.")
