"""The one exception a user meets: a sentence that says what is wrong and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """Raised for input that cannot be processed; the message names the problem and the remedy."""


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Put the scan's path before the message of an `InputError`."""
    try:
        yield
    except InputError as error:
        msg = f"{path}: {error}"
        raise InputError(msg) from error
