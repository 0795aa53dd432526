from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from conftest import ball
from fixtures_evaluation import sample
from isochroma.evaluation.measures.structure import invented, lost, unexplained
from isochroma.evaluation.tissues import CSF, GREY, WHITE
from isochroma.evaluation.tools.detail import detail
from isochroma.evaluation.tools.profile import target_profile

SHAPE = (60, 60, 60)
MASK = ball(SHAPE, 27)
TISSUES = np.select([ball(SHAPE, 18), ball(SHAPE, 23), MASK], [WHITE, GREY, CSF], 0)


def head(seed: int = 0) -> np.ndarray:
    """Folds of three tissues, and grain."""
    rng = np.random.default_rng(seed)
    folds = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 2)
    values = 3 * folds / folds.std() / 10 + np.choose(TISSUES, [0, -0.6, 0.0, 0.5])
    return np.where(MASK, np.clip(values, -1, 1), 0).astype(np.float32)


def spot(radius: float) -> np.ndarray:
    """A ball away from the middle."""
    return np.roll(ball(SHAPE, radius), (0, 6, -2), (0, 1, 2))


PROFILE = target_profile([head(n) for n in range(1, 4)], [MASK] * 3, [TISSUES] * 3)
SPECK = spot(2.5)


def of(output: np.ndarray, *shown: np.ndarray) -> tuple[float, float]:
    one = sample(output, MASK, shown[0], profile=PROFILE)
    one = dataclasses.replace(one, shown=shown, classical=True)
    return invented(one), lost(one)


class TestInvented:
    def test_the_scan_itself(self) -> None:
        assert of(head(), head()) == (0, 0)

    @pytest.mark.parametrize("turn", [np.negative, np.tanh, lambda x: 0.3 * x + 0.2])
    def test_another_contrast_of_the_same_head(self, turn) -> None:  # type: ignore[no-untyped-def]
        made, gone = of(head(), turn(head()))
        assert made < 0.05
        assert gone < 0.05

    def test_a_speck_is_found_with_its_size(self) -> None:
        source = np.where(spot(9), 0.5, head())
        output = np.where(SPECK, -0.6, source)
        made, gone = of(output, source)
        assert 0.02 < made < 0.5
        assert gone == 0

    def test_what_another_contrast_shows_is_not_invented(self) -> None:
        source = np.where(spot(9), 0.5, head())
        output = np.where(SPECK, -0.6, source)
        alone = of(output, source)[0]
        assert of(output, source, np.where(SPECK, 0.9, source))[0] < 0.6 * alone

    def test_a_speck_that_goes_is_lost(self) -> None:
        smooth = np.where(spot(9), 0.5, head())
        made, gone = of(smooth, np.where(SPECK, -0.6, smooth))
        assert made == 0
        assert 0.02 < gone < 0.5

    def test_a_blur_invents_nothing_and_loses_much(self) -> None:
        blurred = np.where(MASK, ndimage.gaussian_filter(head(), 4), 0)
        made, gone = of(blurred, head())
        assert made < 0.05
        assert gone > 0.1

    def test_another_head_invents_and_loses(self) -> None:
        made, gone = of(head(7), head())
        assert made > 0.1
        assert gone > 0.1


class TestRegions:
    def test_specks_are_numbered_and_small_ones_left_out(self) -> None:
        volume = np.zeros(SHAPE, np.float32)
        volume[20:23, 30:33, 30:33] = volume[40:43, 30:33, 30:33] = 1
        regions = unexplained(volume, [np.zeros(SHAPE)], MASK, 0.1)
        assert regions.max() == 2
        assert {regions[21, 31, 31], regions[41, 31, 31]} == {1, 2}
        assert unexplained(volume, [np.zeros(SHAPE)], MASK, 0.9 * volume.max()).max() == 0


def test_detail_has_the_sign_of_a_spot_and_none_of_a_slope() -> None:
    slope = np.broadcast_to(np.arange(60.0)[:, None, None] / 60, SHAPE)
    found = detail(slope + 0.5 * SPECK, MASK)
    assert found[30, 36, 28] > 0.1
    assert np.abs(found[ball(SHAPE, 12) & ~spot(14)]).max() < 1e-3
    assert (found[~MASK] == 0).all()
