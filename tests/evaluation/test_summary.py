from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from isochroma.evaluation.report import losses, markdown, tables, verdict
from isochroma.evaluation.summary import MEASURES, estimate, summarise


def rows(method: str, values: dict[tuple[str, str], float], measure: str = "ssim") -> pd.DataFrame:
    """Rows of one method; keys are (scan, person)."""
    return pd.DataFrame(
        {
            "part": "truth",
            "group": "g",
            "scan": scan,
            "person": person,
            "method": method,
            "measure": measure,
            "value": value,
            "low": np.nan,
            "high": np.nan,
            "scans": 1,
        }
        for (scan, person), value in values.items()
    )


KEYS = [(f"s{i}", f"p{i}") for i in range(8)]


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
        assert record["difference"] == pytest.approx(1, abs=0.05)
        assert record["difference_low"] > 0.9
        assert record["low"] < record["mean"] - 1
        assert verdict(record) == "better"

    def test_difference_uses_common_scans_only(self) -> None:
        base = dict.fromkeys(KEYS, 1.0)
        part = dict.fromkeys(KEYS[:3], 3.0)
        table = pd.concat([rows("histogram matching", base), rows("ours", part)])
        record = of(summarise(table), "ours")
        assert record["difference"] == 2.0
        assert record["difference_scans"] == 3
        assert record["scans"] == 3

    def test_interval_of_a_group_value_is_kept(self) -> None:
        table = rows("ours", {("all", "all"): 0.4}).assign(low=0.1, high=0.9, scans=22)
        record = summarise(table)[0]
        assert (record["mean"], record["low"], record["high"]) == (0.4, 0.1, 0.9)
        assert record["scans"] == 22


class TestReport:
    def table(self) -> list[dict]:
        """Ours is clearly worse in error (lower is better), and no different in SSIM."""
        rng = np.random.default_rng(2)
        error = {key: float(rng.normal(5, 0.1)) for key in KEYS}
        worse = {key: value + 2 for key, value in error.items()}
        noise = {key: float(rng.normal()) for key in KEYS}
        other = {key: value + float(rng.normal(0, 3)) for key, value in noise.items()}
        table = pd.concat(
            [
                rows("histogram matching", error, "absolute error").assign(part="age"),
                rows("ours", worse, "absolute error").assign(part="age"),
                rows("histogram matching", noise),
                rows("ours", other),
            ]
        )
        return summarise(table)

    def test_losses_are_listed_in_words(self) -> None:
        found = losses(self.table(), "ours")
        assert len(found) == 1
        assert found[0].startswith("Age, absolute error, g: 7.0")
        assert "n = 8" in found[0]

    def test_tables_show_every_method_and_what_is_missing(self) -> None:
        shown = tables(self.table())
        assert [table["title"] for table in shown] == [
            MEASURES["age", "absolute error"].title,
            MEASURES["truth", "ssim"].title,
        ]
        assert shown[0]["methods"] == ["histogram matching", "ours"]
        assert shown[0]["rows"][0]["cells"][1]["kind"] == "worse"
        assert shown[1]["rows"][0]["cells"][1]["kind"] == ""

    def test_markdown_has_one_line_a_measure(self) -> None:
        lines = markdown(self.table(), ["ours", "absent"]).splitlines()
        assert lines[0] == "| | scans | ours | absent |"
        assert len(lines) == 4
        assert all(line.endswith("| - |") for line in lines[2:])

    def test_markdown_says_where_a_method_has_fewer_scans(self) -> None:
        records = [r for r in self.table() if r["measure"] == "ssim"]
        fewer = [r | {"scans": 4} if r["method"] == "ours" else r for r in records]
        line = markdown(fewer, ["histogram matching", "ours"]).splitlines()[-1]
        assert line.endswith("] (n = 4) |")
        assert line.count("n = ") == 1
        assert "| 8 |" in line
