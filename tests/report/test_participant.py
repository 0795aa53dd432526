"""The page of a participant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fixtures_report import SIDECAR
from isochroma.report.participant import Shown, methods, write_page


def test_warnings_failures_and_missing_figures(tmp_path: Path) -> None:
    scans = [
        Shown("a", "T1w", "sub-01/a.nii.gz", SIDECAR),
        Shown("b", "FLAIR", "sub-01/b.nii.gz", failure="no brain"),
    ]
    page = write_page(tmp_path / "sub-01.html", "sub-01", scans).read_text()
    assert "<b>thick-voxels</b>: voxels of &lt;3&gt; mm." in page
    assert "No output: no brain" in page
    assert "The figures are missing" in page


def test_nothing_is_fetched(tmp_path: Path) -> None:
    page = write_page(tmp_path / "a.html", "sub-01", [Shown("a", "T1w", "a", SIDECAR)]).read_text()
    assert "http://" not in page
    assert "https://" not in page


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, "bias field was corrected by N4"),
        ({"Preprocessing": {**SIDECAR["Preprocessing"], "n4": False}}, "was not corrected"),
        ({"MaskOrigin": "given"}, "masks were given."),
        ({}, "'default' (SHA-256 of its weights abababababab...)"),
        ({"ReviserSHA256": None}, "in a second stage by the same one"),
        (
            {"ReviserSHA256": "cd" * 32},
            "by a second network (SHA-256 of its weights cdcdcdcdcdcd...)",
        ),
        ({"Sampling": {**SIDECAR["Sampling"], "steps": 15, "revise": False}}, "by 15 steps"),
    ],
)
def test_methods_say_what_was_done(change: dict[str, Any], told: str) -> None:
    text = methods([{**SIDECAR, **change}])
    assert told in text
    assert ("second stage" in text) == bool({**SIDECAR, **change}["Sampling"]["revise"])


def test_no_methods_without_images() -> None:
    assert methods([]) == ""
