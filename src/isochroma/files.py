"""Write files whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import filelock
import psutil

from isochroma.errors import InputError

LEAVING = ".isochroma-"  # begins the name of every temporary folder


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
        for path, write in writers.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix=_prefix(os.getpid()), dir=path.parent)
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


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder while the body runs.

    Parameters
    ----------
    folder : Path
        Made if it does not exist; it gets a lock file, which may stay, and loses what killed
        writers left in it and in its subfolders.

    Raises
    ------
    InputError
        If another run holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        msg = f"{folder}: another run is working here. Wait for it, or give another folder."
        raise InputError(msg, "output") from error
    for each in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        remove_leavings(each)
    try:
        yield
    finally:
        lock.release()


def remove_leavings(folder: Path) -> list[Path]:
    """Remove the temporary folders of writers that were killed.

    Those of living processes of this machine stay, and so do those of other machines that are
    younger than a day.

    Parameters
    ----------
    folder : Path
        Where `write_together` writes; it need not exist.

    Returns
    -------
    removed : list of Path
        The folders that were removed.
    """
    removed = []
    for found in folder.glob(f"{LEAVING}*"):
        host, _, rest = found.name.removeprefix(LEAVING).rpartition("-")[0].rpartition("-")
        with contextlib.suppress(OSError):
            old = time.time() - found.stat().st_mtime > 24 * 3600
            mine = host == platform.node()
            if old or (mine and rest.isdecimal() and not psutil.pid_exists(int(rest))):
                shutil.rmtree(found)
                removed.append(found)
    return removed


def _prefix(pid: int) -> str:
    return f"{LEAVING}{platform.node()}-{pid}-"


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
