from __future__ import annotations

import numpy as np
import pytest

from isochroma.errors import InputError
from isochroma.evaluation.measures.age import r_squared
from isochroma.evaluation.tools.age import cross_validated, fit_age

RNG = np.random.default_rng(0)
AGES = np.linspace(20, 80, 40)
PERSONS = np.array([f"p{n}" for n in range(40)])
DIRECTIONS = RNG.standard_normal((3, 200))
OTHER = RNG.standard_normal((40, 2))  # what tells nothing of age
SCANS = np.column_stack([AGES / 20, OTHER]) @ DIRECTIONS + 0.5 * RNG.standard_normal((40, 200))


class TestFitAge:
    def test_held_out_ages(self) -> None:
        train = np.arange(40) % 3 > 0
        predicted = fit_age(SCANS[train], AGES[train]).predict(SCANS[~train])
        assert r_squared(AGES[~train], predicted) > 0.9

    def test_linear_known_answer(self) -> None:
        """Two directions carry the age exactly, without noise."""
        hidden = RNG.standard_normal((30, 2))
        features, ages = hidden @ DIRECTIONS[:2], 40 + hidden @ [5, -3]
        predicted = fit_age(features[:20], ages[:20]).predict(features[20:])
        np.testing.assert_allclose(predicted, ages[20:], atol=0.05)

    @pytest.mark.parametrize("scans", [3, 12])
    def test_too_few_or_unknown_ages(self, scans: int) -> None:
        ages = np.linspace(20, 30, scans)
        ages[-1] = np.nan
        with pytest.raises(InputError, match=f"{scans} scans, {scans - 1} of known age"):
            fit_age(np.zeros((scans, 5)), ages)


class TestCrossValidated:
    def test_skill(self) -> None:
        assert r_squared(AGES, cross_validated(SCANS, AGES, PERSONS, folds=4)) > 0.9

    def test_shuffled_ages_cannot_be_predicted(self) -> None:
        ages = RNG.permutation(AGES)
        assert r_squared(ages, cross_validated(SCANS, ages, PERSONS, folds=4)) < 0.2

    def test_a_person_is_never_predicted_from_an_own_scan(self) -> None:
        """Pairs of equal scans of chance features: only their own twin could tell the age."""
        twins = np.repeat(RNG.standard_normal((20, 200)), 2, axis=0)
        ages, persons = np.repeat(RNG.permutation(AGES[:20]), 2), np.repeat(PERSONS[:20], 2)
        assert r_squared(ages, cross_validated(twins, ages, persons, folds=4)) < 0.2
        leaking = cross_validated(twins, ages, np.arange(40), folds=40)
        assert r_squared(ages, leaking) > 0.9
