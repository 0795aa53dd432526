from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ball
from isochroma.method import patches
from isochroma.method.condition import coordinates
from isochroma.method.patches import Patch, PatchSettings, Volumes

SHAPE = (20, 24, 18)
CENTROID = np.array([9.5, 11.5, 8.5])
FULL = np.ones(SHAPE, dtype=bool)

strides = st.tuples(*[st.integers(1, 3)] * 3)
starts = st.tuples(st.integers(-6, 10), st.integers(-6, 10), st.integers(-6, 10))


def texture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, SHAPE).astype(np.float32)


def sparse_edges(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE) < 0.05


def extract(
    image: np.ndarray | None = None,
    mask: np.ndarray = FULL,
    edges: np.ndarray | None = None,
    start: tuple[int, ...] = (0, 0, 0),
    stride: tuple[int, ...] = (1, 1, 1),
    size: int = 8,
    flip: bool = False,
    draft: np.ndarray | None = None,
) -> Patch:
    image = texture() if image is None else image
    edges = sparse_edges() if edges is None else edges
    volumes = Volumes(image, mask, edges, CENTROID, draft)
    return patches.extract(volumes, np.array(start), np.array(stride), size, flip)


class TestExtract:
    def test_plain_patch(self) -> None:
        image, edges = texture(), sparse_edges()
        patch = extract(image, edges=edges, start=(3, 5, 2))
        box = (slice(3, 11), slice(5, 13), slice(2, 10))
        np.testing.assert_array_equal(patch.image, image[box][None])
        np.testing.assert_array_equal(patch.condition[0], 2.0 * edges[box] - 1)
        assert patch.mask.all()
        expected = coordinates(CENTROID, np.array([3, 5, 2]), (8, 8, 8))
        np.testing.assert_array_equal(patch.condition[1:], expected)

    def test_shapes_and_types(self) -> None:
        patch = extract(stride=(2, 1, 2), flip=True)
        assert patch.image.shape == patch.mask.shape == (1, 8, 8, 8)
        assert patch.condition.shape == (4, 8, 8, 8)
        for part in patch:
            assert part.dtype == np.float32
            assert part.flags.c_contiguous  # torch takes no negative strides

    @given(strides, st.integers(0, 100))
    def test_image_is_averaged_and_edges_are_pooled(
        self, stride: tuple[int, ...], seed: int
    ) -> None:
        image, edges = texture(seed), sparse_edges(seed)
        patch = extract(image, edges=edges, start=(1, 2, 0), stride=stride, size=6)
        for index in np.ndindex(6, 6, 6):
            first = np.array([1, 2, 0]) + np.multiply(index, stride)
            box = tuple(slice(a, a + s) for a, s in zip(first, stride, strict=True))
            assert patch.image[0][index] == pytest.approx(image[box].mean(), abs=1e-5)
            assert patch.condition[0][index] == (1 if edges[box].any() else -1)

    @given(strides)
    def test_draft_is_averaged_like_the_image(self, stride: tuple[int, ...]) -> None:
        mask = ball(SHAPE, 8)
        patch = extract(texture(1), mask, stride=stride, flip=True, draft=texture(1))
        np.testing.assert_array_equal(patch.draft, patch.image)
        assert not extract(texture(1), mask, stride=stride).draft.any()

    def test_only_brain_is_averaged(self) -> None:
        """Of each block, 2 voxels in the mask hold 1 and 2, the others hold 50."""
        image = np.full(SHAPE, 50, dtype=np.float32)
        mask = np.zeros(SHAPE, dtype=bool)
        mask[::2, :, 0::2] = True
        image[::2, ::2, 0::2], image[::2, 1::2, 0::2] = 1, 2
        patch = extract(image, mask, stride=(1, 2, 2), size=8)
        np.testing.assert_array_equal(patch.mask[0, ::2], 1)  # half of the block: inside
        np.testing.assert_array_equal(patch.mask[0, 1::2], 0)
        np.testing.assert_allclose(patch.image[0, ::2], 1.5)
        np.testing.assert_array_equal(patch.image[0, 1::2], 0)

    def test_blocks_with_little_brain_are_outside(self) -> None:
        mask = np.zeros(SHAPE, dtype=bool)
        mask[::2, ::2, ::2] = True  # 1 of the 8 voxels of a block
        everywhere = np.ones(SHAPE, dtype=bool)
        patch = extract(mask=mask, edges=everywhere, stride=(2, 2, 2))
        assert not patch.mask.any()
        assert not patch.image.any()
        assert not patch.condition[0].any()

    def test_strided_patch_low_passes(self) -> None:
        """A checkerboard averages out; plain subsampling would return a constant 1."""
        board = (np.indices(SHAPE).sum(0) % 2 * 2 - 1).astype(np.float32)
        assert np.abs(extract(board).image).min() == 1
        np.testing.assert_allclose(extract(board, stride=(2, 2, 2)).image, 0, atol=1e-6)
        np.testing.assert_allclose(extract(board, stride=(1, 1, 2)).image, 0, atol=1e-6)

    @given(starts, strides)
    def test_beyond_the_border_is_outside_the_mask(
        self, start: tuple[int, ...], stride: tuple[int, ...]
    ) -> None:
        image = np.full(SHAPE, 0.5, dtype=np.float32)
        patch = extract(image, edges=FULL, start=start, stride=stride)
        inside = np.ones((8, 8, 8), dtype=bool)
        share = np.ones((8, 8, 8))
        for axis, (first, step, n) in enumerate(zip(start, stride, SHAPE, strict=True)):
            voxels = first + np.arange(8 * step).reshape(8, step)
            covered = ((voxels >= 0) & (voxels < n)).mean(1)
            share = share * covered.reshape([-1 if a == axis else 1 for a in range(3)])
        inside = share >= 0.5 - 1e-9
        np.testing.assert_array_equal(patch.mask[0].astype(bool), inside)
        np.testing.assert_allclose(patch.image[0], 0.5 * inside)
        np.testing.assert_array_equal(patch.condition[0], inside)

    @given(starts, strides)
    def test_flip_mirrors_the_anatomy(
        self, start: tuple[int, ...], stride: tuple[int, ...]
    ) -> None:
        mask = ball(SHAPE, 8)
        plain = extract(mask=mask, start=start, stride=stride)
        flipped = extract(mask=mask, start=start, stride=stride, flip=True)
        for part in range(2):
            np.testing.assert_array_equal(flipped[part], plain[part][:, ::-1])
        np.testing.assert_array_equal(flipped.condition[0], plain.condition[0, ::-1])
        np.testing.assert_array_equal(flipped.condition[1], -plain.condition[1, ::-1])
        np.testing.assert_array_equal(flipped.condition[2:], plain.condition[2:, ::-1])

    def test_flip_is_the_patch_of_the_mirrored_head(self) -> None:
        """Flipping a patch and drawing it from the mirrored volume are one thing."""
        image, edges, mask = texture(), sparse_edges(), ball(SHAPE, 8)
        flipped = extract(image, mask, edges, start=(2, 3, 4), flip=True)
        mirrored = extract(image[::-1], mask[::-1], edges[::-1], start=(SHAPE[0] - 2 - 8, 3, 4))
        for a, b in zip(flipped, mirrored, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


class TestDraw:
    @staticmethod
    def draw(settings: PatchSettings, seed: int) -> Patch:
        volumes = Volumes(texture(), FULL, sparse_edges(), CENTROID)
        return patches.draw(volumes, settings, np.random.default_rng(seed))

    @staticmethod
    def steps(patch: Patch) -> np.ndarray:
        """Stride of a patch along each axis, from its coordinates."""
        where = patch.condition[1:]
        spacing = [np.diff(where[a], axis=a).mean() * 100 for a in range(3)]
        return np.rint(spacing).astype(int)

    def test_seeded(self) -> None:
        settings = PatchSettings(size=8)
        for a, b in zip(self.draw(settings, 1), self.draw(settings, 1), strict=True):
            np.testing.assert_array_equal(a, b)
        first, other = self.draw(settings, 1), self.draw(settings, 2)
        assert not np.array_equal(first.condition, other.condition)

    def test_never_strided(self) -> None:
        settings = PatchSettings(size=8, strided_probability=0)
        assert all((np.abs(self.steps(self.draw(settings, s))) == 1).all() for s in range(30))

    def test_always_strided(self) -> None:
        settings = PatchSettings(size=8, strided_probability=1)
        found = np.array([np.abs(self.steps(self.draw(settings, s))) for s in range(100)])
        assert (found.max(1) > 1).all()
        # at the largest stride 8 samples span the volume of 20 x 24 x 18, and no more than that
        np.testing.assert_array_equal(found.max(0), [3, 3, 3])
        assert found.min() == 1

    def test_share_of_strided_patches(self) -> None:
        settings = PatchSettings(size=8, strided_probability=0.2)
        strided = [np.abs(self.steps(self.draw(settings, s))).max() > 1 for s in range(300)]
        assert 0.12 < np.mean(strided) < 0.28

    def test_half_of_the_patches_are_flipped_left_to_right_only(self) -> None:
        settings = PatchSettings(size=8, strided_probability=0)
        ramps = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
        for axis, ramp in enumerate(ramps):
            flipped = []
            for seed in range(200):
                rng = np.random.default_rng(seed)
                volumes = Volumes(ramp, FULL, sparse_edges(), CENTROID)
                patch = patches.draw(volumes, settings, rng)
                flipped.append(np.diff(patch.image[0], axis=axis).mean() < 0)
            if axis == 0:
                assert 0.4 < np.mean(flipped) < 0.6
            else:
                assert not any(flipped)

    def test_small_patches_stay_inside_and_reach_every_corner(self) -> None:
        settings = PatchSettings(size=8, strided_probability=0)
        lowest, highest = np.full(3, np.inf), np.full(3, -np.inf)
        for seed in range(300):
            patch = self.draw(settings, seed)
            assert patch.mask.all()
            where = patch.condition[1:]
            lowest = np.minimum(lowest, where.min((1, 2, 3)))
            highest = np.maximum(highest, where.max((1, 2, 3)))
        np.testing.assert_allclose(highest * 100, CENTROID, atol=1e-4)
        np.testing.assert_allclose(lowest * 100, -CENTROID, atol=1e-4)

    def test_volume_smaller_than_the_patch(self) -> None:
        """The whole volume is in the patch, wherever it was put."""
        settings = PatchSettings(size=32, strided_probability=0)
        for seed in range(10):
            patch = self.draw(settings, seed)
            assert patch.mask.sum() == FULL.sum()
            assert patch.image.sum() == pytest.approx(texture().sum(), rel=1e-4)
