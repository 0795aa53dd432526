"""The whole evaluation on drawn heads: small, but through every part that a user meets."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fixtures_pipeline import RAS, head, head_image
from isochroma.cli import app
from isochroma.errors import InputError
from isochroma.evaluation.measuring import Budget
from isochroma.evaluation.methods import Blur, Command, Raw, TargetMean
from isochroma.evaluation.phantoms.travelling import write_study
from isochroma.evaluation.run import Evaluation, measure_scan

BUDGET = Budget(segmenter_steps=2, permutations=5, convnet_permutations=0, resamples=100)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three target scans; a source scan with labels, lesions and truth, and its repetition."""
    folder = tmp_path_factory.mktemp("study")
    rows = []
    for seed in range(3):
        nib.save(head_image(seed=seed), folder / f"t{seed}.nii.gz")
        rows.append({"path": f"t{seed}.nii.gz", "site": "T", "split": "train", "age": 30 + seed})
    data, mask = head(seed=5)
    labels = np.where(mask, np.digitize(data, [400, 750]) + 1, 0).astype(np.uint8)
    lesions = np.zeros(mask.shape, np.uint8)
    lesions[28:32, 28:32, 15:19] = 1
    nib.save(head_image(seed=5), folder / "truth.nii.gz")
    nib.save(nib.Nifti1Image(labels, RAS), folder / "labels.nii.gz")
    nib.save(nib.Nifti1Image(lesions, RAS), folder / "lesions.nii.gz")
    for name, power in (("s0", 0.6), ("s1", 0.7)):
        source = np.where(mask, 1000 * (data / 1050) ** power, 0).astype(np.float32)
        nib.save(nib.Nifti1Image(source, RAS), folder / f"{name}.nii.gz")
        rows.append(
            {
                "path": f"{name}.nii.gz",
                "site": "S",
                "person": "s",
                "age": 40,
                "truth": "truth.nii.gz",
                "tissues": "labels.nii.gz",
                "lesions": "lesions.nii.gz",
                "core": "yes" if name == "s0" else "",
            }
        )
    rows.append({"path": "truth.nii.gz", "site": "T", "split": "test", "truth": "truth.nii.gz"})
    write_study(folder / "study.tsv", rows)
    return folder / "study.tsv"


@pytest.fixture(scope="module")
def result(study: Path) -> tuple[Path, dict]:
    out = study.parent / "report"
    out.mkdir()
    copy = Command("copy", "cp {input} {output}")
    broken = Command("broken", "false {input} {output}")
    methods = [Blur(), TargetMean(), copy, broken]
    return out, Evaluation(study, out, methods, budget=BUDGET).run()


def value(out: Path, part: str, measure: str, method: str) -> float:
    table = pd.read_csv(out / "results.csv")
    found = table[
        (table["part"] == part) & (table["measure"] == measure) & (table["method"] == method)
    ]
    assert len(found), (part, measure, method)
    return float(found["value"].mean())


