"""Volumes and grids: load a scan, resample it between grids, save it whole or not at all.

A *grid* is a shape and an affine. Work happens on the *model grid*: closest canonical
orientation (RAS+), isotropic voxels, the scan's own field of view. No template is involved, so
anatomy is never warped, and going back is one more resampling onto the scan's own grid.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_together(writers: dict[Path, Callable[[Path], object]]) -> None:
    """Let each writer fill a temporary file, then move all of them into place.

    If one fails, none appears. Temporary names end in the final names, so that writers that go by
    the suffix see it.
    """
    with contextlib.ExitStack() as stack:
        moves = []
        for number, (path, write) in enumerate(writers.items()):
            path.parent.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix=f".isochroma-{number}-", dir=path.parent)
            )
            moves.append((Path(folder) / path.name, path))
            write(moves[-1][0])
        for temporary, path in moves:
            temporary.replace(path)


def write_atomically(path: Path | str, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file, then move it to `path` in one step."""
    write_together({Path(path): write})
    return Path(path)


def sha256(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file."""
    with Path(path).open("rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()
