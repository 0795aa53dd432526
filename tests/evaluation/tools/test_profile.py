from __future__ import annotations

import numpy as np
import pytest

from conftest import ball
from isochroma.errors import InputError
from isochroma.evaluation.tissues import CSF, GREY, WHITE
from isochroma.evaluation.tools.profile import contrast_ratio, target_profile

SHAPE = (24, 26, 22)
MASK = ball(SHAPE, 9)
LABELS = np.select([ball(SHAPE, 4), ball(SHAPE, 7), MASK], [WHITE, GREY, CSF], 0)
PROBABILITIES = np.linspace(0, 1, 1001)


def head(csf: float, grey: float, white: float) -> np.ndarray:
    """One value a tissue."""
    return np.choose(LABELS, [0, csf, grey, white]).astype(np.float32)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, SHAPE).astype(np.float32)


class TestTargetProfile:
    def test_is_the_mean_of_the_scans(self) -> None:
        scans = iter([noise(0), noise(0) + 0.2])
        profile = target_profile(scans, [MASK] * 2, [LABELS] * 2)
        expected = np.quantile(noise(0)[MASK], PROBABILITIES) + 0.1
        np.testing.assert_allclose(profile.quantiles["brain"], expected, atol=1e-6)

    def test_tissues_have_their_own_quantiles(self) -> None:
        profile = target_profile([head(-0.5, 0.1, 0.75)], [MASK], [LABELS])
        for name, value in (("CSF", -0.5), ("grey matter", 0.1), ("white matter", 0.75)):
            np.testing.assert_allclose(profile.quantiles[name], value, rtol=1e-6)

    def test_no_scans(self) -> None:
        with pytest.raises(InputError, match="no scans"):
            target_profile([], [], [])


class TestContrastRatio:
    def test_known(self) -> None:
        """White 0.8 and grey 0.4 on [0, 1]: 0.4 / 1.2."""
        assert contrast_ratio(head(-0.5, -0.2, 0.6), LABELS) == pytest.approx(1 / 3)
        assert contrast_ratio(head(-0.5, 0.6, -0.2), LABELS) == pytest.approx(-1 / 3)
