"""Brain masks: given, taken from a stripped scan, or found."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from conftest import ball, distance_from_centre
from fixtures_images import image_of
from isochroma.errors import InputError
from isochroma.images import brain
from isochroma.images.brain import (
    Brain,
    find_brain,
    is_stripped,
    largest_component,
    valley_under_surface,
)

TWO_MM = np.diag([2.0, 2, 2, 1])


def stripped_head() -> np.ndarray:
    """A 905 ml ball on 2 mm voxels."""
    noise = np.random.default_rng(0).uniform(50, 100, (64, 64, 64))
    return np.where(ball((64, 64, 64), 30), noise, 0).astype(np.float32)


class TestIsStripped:
    def test_ball_in_zeros(self) -> None:
        assert is_stripped(stripped_head())

    def test_holes_and_crumbs_are_allowed(self) -> None:
        data = stripped_head()
        data[30:34, 30:34, 30:34] = 0
        data[2, 2, 2] = 5
        assert is_stripped(data)

    def test_noise_around(self) -> None:
        data = stripped_head() + np.random.default_rng(1).uniform(1, 5, (64, 64, 64))
        assert not is_stripped(data)

    def test_neck_leaves_through_the_border(self) -> None:
        data = stripped_head()
        data[20:44, 20:44, :20] = 60
        assert not is_stripped(data)

    def test_second_component(self) -> None:
        data = stripped_head()
        data[1:13, 1:13, 1:13] = 60  # 1.5 % of the voxels, apart from the ball
        assert not is_stripped(data)

    def test_few_zeros(self) -> None:
        data = np.zeros((80, 80, 80))
        data[1:-1, 1:-1, 1:-1] = 60  # a zero border alone is no stripped head
        assert not is_stripped(data)

    def test_real_scans(self, target_scan: nib.Nifti1Image) -> None:
        assert is_stripped(np.asanyarray(target_scan.dataobj))

    def test_real_whole_head(self, example_head: nib.Nifti1Image) -> None:
        assert not is_stripped(np.asanyarray(example_head.dataobj))


class TestFindBrain:
    def test_a_whole_head_on_zeros_is_not_taken_for_stripped(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(
            brain.EXTRACTORS, "deepbet", lambda scan: Brain(ball(scan.shape, 30), "deepbet")
        )
        for edge, origin in ((2.0, "stripped"), (2.7, "deepbet")):  # 905 and 2226 ml
            affine = np.diag([edge, edge, edge, 1])
            assert find_brain(image_of(stripped_head(), affine)).origin == origin

    def test_another_extractor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the registry gains is asked after those before it pass the scan on."""
        monkeypatch.delitem(brain.EXTRACTORS, "deepbet")
        monkeypatch.setitem(
            brain.EXTRACTORS, "middle", lambda scan: Brain(ball(scan.shape, 25), "middle")
        )
        noise = np.random.default_rng(0).uniform(1, 5, (64, 64, 64))
        mask, origin = find_brain(image_of(noise, TWO_MM))
        assert origin == "middle"
        np.testing.assert_array_equal(mask, ball((64, 64, 64), 25))

    def test_given(self) -> None:
        data = stripped_head()
        chosen = ball((64, 64, 64), 25)
        mask, origin = find_brain(image_of(data, TWO_MM), image_of(chosen.astype(np.uint8), TWO_MM))
        assert origin == "given"
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, chosen)

    def test_given_as_one_volume_in_4d(self) -> None:
        chosen = ball((64, 64, 64), 25)
        mask, _ = find_brain(
            image_of(stripped_head(), TWO_MM), image_of(chosen[..., None].astype(np.uint8), TWO_MM)
        )
        np.testing.assert_array_equal(mask, chosen)

    def test_given_on_another_shape(self) -> None:
        given = image_of(np.ones((64, 64, 63), dtype=np.uint8), TWO_MM)
        with pytest.raises(InputError, match=r"\(64, 64, 63\).*Resample the mask") as caught:
            find_brain(image_of(stripped_head(), TWO_MM), given)
        assert caught.value.argument == "mask"

    def test_given_with_another_affine(self) -> None:
        moved = TWO_MM.copy()
        moved[0, 3] = 1
        given = image_of(ball((64, 64, 64), 25).astype(np.uint8), moved)
        with pytest.raises(InputError, match=r"off by 1.0 mm.*Resample the mask"):
            find_brain(image_of(stripped_head(), TWO_MM), given)

    @pytest.mark.parametrize(
        ("radius", "affine", "shown"),
        [(-1, TWO_MM, "0 ml"), (15, TWO_MM, "1[0-9]{2} ml"), (30, 1.6 * TWO_MM, "3[0-9]{3} ml")],
        ids=["empty", "too small", "too large"],
    )
    def test_implausible_volume(self, radius: float, affine: np.ndarray, shown: str) -> None:
        affine[3, 3] = 1
        given = image_of(ball((64, 64, 64), radius).astype(np.uint8), affine)
        with pytest.raises(InputError, match=f"{shown}.*give its brain mask") as caught:
            find_brain(image_of(stripped_head(), affine), given)
        assert "(given)" in str(caught.value)
        assert caught.value.argument == "mask"
        assert len(str(caught.value).splitlines()) == 1

    def test_stripped(self) -> None:
        """Holes are filled, crumbs dropped."""
        data = stripped_head()
        brain = data != 0
        data[30:34, 30:34, 30:34] = 0
        data[2, 2, 2] = 5
        mask, origin = find_brain(image_of(data, TWO_MM))
        assert origin == "stripped"
        np.testing.assert_array_equal(mask, brain)

    def test_no_brain_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def run(image: nib.Nifti1Image) -> None:
            raise AssertionError

        monkeypatch.setattr(brain, "_deepbet_network", lambda: SimpleNamespace(run=run))
        noise = np.random.default_rng(0).uniform(1, 5, (64, 64, 64))
        with pytest.raises(
            InputError, match=r"found no brain. Check the scan, or give its brain mask"
        ):
            find_brain(image_of(noise, TWO_MM))

    def test_whole_head(self, example_head: nib.Nifti1Image) -> None:
        mask, origin = find_brain(example_head)
        assert origin == "deepbet"
        assert mask.shape == example_head.shape
        volume_ml = mask.sum() / 1000
        assert 1000 < volume_ml < 2000
        # ch2 lies in MNI space: its anterior commissure region is brain, its nose is not
        inverse = np.linalg.inv(example_head.affine)
        for point, inside in [((0, -20, 10), True), ((0, 110, -60), False), ((0, 0, 90), False)]:
            voxel = np.rint(nib.affines.apply_affine(inverse, point)).astype(int)
            voxel = np.clip(voxel, 0, np.array(mask.shape) - 1)
            assert mask[tuple(voxel)] == inside, point


