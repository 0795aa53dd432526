from __future__ import annotations

import numpy as np
import pytest

from isochroma.evaluation.measures.segmentation import dice, mean_dice
from isochroma.evaluation.tissues import CSF, GREY, NAMES, WHITE

EVERYWHERE = np.ones((2, 2, 2), dtype=bool)


def labels(*values: int) -> np.ndarray:
    return np.array(values).reshape(2, 2, 2)


class TestDice:
    def test_identical(self) -> None:
        a = labels(1, 1, 2, 2, 3, 3, 0, 0)
        assert [dice(a, a, EVERYWHERE, label) for label in NAMES] == [1, 1, 1]
        assert mean_dice(a, a, EVERYWHERE) == 1

    def test_disjoint(self) -> None:
        a = labels(1, 2, 3, 1, 2, 3, 1, 2)
        assert mean_dice(a, a % 3 + 1, EVERYWHERE) == 0

    def test_by_hand(self) -> None:
        """CSF 1 of 2 and 2 voxels, grey matter 1 of 2 and 3, white matter 3 of 4 and 3."""
        a, b = labels(1, 1, 2, 2, 3, 3, 3, 3), labels(1, 2, 1, 2, 2, 3, 3, 3)
        found = [dice(a, b, EVERYWHERE, label) for label in (CSF, GREY, WHITE)]
        assert found == pytest.approx([2 / 4, 2 / 5, 6 / 7])
        assert mean_dice(a, b, EVERYWHERE) == pytest.approx((1 / 2 + 2 / 5 + 6 / 7) / 3)

    def test_only_the_mask_counts(self) -> None:
        a, b = labels(1, 1, 2, 2, 3, 3, 3, 3), labels(1, 1, 2, 2, 3, 3, 1, 2)
        mask = labels(1, 1, 1, 1, 1, 1, 0, 0).astype(bool)
        assert mean_dice(a, b, mask) == 1
        assert mean_dice(a, b, EVERYWHERE) < 1

    def test_absent_tissue_is_nan_and_not_in_the_mean(self) -> None:
        a = labels(1, 1, 1, 1, 2, 2, 2, 2)
        assert np.isnan(dice(a, a, EVERYWHERE, WHITE))
        assert mean_dice(a, a, EVERYWHERE) == 1
        assert np.isnan(mean_dice(a, a, ~EVERYWHERE))
