"""Write files whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path


def write_together(writers: Mapping[Path, Callable[[Path], object]]) -> None:
    """Write several files, and show either all of them or none.

    Each writer fills a temporary file in the folder of its target; when all have succeeded, the
    files are moved into place in the given order.

    Parameters
    ----------
    writers : mapping of Path to callable
        Target path to a function that writes to the path it is given. That path has the target's
        file name, so a writer may choose the format by suffix.
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
    """Write one file through a temporary one.

    Parameters
    ----------
    path : Path or str
        Where the file goes.
    write : callable
        Writes the file to the path it is given.

    Returns
    -------
    path : Path
        The written file.
    """
    write_together({Path(path): write})
    return Path(path)


def sha256(path: Path | str) -> str:
    """Compute the SHA-256 of a file without holding it in memory.

    Parameters
    ----------
    path : Path or str
        The file.

    Returns
    -------
    digest : str
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
