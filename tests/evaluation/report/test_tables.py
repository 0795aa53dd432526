from __future__ import annotations

import numpy as np
import pandas as pd

from fixtures_evaluation import KEYS, rows
from isochroma.evaluation.report.tables import losses, markdown, tables, verdict, verdicts
from isochroma.evaluation.summary import summarise


class TestVerdict:
    def test_follows_the_direction_of_the_measure(self) -> None:
        record = {"part": "truth", "measure": "ssim", "difference_low": 0.1, "difference_high": 0.2}
        assert verdict(record) == "better"
        assert (
            verdict(record | {"part": "age", "measure": "absolute error, intensities"}) == "worse"
        )
        assert verdict(record | {"part": "closeness", "measure": "change"}) == ""

    def test_an_interval_around_0_says_nothing(self) -> None:
        record = {"part": "truth", "measure": "ssim", "difference_low": -1, "difference_high": 2}
        assert verdict(record) == ""
        assert verdict(record | {"difference_low": None}) == ""


class TestTables:
    def table(self) -> list[dict]:
        """Ours is clearly worse in error (lower is better), and no different in SSIM."""
        rng = np.random.default_rng(2)
        error = {key: float(rng.normal(5, 0.1)) for key in KEYS}
        worse = {key: value + 2 for key, value in error.items()}
        noise = {key: float(rng.normal()) for key in KEYS}
        other = {key: value + float(rng.normal(0, 3)) for key, value in noise.items()}
        table = pd.concat(
            [
                rows("histogram matching", error, "absolute error, intensities").assign(part="age"),
                rows("ours", worse, "absolute error, intensities").assign(part="age"),
                rows("histogram matching", noise),
                rows("ours", other),
            ]
        )
        return summarise(table)

    def test_losses_are_listed_in_words(self) -> None:
        found = losses(self.table(), "ours")
        assert len(found) == 1
        assert found[0].startswith("Age, absolute error, intensities, g: 7.0")
        assert "n = 8" in found[0]

    def test_losses_that_the_digits_do_not_show_are_left_out(self) -> None:
        small = [
            r
            | {
                k: v / 1000
                for k, v in r.items()
                if k.startswith("difference") and k[-5:] != "scans"
            }
            for r in self.table()
        ]
        assert losses(small, "ours") == []

    def test_verdicts_count_part_by_part(self) -> None:
        truth, age = verdicts(self.table(), "ours")
        assert (truth["part"][:11], truth["undecided"]) == ("Truth known", 1)
        assert (age["better"], age["worse"], age["undecided"], age["gain"]) == (0, 1, 0, "")
        assert age["loss"].startswith(
            "Age, absolute error, intensities, g: 7.0 years, difference +2.0"
        )

    def test_tables_show_every_method_and_what_is_missing(self) -> None:
        shown = tables(self.table())
        assert [table["title"] for table in shown] == [
            "Age, absolute error, intensities",
            "SSIM against the truth",
        ]
        assert shown[0]["methods"] == ["histogram matching", "ours"]
        assert tables(self.table(), ["ours"])[0]["methods"] == ["ours", "histogram matching"]
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
