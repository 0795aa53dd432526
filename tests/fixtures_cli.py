"""Helpers of the command's tests: run `isochroma ...` in this process, and read what it said."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from isochroma import cli


def unframed(text: str) -> str:
    """What the command says, as one line without frames and line breaks."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


class Outcome(NamedTuple):
    """Exit status and streams of a command."""

    code: int
    stdout: str
    stderr: str

    def is_refusal(self, *parts: str) -> bool:
        """One line on standard error that holds these parts, status 1."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("isochroma: ")
        for part in parts:
            assert part in lines[0]
        assert self.stdout.strip() == ""
        return self.code == 1


class Command:
    """Runs `isochroma ...` through `cli.main`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
        self.monkeypatch = monkeypatch
        self.capfd = capfd

    def __call__(self, *arguments: object) -> Outcome:
        self.monkeypatch.setattr(sys, "argv", ["isochroma", *map(str, arguments)])
        self.capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        captured = self.capfd.readouterr()
        return Outcome(code, captured.out, captured.err)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