class TestLargestComponent:
    def test_keeps_the_larger(self) -> None:
        mask = np.zeros((10, 10, 10), dtype=bool)
        mask[1:3, 1:3, 1:3] = mask[5:9, 5:9, 5:9] = True
        expected = mask.copy()
        expected[:4] = False
        np.testing.assert_array_equal(largest_component(mask), expected)

    def test_corners_do_not_connect(self) -> None:
        mask = np.zeros((6, 6, 6), dtype=bool)
        mask[0:2, 0:2, 0:2] = mask[2:5, 2:5, 2:5] = True
        assert largest_component(mask).sum() == 27

    def test_nothing(self) -> None:
        assert not largest_component(np.zeros((3, 3, 3), dtype=bool)).any()


def layered(shape: tuple[int, int, int], edges: list[float], values: list[float]) -> np.ndarray:
    """Concentric shells: values[n] up to the radius edges[n], voxels; 0 outside."""
    radius = distance_from_centre(shape)
    return np.select([radius < edge for edge in edges], values, 0).astype(np.float32)


class TestStripped:
    """Balls of 2 mm voxels as whole heads and stripped brains."""

    SHAPE = (80, 80, 80)
    HEAD = ([29, 33, 36], [700.0, 60.0, 500.0])  # brain 817 ml; skull; scalp to 1563 ml

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """How often deepbet was asked; it answers with the inner ball."""
        calls: list[int] = []

        def inner(scan: nib.Nifti1Image) -> Brain:
            calls.append(1)
            return Brain(ball(self.SHAPE, 29), "deepbet")

        monkeypatch.setattr(brain, "deepbet", inner)
        monkeypatch.setitem(brain.EXTRACTORS, "deepbet", inner)
        return calls

    def test_a_small_whole_head_on_zeros_goes_to_deepbet(self, asked: list[int]) -> None:
        data = layered(self.SHAPE, *self.HEAD)
        found = find_brain(nib.Nifti1Image(data, TWO_MM))
        assert found.origin == "deepbet"
        np.testing.assert_array_equal(found.mask, ball(self.SHAPE, 29))
        assert asked == [1]

    @pytest.mark.parametrize("values", [(800.0, 500.0, 150.0), (200.0, 300.0, 900.0)])
    def test_a_stripped_brain_is_taken_as_it_is(
        self, asked: list[int], values: tuple[float, ...]
    ) -> None:
        """White matter, grey matter, CSF: in T1w from bright to dark, in T2w the reverse."""
        data = layered(self.SHAPE, [20, 27, 30], list(values))
        found = find_brain(nib.Nifti1Image(data, TWO_MM))
        assert found.origin == "stripped"
        np.testing.assert_array_equal(found.mask, data > 0)
        assert asked == []

    def test_valley_is_the_skulls_depth(self) -> None:
        """Scalp 500 is the darker of the two sides; the skull has 60."""
        data = layered(self.SHAPE, *self.HEAD)
        depth = valley_under_surface(data, data > 0, np.full(3, 2.0))
        assert depth == pytest.approx(60 / 500, abs=1e-3)

    def test_a_faint_halo_is_cut_off(self, asked: list[int]) -> None:
        data = layered(self.SHAPE, [20, 27, 30], [800.0, 500.0, 150.0])
        halo = np.where(ball(self.SHAPE, 33) & (data == 0), 4.0, data)
        found = find_brain(nib.Nifti1Image(halo.astype(np.float32), TWO_MM))
        np.testing.assert_array_equal(found.mask, data > 0)

    def test_dark_voxels_of_the_brain_are_no_halo(self, asked: list[int]) -> None:
        data = layered(self.SHAPE, [20, 27, 30], [800.0, 500.0, 150.0])
        dark = data.copy()
        dark[38:44, 38:44, 38:44] = 3
        found = find_brain(nib.Nifti1Image(dark, TWO_MM))
        np.testing.assert_array_equal(found.mask, data > 0)


