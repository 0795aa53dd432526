from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from conftest import ball, distance_from_centre
from fixtures_evaluation import sample
from isochroma.errors import InputError
from isochroma.evaluation.measures import anatomy
from isochroma.evaluation.measures.sample import Lesions, label_lesions
from isochroma.evaluation.phantoms.lesions import Lesion, plant_lesions, show_lesions
from isochroma.evaluation.tissues import CSF, GREY, WHITE
from isochroma.method.edges import EdgeSettings, canny

SHAPE = (48, 48, 48)
MASK = ball(SHAPE, 23)
TISSUES = np.select([ball(SHAPE, 18), ball(SHAPE, 21), MASK], [WHITE, GREY, CSF], 0)


def texture(seed: int, sigma: float = 1.0) -> np.ndarray:
    grain = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), sigma)
    return (grain / grain.std()).astype(np.float32)


def head() -> np.ndarray:
    values = np.choose(TISSUES, [0, -0.5, 0.1, 0.75]) + 0.04 * texture(0)
    return np.where(MASK, values, 0).astype(np.float32)


def edges(output: np.ndarray, source: np.ndarray) -> tuple[float, float]:
    """Edges kept and invented."""
    given = sample(output, MASK, source, edges=canny(source, MASK, EdgeSettings()))
    return anatomy.edges_kept(given), anatomy.edges_invented(given)


