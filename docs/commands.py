"""Write the reference of the command line, Markdown: python docs/commands.py FILE."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from isochroma.cli.app import REGISTRY, app, names_in

FIRST = ("harmonize", "bids", "adapt", "train", "evaluate")  # the others follow


def page() -> Iterator[str]:
    """Yield the lines of the page."""
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    yield "# Command line\n"
    yield "Written by `python docs/commands.py` from the command itself.\n"
    for name in (*FIRST, *(name for name in commands if name not in FIRST)):
        yield from section(name, commands[name])


def section(name: str, command: Any) -> Iterator[str]:
    """Yield the lines on one command, its options grouped as in its help."""
    for part, below in getattr(command, "commands", {}).items():
        yield from section(f"{name} {part}", below)
    if hasattr(command, "commands"):
        return
    yield f"## isochroma {name}\n\n{command.help.strip()}\n"
    panels: dict[str, list[Any]] = {}
    for param in command.params:
        panel = getattr(param, "rich_help_panel", None)
        kind = "Arguments" if param.param_type_name == "argument" else "Options"
        panels.setdefault(panel or kind, []).append(param)
    for panel, params in panels.items():
        yield f"| {panel} | | default |\n|---|---|---|"
        for param in params:
            yield "| " + " | ".join(cells(param)) + " |"
        yield ""


def cells(param: Any) -> tuple[str, str, str]:
    """Return an option's names and value, what it does, and its default."""
    names = [*param.opts, *param.secondary_opts]
    names = [param.metavar or param.name.upper()] if param.param_type_name == "argument" else names
    shown = ", ".join(f"`{name}`" for name in names)
    values = choices(param)
    if values:
        shown += " " + " \\| ".join(f"`{value}`" for value in values)
    default = "required" if param.required else ""
    if param.default is not None and param.default is not False:
        default = f"`{'yes' if param.default is True else param.default}`"
    return shown, (param.help or "").replace("|", "\\|"), default


def choices(param: Any) -> list[str]:
    """Return the names that an option accepts; empty if they are not listed."""
    found = REGISTRY.match(str(getattr(param, "metavar", "")))
    if found:
        return names_in(":".join(found.groups()))
    return list(getattr(getattr(param, "type", None), "choices", []))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("\n".join(page()).rstrip() + "\n")
