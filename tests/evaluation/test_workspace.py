from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fixtures_pipeline import RAS, head
from isochroma.errors import InputError
from isochroma.evaluation.methods import METHODS, Blur
from isochroma.evaluation.study import Case, Scan
from isochroma.evaluation.workspace import Workspace, apply
from isochroma.images.grid import Grid
from isochroma.images.preprocess import Prepared, PreprocessSettings

UNFITTED = ("raw", "n4", "histogram-matching", "histogram-matching-no-n4", "blur")
CHEAP = {name: METHODS[name] for name in UNFITTED}


def scan(folder: Path, name: str, **known: object) -> Scan:
    """A row of the study; the file is not read, only its bytes are hashed."""
    path = folder / f"{name}.nii.gz"
    path.write_bytes(name.encode())
    return Scan(path=path, site="S", scan=name, person="p", **known)  # type: ignore[arg-type]


def prepared() -> Prepared:
    data, mask = head()
    return Prepared(
        np.where(mask, data / 500 - 1, 0).astype(np.float32), mask, Grid(mask.shape, RAS), 0, 1
    )


class Constant:
    """A method that gives one value, and allocates 80 MB meanwhile."""

    name, settings, version = "constant", {}, 1

    def __init__(self, value: float) -> None:
        self.value = value

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        np.ones(10_000_000).sum()
        return np.full(scan.mask.shape, self.value, np.float32)


class TestApply:
    def test_values_are_clipped_and_the_cost_is_measured(self) -> None:
        output = apply(Constant(3.0), prepared(), 0)  # type: ignore[arg-type]
        assert set(output.values) == {1.0}
        assert len(output.values) == prepared().mask.sum()
        assert output.seconds > 0
        assert 0 <= output.megabytes < 500

    def test_values_that_are_not_finite_are_refused(self) -> None:
        with pytest.raises(InputError, match="constant gave values that are not finite"):
            apply(Constant(np.nan), prepared(), 0)  # type: ignore[arg-type]


class TestKeys:
    def test_an_output_depends_on_method_version_scan_and_seed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a, b = scan(tmp_path, "a"), scan(tmp_path, "b")
        work = Workspace([a], [a, b], tmp_path / "cache", 0)
        known = work.output_key(Blur(), a)
        assert work.output_key(Blur(), a) == known
        assert work.output_key(Blur(), b) != known
        assert work.output_key(Blur(3.0), a) != known
        assert work.output_key(Blur(), a, seed=1) != known
        assert Workspace([b], [a, b], tmp_path / "cache", 0).output_key(Blur(), a) != known
        monkeypatch.setattr(Blur, "version", 99)
        assert work.output_key(Blur(), a) != known

    def test_a_changed_file_is_another_case(self, tmp_path: Path) -> None:
        a = scan(tmp_path, "a")
        known = Workspace([a], [], tmp_path / "cache", 0).case_key(a)
        a.path.write_bytes(b"changed")
        assert Workspace([a], [], tmp_path / "cache", 0).case_key(a) != known


class TestRelations:
    def test_partner_is_the_co_registered_t1w_scan(self, tmp_path: Path) -> None:
        t1, t2 = (scan(tmp_path, name, contrast=name, grid="g") for name in ("T1w", "T2w"))
        other = scan(tmp_path, "other", contrast="T2w")
        work = Workspace([], [t1, t2, other], tmp_path, 0)
        assert work.partner(t2) == work.partner(t1) == t1
        assert work.partner(other) is None

    def test_twin_is_the_simulation_without_lesions(self, tmp_path: Path) -> None:
        plain = scan(tmp_path, "plain", preset="flair-3T")
        lesions = scan(tmp_path, "lesions", preset="flair-3T with lesions")
        work = Workspace([], [plain, lesions], tmp_path, 0)
        assert work.twin(lesions) == plain
        assert work.twin(plain) is None
        assert Workspace([], [lesions], tmp_path, 0).twin(lesions) is None


class TestTissues:
    def test_given_labels_come_first(self, tmp_path: Path) -> None:
        row = scan(tmp_path, "a")
        source = prepared()
        labels = np.full(source.mask.shape, 2, np.uint8)
        found = Workspace([], [row], tmp_path, 0).tissues(Case(row, source, tissues=labels))
        np.testing.assert_array_equal(found, 2 * source.mask)

    def test_a_truth_is_classified_once_for_all_that_show_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Path] = []

        def open_case(row: Scan, settings: PreprocessSettings) -> Case:
            asked.append(row.path)
            return Case(row, prepared())

        monkeypatch.setattr("isochroma.evaluation.workspace.open_case", open_case)
        truth = scan(tmp_path, "truth").path
        rows = [scan(tmp_path, name, truth=truth, preset=name) for name in ("a", "b")]
        work = Workspace([], rows, tmp_path / "cache", 0)
        found = [work.tissues(Case(row, prepared())) for row in rows]
        np.testing.assert_array_equal(found[0], found[1])
        assert set(np.unique(found[0])) == {0, 1, 2, 3}
        assert asked == [truth]

    def test_two_kinds_of_labels_are_not_mixed_in_a_group(self, tmp_path: Path) -> None:
        labelled = scan(tmp_path, "a", tissues=scan(tmp_path, "labels").path)
        other, elsewhere = scan(tmp_path, "b"), replace(scan(tmp_path, "c"), site="U")
        work = Workspace([], [labelled, other, elsewhere], tmp_path, 0)
        assert work.tissues(Case(other, prepared())) is None
        alone = Workspace([], [other], tmp_path, 0)
        for row, each in ((elsewhere, work), (other, alone)):
            each.store.get(("case", *each.case_key(row)), lambda row=row: Case(row, prepared()))
            assert each.tissues(Case(row, prepared())) is not None

    def test_none_without_a_t1w_scan(self, tmp_path: Path) -> None:
        row = scan(tmp_path, "a", contrast="T2w")
        assert Workspace([], [row], tmp_path, 0).tissues(Case(row, prepared())) is None


class TestSeenBy:
    def test_raw_is_without_n4_and_all_else_with_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def open_case(row: Scan, settings: PreprocessSettings) -> Case:
            return Case(row, dataclasses.replace(prepared(), lower=float(settings.n4)))

        monkeypatch.setattr("isochroma.evaluation.workspace.open_case", open_case)
        row = scan(tmp_path, "a")
        work = Workspace([], [row], tmp_path / "cache", 0)
        found = {
            name: work.seen_by(make("default"), row).lower for name, (make, *_) in CHEAP.items()
        }
        without = {"raw": 0, "histogram-matching-no-n4": 0}
        assert found == {"n4": 1, "histogram-matching": 1, "blur": 1, **without}


class TestTarget:
    def test_scans_are_read_when_asked_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: list[str] = []

        def open_case(row: Scan, settings: object) -> Case:
            opened.append(row.scan)
            return Case(row, prepared())

        monkeypatch.setattr("isochroma.evaluation.workspace.open_case", open_case)
        rows = [scan(tmp_path, name) for name in ("a", "b", "c")]
        work = Workspace(rows, [], tmp_path / "cache", 0)
        assert len(work.target) == 3
        assert opened == []
        np.testing.assert_array_equal(work.target[1].image, prepared().image)
        assert len(work.target[:2]) == 2
        assert opened == ["b", "a"]  # b is in the store
