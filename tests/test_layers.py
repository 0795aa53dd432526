"""Imports go down only: the contracts of [tool.importlinter] in pyproject.toml."""

from __future__ import annotations

import logging.config
from pathlib import Path

import pytest
from importlinter import cli

ROOT = Path(__file__).parents[1]


def test_imports_go_down_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(logging.config, "dictConfig", lambda _: None)  # it disables all loggers
    status = cli.lint_imports(cache_dir=str(tmp_path), no_logo=True)
    assert status == cli.EXIT_STATUS_SUCCESS, "run `lint-imports` to see the broken contracts"
