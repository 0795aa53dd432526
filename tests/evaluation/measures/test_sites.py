from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from isochroma.evaluation.downstream import combat
from isochroma.evaluation.measures.sites import VALUES, age_effect, share_of, site_effect


def table(offset: float, slope: float, people: int = 60) -> pd.DataFrame:
    """Two sites of people of the same ages; every value is offset by site, falls with age."""
    rng = np.random.default_rng(0)
    age = np.tile(rng.uniform(20, 80, people), 2)
    frame = pd.DataFrame(
        {"site": np.repeat(["A", "B"], people), "age": age, "sex": ["F", "M"] * people}
    )
    for value in VALUES:
        frame[value] = (
            offset * (frame["site"] == "B") - slope * age + rng.standard_normal(2 * people)
        )
    return frame


class TestShareOf:
    def test_by_theory(self) -> None:
        """Half of the people are 2 higher: a variance of 1 beside the noise's, of 1."""
        assert share_of(table(2, 0.1, 2000), VALUES[0], ["site"]) == pytest.approx(0.5, abs=0.02)

    def test_no_effect(self) -> None:
        assert share_of(table(0, 0.1, 2000), VALUES[0], ["site"]) < 0.005

    def test_age_is_no_site_effect(self) -> None:
        """People of site B are older; what age explains is not the site's."""
        frame = table(0, 0)
        frame["age"] += 10.0 * (frame["site"] == "B")
        frame[VALUES[0]] = -0.1 * frame["age"] + np.random.default_rng(1).standard_normal(
            len(frame)
        )
        assert share_of(frame, VALUES[0], ["site"]) < 0.05

    def test_nothing_to_explain(self) -> None:
        frame = table(1, 0)
        frame[VALUES[0]] = 0.0
        assert np.isnan(share_of(frame, VALUES[0], ["site"]))


class TestMeasures:
    def test_interval(self) -> None:
        frame, rng = table(2, 0.1), np.random.default_rng(0)
        for measure in (site_effect, age_effect):
            found = measure(VALUES[0])(frame, rng, 200)
            assert 0 < found.low < found.value < found.high < 1
            assert found.scans == len(frame)


class TestComBat:
    def test_the_site_goes_and_the_age_stays(self) -> None:
        frame = table(2, 0.1)
        after = combat(frame)
        for value in VALUES:
            assert share_of(frame, value, ["site"]) > 0.4
            assert share_of(after, value, ["site"]) < 0.02
            assert share_of(after, value, ["age"]) == pytest.approx(
                share_of(frame, value, ["age"]), abs=0.05
            )
