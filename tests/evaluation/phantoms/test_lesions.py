from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from conftest import ball
from isochroma.errors import InputError
from isochroma.evaluation.phantoms.lesions import Lesion, plant_lesions, show_lesions
from isochroma.evaluation.tissues import CSF, GREY, WHITE

SHAPE = (48, 48, 48)
MASK = ball(SHAPE, 23)
TISSUES = np.select([ball(SHAPE, 18), ball(SHAPE, 21), MASK], [WHITE, GREY, CSF], 0)
Planted = tuple[np.ndarray, np.ndarray, list[Lesion]]


def head() -> np.ndarray:
    grain = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE), 1.0)
    values = np.choose(TISSUES, [0, -0.5, 0.1, 0.75]) + 0.04 * grain / grain.std()
    return np.where(MASK, values, 0).astype(np.float32)


def plant(
    image: np.ndarray,
    rng: np.random.Generator,
    radii: tuple[float, ...],
    amounts: tuple[float, ...],
) -> Planted:
    amount, labels, table = plant_lesions(TISSUES, rng, radii, amounts)
    return show_lesions(image, TISSUES, amount), labels, table


@pytest.fixture(scope="module")
def planted() -> Planted:
    rng = np.random.default_rng(0)
    return plant(head(), rng, (2, 4), (0.5, 1))


class TestPlantLesions:
    def test_one_for_each_radius_and_amount(self, planted: Planted) -> None:
        _, labels, table = planted
        asked = {(each.radius_mm, each.amount) for each in table}
        assert asked == {(2, 0.5), (2, 1), (4, 0.5), (4, 1)}
        assert sorted(np.unique(labels)) == [0, 1, 2, 3, 4]
        for each in table:
            assert labels[each.centre] == each.label
            assert each.volume_mm3 == (labels == each.label).sum()
            assert each.volume_mm3 == pytest.approx(4 / 3 * np.pi * each.radius_mm**3, rel=0.2)

    def test_in_white_matter_and_apart(self, planted: Planted) -> None:
        changed, labels, _ = planted
        assert (TISSUES[labels > 0] == WHITE).all()
        assert (TISSUES[changed != head()] == WHITE).all()
        _, count = ndimage.label(ndimage.binary_dilation(labels > 0, iterations=1))
        assert count == 4

    def test_contrast_is_as_asked(self, planted: Planted) -> None:
        """Where the weight is full, white matter is darker by the asked share of the contrast."""
        changed, labels, table = planted
        image = head()
        step = image[TISSUES == WHITE].mean() - image[TISSUES == GREY].mean()
        for each in table:
            darker = (image - changed)[labels == each.label]
            assert darker.max() == pytest.approx(each.amount * step, rel=1e-4)

    def test_texture_stays(self, planted: Planted) -> None:
        changed, labels, _ = planted
        core = ndimage.binary_erosion(labels == 1, iterations=2)
        assert changed[core].std() == pytest.approx(head()[core].std(), rel=1e-3)

    def test_inverted_contrast_gets_brighter(self) -> None:
        rng = np.random.default_rng(0)
        changed, labels, _ = plant(-head(), rng, (3,), (1.0,))
        assert (changed + head())[labels > 0].min() > 0.2

    def test_beyond_grey_matter(self) -> None:
        rng = np.random.default_rng(0)
        changed, labels, _ = plant(head(), rng, (4,), (2.0,))
        assert changed[labels > 0].min() < -0.3

    def test_reproducible(self) -> None:
        a, b = (plant(head(), np.random.default_rng(5), (2,), (1.0,))[1] for _ in range(2))
        np.testing.assert_array_equal(a, b)

    def test_what_has_no_place_is_left_out(self) -> None:
        rng = np.random.default_rng(0)
        _, _, table = plant(head(), rng, (2, 30), (1.0,))
        assert [each.radius_mm for each in table] == [2]
        with pytest.raises(InputError, match="no lesion fits"):
            plant(head(), rng, (30,), (1.0,))
