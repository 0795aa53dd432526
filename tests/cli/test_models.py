"""`isochroma models`: what is shipped and installed."""

from __future__ import annotations

import functools
import hashlib
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures_cli import Command
from fixtures_pipeline import save_tiny_model
from isochroma.models.folder import shipped_models


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "installed"
    for module in ("folder", "zoo"):
        monkeypatch.setattr(f"isochroma.models.{module}.INSTALLED", folder)
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "own")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path, own: Path) -> Iterator[tuple[str, str]]:
    """Where a zip of the model can be fetched, and its hash."""
    (tmp_path / "web").mkdir()
    packed = shutil.make_archive(str(tmp_path / "web" / "mine"), "zip", own.parent, own.name)
    handler = functools.partial(Quiet, directory=tmp_path / "web")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        digest = hashlib.sha256(Path(packed).read_bytes()).hexdigest()
        yield f"http://127.0.0.1:{server.server_port}/mine.zip", digest
        server.shutdown()


class TestList:
    def test_the_shipped_models(self, command: Command) -> None:
        done = command("models", "list")
        assert done.code == 0
        names = [line.split(":")[0] for line in done.stdout.splitlines()]
        assert names == list(shipped_models())

    def test_contrast_number_of_scans_origin_and_folder(
        self, command: Command, own: Path, installed: Path
    ) -> None:
        command("models", "add", own)
        last = command("models", "list").stdout.splitlines()[-1]
        assert last == f"own: T1w, 3 target scans, installed, {installed / 'own'}"

    def test_none_is_no_error(
        self, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("isochroma.models.folder.SHIPPED", tmp_path)
        done = command("models", "list")
        assert (done.code, done.stdout, done.stderr) == (0, "", "")


class TestShow:
    def test_the_card(self, command: Command) -> None:
        assert "CC0, doi:10.18112" in command("models", "show", "default").stdout

    def test_what_the_config_tells_without_a_card(self, command: Command, own: Path) -> None:
        said = command("models", "show", own).stdout
        assert "# Model card: tiny" in said
        assert "| target | T1w, 3 scans, intensities 100 to 500 |" in said
        assert "| data and licence | not noted |" in said


class TestAdd:
    def test_a_folder_is_used_by_its_name(
        self, command: Command, own: Path, scan: Path, out: Path, installed: Path
    ) -> None:
        (own / "log.txt").write_text("no part of the model")
        assert command("models", "add", own, "--name", "lab").stdout.strip() == str(
            installed / "lab"
        )
        assert not (installed / "lab" / "log.txt").exists()
        assert command("harmonize", scan, "-o", out, "--model", "lab").code == 0

    def test_an_address(self, command: Command, address: tuple[str, str], installed: Path) -> None:
        url, digest = address
        done = command("models", "add", url, "--sha256", digest)
        assert done.stdout.strip() == str(installed / "mine")
        assert command("models", "check", "mine").code == 0

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["OWN", "--name", "default"], "there is a model of it"),
            (["OWN", "--name", "../x"], "is no name"),
            (["URL"], "the SHA-256 of a file from the web must be given"),
            (["URL", "--sha256", "0" * 64], "hash of downloaded file"),
            (["nowhere"], "no model"),
        ],
    )
    def test_refusals_leave_nothing(
        self,
        command: Command,
        own: Path,
        address: tuple[str, str],
        installed: Path,
        words: list[str],
        said: str,
    ) -> None:
        given = {"OWN": str(own), "URL": address[0]}
        done = command("models", "add", *(given.get(word, word) for word in words))
        assert done.code == 1
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert not installed.exists() or not any(installed.iterdir())


class TestCheck:
    def test_whole(self, command: Command, own: Path) -> None:
        assert command("models", "check", own).stdout.strip().endswith("is whole.")

    def test_broken(self, command: Command, own: Path) -> None:
        (own / "weights.safetensors").write_bytes(b"other")
        done = command("models", "check", own)
        assert done.code == 1
        assert "not the weights that config.json names" in done.stderr
