"""The command's frame: errors as one line, logging, and options that every command shares."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from isochroma.errors import InputError, printable
from isochroma.version import __version__

logger = logging.getLogger("isochroma")

app = typer.Typer(
    name="isochroma",
    help="Blind 3D harmonization of brain MR scans: any scanner's scan, as one target scanner "
    "would have shown it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


REGISTRY = re.compile(r"^<([\w.]+):(\w+)>$")


def names_in(registry: str) -> list[str]:
    """List the names in a registry, which is imported only now.

    Parameters
    ----------
    registry : str
        "module:NAME" of a mapping or a sequence of names.

    Returns
    -------
    names : list of str
    """
    module, _, name = registry.partition(":")
    return list(getattr(import_module(module), name))


def registered(registry: str, help: str, panel: str | None = None) -> Any:
    """Make an option whose choices are the names in a registry of the library.

    Parameters
    ----------
    registry : str
        "module:NAME" of a mapping or a sequence of names.
    help : str
        What the option does.
    panel : str, optional
        Group in the help.

    Returns
    -------
    option : typer.Option
        It checks and completes the names, and the help lists them.
    """

    def check(value: Any) -> Any:
        for each in value if isinstance(value, list) else [value]:
            if each is not None and each not in names_in(registry):
                msg = f"{each!r} is unknown; choose from {', '.join(names_in(registry))}."
                raise typer.BadParameter(msg)
        return value

    def complete(incomplete: str) -> list[str]:
        return [name for name in names_in(registry) if name.startswith(incomplete)]

    return typer.Option(
        help=help,
        metavar=f"<{registry}>",
        callback=check,
        autocompletion=complete,
        rich_help_panel=panel,
    )


class Command(TyperCommand):
    """A command that lists the names of registries, and the options of the library's arguments."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show the help, with the names of the registries."""
        for param in self.params:
            found = REGISTRY.match(str(getattr(param, "metavar", "")))
            if found:
                param.metavar = "|".join(names_in(":".join(found.groups())))
        super().format_help(ctx, formatter)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        start(verbose=ctx.params.get("verbose", False), threads=ctx.params.get("threads"))
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise InputError(explain(error, self.params), error.argument) from error


def explain(error: InputError, params: Iterable[Any]) -> str:
    """Return an error's message, with the option of the argument at fault.

    Parameters
    ----------
    error : InputError
        From the library.
    params : iterable
        Parameters of the running command.

    Returns
    -------
    message : str
    """
    for param in params:
        if param.name == error.argument and any(each.startswith("--") for each in param.opts):
            return f"{error} (option {max(param.opts, key=len)})"
    return str(error)


def start(verbose: bool, threads: int | None) -> None:
    """Set up logging and the number of threads.

    Parameters
    ----------
    verbose : bool
        Log details, and show tracebacks.
    threads : int or None
        CPU threads of torch and SimpleITK; None for their defaults.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    if threads is not None:
        import SimpleITK as sitk
        import torch

        torch.set_num_threads(threads)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def require(extra: str, module: str) -> Any:
    """Import a module that needs one of the package's optional extras.

    Parameters
    ----------
    extra : str
        Name of the extra.
    module : str
        Full name of the module.

    Returns
    -------
    module : module

    Raises
    ------
    InputError
        If a package of the extra is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        msg = f"this needs the package {error.name}. Run: pip install 'isochroma[{extra}]'"
        raise InputError(msg) from error


def show_version(show: bool) -> None:
    """Print the version and end, if asked to."""
    if show:
        typer.echo(f"isochroma {__version__}")
        raise typer.Exit


@app.callback()
def common(
    show: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Harmonize brain MR scans, train models, and judge the results."""


def say(text: str, err: bool = False) -> None:
    """Print a line; a closed stream does not end the work.

    Parameters
    ----------
    text : str
        The line.
    err : bool
        On standard error.
    """
    with contextlib.suppress(OSError, ValueError):
        typer.echo(printable(text, keep="\t\n"), err=err)


def report(error: Exception, path: Path | None = None, params: Iterable[Any] = ()) -> None:
    """Print an error as one line on standard error, with its traceback in verbose mode.

    Parameters
    ----------
    error : Exception
        What went wrong; kinds that are not `InputError` are named.
    path : Path, optional
        The file that it concerns, named unless the message does.
    params : iterable, optional
        Parameters of the running command, to name the option at fault.
    """
    if logger.isEnabledFor(logging.DEBUG):
        traceback.print_exception(error)
    message = explain(error, params) if isinstance(error, InputError) else str(error)
    message = " ".join(message.split())
    if isinstance(error, OSError):
        message += ". Check the disk's space and permissions; nothing was half-written."
    elif not isinstance(error, (InputError, FloatingPointError)):
        message = f"{type(error).__name__}{': ' if message else ''}{message}"
    if path is not None and printable(path) not in message:
        message = f"{printable(path)}: {message}"
    say(f"isochroma: {message}", err=True)


def command(
    name: str, cls: type[Command] = Command, group: typer.Typer = app
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command.

    Parameters
    ----------
    name : str
        As it is typed.
    cls : type
        Its kind.
    group : Typer
        The commands that it is one of.

    Returns
    -------
    register : callable
        The decorator.
    """
    return group.command(name, cls=cls)


def main(run: Callable[[], object] = app) -> None:
    """Run the command; a known error is one line and exit status 1.

    Parameters
    ----------
    run : callable
        The application, or one of its commands.
    """
    # End as after an error, so that no process and no temporary file is left.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        run()
    except (InputError, FloatingPointError, OSError) as error:
        report(error)
        sys.exit(1)
