"""Files appear whole or not at all, together or none."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from isochroma import files
from isochroma.errors import InputError
from isochroma.files import alone, replacing


class TestWriteAtomically:
    def test_content_and_suffix(self, tmp_path: Path) -> None:
        seen = []

        def write(temporary: Path) -> None:
            seen.append(temporary)
            temporary.write_text("whole")

        path = files.write_atomically(tmp_path / "new" / "a.nii.gz", write)
        assert path.read_text() == "whole"
        assert seen[0].name == "a.nii.gz"
        assert seen[0] != path
        assert list(tmp_path.rglob("*")) == [tmp_path / "new", path]

    @pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
    def test_nothing_left_when_the_writer_raises(
        self, tmp_path: Path, kind: type[BaseException]
    ) -> None:
        def write(temporary: Path) -> None:
            temporary.write_text("half")
            raise kind

        with pytest.raises(kind):
            files.write_atomically(tmp_path / "a.nii", write)
        assert list(tmp_path.iterdir()) == []

    def test_the_old_file_survives(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text("old")

        def write(temporary: Path) -> None:
            temporary.write_text("half")
            assert path.read_text() == "old"
            raise OSError

        with pytest.raises(OSError):
            files.write_atomically(path, write)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_the_old_file_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text("old")
        files.write_atomically(path, lambda temporary: temporary.write_text("new"))
        assert path.read_text() == "new"


class TestWriteTogether:
    def test_all_of_them(self, tmp_path: Path) -> None:
        targets = [tmp_path / "a" / "one.txt", tmp_path / "b" / "two.json"]
        files.write_together({path: lambda part: part.write_text(part.name) for path in targets})
        assert [path.read_text() for path in targets] == ["one.txt", "two.json"]
        assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == targets

    def test_none_if_the_last_fails(self, tmp_path: Path) -> None:
        old = tmp_path / "one.txt"
        old.write_text("old")

        def fail(part: Path) -> None:
            part.write_text("half")
            raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space left"):
            files.write_together({old: lambda p: p.write_text("new"), tmp_path / "two": fail})
        assert old.read_text() == "old"
        assert list(tmp_path.iterdir()) == [old]


def test_sha256(tmp_path: Path) -> None:
    """FIPS 180-2, appendix B.1."""
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert files.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


class TestAlone:
    def test_a_second_run_is_refused(self, tmp_path: Path) -> None:
        with alone(tmp_path / "run"):
            with (
                pytest.raises(InputError, match="another run is working here") as caught,
                alone(tmp_path / "run"),
            ):
                pass
            assert caught.value.argument == "output"
        with alone(tmp_path / "run"):
            pass

    def test_leavings_are_removed(self, tmp_path: Path) -> None:
        command = [sys.executable, "-c", "import os; print(os.getpid())"]
        pid = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        left = tmp_path / "cache" / "case" / "0a" / f".isochroma-{platform.node()}-{pid}-abc"
        left.mkdir(parents=True)
        with alone(tmp_path):
            assert not left.exists()


class TestReplacing:
    def test_the_old_folder_is_replaced(self, tmp_path: Path) -> None:
        for text in ("old", "new"):
            with replacing(tmp_path / "a") as work:
                (work / f"{text}.txt").write_text(text)
        assert [path.name for path in tmp_path.rglob("*")] == ["a", "new.txt"]

    def test_what_a_killed_run_left_is_removed(self, tmp_path: Path) -> None:
        code = (
            "import os, pathlib, sys; from isochroma.files import replacing\n"
            "with replacing(pathlib.Path(sys.argv[1]) / 'a') as work:\n"
            f"    (work / 'half').touch(); os.kill(os.getpid(), {int(signal.SIGKILL)})"
        )
        path = os.pathsep.join(sys.path)
        command = [sys.executable, "-c", code, str(tmp_path)]
        killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": path})
        assert killed.returncode == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 1
        with replacing(tmp_path / "a") as work:
            (work / "whole").touch()
        assert [path.name for path in tmp_path.rglob("*")] == ["a", "whole"]
