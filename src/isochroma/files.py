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
            folder = stack.enter_context(_temporary_folder(path.parent))
            moves.append((folder / path.name, path))
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
def replacing(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which then replaces `folder`; on an error nothing changes.

    Parameters
    ----------
    folder : Path
        The folder to make; its parent loses what killed writers left there.

    Yields
    ------
    work : Path
        The folder to fill.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leavings(folder.parent)
    with _temporary_folder(folder.parent) as temporary:
        work = temporary / folder.name
        work.mkdir()
        yield work
        shutil.rmtree(folder, ignore_errors=True)
        try:
            work.rename(folder)
        except OSError:  # another process of the same run may have been first
            if not folder.is_dir():
                raise


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder while the body runs.

    Parameters
    ----------
    folder : Path
        Made if it does not exist; it gets a lock file, which may stay, and loses what killed
        writers left anywhere in it.

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
    remove_leavings(folder, "**/")
    try:
        yield
    finally:
        lock.release()


def remove_leavings(folder: Path, below: str = "") -> list[Path]:
    """Remove the temporary folders of writers that were killed.

    Those of living processes of this machine stay, and so do those of other machines that are
    younger than a day.

    Parameters
    ----------
    folder : Path
        Where files were written; it need not exist.
    below : str
        Pattern of the subfolders to look in, with a slash at its end; only `folder` if empty.

    Returns
    -------
    removed : list of Path
        The folders that were removed.
    """
    removed = []
    for found in list(folder.glob(f"{below}{LEAVING}*")):
        host, _, rest = found.name.removeprefix(LEAVING).rpartition("-")[0].rpartition("-")
        with contextlib.suppress(OSError):
            old = time.time() - found.stat().st_mtime > 24 * 3600
            mine = host == platform.node()
            if old or (mine and rest.isdecimal() and not psutil.pid_exists(int(rest))):
                shutil.rmtree(found)
                removed.append(found)
    return removed


@contextlib.contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    prefix = f"{LEAVING}{platform.node()}-{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as folder:
        yield Path(folder)


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
