from __future__ import annotations

from pathlib import Path

import pytest

from isochroma.errors import InputError
from isochroma.evaluation.methods import Blur
from isochroma.evaluation.plan import Budget, make_plan, notes
from isochroma.evaluation.tools import Tools

HEAD = "path\tsite\tscan\tsplit\tcontrast\tcore\n"
ROWS = [
    "x\tT\tt0\ttrain\tT1w\t",
    "x\tT\tt1\ttrain\tT1w\t",
    "x\tT\tv0\tval\tT1w\t",
    "x\tA\ta0\t\tT1w\tyes",
    "x\tB\tb0\t\tT1w\t",
    "x\tA\ta1\t\tT1w\t",
    "x\tA\ta2\t\tT2w\t",
    "x\tT\ttest\ttest\tT1w\t",
]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "x").write_bytes(b"a scan")
    (tmp_path / "study.tsv").write_text(HEAD + "\n".join(ROWS) + "\n")
    return tmp_path / "study.tsv"


class TestMakePlan:
    def test_target_scans_for_fitting_are_not_evaluated(self, study: Path, tmp_path: Path) -> None:
        plan = make_plan(study, tmp_path, [])
        assert [scan.scan for scan in plan.work.train] == ["t0", "t1"]
        assert [scan.scan for scan in plan.work.scans] == ["a0", "b0", "a1", "a2", "test"]
        assert [scan.scan for scan in plan.sources] == ["a0", "b0", "a1", "a2"]
        assert plan.site == "T"

    def test_the_reference_methods_are_always_there(self, study: Path, tmp_path: Path) -> None:
        plan = make_plan(study, tmp_path, [Blur()])
        names = [method.name for method in plan.methods]
        assert names == ["raw", "N4", "histogram matching", "blur"]

    def test_core_limits_slow_methods(self, study: Path, tmp_path: Path) -> None:
        plan = make_plan(study, tmp_path, [Blur()], ["blur"])
        assert [scan.scan for scan in plan.scans_of(Blur())] == ["a0"]
        assert len(plan.scans_of(plan.methods[0])) == 5
        with pytest.raises(InputError, match="'nothing' is not among the methods"):
            make_plan(study, tmp_path, [Blur()], ["nothing"])

    def test_a_budget_takes_fewer_scans(self, study: Path, tmp_path: Path) -> None:
        plan = make_plan(study, tmp_path, [], budget=Budget(target_scans=1, one_a_group=True))
        assert [scan.scan for scan in plan.work.train] == ["t0"]
        assert [scan.scan for scan in plan.work.scans] == ["a0", "b0", "a2", "test"]

    def test_nothing_to_evaluate(self, study: Path, tmp_path: Path) -> None:
        study.write_text(HEAD + ROWS[0] + "\n")
        with pytest.raises(InputError, match="no scans to evaluate"):
            make_plan(study, tmp_path, [])


class TestNotes:
    def test_what_the_study_lacks_is_said(self, study: Path, tmp_path: Path) -> None:
        plan = make_plan(study, tmp_path, [Blur()], ["blur"], Budget(permutations=5))
        lines = notes(plan, Tools(None, None, [], None, None))  # type: ignore[arg-type]
        assert "truth: the study has no scans with a truth." in lines
        assert "age, sites: no site has 20 people of known age." in lines
        assert "blur: on the 1 core scans only, and not in the site audit." in lines
        assert "pairs: the study has no co-registered or repeated scans." in lines
        assert any("fewer than 10 persons" in line for line in lines)
        assert any("'permutations': 5" in line for line in lines)
