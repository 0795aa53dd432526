"""The `isochroma` command. Heavy imports wait until a command runs."""

from __future__ import annotations

from isochroma.cli import (  # noqa: F401
    adapt,
    bench,
    bids,
    evaluate,
    harmonize,
    models,
    simulate,
    train,
)
from isochroma.cli.app import app, main
from isochroma.cli.bids import bids_main

__all__ = ["app", "bids_main", "main"]
