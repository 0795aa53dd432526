"""Results on disk, each under the key that determines it."""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import joblib

from isochroma.files import write_atomically

logger = logging.getLogger(__name__)

T = TypeVar("T")
Key = tuple[Any, ...]


class Store:
    """Keep results in a folder, so that a stopped run resumes and nothing is computed twice.

    Several processes may share the folder: an entry is written whole or not at all. Entries are
    pickled; use folders that you trust.

    Parameters
    ----------
    folder : Path
        Where entries are kept; made when the first one is written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = Store(Path(folder))
    ...     first = store.get(("square", 3), lambda: 3**2)
    ...     second = store.get(("square", 3), lambda: 1 / 0)
    >>> first, second
    (9, 9)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: Key, make: Callable[[], T]) -> T:
        """Return what is kept under the key; if nothing is, make it and keep it.

        Parameters
        ----------
        key : tuple
            The kind of result (str) and all that determines it: numbers, strings, lists and
            dictionaries, as JSON can write them.
        make : callable
            Computes the result. Its exceptions are raised and nothing is kept.

        Returns
        -------
        value : object
            The result. An entry that cannot be read is made again.
        """
        path = self.path(key)
        if path.is_file():
            try:
                compare_checksum(path)
                return joblib.load(path)
            except Exception as error:  # a damaged or outdated pickle raises nearly anything
                logger.warning("%s cannot be read (%s); it is computed again", path, error)
        value = make()
        write_atomically(path, lambda to: joblib.dump(value, to, compress=1))
        return value

    def path(self, key: Key) -> Path:
        """Return the file of a key's entry."""
        kind, *rest = key
        digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
        return self.folder / kind / digest[:2] / f"{digest[2:]}.pkl"


def compare_checksum(path: Path) -> None:
    """Read a zlib stream to the checksum at its end, before anything in it is believed.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    zlib.error
        If it is damaged, cut or continued.
    """
    stream = zlib.decompressobj()
    with path.open("rb") as file:
        while block := file.read(1 << 16):
            stream.decompress(block)
    if not stream.eof or stream.unused_data:
        msg = "it ends too early or too late"
        raise zlib.error(msg)
