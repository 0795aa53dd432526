"""Register kinds of input, and what their cases are made from."""

from __future__ import annotations

import functools
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fuzz.isolated import silence

T = TypeVar("T")
Rng = np.random.Generator
Run = Callable[[Rng, Path], bool]


class Kind(NamedTuple):
    """One kind of input: how many cases a full campaign has, and how many share a process."""

    count: int
    run: Run
    together: int


KINDS: dict[str, Kind] = {}
BASES: list[Callable[[], Any]] = []


def kind(name: str, count: int, together: int = 50) -> Callable[[Run], Run]:
    """Register a function that makes a case in a folder, reads it, and tells if it is right.

    It raises `InputError` for what is refused. Its random choices are its first argument's.
    """

    def register(run: Run) -> Run:
        KINDS[name] = Kind(count, run, together)
        return run

    return register


def base(make: Callable[[], T]) -> Callable[[], T]:
    """Register what cases are made from; it is made once, before the first of them."""
    made = functools.cache(make)
    BASES.append(made)
    return made


@base
def work() -> Path:
    """The folder of what cases are made from."""
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


def new_folder() -> Path:
    """Make an empty folder in it."""
    return Path(tempfile.mkdtemp(dir=work()))


def apart(make: Callable[[], object]) -> None:
    """Make something in a process of its own: its threads would not live in a later fork."""
    process = multiprocessing.get_context("fork").Process(target=lambda: (silence(), make()))
    process.start()
    process.join()
