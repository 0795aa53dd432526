"""Progress on standard error: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from isochroma.stages import Event, listening

LOG_SECONDS = 30


class Display:
    """Show the stages of the work as they are reported.

    Attributes
    ----------
    task : str
        What is being worked on; set it to the scan's name.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
        self.terminal = console.is_terminal
        self.bar = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self.row = self.bar.add_task("", total=1)
        self.told = time.monotonic()
        self.task = ""

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if event.seconds is not None:
            return
        shown = ": ".join(part for part in (self.task, event.stage) if part)
        self.bar.update(self.row, description=shown, completed=event.done, total=event.total)
        if not self.terminal and time.monotonic() - self.told > LOG_SECONDS:
            self.told = time.monotonic()
            clock = time.strftime("%H:%M:%S")
            typer.echo(f"{clock} {shown} ({event.done} of {event.total} done)", err=True)


@contextmanager
def progress_display() -> Iterator[Display]:
    """Show the progress of the body.

    Yields
    ------
    display : Display
        Its `task` names what is being worked on.
    """
    display = Display()
    with display.bar, listening(display):
        yield display
