"""Progress on standard error, where that is no terminal: now and then a line."""

from __future__ import annotations

import re

import pytest

from isochroma.cli.progress import LOG_SECONDS, progress_display
from isochroma.stages import advance, stage


def test_silent_at_first(capsys: pytest.CaptureFixture) -> None:
    with progress_display(), stage("network"):
        advance(1, 15)
    assert capsys.readouterr().err == ""


def test_a_line_after_a_while(capsys: pytest.CaptureFixture) -> None:
    with progress_display() as display:
        display.task = "scan.nii"
        with stage("network"):
            advance(1, 15)
            display.told -= LOG_SECONDS + 1
            advance(2, 15)
            advance(3, 15)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d scan\.nii: network \(2 of 15 done\)", line)


def test_nothing_is_told_after_the_end(capsys: pytest.CaptureFixture) -> None:
    with progress_display() as display:
        display.told -= LOG_SECONDS + 1
    advance(1, 2)
    assert capsys.readouterr().err == ""