class TestEvaluation:
    def test_truth_is_the_measure_and_blur_is_further_from_it(
        self, result: tuple[Path, dict]
    ) -> None:
        out, _ = result
        table = pd.read_csv(out / "results.csv")
        own = table[(table["scan"] == "truth") & (table["method"] == "raw")]
        scores = own[own["part"] == "truth"].set_index("measure")["value"]
        assert scores["ssim"] == pytest.approx(1, abs=1e-3)
        assert "psnr" not in scores  # infinite: left out
        assert value(out, "truth", "psnr", "raw") > value(out, "truth", "psnr", "blur") + 3

    def test_a_command_that_copies_scores_as_raw(self, result: tuple[Path, dict]) -> None:
        out, _ = result
        for part, measure in (("truth", "ssim"), ("segmentation", "dice mean"), ("pairs", "ncc")):
            raw = value(out, part, measure, "raw")
            assert value(out, part, measure, "copy") == pytest.approx(raw, abs=0.01)

    def test_raw_keeps_all_anatomy_and_blur_does_not(self, result: tuple[Path, dict]) -> None:
        out, _ = result
        assert value(out, "anatomy", "edges kept", "raw") == 1
        assert value(out, "anatomy", "edges invented", "raw") == 0
        assert value(out, "anatomy", "local ncc", "raw") == pytest.approx(1, abs=1e-3)
        assert value(out, "anatomy", "local ncc", "blur") < 0.99
        assert value(out, "closeness", "change", "raw") == 0

    def test_repetitions_of_one_person_are_paired(self, result: tuple[Path, dict]) -> None:
        out, _ = result
        table = pd.read_csv(out / "results.csv")
        pairs = table[table["part"] == "pairs"]
        assert set(pairs["group"]) == {"rescan"}
        assert value(out, "pairs", "ncc", "raw") > 0.85
        # The mean head looks the same whatever is put in: agreement alone proves nothing.
        assert value(out, "pairs", "ncc", "target mean") > 0.99

    def test_a_failing_method_is_listed_and_the_rest_goes_on(
        self, result: tuple[Path, dict]
    ) -> None:
        out, summary = result
        failed = {(f["scan"], f["method"]) for f in summary["failures"]}
        assert failed == {("s0", "broken"), ("s1", "broken"), ("truth", "broken")}
        assert "broken" not in set(pd.read_csv(out / "results.csv")["method"])

    def test_report_is_one_page_with_everything(self, result: tuple[Path, dict]) -> None:
        out, summary = result
        page = (out / "report.html").read_text()
        for title in ("Truth known", "one person, scanned twice", "Anatomy kept", "segmentation"):
            assert title in page
        assert "data:image/png;base64," in page
        assert "http://" not in page
        assert "https://" not in page
        assert "fewer than 20 target scans" in page
        assert "broken failed with exit code 1" in page
        assert json.loads((out / "summary.json").read_text())["records"] == summary["records"]

    def test_a_second_run_computes_nothing_anew(
        self, study: Path, result: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out, first = result
        methods = [Blur(), TargetMean(), Command("copy", "cp {input} {output}")]

        def never(*_: object) -> None:
            message = "computed again"
            raise AssertionError(message)

        monkeypatch.setattr(Blur, "apply", never)
        monkeypatch.setattr(Command, "apply", never)
        again = Evaluation(study, out, methods, budget=BUDGET, jobs=1).run()  # in this process
        assert again["failures"] == []
        kept = [r for r in again["records"] if r["part"] != "audit"]
        known = [r for r in first["records"] if r["part"] != "audit"]
        assert kept == known

    def test_core_limits_slow_methods(self, study: Path, tmp_path: Path) -> None:
        evaluation = Evaluation(study, tmp_path, [Blur()], ["blur"], BUDGET)
        assert [scan.scan for scan in evaluation.scans_of(Blur())] == ["s0"]
        with pytest.raises(InputError, match="'nothing' is not among the methods"):
            Evaluation(study, tmp_path, [Blur()], ["nothing"], BUDGET)

    def test_a_corrected_age_is_measured_anew(
        self, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def measures(case, values, given, tools, classical, key, budget):  # type: ignore[no-untyped-def]
            return {"age": {"error": case.scan.age}}

        monkeypatch.setattr("isochroma.evaluation.run.measures", measures)
        evaluation = Evaluation(study, tmp_path, [Blur()], [], BUDGET)
        for age in (30.0, 40.0):
            scan = dataclasses.replace(evaluation.scans[0], age=age)
            found = measure_scan(evaluation.work, Raw(), scan, None, BUDGET)  # type: ignore[arg-type]
            assert found[-1].values == {"error": age}

    def test_outputs_are_kept_under_the_code_that_makes_them(
        self, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        work = Evaluation(study, tmp_path, [Blur()], [], BUDGET).work
        before = work.key(Blur())
        monkeypatch.setattr("isochroma.evaluation.workspace.code", lambda kind: "changed")
        assert work.key(Blur()) != before


class TestCommandLine:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["evaluate", "none.tsv", "-o", "x"], "no such study"),
            (["evaluate", "STUDY", "-o", "x", "--method", "magic"], "method 'magic' is unknown"),
            (["evaluate", "STUDY", "-o", "x", "--method", "raw", "--command", "cp"], "NAME="),
            (["simulate", "STUDY", "-o", "x", "--preset", "7T"], "preset '7T' is unknown"),
        ],
    )
    def test_errors_are_one_line(
        self, study: Path, tmp_path: Path, words: list[str], said: str
    ) -> None:
        words = [str(study) if word == "STUDY" else word for word in words]
        words = [str(tmp_path / "x") if word == "x" else word for word in words]
        done = CliRunner().invoke(app, words)
        assert isinstance(done.exception, InputError)
        assert said in str(done.exception)

    def test_core_knows_methods_and_commands(
        self, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limited: list[set[str]] = []

        def stop(evaluation: Evaluation, progress: object) -> None:
            limited.append(evaluation.only_core)
            message = "stop here"
            raise InputError(message)

        monkeypatch.setattr(Evaluation, "run", stop)
        words = ["evaluate", str(study), "-o", str(tmp_path), "--method", "zscore"]
        words += ["--command", "copy=cp {input} {output}", "--core", "copy", "--core", "zscore"]
        assert "stop here" in str(CliRunner().invoke(app, words).exception)
        assert limited == [{"copy", "z-score"}]

    def test_simulate_writes_a_study(self, study: Path, tmp_path: Path) -> None:
        source = str(study.parent / "t0.nii.gz")
        words = ["simulate", source, "-o", str(tmp_path), "--preset", "tse-t2-3T"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        with (tmp_path / "study.tsv").open(newline="") as stream:
            (row,) = csv.DictReader(stream, delimiter="\t")
        assert row["preset"] == "tse-t2-3T"
        assert row["truth"] == source
        assert Path(row["path"]).is_file()

    def test_simulated_twins_meet_in_one_study(self, study: Path, tmp_path: Path) -> None:
        """With a target row added, the study is valid; scans with lesions find their twin."""
        words = ["simulate", str(study.parent / "t0.nii.gz"), "-o", str(tmp_path)]
        for extra in ([], ["--lesions"]):
            done = CliRunner().invoke(app, [*words, "--preset", "tse-t2-3T", *extra])
            assert done.exit_code == 0, done.output
        with (tmp_path / "study.tsv").open(newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        target = {"path": study.parent / "t1.nii.gz", "site": "target", "split": "train"}
        write_study(tmp_path / "study.tsv", [target, *rows])
        evaluation = Evaluation(tmp_path / "study.tsv", tmp_path / "report", [Blur()], [], BUDGET)
        plain, lesioned = evaluation.scans
        assert {plain.person, lesioned.person} == {"t0"}
        case = evaluation.work.case(lesioned)
        assert evaluation.work.healthy(Blur(), case) is not None
