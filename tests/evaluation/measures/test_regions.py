from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isochroma.evaluation.measures.regions import (
    Regions,
    Volumes,
    icc,
    judged,
    large_regions,
    mean_dice,
    median_icc,
    variation,
    volumes_of,
)
from isochroma.evaluation.study import Scan


def regions(first: list[int], second: list[int], *volumes: Volumes) -> Regions:
    known = volumes or [volumes_of(np.array(each), 1.0) for each in (first, second)]
    return Regions(np.array(first), np.array(second), *large_regions(known))


class TestMeanDice:
    def test_by_hand(self) -> None:
        """Region 1: 2 of 4 and 2. Region 2: 2 of 2 and 4. Region 900 is in one alone."""
        found = regions([1, 1, 1, 1, 2, 2, 0, 0, 900], [1, 1, 2, 0, 2, 2, 2, 0, 0])
        assert mean_dice(found) == pytest.approx((4 / 6 + 4 / 6 + 0) / 3)

    def test_same_labels(self) -> None:
        assert mean_dice(regions([0, 3, 3, 7], [0, 3, 3, 7])) == 1

    def test_small_regions_are_left_out(self) -> None:
        found = regions([1, 1, 2], [1, 1, 0], {1: 2.0, 2: 0.049}, {1: 2.0})
        assert mean_dice(found) == 1
        found = regions([1, 1, 2], [1, 1, 0], {1: 2.0, 2: 0.05}, {1: 2.0})
        assert mean_dice(found) == 0.5

    def test_no_regions(self) -> None:
        assert np.isnan(mean_dice(regions([0, 0], [0, 0])))


class TestVariation:
    def test_by_hand(self) -> None:
        """1 and 3 ml: the mean is 2, the standard deviation the root of 2."""
        found = regions([], [], {1: 1.0, 2: 5.0, 3: 8.0}, {1: 3.0, 2: 5.0, 3: 8.0})
        assert variation(found) == 0  # the median of three
        assert variation(regions([], [], {1: 1.0}, {1: 3.0})) == pytest.approx(70.71, abs=0.01)

    def test_in_one_scan_alone(self) -> None:
        assert variation(regions([], [], {4: 3.0}, {})) == pytest.approx(141.42, abs=0.01)
        assert np.isnan(variation(regions([], [], {}, {})))


class TestICC:
    def test_published_example(self) -> None:
        """Shrout and Fleiss 1979, table 2: six targets, four judges; ICC(2,1) is .29."""
        ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9]]
        table = np.array([*ratings, [6, 2, 4, 7]], float)[:, :, None]
        np.testing.assert_allclose(icc(table), [0.29], atol=0.005)

    def test_an_offset_is_no_agreement(self) -> None:
        """By hand: mean squares of 8 (persons), 6 (times) and 0: 8 / (8 + 2 * 6 / 3)."""
        table = np.array([[2, 4], [4, 6], [6, 8]], float)[:, :, None]
        np.testing.assert_allclose(icc(table), [2 / 3])

    def test_regions_are_independent(self) -> None:
        agreeing = np.array([[1, 1], [2, 2], [3, 3]], float)
        table = np.stack([agreeing, agreeing + np.array([0, 2]), np.ones((3, 2))], axis=-1)
        np.testing.assert_allclose(icc(table)[:2], [1, 1 / (1 + 2 * 6 / 3 / 2)])
        assert np.isnan(icc(table)[2])

    def test_median_with_its_interval(self) -> None:
        rng = np.random.default_rng(0)
        people = rng.normal(10, 1, (40, 1, 5))
        table = people + rng.normal(0, 0.5, (40, 2, 5))  # a reliability of 1 / 1.25
        found = median_icc(table, rng, 200)
        assert found.low < 0.8 < found.high
        assert found.value == pytest.approx(0.8, abs=0.08)
        assert found.scans == 80


def test_volumes() -> None:
    labels = np.zeros((4, 4, 4), np.uint16)
    labels[0], labels[1, 0] = 7, 2035
    assert volumes_of(labels, 0.001) == pytest.approx({7: 0.016, 2035: 0.004})


def test_scans_on_which_the_segmenter_can_be_judged() -> None:
    def scan(name: str, core: bool, **known: str | Path) -> Scan:
        return Scan(Path("x"), "S", name, **{"person": name, **known}, core=core)  # type: ignore[arg-type]

    scans = [
        scan("k1", True, grid="k", contrast="T1w"),
        scan("k2", True, grid="k", contrast="T2w"),
        scan("k3", False, grid="k", contrast="FLAIR"),
        scan("m1", True, grid="m", contrast="T1w"),
        scan("m2", False, grid="m", contrast="T2w"),
        scan("o1", False, person="o"),
        scan("o2", False, person="o"),
        scan("alone", True),
        scan("labelled", True, regions=Path("x")),
        scan("labelled, not core", False, regions=Path("x")),
        scan("simulated", True, regions=Path("x"), preset="flair-3T"),
    ]
    assert [each.scan for each in judged(scans)] == ["k1", "k2", "o1", "o2", "labelled"]
