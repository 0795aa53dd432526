from __future__ import annotations

import numpy as np
import pytest

from isochroma.errors import InputError
from isochroma.method.intensity_map import IntensityMap, fit_intensity_map

SHAPE = (40, 44, 36)
PLACE = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"))
MASK = np.square(PLACE).sum(0) < 0.9
SPACING = 4.0  # mm: heads of 160 mm


def head(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(MASK, rng.uniform(-1, 1, SHAPE), 0).astype(np.float32)


def error(found: IntensityMap, image: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found.apply(image, MASK, SPACING) - expected)[MASK].max())


class TestFit:
    def test_a_curve_that_turns(self) -> None:
        """A map that no order of intensities could give: FLAIR from T1w."""
        image, other = head(0), head(1)
        found = fit_intensity_map([(image, 0.4 - image**2, MASK)], SPACING)
        assert error(found, other, 0.4 - other**2) < 0.02

    def test_a_curve_that_depends_on_the_place(self) -> None:
        _, y, _ = PLACE
        image, other = head(0), head(1)
        found = fit_intensity_map([(image, image * (0.6 + 0.3 * y), MASK)], SPACING)
        assert error(found, other, other * (0.6 + 0.3 * y)) < 0.05

    def test_several_heads_are_averaged(self) -> None:
        heads = [head(n) for n in range(2)]
        pairs = [(image, image + 0.2 * n, MASK) for n, image in enumerate(heads)]
        found = fit_intensity_map(pairs, SPACING)
        assert error(found, heads[0], np.clip(heads[0], -1, 1) + 0.1) < 0.02

    def test_levels_that_no_scan_shows_follow_their_neighbours(self) -> None:
        image = np.where(MASK, np.clip(head(0), -0.5, 0.5), 0)
        found = fit_intensity_map([(image, 0.5 * image, MASK)], SPACING)
        assert error(found, head(1), 0.5 * head(1)) < 0.05

    def test_nothing_to_learn_from(self) -> None:
        with pytest.raises(InputError, match="no scans to learn from"):
            fit_intensity_map([], SPACING)


class TestMap:
    def test_outside_is_zero(self) -> None:
        found = fit_intensity_map([(head(0), head(0) + 0.5, MASK)], SPACING)
        mapped = found.apply(head(1) + 5, MASK, SPACING)
        assert mapped.dtype == np.float32
        assert (mapped[~MASK] == 0).all()

    def test_gain(self) -> None:
        found = fit_intensity_map([(head(0), -0.5 * head(0), MASK)], SPACING)
        assert found.gain == pytest.approx(0.5, abs=0.01)
