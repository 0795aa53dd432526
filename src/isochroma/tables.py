"""Read tables and JSON as people write them: text of any common encoding."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
from pathlib import Path
from typing import Any

from isochroma.errors import InputError

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
    try:
        if path.exists() and not path.is_file():
            msg = f"{path}: not a file. Check the path."
            raise InputError(msg)
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}). Check the path."
        raise InputError(msg) from error
    if len(data) > max_bytes:
        msg = f"{path}: larger than {max_bytes >> 20} MB. Check that it is the right file."
        raise InputError(msg)
    known = [name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)]
    for encoding in known or ["utf-8", "cp1252"]:
        try:
            text = data.decode(encoding)
        except UnicodeError:
            continue
        if "\0" not in text:
            return text
    msg = f"{path}: not a text file. Save it as UTF-8."
    raise InputError(msg)


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON file of one object.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    content : dict or None
        None if it is something else: no JSON, a list, half a file.

    Raises
    ------
    InputError
        If it cannot be read, is too large, or is not text.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


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
        Cells without surrounding blanks, empty where a row is short; empty lines are left out.

    Raises
    ------
    InputError
        If it is not text, lacks a column, repeats one, or a row has more cells than the header.
    """
    try:
        lines = list(csv.reader(io.StringIO(read_text(path), newline=""), delimiter="\t"))
    except csv.Error as error:
        msg = f"{path}: not a tab-separated table ({error}). Save it as TSV."
        raise InputError(msg) from error
    lines = [[cell.strip() for cell in line] for line in lines]
    lines = [line for line in lines if any(line)]
    header = lines[0] if lines else []
    for column in required:
        if column not in header:
            msg = f"{path}: has no column {column!r}. Give it a header line with tabs between."
            raise InputError(msg)
    repeated = [column for column in header if header.count(column) > 1]
    if repeated:
        msg = f"{path}: has two columns {repeated[0]!r}. Rename one."
        raise InputError(msg)
    for number, line in enumerate(lines[1:], 2):
        if len(line) > len(header):
            msg = f"{path}, row {number}: has {len(line)} cells, the header {len(header)}."
            raise InputError(msg)
    return [dict(itertools.zip_longest(header, line, fillvalue="")) for line in lines[1:]]
