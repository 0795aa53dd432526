"""Fixtures of the command's tests: the command, a tiny model, a scan and a place for outputs."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import pytest

from fixtures_cli import Command
from fixtures_pipeline import head_image, save_tiny_model

with contextlib.suppress(ModuleNotFoundError):
    import isochroma.training.fit  # noqa: F401  Lightning's log handler must hold no test's stream
from isochroma.models.config import Capabilities


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def second_pass_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    able = Capabilities(second_pass=True)
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", capabilities=able)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "sub-01_T1w.nii.gz"
    nib.save(head_image(), path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Iterator[Command]:
    """`isochroma ...`; the signal handler and the log level are put back afterwards."""
    logger = logging.getLogger("isochroma")
    level, handler = logger.level, signal.getsignal(signal.SIGTERM)
    yield Command(monkeypatch, capfd)
    logger.setLevel(level)
    signal.signal(signal.SIGTERM, handler)
