from __future__ import annotations

import numpy as np
import pandas as pd

from fixtures_evaluation import KEYS, rows
from isochroma.evaluation.report.verdict import Verdict, unjudged, verdicts
from isochroma.evaluation.summary import summarise

OTHERS = ("N4", "histogram matching")
ONE = [("s0", "p0")]


def drawn(group: str, means: dict[str, float], keys: list = KEYS) -> pd.DataFrame:
    """SSIM around each method's mean; the people differ by more than the methods."""
    rng = np.random.default_rng(0)
    people = {key: float(rng.normal(0, 0.2)) for key in keys}
    tables = [
        rows(name, {key: mean + people[key] + float(rng.normal(0, 0.005)) for key in keys})
        for name, mean in means.items()
    ]
    return pd.concat(tables).assign(group=group)


def judge(*tables: pd.DataFrame) -> list[Verdict]:
    return verdicts(summarise(pd.concat(tables), ["ours"]), "ours", OTHERS)


class TestOutcomes:
    def test_better_means_better_than_each_of_the_others(self) -> None:
        (found,) = judge(drawn("g", {"ours": 0.8, "N4": 0.6, "histogram matching": 0.7}))
        assert found.counts == "Better in 1 of 1 comparison (n\u00a0=\u00a08), worse in 0."
        assert [each.other for each in found.gains] == ["histogram matching"]
        assert found.losses == []
        assert found.tendency == "better"

    def test_a_loss_to_one_of_them_is_said_as_a_loss(self) -> None:
        (found,) = judge(drawn("g", {"ours": 0.7, "N4": 0.8, "histogram matching": 0.2}))
        assert found.counts == "Worse in 1 of 1 comparison (n\u00a0=\u00a08), better in 0."
        assert found.tendency == "worse"
        (loss,) = found.extremes
        assert loss.startswith("Largest loss: SSIM against the truth, g: 0.")
        assert "against N4 0." in loss
        assert "n\u00a0=\u00a08)" in loss

    def test_an_interval_that_holds_0_decides_nothing(self) -> None:
        ours = {key: 0.1 * n for n, key in enumerate(KEYS)}
        other = {key: value + 0.05 * (-1) ** n for n, (key, value) in enumerate(ours.items())}
        (found,) = judge(rows("ours", ours), rows("N4", other))
        assert found.counts == "Undecided in 1 of 1 comparison (n\u00a0=\u00a08)."
        assert (found.tendency, found.extremes) == ("", [])

    def test_a_difference_below_the_digits_shown_decides_nothing(self) -> None:
        values = {key: 0.5 + 0.01 * n for n, key in enumerate(KEYS)}
        more = {key: value + 0.0001 for key, value in values.items()}
        (found,) = judge(rows("ours", values), rows("N4", more))
        assert found.comparisons[0].low is not None
        assert found.comparisons[0].high is not None
        assert found.comparisons[0].high < 0
        assert found.losses == []

    def test_one_person_is_counted_apart_and_named_so(self) -> None:
        (found,) = judge(
            drawn("many", {"ours": 0.8, "N4": 0.7}), drawn("one", {"ours": 0.5, "N4": 0.7}, ONE)
        )
        assert found.counts == (
            "Better in 1 of 1 comparison (n\u00a0=\u00a08), worse in 0; "
            "by the mean alone, without an interval, worse in 1 of 1 comparison (n\u00a0=\u00a01), "
            "better in 0."
        )
        assert "n\u00a0=\u00a01)" in str(found.losses[0])

    def test_lower_is_better_where_the_measure_says_so(self) -> None:
        error = drawn("g", {"ours": 9, "N4": 7}).assign(
            part="age", measure="absolute error, intensities"
        )
        (found,) = judge(error)
        assert found.name == "age"
        assert "Age, absolute error, intensities (years), g: " in found.extremes[0]
        assert found.tendency == "worse"

    def test_nearer_to_the_ideal_is_better(self) -> None:
        contrast = drawn("g", {"ours": 1.2, "N4": 2.4}, ONE)
        (found,) = judge(contrast.assign(part="anatomy", measure="lesion contrast"))
        assert found.tendency == "better"
        assert "(difference of distances -1.2" in str(found.gains[0])

    def test_controls_and_measures_without_a_direction_are_left_out(self) -> None:
        table = drawn("g", {"ours": 0.7, "blur": 0.9, "N4": 0.6})
        change = table.assign(part="closeness", measure="change")
        (found,) = judge(table, change)
        assert found.name == "truth"
        assert found.tendency == "better"
        assert unjudged(summarise(pd.concat([table, change]))) == ["Closeness to the target domain"]


class TestVerdict:
    def table(self) -> list[pd.DataFrame]:
        return [
            drawn("won", {"ours": 0.8, "N4": 0.7}),
            drawn("lost", {"ours": 0.5, "N4": 0.6}),
            drawn("lost badly", {"ours": 0.2, "N4": 0.7}),
        ]

    def test_the_more_frequent_outcome_is_said_first(self) -> None:
        (found,) = judge(*self.table())
        assert found.counts == "Worse in 2 of 3 comparisons (n\u00a0=\u00a08), better in 1."

    def test_the_largest_loss_is_named(self) -> None:
        (found,) = judge(*self.table())
        assert [each.group for each in found.losses] == ["lost badly", "lost"]
        loss, gain = found.extremes
        assert loss.startswith("Largest loss: SSIM against the truth, lost badly: ")
        assert gain.startswith("Largest gain: SSIM against the truth, won: ")

    def test_losses_in_different_units_are_compared_as_shares_of_the_range(self) -> None:
        """2 of the 30 dB that the methods span are less than 0.3 of 0.5."""
        psnr = [drawn("g", {"ours": 30, "N4": 32}), drawn("h", {"ours": 60, "N4": 40})]
        ssim = [drawn("g", {"ours": 0.6, "N4": 0.9}), drawn("h", {"ours": 0.9, "N4": 0.4})]
        (found,) = judge(*(table.assign(measure="psnr") for table in psnr), *ssim)
        assert [each.measure.name for each in found.losses] == ["ssim", "psnr"]
        assert found.losses[0].gain > found.losses[1].gain

    def test_means_are_those_of_the_common_scans(self) -> None:
        """N4 has the first four scans alone."""
        ours = {key: float(n) for n, key in enumerate(KEYS)}
        few = {key: ours[key] + 1 for key in KEYS[:4]}
        (found,) = judge(rows("ours", ours), rows("N4", few))
        loss = found.losses[0]
        assert (loss.ours, loss.theirs, loss.scans) == (1.5, 2.5, 4)
