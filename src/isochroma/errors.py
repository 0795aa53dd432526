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
        message names no options. Control characters in it are escaped.
    argument : str, optional
        Name of the Python argument at fault, such as "mask". The command adds the option.
    """

    def __init__(self, message: str, argument: str | None = None) -> None:
        super().__init__(printable(message))
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
        msg = f"{path}: {error}"
        raise InputError(msg, error.argument) from error


def printable(text: Path | str, keep: str = "") -> str:
    r"""Escape control characters, which could command the terminal.

    Parameters
    ----------
    text : Path or str
        A path, or anything else that a stranger may have named.
    keep : str
        Characters to leave as they are.

    Returns
    -------
    shown : str

    Examples
    --------
    >>> printable("a\x1b[31m")
    'a\\x1b[31m'
    """
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in str(text))


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
