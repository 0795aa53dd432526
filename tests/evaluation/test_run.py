"""The whole evaluation on drawn heads: small, but through every part that a user meets."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fixtures_pipeline import RAS, head, head_image
from isochroma.cli import app
from isochroma.errors import InputError
from isochroma.evaluation.measuring import measure_scan
from isochroma.evaluation.methods import N4, Blur, Command, TargetMean
from isochroma.evaluation.phantoms.travelling import write_study
from isochroma.evaluation.plan import Budget, Plan, make_plan
from isochroma.evaluation.run import evaluate
from isochroma.evaluation.summary import Summary
from isochroma.evaluation.tools import fit_tools
from isochroma.evaluation.workspace import Workspace

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
def result(study: Path) -> tuple[Path, Summary]:
    out = study.parent / "report"
    copy = Command("copy", "cp {input} {output}")
    broken = Command("broken", "false {input} {output}")
    methods = [TargetMean(), copy, broken, Blur()]  # the verdict is about the last one
    return out, evaluate(study, out, methods, budget=BUDGET)


def value(out: Path, part: str, measure: str, method: str) -> float:
    table = pd.read_csv(out / "results.csv")
    found = table[
        (table["part"] == part) & (table["measure"] == measure) & (table["method"] == method)
    ]
    assert len(found), (part, measure, method)
    return float(found["value"].mean())


class TestEvaluation:
    def test_truth_is_the_measure_and_blur_is_further_from_it(
        self, result: tuple[Path, Summary]
    ) -> None:
        out, _ = result
        table = pd.read_csv(out / "results.csv")
        own = table[(table["scan"] == "truth") & (table["method"] == "N4")]
        scores = own[own["part"] == "truth"].set_index("measure")["value"]
        assert scores["ssim"] == pytest.approx(1, abs=1e-3)
        assert "psnr" not in scores  # infinite: left out
        assert value(out, "truth", "psnr", "N4") > value(out, "truth", "psnr", "blur") + 3

    def test_a_command_that_copies_scores_as_n4(self, result: tuple[Path, Summary]) -> None:
        out, _ = result
        for part, measure in (("truth", "ssim"), ("segmentation", "dice mean"), ("pairs", "ncc")):
            corrected = value(out, part, measure, "N4")
            assert value(out, part, measure, "copy") == pytest.approx(corrected, abs=0.01)

    def test_n4_keeps_all_anatomy_and_blur_does_not(self, result: tuple[Path, Summary]) -> None:
        out, _ = result
        assert value(out, "anatomy", "edges kept", "N4") == 1
        assert value(out, "anatomy", "edges invented", "N4") == 0
        assert value(out, "anatomy", "local ncc", "N4") == pytest.approx(1, abs=1e-3)
        assert value(out, "anatomy", "local ncc", "blur") < 0.99
        assert value(out, "closeness", "change", "N4") == 0

    def test_repetitions_of_one_person_are_paired(self, result: tuple[Path, Summary]) -> None:
        out, _ = result
        table = pd.read_csv(out / "results.csv")
        pairs = table[table["part"] == "pairs"]
        assert set(pairs["group"]) == {"rescan"}
        assert value(out, "pairs", "ncc", "N4") > 0.85
        # The mean head looks the same whatever is put in: agreement alone proves nothing.
        assert value(out, "pairs", "ncc", "target mean") > 0.99

    def test_a_failing_method_is_listed_and_the_rest_goes_on(
        self, result: tuple[Path, Summary]
    ) -> None:
        out, summary = result
        failed = {(each.scan, each.method) for each in summary.failures}
        assert failed == {("s0", "broken"), ("s1", "broken"), ("truth", "broken")}
        assert "broken" not in set(pd.read_csv(out / "results.csv")["method"])

    def test_an_outside_segmenter(
        self, study: Path, result: tuple[Path, Summary], tmp_path: Path
    ) -> None:
        """One by thresholds: of equal histograms it makes regions of equal volume."""
        (tmp_path / "cache").symlink_to(result[0] / "cache")
        change = "x = np.digitize(i.get_fdata(), [1, 400, 656]).astype('u1')"
        save = "nib.save(nib.Nifti1Image(x, i.affine), sys.argv[2])"
        script = f"import sys, nibabel as nib, numpy as np; i = nib.load(sys.argv[1]); {change}; "
        segmenter = shlex.join([sys.executable, "-c", script + save]) + " {input} {output}"
        summary = evaluate(study, tmp_path, [], budget=BUDGET, segmenter=segmenter)
        assert summary.failures == []
        assert f"regions: of 2 scans, by `{segmenter}`." in summary.notes
        assert value(tmp_path, "regions", "cv", "histogram matching") < 1
        assert value(tmp_path, "regions", "cv", "N4") > 3
        assert value(tmp_path, "regions", "dice", "raw") > 0.95
        table = pd.read_csv(tmp_path / "regions.csv")
        assert set(table["scan"]) == {"s0", "s1"}
        assert set(table["label"]) == {1, 2, 3}
        assert "Regions by an outside segmenter" in (tmp_path / "report.html").read_text()

    def test_report_is_one_page_with_everything(self, result: tuple[Path, Summary]) -> None:
        out, summary = result
        page = (out / "report.html").read_text()
        for title in ("Truth known", "one person, scanned twice", "Anatomy kept", "segmentation"):
            assert title in page
        assert "data:image/png;base64," in page
        assert page.index('id="verdict"') < page.index('id="worst"') < page.index('id="truth"')
        assert re.search(r"<b>Anatomy kept\.</b> [^<]*[Ww]orse in [1-9]", page)
        assert page.count("data:image/jpeg;base64,") == 3  # each scan, with the truth
        assert "blur against the best of raw, N4, histogram matching, copy." in page
        assert "http://" not in page
        assert "https://" not in page
        assert "no site has 20 people of known age" in page
        assert "broken failed with exit code 1" in page
        assert json.loads((out / "summary.json").read_text())["records"] == summary.records

    def test_a_second_run_computes_nothing_anew(
        self, study: Path, result: tuple[Path, Summary], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out, first = result
        methods = [TargetMean(), Command("copy", "cp {input} {output}"), Blur()]

        def never(*_: object) -> None:
            message = "computed again"
            raise AssertionError(message)

        monkeypatch.setattr(Blur, "apply", never)
        monkeypatch.setattr(Command, "apply", never)
        again = evaluate(study, out, methods, budget=BUDGET, jobs=1)  # in this process
        assert again.failures == []
        kept = [r for r in again.records if r["part"] != "audit"]
        known = [r for r in first.records if r["part"] != "audit"]
        assert kept == known

    def test_a_corrected_label_is_measured_anew(
        self, study: Path, result: tuple[Path, Summary]
    ) -> None:
        """The output of the scan is kept, its Dice is not."""
        out, _ = result
        before = value(out, "segmentation", "dice mean", "N4")
        plan = make_plan(study, out, [], budget=BUDGET, jobs=1)
        scan = plan.work.scans[0]
        data, mask = head(seed=5)
        labels = np.where(mask, 3 - np.digitize(data, [400, 750]), 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(labels, RAS), study.parent / "other.nii.gz")
        changed = dataclasses.replace(scan, tissues=study.parent / "other.nii.gz")
        work = Workspace(plan.work.train, [changed], out / "cache", 0)
        tools = fit_tools(work, BUDGET.segmenter_steps)
        found = measure_scan(dataclasses.replace(plan, work=work), N4(), changed, tools)
        dice = {row.measure: row.value for row in found.rows if row.part == "segmentation"}
        assert abs(dice["dice mean"] - before) > 0.01


class TestCommandLine:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["evaluate", "none.tsv", "-o", "x"], "no such study"),
            (["evaluate", "STUDY", "-o", "x", "--method", "raw", "--command", "cp"], "NAME="),
            (["evaluate", "STUDY", "-o", "x", "--segmenter", "cp {input}"], "--segmenter"),
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

        def stop(plan: Plan) -> None:
            limited.append(set(plan.only_core))
            message = "stop here"
            raise InputError(message)

        monkeypatch.setattr("isochroma.evaluation.run.prepare_scans", stop)
        words = ["evaluate", str(study), "-o", str(tmp_path), "--method", "zscore"]
        words += ["--command", "copy=cp {input} {output}", "--core", "copy", "--core", "zscore"]
        assert "stop here" in str(CliRunner().invoke(app, words).exception)
        assert limited == [{"copy", "z-score"}]

    def test_no_audit(self, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        budgets: list[Budget] = []

        def stop(plan: Plan) -> None:
            budgets.append(plan.budget)
            message = "stop here"
            raise InputError(message)

        monkeypatch.setattr("isochroma.evaluation.run.prepare_scans", stop)
        words = ["evaluate", str(study), "-o", str(tmp_path), "--method", "zscore"]
        for more in ([], ["--no-audit"]):
            assert "stop here" in str(CliRunner().invoke(app, [*words, *more]).exception)
        assert [(b.permutations > 0, b.convnet_permutations > 0) for b in budgets] == [
            (True, True),
            (False, False),
        ]
