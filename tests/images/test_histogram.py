"""Histograms and thresholds of in-mask values."""

from __future__ import annotations

import numpy as np
import pytest

from isochroma.images.histogram import (
    bin_centres,
    density,
    density_of_quantiles,
    distance,
    three_classes,
)


def test_density_holds_all_values() -> None:
    share = density(np.array([-9.0, 0.01, 0.02, 5.0]))
    assert share[0] == share[-1] == 0.25
    assert share[np.abs(bin_centres() - 0.015).argmin()] == 0.5


def test_quantiles_and_values_agree() -> None:
    values = np.random.default_rng(0).beta(2, 5, 100_000) * 2 - 1
    known = density_of_quantiles(np.quantile(values, np.linspace(0, 1, 501)))
    assert known.sum() == pytest.approx(1)
    assert distance(known, density(values)) < 0.002


def test_distance_of_a_shift() -> None:
    values = np.random.default_rng(0).normal(0, 0.1, 100_000)
    assert distance(density(values), density(values + 0.3)) == pytest.approx(0.3, abs=0.002)


def test_three_classes() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(mean, 0.08, 5000) for mean in (-0.8, 0.1, 0.8)]
    lower, upper = three_classes(np.concatenate(parts))
    assert -0.56 < lower < -0.14  # three standard deviations from either side
    assert 0.34 < upper < 0.56
