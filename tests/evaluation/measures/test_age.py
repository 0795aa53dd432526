from __future__ import annotations

import numpy as np
import pytest

from isochroma.evaluation.measures.age import r2
from isochroma.evaluation.measures.sample import Group, GroupValue
from isochroma.evaluation.study import Scan


def group(ages: list[float], predicted: list[float]) -> GroupValue:
    """R2 of one scan a person."""
    scans = [
        Scan(path=None, site="S", scan=str(n), person=str(n), age=age)  # type: ignore[arg-type]
        for n, age in enumerate(ages)
    ]
    known = {str(n): value for n, value in enumerate(predicted)}
    whole = Group(scans, lambda scan: np.zeros((0, 1)), [], known, resamples=50)
    return r2(whole, np.random.default_rng(0))


class TestR2:
    def test_perfect(self) -> None:
        found = group([20, 30, 40, 50, 60], [20, 30, 40, 50, 60])
        assert found == GroupValue(1, 1, 1, 5)

    def test_by_hand(self) -> None:
        """Errors of 5 years, ages that vary by 200 on average: 1 - 25 / 200."""
        found = group([20, 30, 40, 50, 60], [25, 35, 35, 45, 65])
        assert found.value == pytest.approx(1 - 25 / 200)
        assert found.low < found.value < found.high

    def test_scans_without_a_prediction_are_left_out(self) -> None:
        assert group([20, 30, 40, 50, 60, 70], [20, 30, 40, 50, 60]).scans == 5

    def test_too_few_or_one_age(self) -> None:
        assert np.isnan(group([20, 30, 40, 50], [20, 30, 40, 50]).value)
        assert np.isnan(group([20] * 5, [20, 30, 40, 50, 60]).value)
