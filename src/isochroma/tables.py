"""Read tables as people write them: tab-separated text of any common encoding."""

from __future__ import annotations

import codecs
import csv
import io
from pathlib import Path

from isochroma.errors import InputError, printable

MAX_BYTES = 1 << 26
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """Read a text file as UTF-8, UTF-16 with a byte order mark, or else Windows-1252.

    Parameters
    ----------
    path : Path
        The file.
    max_bytes : int
        Size beyond which it is refused.

    Returns
    -------
    text : str

    Raises
    ------
    InputError
        If it cannot be read, is too large, or is not text.
    """
    shown = printable(path)
    try:
        if path.stat().st_size > max_bytes:
            msg = f"{shown}: larger than {max_bytes >> 20} MB. Check that it is the right file."
            raise InputError(msg)
        data = path.read_bytes()
    except OSError as error:
        msg = f"{shown}: cannot be read ({error.strerror}). Check the path."
        raise InputError(msg) from error
    known = [name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)]
    for encoding in known or ["utf-8", "cp1252"]:
        try:
            text = data.decode(encoding)
        except UnicodeError:
            continue
        if "\0" not in text:
            return text
    msg = f"{shown}: not a text file. Save it as UTF-8."
    raise InputError(msg)


def read_table(path: Path, required: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """Read a tab-separated table with a header line.

    Parameters
    ----------
    path : Path
        The table.
    required : tuple of str
        Columns that must be there.

    Returns
    -------
    rows : list of dict of str to str
        Cells without surrounding blanks; empty lines are left out.

    Raises
    ------
    InputError
        If it is not text, lacks a column, repeats one, or a row has more cells than the header.
    """
    shown = printable(path)
    try:
        lines = list(csv.reader(io.StringIO(read_text(path), newline=""), delimiter="\t"))
    except csv.Error as error:
        msg = f"{shown}: not a tab-separated table ({error}). Save it as TSV."
        raise InputError(msg) from error
    lines = [[cell.strip() for cell in line] for line in lines]
    lines = [line for line in lines if any(line)]
    header = lines[0] if lines else []
    for column in required:
        if column not in header:
            msg = f"{shown}: has no column {column!r}. Give it a header line with tabs between."
            raise InputError(msg)
    repeated = [column for column in header if header.count(column) > 1]
    if repeated:
        msg = f"{shown}: has two columns {printable(repeated[0])!r}. Rename one."
        raise InputError(msg)
    for number, line in enumerate(lines[1:], 2):
        if len(line) > len(header):
            msg = f"{shown}, row {number}: has {len(line)} cells, the header {len(header)}."
            raise InputError(msg)
    return [dict(zip(header, line, strict=False)) for line in lines[1:]]
