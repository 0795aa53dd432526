"""`isochroma models`: what is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures_cli import Command
from fixtures_pipeline import save_tiny_model
from isochroma.models.folder import shipped_models


def test_lists_the_shipped_models(command: Command) -> None:
    done = command("models")
    assert done.code == 0
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == list(shipped_models())


def test_name_number_of_scans_and_folder(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny_model(tmp_path / "models" / "own")
    monkeypatch.setattr("isochroma.models.folder.SHIPPED", tmp_path / "models")
    assert command("models").stdout == f"own: 3 target scans, {folder}\n"


def test_none_is_no_error(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isochroma.models.folder.SHIPPED", tmp_path)
    done = command("models")
    assert (done.code, done.stdout, done.stderr) == (0, "", "")
