"""Grids, and resampling between them."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.affines import apply_affine, voxel_sizes
from scipy import ndimage

from fixtures_images import LPS, PIR, RAS, RPS, affine_of, image_of, oblique, rotation, texture
from isochroma.errors import InputError
from isochroma.images.grid import Grid, bounding_box, model_grid, pad_to_multiple, resample, shrink
from isochroma.images.masked import extend_outside

affines = st.builds(
    lambda angles, sizes, origin, flips: affine_of(
        rotation(*angles) @ np.diag(np.multiply(sizes, flips)), origin
    ),
    st.tuples(*[st.floats(-3, 3)] * 3),
    st.tuples(*[st.floats(0.5, 2.5)] * 3),
    st.tuples(*[st.floats(-100, 100)] * 3),
    st.tuples(*[st.sampled_from([1, -1])] * 3),
)
shapes = st.tuples(*[st.integers(2, 40)] * 3)


class TestGrid:
    def test_same_as_itself(self) -> None:
        assert Grid((5, 6, 7), LPS).same_as(Grid((5, 6, 7), LPS.copy()))

    def test_shape_matters(self) -> None:
        assert not Grid((5, 6, 7), LPS).same_as(Grid((5, 6, 8), LPS))

    @pytest.mark.parametrize(("shift", "same"), [(0.005, True), (0.02, False), (-0.02, False)])
    def test_shift_tolerance(self, shift: float, same: bool) -> None:
        moved = LPS.copy()
        moved[1, 3] += shift
        assert Grid((5, 6, 7), LPS).same_as(Grid((5, 6, 7), moved)) is same

    def test_far_corner_counts(self) -> None:
        """A tiny shear leaves the first voxel in place and moves the last one."""
        sheared = RAS.copy()
        sheared[0, 2] = 1e-4
        assert Grid((200, 200, 50), RAS).same_as(Grid((200, 200, 50), sheared))
        assert not Grid((200, 200, 200), RAS).same_as(Grid((200, 200, 200), sheared))

    def test_looser_tolerance(self) -> None:
        moved = RAS.copy()
        moved[0, 3] += 0.5
        assert Grid((5, 5, 5), RAS).same_as(Grid((5, 5, 5), moved), tolerance_mm=0.6)

    def test_voxel_size_and_volume(self) -> None:
        grid = Grid((5, 6, 7), oblique((0.5, 2, 3)))
        np.testing.assert_allclose(grid.voxel_mm, [0.5, 2, 3])
        assert grid.voxel_ml == pytest.approx(0.003)

    def test_crop_known_answer(self) -> None:
        affine = affine_of(np.diag([2.0, -3, 4]), (10, 20, 30))
        cropped = Grid((9, 9, 9), affine).crop((slice(1, 3), slice(2, 5), slice(0, 4)))
        assert cropped.shape == (2, 3, 4)
        np.testing.assert_allclose(cropped.affine, affine_of(np.diag([2.0, -3, 4]), (12, 14, 30)))
        np.testing.assert_array_equal(affine[:3, 3], (10, 20, 30))  # the original is untouched

    @given(affines, st.tuples(*[st.integers(0, 9)] * 3), st.tuples(*[st.integers(1, 9)] * 3))
    def test_crop_keeps_voxels_in_place(
        self, affine: np.ndarray, start: tuple[int, ...], size: tuple[int, ...]
    ) -> None:
        box = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        cropped = Grid((20, 20, 20), affine).crop(box)
        assert cropped.shape == size
        last = np.array(size) - 1
        np.testing.assert_allclose(
            apply_affine(cropped.affine, last), apply_affine(affine, last + start), atol=1e-9
        )


class TestModelGrid:
    def test_canonical_1_mm_is_kept(self) -> None:
        grid = model_grid(image_of(texture(), RAS))
        assert grid.shape == (12, 14, 10)
        np.testing.assert_allclose(grid.affine, RAS, atol=1e-9)

    @pytest.mark.parametrize(
        ("affine", "shape", "origin"),
        [
            (LPS, (10, 12, 14), (90 - 9, 126 - 11, -72)),
            (RPS, (10, 12, 14), (-90, 126 - 11, -72)),
            # first voxel axis runs to posterior, second to inferior, third to right
            (PIR, (14, 10, 12), (-90, 126 - 9, 72 - 11)),
        ],
        ids=["LPS", "RPS", "PIR"],
    )
    def test_reoriented(
        self, affine: np.ndarray, shape: tuple[int, ...], origin: tuple[float, ...]
    ) -> None:
        grid = model_grid(image_of(texture((10, 12, 14)), affine))
        assert grid.shape == shape
        np.testing.assert_allclose(grid.affine, affine_of(np.eye(3), origin), atol=1e-9)

    def test_anisotropic_voxels(self) -> None:
        image = image_of(texture((10, 20, 31)), affine_of(np.diag([2.0, 1, 0.5])))
        assert model_grid(image).shape == (20, 20, 16)
        assert model_grid(image, spacing_mm=2.0).shape == (10, 10, 8)

    def test_rounding_adds_no_voxel(self) -> None:
        """Ten voxels of 1.00004 mm (as stored in float32 headers) are ten voxels, not eleven."""
        image = image_of(texture((10, 10, 10)), affine_of(np.diag([1.00004, 1, 1])))
        assert model_grid(image).shape == (10, 10, 10)

    def test_oblique_axes_are_kept(self) -> None:
        affine = oblique()
        grid = model_grid(image_of(texture((20, 24, 16)), affine))
        assert grid.shape == (18, 21, 16)
        np.testing.assert_allclose(grid.affine[:3, :3], rotation(0.3, -0.2, 0.15), atol=1e-9)

    @given(shapes, affines, st.sampled_from([0.8, 1.0, 1.5]))
    def test_isotropic_canonical_and_covering(
        self, shape: tuple[int, ...], affine: np.ndarray, spacing: float
    ) -> None:
        image = image_of(np.zeros(shape, dtype=np.uint8), affine)
        grid = model_grid(image, spacing)
        np.testing.assert_allclose(voxel_sizes(grid.affine), spacing, rtol=1e-6)
        codes = nib.aff2axcodes(grid.affine)
        assert codes == nib.aff2axcodes(nib.as_closest_canonical(image).affine)
        # the middle of the field of view stays, to half a voxel of the coarser grid on each axis
        middle = apply_affine(affine, (np.array(shape) - 1) / 2)
        where = apply_affine(np.linalg.inv(grid.affine), middle) * spacing
        expected = (np.array(grid.shape) - 1) / 2 * spacing
        coarser = np.maximum(spacing, voxel_sizes(nib.as_closest_canonical(image).affine))
        assert (np.abs(where - expected) <= coarser / 2 + 1e-3).all()
        extent = voxel_sizes(nib.as_closest_canonical(image).affine) * (
            nib.as_closest_canonical(image).shape
        )
        missing = extent - np.array(grid.shape) * spacing
        assert (missing <= 2e-3 * spacing).all()
        assert (missing > -spacing).all()


class TestResample:
    def test_identity(self) -> None:
        data, grid = texture(), Grid((12, 14, 10), oblique())
        result = resample(data, grid, grid)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, data, atol=0.05)

    def test_shift_by_whole_voxels(self) -> None:
        data = texture()
        moved = RAS.copy()
        moved[:3, 3] += (2, -1, 0)
        result = resample(data, Grid((12, 14, 10), RAS), Grid((12, 14, 10), moved))
        np.testing.assert_allclose(result[:10, 1:], data[2:, :13], atol=0.05)

    def test_flip(self) -> None:
        data = texture()
        flipped = affine_of(np.diag([-1.0, 1, 1]), (RAS[0, 3] + 11, RAS[1, 3], RAS[2, 3]))
        result = resample(data, Grid((12, 14, 10), RAS), Grid((12, 14, 10), flipped))
        np.testing.assert_allclose(result, data[::-1], atol=0.05)

    def test_permuted_axes(self) -> None:
        data = texture()
        permuted = RAS[:, [2, 0, 1, 3]]
        result = resample(data, Grid((12, 14, 10), RAS), Grid((10, 12, 14), permuted))
        np.testing.assert_allclose(result, data.transpose(2, 0, 1), atol=0.05)

    def test_to_canonical_and_back_is_lossless(self) -> None:
        data = texture()
        native = Grid((12, 14, 10), LPS)
        grid = model_grid(image_of(data, LPS))
        there = resample(data, native, grid)
        np.testing.assert_allclose(there, data[::-1, ::-1], atol=0.05)
        np.testing.assert_allclose(resample(there, grid, native), data, atol=0.05)

    @pytest.mark.parametrize("order", [1, 3])
    @pytest.mark.parametrize("turn", [np.eye(3), np.diag([-1.0, 1, -1]), np.eye(3)[[2, 0, 1]]])
    def test_along_the_axes_as_in_space(self, turn: np.ndarray, order: int) -> None:
        """Parallel grids, one beyond the other, are resampled axis by axis: scipy's values."""
        data = texture()
        source = Grid(data.shape, affine_of(turn * (1.0, 1.3, 0.8), (-5, -6, 3)))
        target = Grid((9, 20, 11), affine_of(0.7 * np.eye(3), (-6.2, -7.1, 2.9)))
        matrix = np.linalg.inv(source.affine) @ target.affine
        expected = ndimage.affine_transform(
            data.astype(float), matrix, output_shape=target.shape, order=order, mode="nearest"
        )
        found = resample(data, source, target, order)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(data).max())

    def test_linear_field_between_oblique_grids(self) -> None:
        """A field that is linear in the world is that field on any grid, away from the border."""
        source = Grid((40, 40, 40), affine_of(0.9 * np.eye(3), (-18, -18, -18)))
        target = Grid((10, 10, 10), affine_of(rotation(0.4, 0.2, -0.3), (-4, -4, -4)))

        def field(grid: Grid) -> np.ndarray:
            voxels = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
            return apply_affine(grid.affine, voxels) @ (3.0, -2.0, 1.0) + 100

        result = resample(field(source), source, target)
        np.testing.assert_allclose(result, field(target), atol=0.02)

    def test_labels(self) -> None:
        labels = np.random.default_rng(0).integers(0, 4, (12, 14, 10)).astype(np.int16)
        target = Grid((24, 28, 20), RAS @ np.diag([0.5, 0.5, 0.5, 1]))
        result = resample(labels, Grid(labels.shape, RAS), target, order=0)
        assert result.dtype == np.int16
        np.testing.assert_array_equal(result[::2, ::2, ::2], labels)
        assert set(np.unique(result)) <= {0, 1, 2, 3}

    def test_outside_takes_the_nearest_voxel(self) -> None:
        data = texture()
        wide = RAS.copy()
        wide[0, 3] -= 5
        result = resample(data, Grid((12, 14, 10), RAS), Grid((22, 14, 10), wide), order=1)
        np.testing.assert_allclose(result[:5], np.broadcast_to(data[:1], (5, 14, 10)), rtol=1e-6)
        np.testing.assert_allclose(result[17:], np.broadcast_to(data[-1:], (5, 14, 10)), rtol=1e-6)

    def test_real_round_trip(self, target_scan: nib.Nifti1Image, target_mask: np.ndarray) -> None:
        """Native 0.868 mm -> 1 mm -> native: nearly nothing is lost inside the brain (of which 40
        slices will do).
        """
        i, j, k = bounding_box(target_mask, 4)
        middle = (k.start + k.stop) // 2
        box = (i, j, slice(middle - 20, middle + 20))
        native, inside = Grid.of(target_scan).crop(box), target_mask[box]
        data = extend_outside(np.asarray(target_scan.dataobj[box], np.float32), inside)
        grid = model_grid(nib.Nifti1Image(data, native.affine))
        back = resample(resample(data, native, grid), grid, native)
        correlation = np.corrcoef(data[inside], back[inside])[0, 1]
        assert correlation > 0.995


