"""The exception that users see: one sentence that says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_REASON = 200  # characters of a library's message about a file


class InputError(ValueError):
    """Signal input that cannot be processed.

    Parameters
    ----------
    message : str
        What is wrong and how to mend it, in one line. The library knows no command line, so the
        message names no options.
    argument : str, optional
        Name of the Python argument at fault, such as "mask". The command adds the option.
    """

    def __init__(self, message: str, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Put the file's path before the message of any `InputError` raised in the body.

    Parameters
    ----------
    path : Path
        The file that the body works on.
    """
    try:
        yield
    except InputError as error:
        msg = f"{printable(path)}: {error}"
        raise InputError(msg, error.argument) from error


def printable(path: Path | str) -> str:
    """Return a path without control characters, which could command the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))


def one_line(error: BaseException, longest: int | None = None) -> str:
    """Return an exception's message as one line, or its type's name if it has none.

    Parameters
    ----------
    error : BaseException
        What was raised.
    longest : int, optional
        Characters to keep at most: libraries quote what damaged files hold.

    Returns
    -------
    text : str
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if longest is None or len(text) <= longest else text[: longest - 3] + "..."
