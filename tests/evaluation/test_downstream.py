from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fixtures_evaluation import sample
from isochroma.evaluation.downstream import (
    Findings,
    age_rows,
    describe,
    judged,
    site_rows,
    table_of_values,
)
from isochroma.evaluation.measures.sites import VALUES
from isochroma.evaluation.results import table_of
from isochroma.evaluation.study import Scan
from isochroma.evaluation.tissues import CSF, GREY, WHITE
from isochroma.evaluation.tools.space import CommonSpace

Found = list[tuple[Scan, Findings]]
PLAN: Any = SimpleNamespace(
    work=SimpleNamespace(seed=0), budget=SimpleNamespace(resamples=50), site="T"
)


def scan(name: str, site: str, **known: Any) -> Scan:
    return Scan(Path(f"{name}.nii.gz"), site, name, known.pop("person", name), **known)


def people(site: str, count: int, older: float = 0) -> Found:
    """Scans whose maps tell the age, `older` years off, and whose values fall with it."""
    rng = np.random.default_rng(count)
    found = []
    for n, age in enumerate(np.linspace(20, 80, count)):
        shown = np.array([age + older, *rng.standard_normal(2)]) / 100
        values = {name: 800 - age + older + rng.standard_normal() for name in VALUES}
        row = scan(f"{site}{n}", site, age=float(age), sex="FM"[n % 2])
        found.append((row, Findings(shown, shown[:1], values)))
    return found


class TestAgeRows:
    @pytest.fixture
    def table(self) -> pd.DataFrame:
        return table_of(age_rows(PLAN, "mine", [*people("A", 30), *people("B", 8, older=10)]))

    def test_only_sites_of_many_people_are_learned_from(self, table: pd.DataFrame) -> None:
        assert set(table["group"]) == {"A, T1w, cross-validated", "A, T1w to B, T1w"}

    def test_a_site_that_looks_older_is_predicted_older(self, table: pd.DataFrame) -> None:
        errors = table[table["measure"] == "error, intensities"].groupby("group")["value"].mean()
        assert errors["A, T1w, cross-validated"] == pytest.approx(0, abs=0.5)
        assert errors["A, T1w to B, T1w"] == pytest.approx(10, abs=0.5)

    def test_skill(self, table: pd.DataFrame) -> None:
        known = table[table["group"] == "A, T1w, cross-validated"].set_index("measure")["value"]
        for kind in ("tissue maps", "intensities"):
            assert known[f"r2, {kind}"] > 0.95
            assert known[f"slope, {kind}"] == pytest.approx(1, abs=0.05)

    def test_nobody_is_tried_on_a_regressor_of_the_same_site(self) -> None:
        shown_again = [
            (replace(row, scan=f"{row.scan} T2w", preset="tse-t2-3T"), found)
            for row, found in people("A", 30)
        ]
        table = table_of(age_rows(PLAN, "mine", [*people("A", 30), *shown_again]))
        assert set(table["group"]) == {"A, T1w, cross-validated"}


class TestSiteRows:
    def test_an_offset_is_the_sites_and_combat_removes_it(self) -> None:
        found = [*people("A", 30), *people("B", 30, older=40)]
        table = table_of(site_rows(PLAN, "N4", found)).set_index(["method", "measure"])["value"]
        assert table["N4", "site, CSF, ml"] > 0.9
        assert table["N4, ComBat", "site, CSF, ml"] < 0.1
        assert table["N4, ComBat", "age, CSF, ml"] > 0.9

    def test_combat_stands_beside_n4_alone(self) -> None:
        rows = site_rows(PLAN, "mine", [*people("A", 30), *people("B", 30)])
        assert set(table_of(rows)["method"]) == {"mine"}

    def test_one_scan_a_person_and_small_sites_left_out(self) -> None:
        twice = [(replace(row, scan=f"{row.scan} again"), found) for row, found in people("A", 6)]
        found = [*people("A", 6), *twice, *people("B", 4)]
        assert list(table_of_values(found)["site"]) == ["A"] * 6
        assert list(site_rows(PLAN, "mine", found)) == []


class TestDescribe:
    def test_volumes_and_contrast(self) -> None:
        """A cube of 8 ml white matter in 56 ml of grey matter, 0.8 and 0.4 on [0, 1]."""
        shape = (40, 40, 40)
        labels = np.full(shape, GREY, np.uint8)
        labels[10:30, 10:30, 10:30] = WHITE
        probabilities = np.stack([labels == tissue for tissue in (CSF, GREY, WHITE)], -1) * 1.0
        output = np.where(labels == WHITE, 0.6, -0.2).astype(np.float32)
        segmenter = SimpleNamespace(segment=lambda image, mask: (labels, probabilities))
        one = sample(output, np.ones(shape, bool), segmenter=segmenter)
        maps = probabilities[..., [GREY - 1, WHITE - 1]]
        space = CommonSpace.build([maps], voxel_mm=4.0, rounds=1)
        found = describe(one, one.case.prepared, space.locate(maps), space)
        assert [found.values[name] for name in VALUES] == pytest.approx([56, 8, 0, 0.4 / 1.2])
        assert len(found.maps) == 2 * space.brain.sum()
        middle = np.flatnonzero(space.brain) == np.ravel_multi_index(
            tuple(n // 2 for n in space.brain.shape), space.brain.shape
        )
        assert found.intensities[middle] == pytest.approx(0.8, abs=0.05)
        assert found.intensities.min() > 0.35  # the mask's rim does not darken them


class TestJudged:
    def test_known_ages_without_a_better_truth(self) -> None:
        real = scan("real", "S", age=30.0)
        plain = scan("sim", "S", age=30.0, preset="tse-t2-3T", contrast="T2w", grid="g")
        alone = scan("alone", "S", age=30.0, contrast="T2w")
        truth = scan("known", "S", age=30.0, preset="spgr-3T", truth=Path("t.nii.gz"))
        unknown = scan("unknown", "S")
        work = SimpleNamespace(
            train=[scan("target", "T", age=40.0)],
            scans=[real, plain, alone, truth, unknown],
            partner=lambda one: real if one.grid else None,
        )
        found = judged(SimpleNamespace(work=work))  # type: ignore[arg-type]
        assert [one.scan for one in found] == ["target", "real", "sim"]
