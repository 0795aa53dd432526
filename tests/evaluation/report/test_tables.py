from __future__ import annotations

import numpy as np
import pandas as pd

from fixtures_evaluation import KEYS, rows
from isochroma.evaluation.report.tables import kind, markdown, tables
from isochroma.evaluation.summary import summarise

REFERENCE = "histogram matching"


class TestKind:
    def record(self, low: float | None, high: float | None) -> dict:
        gap = {"difference": 0.1, "low": low, "high": high, "reference": 0.5, "scans": 8}
        return {"part": "truth", "measure": "ssim", "differences": {REFERENCE: gap}}

    def test_follows_the_direction_of_the_measure(self) -> None:
        record = self.record(0.1, 0.2)
        assert kind(record, REFERENCE) == "better"
        assert (
            kind(record | {"part": "age", "measure": "absolute error, intensities"}, REFERENCE)
            == "worse"
        )
        assert kind(record | {"part": "closeness", "measure": "change"}, REFERENCE) == ""

    def test_an_interval_around_0_says_nothing(self) -> None:
        assert kind(self.record(-1, 2), REFERENCE) == ""
        assert kind(self.record(None, None), REFERENCE) == ""
        assert kind(self.record(0.1, 0.2), "N4") == ""


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
                rows(REFERENCE, error, "absolute error, intensities").assign(part="age"),
                rows("ours", worse, "absolute error, intensities").assign(part="age"),
                rows(REFERENCE, noise),
                rows("ours", other),
            ]
        )
        return summarise(table)

    def test_cells_show_the_difference_to_the_reference(self) -> None:
        age, _ = tables(self.table(), REFERENCE)
        theirs, ours = age["rows"][0]["cells"]
        assert (theirs["difference"], theirs["kind"]) == ("", "")
        assert (ours["difference"], ours["kind"]) == ("+2.0 [+2.0, +2.0]", "worse")

    def test_tables_show_every_method_and_what_is_missing(self) -> None:
        shown = tables(self.table(), REFERENCE)
        assert [table["title"] for table in shown] == [
            "Age, absolute error, intensities",
            "SSIM against the truth",
        ]
        assert shown[0]["methods"] == [REFERENCE, "ours"]
        assert tables(self.table(), REFERENCE, ["ours"])[0]["methods"] == [
            "ours",
            "histogram matching",
        ]
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
        line = markdown(fewer, [REFERENCE, "ours"]).splitlines()[-1]
        assert line.endswith("] (n = 4) |")
        assert line.count("n = ") == 1
        assert "| 8 |" in line