class TestGivenMask:
    SCAN = image_of(np.full((64, 64, 64), 5, np.float32), TWO_MM)

    def test_probabilities_are_cut_at_half(self) -> None:
        radius = distance_from_centre((64, 64, 64))
        soft = np.clip(1 - (radius - 20) / 10, 0, 1).astype(np.float32)  # 0.5 at 25
        found = find_brain(self.SCAN, image_of(soft, TWO_MM)).mask
        np.testing.assert_array_equal(found, radius <= 25)

    @pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
    def test_labels_are_brain_wherever_they_are(self, kind: type) -> None:
        labels = (ball((64, 64, 64), 25) * 1).astype(kind)
        labels[20:30][labels[20:30] > 0] = 4
        np.testing.assert_array_equal(
            find_brain(self.SCAN, image_of(labels, TWO_MM)).mask, labels > 0
        )

    def test_another_orientation(self) -> None:
        mask = ball((64, 64, 64), 25)
        mask[:, :32] = False
        stored = image_of(mask.astype(np.uint8), TWO_MM).as_reoriented(
            nib.orientations.axcodes2ornt(("P", "I", "R"))
        )
        assert stored.shape == mask.shape
        assert not np.array_equal(np.asarray(stored.dataobj) > 0, mask)
        np.testing.assert_array_equal(find_brain(self.SCAN, stored).mask, mask)

    def test_a_rounded_affine(self) -> None:
        rounded = TWO_MM.copy()
        rounded[:3, 3] = 0.04
        mask = ball((64, 64, 64), 25)
        found = find_brain(self.SCAN, image_of(mask.astype(np.uint8), rounded))
        np.testing.assert_array_equal(found.mask, mask)

    def test_a_plate_is_no_brain(self) -> None:
        mask = np.zeros((64, 64, 64), np.uint8)
        mask[2:62, 2:62, 30:41] = 1  # 22 mm
        with pytest.raises(InputError, match="22 mm thin") as caught:
            find_brain(self.SCAN, image_of(mask, TWO_MM))
        assert caught.value.argument == "mask"


def test_deepbet_sees_a_wide_field_of_view_without_its_border(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The head alone, 4 voxels of border left; the mask comes back where the head is."""
    data = np.zeros((200, 180, 190), np.float32)
    head = layered((60, 60, 60), [29], [500.0])
    box = (slice(90, 150), slice(20, 80), slice(70, 130))
    data[box] = head
    shapes = []

    def run(image: nib.Nifti1Image) -> tuple:
        shapes.append(image.shape)
        found = np.asarray(image.dataobj) > 0
        return None, nib.Nifti1Image(found.astype(np.uint8), image.affine), None

    monkeypatch.setattr(brain, "_deepbet_network", lambda: SimpleNamespace(run=run))
    mask = brain.deepbet(nib.Nifti1Image(data, TWO_MM)).mask
    np.testing.assert_array_equal(mask, data > 0)
    assert max(shapes[0]) <= 68
