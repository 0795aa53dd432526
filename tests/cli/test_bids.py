"""`isochroma bids`: a BIDS data set in, a BIDS derivative out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from distributed import Client

from fixtures_cli import Command
from fixtures_cohort import make_bids, thread_workers
from fixtures_pipeline import head
from isochroma import cli
from isochroma.tables import read_table

SCANS = [
    "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz",
    "sub-01/ses-2/anat/sub-01_ses-2_run-1_T1w.nii.gz",
    "sub-02/anat/sub-02_T2w.nii.gz",
]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with thread_workers() as client:
        yield client


@pytest.fixture
def workers(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers in this process, which start quickly, instead of new processes."""

    class Connection(AbstractContextManager):
        def __enter__(self) -> Client:
            return client

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr("isochroma.cohort.cluster.local_workers", lambda *_: Connection())


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_bids(tmp_path / "bids", SCANS)


@pytest.fixture
def words(study: Path, out: Path, model: Path) -> tuple[object, ...]:
    return ("bids", study, out, "participant", "--model", model)


def listing(folder: Path) -> dict[str, int]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in found}


def outputs(folder: Path) -> dict[str, int]:
    return {name: time for name, time in listing(folder).items() if "/anat/" in name}


def validator_errors(folder: Path) -> list[str]:
    program = shutil.which("bids-validator-deno", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("bids-validator-deno is not installed")
    words = [program, str(folder), "--format", "json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    return [f"{each['code']} {each['location']}" for each in issues if each["severity"] == "error"]


@pytest.mark.usefixtures("workers")
class TestParticipant:
    def test_layout(self, command: Command, words: tuple, study: Path, out: Path) -> None:
        before = listing(study)
        done = command(*words)
        assert done.code == 0
        assert "4 scans: 4 done." in done.stderr
        assert listing(study) == before
        stems = {
            "sub-01/ses-1/anat/sub-01_ses-1": ["", "FLAIR"],
            "sub-01/ses-2/anat/sub-01_ses-2_run-1": [""],
            "sub-02/anat/sub-02": ["T2w"],
        }
        expected = {
            f"{stem}_desc-{name}{ending}"
            for stem, origins in stems.items()
            for origin in origins
            for name in (f"harmonized{origin}_T1w", f"brain{origin}_mask")
            for ending in (".nii.gz", ".json")
        }
        assert outputs(out).keys() == expected
        image = nib.load(out / "sub-02/anat/sub-02_desc-harmonizedT2w_T1w.nii.gz")
        np.testing.assert_array_equal(image.affine, nib.load(study / SCANS[-1]).affine)
        assert (np.asarray(image.dataobj)[~head(seed=3)[1]] == 0).all()
        sidecar = json.loads((out / "sub-02/anat/sub-02_desc-harmonizedT2w_T1w.json").read_text())
        assert sidecar["Sources"] == ["bids:raw:sub-02/anat/sub-02_T2w.nii.gz"]
        assert sidecar["SkullStripped"] is True
        assert sidecar["Model"] == "tiny"
        mask = json.loads((out / "sub-02/anat/sub-02_desc-brainT2w_mask.json").read_text())
        assert mask["Type"] == "Brain"
        assert mask["Sources"] == sidecar["Sources"]
        log = next((out / "logs").glob("*.log")).read_text().splitlines()
        assert sum(" done sub-" in line for line in log) == 4
        assert "4 scans: 4 done." in log[-1]

    def test_is_valid(self, command: Command, words: tuple, study: Path, out: Path) -> None:
        (study / "sub-02/anat/sub-02_acq-bad_T1w.nii.gz").write_bytes(bytes(2000))
        assert command(*words).code == 1  # so that there is a failure in the logs, too
        assert command("bids", study, out, "group").code == 0
        (study / "sub-02/anat/sub-02_acq-bad_T1w.nii.gz").unlink()
        assert validator_errors(study) == []
        assert validator_errors(out) == []

    def test_does_what_is_missing_changed_or_failed(
        self, command: Command, words: tuple, study: Path, out: Path
    ) -> None:
        broken = study / "sub-02/anat/sub-02_acq-x_T1w.nii.gz"
        broken.write_bytes(b"no image" * 1000)
        done = command(*words)
        assert done.code == 1
        assert "5 scans: 4 done, 1 failed." in done.stderr
        reason = (out / "logs/failed/sub-02_acq-x_T1w.txt").read_text()
        assert "cannot be read" in reason
        before = outputs(out)
        changed, mended = study / SCANS[0], study / SCANS[1]
        changed.write_bytes((study / SCANS[2]).read_bytes())
        broken.write_bytes(mended.read_bytes())
        (out / "sub-02/anat/sub-02_desc-harmonizedT2w_T1w.json").unlink()
        again = command(*words)
        assert again.code == 0
        assert "5 scans: 3 done, 2 already there." in again.stderr
        assert list((out / "logs/failed").iterdir()) == []
        after = outputs(out)
        untouched = {name for name, time in before.items() if after[name] == time}
        assert {name.rpartition("/")[2].split("_desc")[0] for name in untouched} == {
            "sub-01_ses-1",  # the FLAIR
            "sub-01_ses-2_run-1",
        }
        assert "sub-02/anat/sub-02_acq-x_desc-harmonized_T1w.nii.gz" in after
        assert "5 already there" in command(*words).stderr

    def test_other_settings_are_another_result(self, command: Command, words: tuple) -> None:
        assert command(*words, "--modalities", "T2w").code == 0
        again = command(*words, "--modalities", "T2w", "--seed", 1)
        assert "1 scans: 1 done." in again.stderr

    def test_grid_and_surroundings(self, command: Command, words: tuple, out: Path) -> None:
        options = ("--modalities", "T2w", "--grid", "model", "--outside", "source")
        assert command(*words, *options).code == 0
        name = "sub-02/anat/sub-02_desc-harmonizedT2w_T1w"
        assert nib.load(out / f"{name}.nii.gz").header.get_zooms() == (2, 2, 2)
        sidecar = json.loads((out / f"{name}.json").read_text())
        assert (sidecar["Grid"], sidecar["OutsideMask"]) == ("model", "source")

    def test_scans_of_a_session_together(
        self, command: Command, study: Path, out: Path, second_pass_model: Path
    ) -> None:
        shutil.copyfile(study / SCANS[0], study / SCANS[1])
        words = ("bids", study, out, "participant", "--model", second_pass_model, "--together")
        done = command(*words, "--nprocs", 1)
        assert "3 scans: 3 done" in done.stderr
        name = "sub-01/ses-1/anat/sub-01_ses-1_desc-harmonizedTogether_T1w"
        sidecar = json.loads((out / f"{name}.json").read_text())
        assert sidecar["Sources"] == [
            "bids:raw:sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
            "bids:raw:sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz",
        ]
        assert [each["share"] for each in sidecar["Together"]] == pytest.approx([0.5, 0.5])
        assert (out / "sub-02/anat/sub-02_desc-harmonizedT2w_T1w.nii.gz").is_file()
        assert "3 already there" in command(*words).stderr
        assert validator_errors(out) == []

    def test_selection(self, command: Command, words: tuple, out: Path) -> None:
        selected = ("--modalities", "T1w", "T2w", "--participant-label", "sub-01", "02")
        assert command(*words, *selected, "--session-id", "2").code == 0
        assert {name.split("_desc")[0] for name in outputs(out)} == {
            "sub-01/ses-2/anat/sub-01_ses-2_run-1"
        }

    def test_filter_file(self, command: Command, words: tuple, tmp_path: Path, out: Path) -> None:
        path = tmp_path / "filter.json"
        path.write_text(json.dumps({"t1w": {"run": None}, "t2w": {"subject": "none"}}))
        assert command(*words, "--bids-filter-file", path).code == 0
        assert {name.rpartition("/")[2].split("_")[1] for name in outputs(out)} == {"ses-1"}

    def test_not_fetched(self, command: Command, words: tuple, study: Path, out: Path) -> None:
        (study / SCANS[-1]).unlink()
        (study / SCANS[-1]).symlink_to("../../.git/annex/objects/key")
        done = command(*words)
        assert done.code == 1
        assert f"isochroma: not fetched {SCANS[-1]}" in done.stderr
        assert "3 done, 1 not fetched." in done.stderr
        assert "Fetch it" in (out / "logs/failed/sub-02_T2w.txt").read_text()

    def test_dry_run(self, command: Command, words: tuple, study: Path, out: Path) -> None:
        (study / "sub-02/anat/sub-02_part-phase_T2w.nii.gz").touch()
        assert command(*words, "--modalities", "FLAIR").code == 0
        before = listing(out)
        done = command(*words, "--dry-run")
        assert done.code == 0
        assert listing(out) == before
        rows = [line.split("\t") for line in done.stdout.splitlines()]
        assert [row[0] for row in rows] == ["already there", "to do", "to do", "to do", "left out"]
        assert rows[-1][1:] == [
            "sub-02/anat/sub-02_part-phase_T2w.nii.gz",
            "not a magnitude image",
        ]

    def test_group(self, command: Command, words: tuple, study: Path, out: Path) -> None:
        (study / "participants.tsv").write_text("participant_id\tsite\nsub-02\tB\n")
        assert command(*words).code == 0
        done = command("bids", study, out, "group")
        assert done.code == 0
        assert done.stdout.strip() == str(out / "group.html")
        rows = read_table(out / "group.tsv")
        assert [row["source"] for row in rows] == sorted(SCANS)
        assert [row["site"] for row in rows] == ["n/a", "n/a", "n/a", "B"]
        assert all(50 < float(row["white_matter_mode"]) < 600 for row in rows)
        agreements = [row["agreement"] for row in rows]
        assert -1 <= float(agreements[0]) == float(agreements[1]) <= 1  # of one session
        assert agreements[2:] == ["n/a", "n/a"]

    def test_pages(self, command: Command, words: tuple, out: Path) -> None:
        assert command(*words).code == 0
        page = (out / "sub-01.html").read_text()
        for told in ("session 1, FLAIR", "session 2, run 1, T1w", "Methods, to copy"):
            assert told in page
        figures = out / "sub-01/figures"
        shown = sorted(path.name for path in figures.glob("sub-01_ses-1_desc-harmonized_T1w*"))
        endings = ("harmonized.jpg", "mask.jpg", "report.json", "source.jpg", "view.js")
        assert shown == [f"sub-01_ses-1_desc-harmonized_T1w_{each}" for each in endings]
        shutil.rmtree(figures)
        before = outputs(out)
        assert "figures of 4 scans" in command(*words, "--reports-only").stderr
        assert len(list(figures.iterdir())) == 3 * len(endings)
        assert outputs(out) == before

    def test_a_page_that_fails_loses_no_scan(
        self, command: Command, words: tuple, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            msg = "no ink"
            raise OSError(msg)

        monkeypatch.setattr("isochroma.cohort.work.report_scan", fail)
        done = command(*words, "--modalities", "T2w")
        assert done.code == 0
        assert "no figures of sub-02/anat/sub-02_T2w.nii.gz: OSError: no ink" in done.stderr
        assert len(outputs(out)) == 4
        assert "The figures are missing" in (out / "sub-02.html").read_text()


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (
                ("--participant-label", "09"),
                "has no sub-09. Check the label. (option --part",
            ),
            (("--session-id", "9"), "has no ses-9. Check the label. (option --session-id)"),
            (("--mem", "0.5"), "too little"),
            (("--slurm", "x", "--scheduler", "tcp://y"), "Give one of them. (option --scheduler)"),
            (("--revise",), "(option --revise)"),
        ],
    )
    def test_options(
        self, command: Command, words: tuple, out: Path, options: tuple, reason: str
    ) -> None:
        assert command(*words, *options).is_refusal(reason)
        assert outputs(out) == {}

    def test_the_input_is_no_output(self, command: Command, study: Path, model: Path) -> None:
        done = command("bids", study, study, "participant", "--model", model)
        assert done.is_refusal("is the input")

    def test_an_option_without_a_value(self, command: Command, words: tuple) -> None:
        done = command(*words, "--modalities", "T1w", "--participant-label")
        assert done.code == 2
        assert "--participant-label" in done.stderr


def test_a_program_of_its_own(
    command: Command, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["isochroma-bids", "--version"])
    with pytest.raises(SystemExit) as stop:
        cli.bids_main()
    assert not stop.value.code
    assert capfd.readouterr().out.startswith("isochroma ")


def test_processes(command: Command, study: Path, out: Path, model: Path) -> None:
    """Real processes, each with its own copy of the model."""
    words = ("bids", study, out, "participant", "--model", model, "--nprocs", 2, "-v")
    done = command(*words, "--participant-label", "01")
    assert done.code == 0
    assert "3 scans: 3 done." in done.stderr
    assert len(outputs(out)) == 12
