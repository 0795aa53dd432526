from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from isochroma.evaluation.results import Failure, Results, Row, attempt, table_of

ROW = Row("truth", "g", "s", "p", "m", "ssim", 0.5)


class TestAttempt:
    def test_values_that_are_not_finite_are_left_out(self) -> None:
        rows = [ROW, ROW._replace(value=np.nan), ROW._replace(value=np.inf)]
        assert attempt("s", "m", lambda: rows) == Results([ROW])

    def test_a_failure_is_one_line_and_leaves_no_rows(self) -> None:
        def rows() -> Iterator[Row]:
            yield ROW
            message = "this\n  went wrong"
            raise ValueError(message)

        assert attempt("s", "m", rows) == Results([], [Failure("s", "m", "this went wrong")])

    def test_results_add_up(self) -> None:
        failed = attempt("s", "m", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
        both = Results([ROW]) + failed
        assert (len(both.rows), len(both.failures)) == (1, 1)


class TestTable:
    def test_one_row_a_value(self) -> None:
        table = table_of([ROW, ROW._replace(value=0.7, low=0.6, high=0.8, scans=9)])
        assert table["value"].tolist() == [0.5, 0.7]
        assert table["scans"].tolist() == [1, 9]
        assert np.isnan(table["low"][0])

    def test_of_nothing(self) -> None:
        assert list(table_of([]).columns) == list(Row._fields)
