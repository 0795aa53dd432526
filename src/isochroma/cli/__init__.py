"""The `isochroma` command. Heavy imports wait until a command runs."""

from __future__ import annotations

from isochroma.cli import bench, evaluate, harmonize, models, simulate, train  # noqa: F401
from isochroma.cli.app import app, main

__all__ = ["app", "main"]