def contrast_kept(
    output: np.ndarray,
    reference: np.ndarray,
    labels: np.ndarray,
    healthy: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    return anatomy.contrast_kept(output, Lesions(labels, reference, healthy), TISSUES)


class TestEdges:
    def test_identical(self) -> None:
        image = texture(0)
        assert edges(image, image) == (1, 0)

    def test_inverted_contrast_keeps_edges(self) -> None:
        image = texture(0)
        assert edges(-image, image)[0] > 0.99

    def test_unrelated_is_at_chance(self) -> None:
        """An edge lies as often near one of another image's as any other voxel does."""
        maps = [canny(texture(seed), MASK, EdgeSettings()) for seed in (1, 0)]
        near_output, near_source = (ndimage.binary_dilation(each)[MASK].mean() for each in maps)
        kept, invented = edges(texture(1), texture(0))
        assert (kept, invented) == pytest.approx((near_output, 1 - near_source), abs=0.05)

    def test_moved_by_one_voxel(self) -> None:
        """All edges that did not leave the mask lie within 1 voxel; by three, few do."""
        image = texture(0, sigma=2)
        near, far = (edges(np.roll(image, shift, 0), image)[0] for shift in (1, 3))
        assert near > 0.95
        assert far < near - 0.2

    def test_share_near(self) -> None:
        edges, others = (np.zeros((5, 5, 5), dtype=bool) for _ in range(2))
        edges[1, 1, 1] = edges[3, 3, 3] = edges[4, 4, 4] = True
        others[2, 1, 1] = True
        everywhere = np.ones_like(edges)
        assert anatomy.share_near(edges, others, everywhere) == pytest.approx(1 / 3)
        assert np.isnan(anatomy.share_near(edges, others, ~everywhere))


class TestLocalNcc:
    def test_known(self) -> None:
        image = texture(0)
        assert anatomy.local_ncc(image, image, MASK) == pytest.approx(1)
        assert anatomy.local_ncc(3 - 2 * image, image, MASK) == pytest.approx(1)
        assert anatomy.local_ncc(texture(1), image, MASK) < 0.2

    def test_sign_may_change_between_windows(self) -> None:
        """Inverted in one half only: globally uncorrelated, locally the same."""
        sign = np.where(np.arange(48) < 24, 1, -1)[:, None, None]
        image = texture(0)
        assert abs(np.corrcoef((sign * image)[MASK], image[MASK])[0, 1]) < 0.1
        assert anatomy.local_ncc(sign * image, image, MASK) > 0.85

    def test_constant_output(self) -> None:
        assert anatomy.local_ncc(np.full(SHAPE, 0.3), texture(0), MASK) == 0
        assert np.isnan(anatomy.local_ncc(texture(0), np.full(SHAPE, 0.3), MASK))

    def test_outside_does_not_matter(self) -> None:
        a, b = texture(0), texture(0) + texture(1)
        found = anatomy.local_ncc(np.where(MASK, a, 7), np.where(MASK, b, -9), MASK)
        assert found == pytest.approx(anatomy.local_ncc(a, b, MASK))


Planted = tuple[np.ndarray, np.ndarray, list[Lesion]]


@pytest.fixture(scope="module")
def planted() -> Planted:
    rng = np.random.default_rng(1)
    amount, labels, table = plant_lesions(TISSUES, rng, radii_mm=(2, 6), amounts=(0.5, 1))
    return show_lesions(head(), TISSUES, amount), labels, table


class TestContrastKept:
    def test_reference_itself(self, planted: Planted) -> None:
        changed, labels, _ = planted
        kept = contrast_kept(changed, changed, labels)
        np.testing.assert_allclose(kept, 1)
        assert anatomy.recall(kept) == 1

    @pytest.mark.parametrize(("gain", "offset"), [(0.5, 0.2), (-1, 0)])
    def test_scale_does_not_matter(self, planted: Planted, gain: float, offset: float) -> None:
        changed, labels, _ = planted
        kept = contrast_kept(gain * changed + offset, changed, labels)
        np.testing.assert_allclose(kept, 1, rtol=1e-4)

    def test_without_lesions(self, planted: Planted) -> None:
        changed, labels, _ = planted
        plain = contrast_kept(head(), changed, labels)
        np.testing.assert_allclose(plain, 0, atol=0.2)
        paired = contrast_kept(head(), changed, labels, (head(), head()))
        np.testing.assert_array_equal(paired, 0)
        assert anatomy.recall(plain) == anatomy.recall(paired) == 0

    def test_blur_loses_the_small(self, planted: Planted) -> None:
        changed, labels, table = planted
        smooth, plain = (ndimage.gaussian_filter(image, 2) for image in (changed, head()))
        kept = contrast_kept(smooth, changed, labels, (plain, head()))
        small = np.array([each.radius_mm == 2 for each in table])
        assert kept[small].max() < 0.4
        assert kept[~small].min() > 0.6
        assert anatomy.recall(kept) == 0.5

    def test_half(self, planted: Planted) -> None:
        changed, labels, _ = planted
        half = (changed + head()) / 2
        kept = contrast_kept(half, changed, labels, (head(), head()))
        np.testing.assert_allclose(kept, 0.5, atol=5e-3)

    def test_known_contrast(self) -> None:
        """White 0.8, grey 0, a lesion of 0.6 in it: a quarter of the contrast."""
        image = np.choose(TISSUES, [0, -0.5, 0.0, 0.8])
        labels = ball(SHAPE, 4).astype(np.int32)
        image[labels > 0] = 0.6
        assert anatomy.lesion_contrasts(image, labels, TISSUES) == pytest.approx([0.25])

    def test_output_without_contrast(self, planted: Planted) -> None:
        changed, labels, _ = planted
        kept = contrast_kept(np.zeros(SHAPE), changed, labels)
        np.testing.assert_array_equal(kept, 0)

    def test_not_seen_in_the_reference(self) -> None:
        labels = ball(SHAPE, 4).astype(np.int32)
        image = np.choose(TISSUES, [0, -0.5, 0.1, 0.75])
        kept = contrast_kept(image, image, labels)
        assert np.isnan(kept).all()
        assert np.isnan(anatomy.recall(kept))

    def test_no_white_matter_around(self) -> None:
        labels = (distance_from_centre(SHAPE) > 24).astype(np.int32)
        assert np.isnan(anatomy.lesion_contrasts(head(), labels, TISSUES)).all()

    def test_gap_in_the_numbers(self) -> None:
        labels = 2 * ball(SHAPE, 4).astype(np.int32)
        with pytest.raises(InputError, match="lesion 1 has no voxels"):
            anatomy.lesion_contrasts(head(), labels, TISSUES)


class TestRing:
    def lesion(self) -> tuple[np.ndarray, np.ndarray]:
        """White 0.8, grey 0, and a ball of grey matter's brightness in the white matter."""
        labels = ball(SHAPE, 6).astype(np.int32)
        image = np.choose(TISSUES, [0, -0.5, 0.0, 0.8])
        return np.where(labels > 0, 0.0, image), labels

    def ring(self, output: np.ndarray) -> float:
        image, labels = self.lesion()
        return anatomy.lesion_ring(
            sample(output, MASK, tissues=TISSUES, lesions=Lesions(labels, image))
        )

    def test_as_in_the_reference(self) -> None:
        assert self.ring(self.lesion()[0]) == pytest.approx(0)

    def test_faded_evenly_is_no_ring(self) -> None:
        image, labels = self.lesion()
        assert self.ring(np.where(labels > 0, 0.5, image)) == pytest.approx(0)

    def test_a_ring_around_a_white_core(self) -> None:
        image, _ = self.lesion()
        assert self.ring(np.where(ball(SHAPE, 4), 0.8, image)) == pytest.approx(1)

    def test_a_core_whose_rim_has_gone(self) -> None:
        image, labels = self.lesion()
        faded = np.where((labels > 0) & ~ball(SHAPE, 4), 0.8, image)
        assert self.ring(faded) == pytest.approx(-1, abs=0.05)


class TestLesionMask:
    def test_components(self) -> None:
        mask = np.zeros((20, 20, 20), dtype=bool)
        mask[1:3, 1:3, 1:3] = True  # 8 mm3
        mask[5:8, 5:8, 5:8] = mask[8:10, 8:10, 8:10] = True  # 35, touching by a corner
        mask[15:18, 15:18, 15:18] = True  # 27
        labels = label_lesions(mask)
        assert np.bincount(labels.ravel())[1:].tolist() == [35, 27]
        assert label_lesions(mask, least_mm3=8).max() == 3
        assert label_lesions(np.zeros_like(mask)).max() == 0
