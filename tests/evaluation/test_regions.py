from __future__ import annotations

import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from fixtures_pipeline import RAS, head, head_image
from isochroma.errors import InputError
from isochroma.evaluation.methods import Raw
from isochroma.evaluation.phantoms.travelling import write_study
from isochroma.evaluation.plan import make_plan, notes_on_regions
from isochroma.evaluation.regions import as_labels, measure_regions, rescan_rows
from isochroma.evaluation.results import Results, table_of
from isochroma.evaluation.study import Scan

START = "import sys, nibabel as nib, numpy as np; i = nib.load(sys.argv[1]); x = i.get_fdata(); "
END = "; nib.save(nib.Nifti1Image(np.asarray(x, {}), i.affine), sys.argv[2])"


def command(change: str, dtype: str = "'u1'") -> str:
    """A program that reads x from its input, changes it, and writes it."""
    words = [sys.executable, "-c", START + change + END.format(dtype)]
    return shlex.join(words) + " {input} {output}"


HALVES = "x = (x > 0) * (1 + (np.arange(len(x)) >= len(x) // 2)[:, None, None])"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's T1w scan, and co-registered with it, its inverse; both halves as regions."""
    folder = tmp_path_factory.mktemp("regions")
    nib.save(head_image(seed=0), folder / "target.nii.gz")
    data, mask = head(seed=1)
    inverse = np.where(mask, 1100 - data, 0).astype(np.float32)
    halves = mask * (1 + (np.arange(len(mask)) >= len(mask) // 2))[:, None, None]
    for name, values in (("t1", data), ("t2", inverse), ("halves", halves.astype(np.uint8))):
        nib.save(nib.Nifti1Image(values, RAS), folder / f"{name}.nii.gz")
    known = {"site": "S", "person": "p", "grid": "p", "core": "yes", "regions": "halves.nii.gz"}
    rows = [
        {"path": "target.nii.gz", "site": "T", "split": "train"},
        {"path": "t1.nii.gz", "contrast": "T1w", **known},
        {"path": "t2.nii.gz", "contrast": "T2w", **known},
    ]
    write_study(folder / "study.tsv", rows)
    return folder / "study.tsv"


def run(study: Path, segmenter: str) -> tuple[Results, pd.DataFrame]:
    plan = make_plan(study, study.parent / "out", [], jobs=1, segmenter=segmenter)
    return measure_regions(plan, {Raw.name: (Raw(), plan.work.scans)})


class TestMeasureRegions:
    def test_a_segmenter_that_does_not_look_at_the_contrast(self, study: Path) -> None:
        found, volumes = run(study, command(HALVES))
        assert not found.failures
        table = table_of(found.rows).set_index(["group", "measure"])["value"]
        assert table["p T1w-T2w", "dice"] > 0.99
        assert table["p T1w-T2w", "cv"] < 1
        assert table["S, T2w", "dice raw T1w"] > 0.99
        assert table["S, T1w", "dice given"] > 0.95
        assert ("S, T1w", "dice raw T1w") not in table  # of a scan with itself
        assert set(volumes["label"]) == {1, 2}
        work = make_plan(study, study.parent / "out", []).work
        brain = work.case(work.scans[0]).prepared.mask
        whole = volumes[volumes["scan"] == "t1"]["ml"].sum()
        assert whole == pytest.approx(brain.sum() / 1000)

    def test_a_segmenter_that_goes_by_brightness(self, study: Path) -> None:
        """What is bright in one contrast is dark in the other."""
        found, _ = run(study, command("x = (x > 0) * (1.0 + (x > 500))"))
        table = table_of(found.rows).set_index("measure")["value"]
        assert table["dice"] < 0.4
        assert table["dice raw T1w"] == pytest.approx(table["dice"])
        assert table["cv"] > 20

    def test_labels_are_kept(self, study: Path, tmp_path: Path) -> None:
        log = tmp_path / "log"
        counted = command(f"open({str(log)!r}, 'a').write('.'); {HALVES}")
        first, second = run(study, counted), run(study, counted)
        assert log.read_text() == ".."  # two scans, once each
        assert first[0] == second[0]

    def test_one_failure_leaves_the_other_scan(self, study: Path) -> None:
        dark_cortex = "sys.exit('no cortex') if np.median(x[x > 0]) > 500 else 0"
        found, volumes = run(study, command(f"{dark_cortex}; {HALVES}"))
        ((scan, method, error),) = [(f.scan, f.method, f.error) for f in found.failures]
        assert (method, error) == ("raw", "the segmenter failed with exit code 1: no cortex")
        assert {row.measure for row in found.rows} == {"dice given"}
        assert set(volumes["scan"]) == {"t1", "t2"} - {scan}

    @pytest.mark.parametrize(
        ("segmenter", "said"),
        [
            (command("sys.exit('out of order')"), "exit code 1: out of order"),
            (command("x = x[1:]"), "on another grid"),
            (command("x = x / 7", "'f4'"), "no labels"),
            (command("x = 0 * x"), "no label but 0"),
        ],
    )
    def test_errors_are_listed_and_not_raised(self, study: Path, segmenter: str, said: str) -> None:
        found, volumes = run(study, segmenter)
        assert [each.scan for each in found.failures] == ["t1", "t2"]
        assert all(said in each.error and "\n" not in each.error for each in found.failures)
        assert not found.rows
        assert volumes.empty


@pytest.mark.parametrize("values", [[0.5, 1], [-1, 1], [1, 70000]])
def test_no_labels(values: list[float]) -> None:
    with pytest.raises(InputError, match="no labels"):
        as_labels(np.array(values), "mine")


@pytest.mark.parametrize(
    ("template", "said"),
    [("cp {input} x", "has no {output}"), ("sh -c 'cp {input} {output}", "Check its quotes")],
)
def test_incomplete_command(study: Path, tmp_path: Path, template: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        make_plan(study, tmp_path, [], segmenter=template)
    assert error.value.argument == "segmenter"


class TestRescans:
    @staticmethod
    def scans(people: int) -> dict[Scan, dict[int, float]]:
        """Each person's regions are 10, 11, ... ml, and 2 ml larger in the second scan."""
        return {
            Scan(Path("x"), "S", f"{person} {n}", f"p{person}"): {5: 10.0 + person + 2 * n}
            for person in range(people)
            for n in range(2)
        }

    def test_intraclass_correlation(self) -> None:
        """By hand, five people: mean squares of 5 (persons), 10 (times), 0: 5 / (5 + 4)."""
        plan: Any = SimpleNamespace(
            work=SimpleNamespace(seed=0), budget=SimpleNamespace(resamples=50)
        )
        (row,) = rescan_rows(plan, "raw", self.scans(5))
        assert row.value == pytest.approx(5 / 9)
        assert (row.measure, row.group, row.scans) == ("icc", "S, T1w", 10)
        assert list(rescan_rows(plan, "raw", self.scans(4))) == []

    def test_notes(self) -> None:
        assert notes_on_regions("cmd", list(self.scans(5))) == ["regions: of 10 scans, by `cmd`."]
        _, fewer = notes_on_regions("cmd", list(self.scans(4)))
        assert "no site has 5 people who were scanned twice" in fewer
        (nothing,) = notes_on_regions("cmd", [next(iter(self.scans(1)))])
        assert "nothing to judge the segmenter on" in nothing
