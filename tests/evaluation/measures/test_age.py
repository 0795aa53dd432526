from __future__ import annotations

import numpy as np
import pytest

from isochroma.evaluation.measures.age import Predicted, r2, r_squared, slope, years_a_year
from isochroma.evaluation.measures.sample import GroupValue

AGES = np.linspace(20, 80, 24)


def group(ages: list[float], predicted: list[float]) -> Predicted:
    """One scan a person."""
    persons = np.array([str(n) for n in range(len(ages))])
    return Predicted(persons, np.array(ages), np.array(predicted), resamples=50)


class TestRSquared:
    def test_perfect(self) -> None:
        assert r_squared(AGES, AGES) == 1

    def test_by_hand(self) -> None:
        """Errors 2, -1, 5: their squares sum to 30; the ages' about 30 to 200."""
        found = r_squared(np.array([20, 30, 40]), np.array([22, 29, 45]))
        assert found == pytest.approx(1 - 30 / 200)

    def test_mean_age_is_zero(self) -> None:
        assert r_squared(AGES, np.full_like(AGES, AGES.mean())) == pytest.approx(0)

    def test_constant_offset_is_negative(self) -> None:
        assert r_squared(AGES, AGES + 40) < 0

    def test_one_age(self) -> None:
        assert np.isnan(r_squared(np.array([30.0]), np.array([33.0])))


class TestSlope:
    def test_by_hand(self) -> None:
        assert slope(AGES, 30 + 0.25 * AGES) == pytest.approx(0.25)
        assert np.isnan(slope(np.full(5, 30.0), AGES[:5]))


class TestGroups:
    def test_perfect(self) -> None:
        ages = [20.0, 30, 40, 50, 60]
        for measure in (r2, years_a_year):
            found = measure(group(ages, ages), np.random.default_rng(0))
            assert found == pytest.approx(GroupValue(1, 1, 1, 5))

    def test_by_hand(self) -> None:
        """Errors of 5 years, ages that vary by 200 on average: 1 - 25 / 200."""
        found = r2(group([20, 30, 40, 50, 60], [25, 35, 35, 45, 65]), np.random.default_rng(0))
        assert found.value == pytest.approx(1 - 25 / 200)
        assert found.low < found.value < found.high

    def test_scans_of_one_person_are_drawn_together(self) -> None:
        """Repeating every scan does not narrow the interval."""
        ages, guess = [20.0, 30, 40, 50, 60, 70], [28.0, 22, 45, 58, 50, 71]
        once = group(ages, guess)
        persons = np.tile(once.persons, 10)
        ten = Predicted(persons, np.tile(ages, 10), np.tile(guess, 10), once.resamples)
        few, many = (r2(each, np.random.default_rng(0)) for each in (once, ten))
        assert many.high - many.low == pytest.approx(few.high - few.low)

    def test_too_few_or_one_age(self) -> None:
        rng = np.random.default_rng(0)
        assert np.isnan(r2(group([20, 30, 40, 50], [20, 30, 40, 50]), rng).value)
        assert np.isnan(r2(group([20] * 5, [20, 30, 40, 50, 60]), rng).value)
