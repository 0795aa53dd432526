"""Tables of any encoding, and what is refused with one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from isochroma.errors import InputError
from isochroma.tables import MAX_BYTES, read_table

TEXT = "participant_id\tname\nsub-01\tM\u00fcller\n"
ROWS = [{"participant_id": "sub-01", "name": "M\u00fcller"}]


def table(folder: Path, data: bytes) -> Path:
    path = folder / "participants.tsv"
    path.write_bytes(data)
    return path


class TestEncodings:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"])
    def test_one_text(self, tmp_path: Path, encoding: str) -> None:
        assert read_table(table(tmp_path, TEXT.encode(encoding))) == ROWS

    @pytest.mark.parametrize("ending", ["\r\n", "\r"])
    def test_line_endings(self, tmp_path: Path, ending: str) -> None:
        assert read_table(table(tmp_path, TEXT.replace("\n", ending).encode())) == ROWS

    def test_blank_lines_and_blanks_around_cells(self, tmp_path: Path) -> None:
        data = b"a\tb\n\n 1 \t 2\n\t\n3\n"
        assert read_table(table(tmp_path, data)) == [{"a": "1", "b": "2"}, {"a": "3", "b": ""}]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "has no column 'a'"),
        (b"b\tc\n1\t2\n", "has no column 'a'"),
        (b"a\tb\n1\t2\t3\n", "row 2: has 3 cells, the header 2"),
        (b"a\ta\n1\t2\n", "has two columns 'a'"),
        (b"a\tb\n\0\0\n", "not a text file"),
        (b'a\tb\n"' + b"x" * 200_000, "not a tab-separated table"),
    ],
)
def test_refused_in_one_line(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_table(table(tmp_path, data), required=("a",))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "participants.tsv")
    with pytest.raises(InputError, match="not a file"):
        read_table(tmp_path / "participants.tsv")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "participants.tsv").open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match="larger than 64 MB"):
        read_table(tmp_path / "participants.tsv")