class TestBoundingBox:
    def test_known_answer(self) -> None:
        mask = np.zeros((10, 11, 12), dtype=bool)
        mask[3:5, 6, 2] = mask[4, 8, 9] = True
        assert bounding_box(mask) == (slice(3, 5), slice(6, 9), slice(2, 10))
        assert bounding_box(mask, 4) == (slice(0, 9), slice(2, 11), slice(0, 12))

    def test_of_nothing(self) -> None:
        with pytest.raises(InputError, match="mask is empty"):
            bounding_box(np.zeros((4, 4, 4), dtype=bool))


class TestPadToMultiple:
    @given(st.tuples(*[st.integers(1, 30)] * 3), st.sampled_from([2, 4, 8, 16]))
    def test_pads_at_the_ends_with_zeros(self, shape: tuple[int, int, int], multiple: int) -> None:
        volume = np.ones(shape, bool)
        padded = pad_to_multiple(volume, multiple)
        assert all(n % multiple == 0 for n in padded.shape)
        assert all(0 <= p - n < multiple for p, n in zip(padded.shape, shape, strict=True))
        i, j, k = shape
        assert padded[:i, :j, :k].all()
        assert padded.sum() == volume.sum()


def test_shrink() -> None:
    volume = np.arange(27.0).reshape(3, 3, 3)
    mean, largest = shrink(volume, np.mean), shrink(volume, np.max)
    assert mean.shape == (2, 2, 2)
    assert mean[0, 0, 0] == volume[:2, :2, :2].mean()
    assert mean[1, 1, 1] == volume[2, 2, 2] / 8
    assert largest[0, 0, 1] == volume[1, 1, 2]
