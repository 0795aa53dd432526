from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fixtures_evaluation import KEYS, rows
from isochroma.evaluation.summary import estimate, summarise


def of(records: list[dict], method: str) -> dict:
    return next(record for record in records if record["method"] == method)


class TestEstimate:
    def test_scans_of_a_person_count_once(self) -> None:
        values = rows("m", {("a", "p"): 0.0, ("b", "p"): 0.0, ("c", "p"): 0.0, ("d", "q"): 1.0})
        found = estimate(values)
        assert found.mean == 0.5
        assert (found.scans, found.persons) == (4, 2)
        assert (found.low, found.high) == (0.0, 1.0)

    def test_one_person_has_no_interval(self) -> None:
        found = estimate(rows("m", {("a", "p"): 1.0, ("b", "p"): 3.0}))
        assert found.mean == 2.0
        assert np.isnan(found.low)

    def test_interval_covers_the_mean_of_many_normal_draws(self) -> None:
        rng = np.random.default_rng(0)
        hits = 0
        for _ in range(100):
            drawn = {key: float(rng.normal(5)) for key in [(f"s{i}", f"p{i}") for i in range(30)]}
            found = estimate(rows("m", drawn), resamples=500)
            hits += found.low <= 5 <= found.high
        assert 87 <= hits <= 100


class TestSummarise:
    def test_difference_is_paired(self) -> None:
        rng = np.random.default_rng(1)
        base = {key: float(rng.normal(0, 10)) for key in KEYS}
        better = {key: value + 1 + 0.01 * rng.normal() for key, value in base.items()}
        table = pd.concat([rows("histogram matching", base), rows("ours", better)])
        record = of(summarise(table), "ours")
        # The spread over scans is ten times the gain, but every scan gains.
        gap = record["differences"]["histogram matching"]
        assert gap["difference"] == pytest.approx(1, abs=0.05)
        assert gap["low"] > 0.9
        assert record["low"] < record["mean"] - 1

    def test_difference_uses_common_scans_only(self) -> None:
        base = dict.fromkeys(KEYS, 1.0)
        part = dict.fromkeys(KEYS[:3], 3.0)
        table = pd.concat([rows("histogram matching", base), rows("ours", part)])
        record = of(summarise(table), "ours")
        assert record["scans"] == 3
        assert record["differences"]["histogram matching"] == {
            "mean": 3.0,
            "reference": 1.0,
            "difference": 2.0,
            "low": 2.0,
            "high": 2.0,
            "scans": 3,
        }

    def test_every_reference_is_compared_with(self) -> None:
        """One person, so without an interval; not with itself, nor without a common scan."""
        values = {"ours": 3.0, "N4": 1.0}
        table = [rows(name, {("a", "p"): value}) for name, value in values.items()]
        table.append(rows("elsewhere", {("b", "p"): 5.0}))
        records = summarise(pd.concat(table), ["N4", "ours", "absent"])
        gap = of(records, "ours")["differences"]
        assert set(gap) == {"N4"}
        assert (gap["N4"]["difference"], gap["N4"]["low"], gap["N4"]["scans"]) == (2.0, None, 1)
        assert of(records, "N4")["differences"]["ours"]["difference"] == -2.0
        assert of(records, "elsewhere")["differences"] == {}

    def test_too_much_is_as_bad_as_too_little_where_there_is_an_ideal(self) -> None:
        """Scan by scan: 0.8 and 1.2 keep a lesion's contrast no better than 0.8 twice."""
        pair = KEYS[:2]
        values = {"ours": (0.8, 1.2), "N4": (0.8, 0.8)}
        table = pd.concat(
            [
                rows(name, dict(zip(pair, drawn, strict=True)), "lesion contrast")
                for name, drawn in values.items()
            ]
        ).assign(part="anatomy")
        gap = of(summarise(table, ["N4"]), "ours")["differences"]["N4"]
        assert (gap["mean"], gap["reference"]) == (1.0, 0.8)
        assert gap["difference"] == pytest.approx(0)

    def test_a_value_of_a_whole_group_has_a_difference_without_an_interval(self) -> None:
        whole = {("all", "all"): 0.4}
        table = [rows(name, whole).assign(low=0.1, high=0.9, scans=22) for name in ("ours", "N4")]
        gap = of(summarise(pd.concat(table), ["N4"]), "ours")["differences"]["N4"]
        assert (gap["difference"], gap["low"], gap["scans"]) == (0.0, None, 22)

    def test_interval_of_a_group_value_is_kept(self) -> None:
        table = rows("ours", {("all", "all"): 0.4}).assign(low=0.1, high=0.9, scans=22)
        record = summarise(table)[0]
        assert (record["mean"], record["low"], record["high"]) == (0.4, 0.1, 0.9)
        assert record["scans"] == 22

    def test_measures_that_are_not_shown_are_left_out(self) -> None:
        table = rows("ours", {("a", "p"): 40.0}, "predicted, intensities").assign(part="age")
        assert summarise(table) == []
