"""The command's frame: errors, options, help, logging, and the command as its own process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import pytest
import SimpleITK as sitk
import torch
import typer
from typer.testing import CliRunner

import isochroma
from fixtures_cli import Command, names, unframed
from isochroma import cli
from isochroma.cli.app import explain, names_in, require
from isochroma.errors import InputError
from isochroma.method import edges, flow


def help_of(*words: str) -> str:
    """The help of a command, as one line without the frames."""
    result = CliRunner().invoke(cli.app, [*words, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    return unframed(result.output)


class TestErrors:
    @pytest.fixture
    def params(self) -> list:
        return typer.main.get_command(cli.app).commands["harmonize"].params

    @pytest.mark.parametrize(
        ("argument", "option"),
        [("mask", "--mask"), ("output", "--output"), ("n4", "--n4"), ("overwrite", "--overwrite")],
    )
    def test_option_of_the_argument_at_fault(
        self, params: list, argument: str, option: str
    ) -> None:
        assert explain(InputError("no.", argument), params) == f"no. (option {option})"

    @pytest.mark.parametrize("argument", [None, "scans", "colour"])
    def test_an_argument_without_an_option(self, params: list, argument: str | None) -> None:
        assert explain(InputError("no.", argument), params) == "no."

    def test_missing_extra(self) -> None:
        with pytest.raises(InputError) as caught:
            require("evaluate", "isochroma_of_tomorrow")
        assert str(caught.value) == (
            "this needs the package isochroma_of_tomorrow. Run: pip install 'isochroma[evaluate]'"
        )


class TestVerbose:
    """A traceback is shown with -v, and not without."""

    def test_refusal(self, command: Command, tmp_path: Path, out: Path, model: Path) -> None:
        words = ("harmonize", tmp_path / "gone.nii", "-o", out, "--model", model)
        quiet, verbose = command(*words), command(*words, "-v")
        assert quiet.is_refusal("no such file")
        assert verbose.code == 1
        assert "Traceback" in verbose.stderr
        assert "in load" in verbose.stderr
        assert verbose.stderr.splitlines()[-1] == quiet.stderr.strip()

    def test_refused_option(self, command: Command, scan: Path, out: Path) -> None:
        words = ("harmonize", scan, "-o", out, "--model", "vermeer")
        assert command(*words).is_refusal("no model 'vermeer'")
        assert "in find_model" in command(*words, "--verbose").stderr
        assert command(*words).is_refusal("no model 'vermeer'")  # it is no state

    def test_disk(
        self,
        command: Command,
        scan: Path,
        out: Path,
        model: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def full(*given: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(nib, "save", full)
        words = ("harmonize", scan, "-o", out, "--model", model)
        assert command(*words).is_refusal("Check the disk's space and permissions")
        assert "in write_together" in command(*words, "-v").stderr


class TestThreads:
    @pytest.fixture(autouse=True)
    def restored(self) -> Iterator[None]:
        before = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
        yield
        torch.set_num_threads(before[0])
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before[1])

    def test_of_torch_and_simpleitk(self, command: Command, tmp_path: Path, out: Path) -> None:
        for threads in (2, 1):
            gone = tmp_path / "gone.nii"
            command("harmonize", gone, "-o", out, "--model", "vermeer", "--threads", threads)
            assert torch.get_num_threads() == threads
            assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == threads

    def test_none_is_no_number(self, command: Command, scan: Path, out: Path) -> None:
        assert command("harmonize", scan, "-o", out, "--threads", 0).code == 2


class TestRegistries:
    def test_help_lists_the_names(self) -> None:
        shown = help_of("harmonize")
        for registry in (
            "euler|midpoint|heun",
            "local|paper|none",
            "float32|bfloat16",
            "zero|source",
        ):
            assert registry in shown

    def test_what_a_registry_gains_can_be_chosen(
        self,
        command: Command,
        scan: Path,
        out: Path,
        model: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(flow.SOLVERS, "forward", flow.SOLVERS["euler"])
        done = command("harmonize", scan, "-o", out, "--model", model, "--solver", "forward")
        assert done.code == 0
        assert '"solver": "forward"' in (out / "sub-01_T1w_harmonized.json").read_text()

    def test_others_cannot(self, command: Command, scan: Path, out: Path) -> None:
        done = command("harmonize", scan, "-o", out, "--solver", "rk4")
        assert done.code == 2
        assert "'rk4' is unknown; choose from euler, midpoint, heun." in unframed(done.stderr)
        assert not out.exists()

    def test_names_are_read_when_they_are_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(edges.DETECTORS, "sobel", edges.DETECTORS["canny"])
        assert names_in("isochroma.method.edges:DETECTORS") == ["canny", "sobel"]


class TestHelp:
    def test_every_command(self) -> None:
        shown = help_of()
        for name in ("harmonize", "train", "evaluate", "simulate", "bench", "models"):
            assert f" {name} " in shown
            assert "Usage" in help_of(name)
        assert "--install-completion" in shown

    def test_defaults_and_groups_are_shown(self) -> None:
        shown = help_of("harmonize")
        for part in ("[default: 8.0]", "(default: euler; with --paper midpoint)"):
            assert part in shown
        for group in ("Input", "Sampling", "Compute", "Output"):
            assert f" {group} " in shown


class TestProcess:
    """The installed command, in its own process."""

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "isochroma", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_version(self) -> None:
        installed = [str(Path(sys.executable).with_name("isochroma")), "--version"]
        expected = f"isochroma {isochroma.__version__}\n"
        assert subprocess.run(installed, capture_output=True, text=True).stdout == expected
        assert self.run("--version").stdout == expected

    def test_one_scan_and_one_that_is_missing(self, scan: Path, out: Path, model: Path) -> None:
        gone = scan.with_name("gone.nii.gz")
        done = self.run("harmonize", gone, scan, "-o", out, "--model", model, "--device", "cpu")
        assert done.returncode == 1
        assert done.stdout == f"{out / 'sub-01_T1w_harmonized.nii.gz'}\n"
        assert done.stderr.splitlines() == [
            f"isochroma: {gone}: no such file. Check the path.",
            "isochroma: 2 scans: 1 done, 1 failed.",
        ]
        assert len(names(out)) == 3

    def test_help_and_version_import_nothing_heavy(self) -> None:
        code = (
            "import sys; from typer.testing import CliRunner; from isochroma.cli import app\n"
            "for words in (['--help'], ['-h'], ['--version']):\n"
            "    result = CliRunner().invoke(app, words)\n"
            "    assert result.exit_code == 0 and 'sochroma' in result.output, result.output\n"
            "heavy = {'torch', 'numpy', 'nibabel', 'scipy', 'SimpleITK', 'lightning', 'deepbet'}\n"
            "print(sorted(heavy & set(sys.modules)))\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "[]"
