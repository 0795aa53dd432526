from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.affines import apply_affine, voxel_sizes

from isochroma import files
from isochroma.errors import InputError
from isochroma.images import io, masked
from isochroma.images.grid import Grid, bounding_box, model_grid, resample

RAS = np.array([[1.0, 0, 0, -20], [0, 1, 0, -30], [0, 0, 1, -40], [0, 0, 0, 1]])
LPS = np.array([[-1.0, 0, 0, 90], [0, -1, 0, 126], [0, 0, 1, -72], [0, 0, 0, 1]])
RPS = np.array([[1.0, 0, 0, -90], [0, -1, 0, 126], [0, 0, 1, -72], [0, 0, 0, 1]])
PIR = np.array([[0.0, 0, 1, -90], [-1, 0, 0, 126], [0, -1, 0, 72], [0, 0, 0, 1]])


def rotation(x: float, y: float, z: float) -> np.ndarray:
    return nib.eulerangles.euler2mat(z, y, x)


def affine_of(linear: np.ndarray, origin: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    return nib.affines.from_matvec(np.asarray(linear, dtype=float), origin)


def oblique(sizes: tuple[float, ...] = (0.868, 0.868, 1.0)) -> np.ndarray:
    return affine_of(rotation(0.3, -0.2, 0.15) @ np.diag(sizes), (-70.5, -101.0, -55.25))


def texture(shape: tuple[int, ...] = (12, 14, 10), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1000, shape).astype(np.float32)


def image_of(data: np.ndarray, affine: np.ndarray = RAS) -> nib.Nifti1Image:
    return nib.Nifti1Image(data, affine)


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


class TestNames:
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz", ".mgh", ".NII.GZ"])
    def test_volume_suffixes(self, suffix: str) -> None:
        assert io.has_volume_suffix(f"a.b/sub-01_T1w{suffix}")
        assert io.stem(f"a.b/sub-01_T1w{suffix}") == "sub-01_T1w"

    @pytest.mark.parametrize("name", ["scan.dcm", "scan.gz", "scan.nii.txt", "nii", "scan"])
    def test_other_suffixes(self, name: str) -> None:
        assert not io.has_volume_suffix(name)
        assert io.stem(f"folder/{name}") == name


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
        """Native 0.868 mm -> 1 mm -> native: nearly nothing is lost inside the brain."""
        box = bounding_box(target_mask, 4)
        native, inside = Grid.of(target_scan).crop(box), target_mask[box]
        data = masked.extend_outside(np.asarray(target_scan.dataobj[box], np.float32), inside)
        grid = model_grid(nib.Nifti1Image(data, native.affine))
        back = resample(resample(data, native, grid), grid, native)
        correlation = np.corrcoef(data[inside], back[inside])[0, 1]
        print(f"round trip: r = {correlation:.5f}")
        assert correlation > 0.995


class TestMasking:
    def test_bounding_box(self) -> None:
        mask = np.zeros((10, 11, 12), dtype=bool)
        mask[3:5, 6, 2] = mask[4, 8, 9] = True
        assert bounding_box(mask) == (slice(3, 5), slice(6, 9), slice(2, 10))
        assert bounding_box(mask, 4) == (slice(0, 9), slice(2, 11), slice(0, 12))

    def test_bounding_box_of_nothing(self) -> None:
        with pytest.raises(InputError, match=r"mask is empty.*--mask"):
            bounding_box(np.zeros((4, 4, 4), dtype=bool))

    def test_extend_outside(self) -> None:
        data = texture((9, 4, 4))
        mask = np.zeros(data.shape, dtype=bool)
        mask[2:4] = True
        data[~mask] = np.nan
        result = masked.extend_outside(data, mask)
        np.testing.assert_array_equal(result[2:4], data[2:4])
        np.testing.assert_array_equal(result[:2], np.stack([data[2]] * 2))
        np.testing.assert_array_equal(result[4:], np.stack([data[3]] * 5))


class TestLoad:
    """What cannot be harmonized is refused with one line that says what to do."""

    @staticmethod
    def refused(path: Path, remedy: str) -> str:
        with pytest.raises(InputError) as caught:
            io.load(path)
        message = str(caught.value)
        assert str(path) in message
        assert remedy in message
        assert len(message.splitlines()) == 1, message
        return message

    def test_good_file(self, tmp_path: Path) -> None:
        data = texture()
        nib.save(image_of(data, LPS), tmp_path / "a.nii.gz")
        image = io.load(str(tmp_path / "a.nii.gz"))
        np.testing.assert_array_equal(image.get_fdata(), data)
        np.testing.assert_allclose(image.affine, LPS)

    def test_missing_file(self, tmp_path: Path) -> None:
        assert "no such file" in self.refused(tmp_path / "none.nii.gz", "Check the path")

    def test_folder(self, tmp_path: Path) -> None:
        self.refused(tmp_path, "Check the path")

    def test_wrong_suffix(self, tmp_path: Path) -> None:
        path = tmp_path / "scan.dcm"
        path.write_bytes(b"DICM")
        message = self.refused(path, "Convert it to one of")
        assert ".nii.gz" in message
        assert ".mgz" in message

    @pytest.mark.parametrize("content", [b"this is no gzip stream", b"", b"\x1f\x8b\x08garbage"])
    def test_corrupt_gz(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "scan.nii.gz"
        path.write_bytes(content)
        self.refused(path, "Export or convert it anew")

    def test_gz_of_no_nifti(self, tmp_path: Path) -> None:
        path = tmp_path / "scan.nii.gz"
        path.write_bytes(gzip.compress(b"plain text" * 100))
        self.refused(path, "Export or convert it anew")

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz", ".mgh"])
    @pytest.mark.parametrize("kept", [0.02, 0.6])
    def test_truncated(self, tmp_path: Path, suffix: str, kept: float) -> None:
        path = tmp_path / f"scan{suffix}"
        nib.save(image_of(texture()), path)
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        self.refused(path, "Export or convert it anew")

    def test_several_volumes(self, tmp_path: Path) -> None:
        path = tmp_path / "scan.nii.gz"
        nib.save(image_of(texture((6, 7, 8, 2))), path)
        assert "(6, 7, 8, 2)" in self.refused(path, "Extract one volume")

    def test_one_volume_in_4d(self, tmp_path: Path) -> None:
        path = tmp_path / "scan.nii.gz"
        data = texture((6, 7, 8, 1))
        nib.save(image_of(data, LPS), path)
        assert nib.load(path).shape == (6, 7, 8, 1)
        image = io.load(path)
        assert image.shape == (6, 7, 8)
        np.testing.assert_array_equal(image.get_fdata(), data[..., 0])
        np.testing.assert_allclose(image.affine, LPS)

    def test_2d(self, tmp_path: Path) -> None:
        path = tmp_path / "scan.nii"
        nib.save(image_of(texture((8, 8))), path)
        self.refused(path, "Extract one volume")

    @pytest.mark.parametrize("shape", [(16, 16, 1), (1, 16, 16), (16, 0, 16)])
    def test_single_slice_or_empty(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        path = tmp_path / "scan.nii"
        nib.save(image_of(texture(shape)), path)
        self.refused(path, "single slice or empty")

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, tmp_path: Path, bad: float) -> None:
        path = tmp_path / "scan.nii"
        data = texture()
        data[3, 3, 3] = bad
        nib.save(image_of(data), path)
        self.refused(path, "Replace them")

    @pytest.mark.parametrize("value", [0, 7])
    def test_constant(self, tmp_path: Path, value: int) -> None:
        path = tmp_path / "scan.nii"
        nib.save(image_of(np.full((6, 6, 6), value, dtype=np.int16)), path)
        assert f"the value {value}" in self.refused(path, "Check the export")

    def test_thick_slices(self, tmp_path: Path) -> None:
        path = tmp_path / "scan.nii"
        nib.save(image_of(texture(), affine_of(np.diag([1.0, 1, 3]))), path)
        assert "1.00 x 1.00 x 3.00 mm" in self.refused(path, "Use a 3D acquisition")

    def test_thickest_voxels_allowed(self) -> None:
        for thickest in (2.5, 2.5003):  # an oblique header's rounding
            io.as_scan(image_of(texture(), affine_of(np.diag([1.0, 1, thickest]))))

    def test_complex(self, tmp_path: Path) -> None:
        path = tmp_path / "scan.nii"
        nib.save(image_of(texture().astype(np.complex64)), path)
        assert "complex64" in self.refused(path, "Save magnitudes")

    def test_colour(self, tmp_path: Path) -> None:
        path = tmp_path / "scan.nii"
        colour = np.zeros((6, 6, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        colour["R"][2] = 5
        nib.save(image_of(colour), path)
        self.refused(path, "Save magnitudes")

    @pytest.mark.parametrize("entry", [0.0, np.nan])
    def test_invalid_affine(self, entry: float) -> None:
        affine = RAS.copy()
        affine[1, 1] = entry
        with pytest.raises(InputError, match="Repair the header's geometry"):
            io.as_scan(nib.spatialimages.SpatialImage(texture(), affine))


class TestSave:
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    @pytest.mark.parametrize("dtype", ["float32", "int16", "uint8"])
    @pytest.mark.parametrize("affine", [LPS, oblique()], ids=["LPS", "oblique"])
    def test_nifti_round_trip(
        self, tmp_path: Path, suffix: str, dtype: str, affine: np.ndarray
    ) -> None:
        original = image_of(texture().astype(np.int16), affine)
        original.header.set_xyzt_units("mm", "sec")
        data = texture(seed=1) / 10
        saved = io.save(io.like(data, original, dtype), tmp_path / f"new{suffix}")
        assert saved == tmp_path / f"new{suffix}"
        image = io.load(saved)
        assert image.get_data_dtype() == np.dtype(dtype)
        np.testing.assert_allclose(image.affine, affine, atol=1e-5)
        assert image.header.get_xyzt_units() == ("mm", "sec")
        expected = data if dtype == "float32" else np.rint(data)
        np.testing.assert_array_equal(image.get_fdata(), expected)

    @pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
    @pytest.mark.parametrize("dtype", ["float32", "int16", "uint8"])
    def test_mgh_round_trip(self, tmp_path: Path, suffix: str, dtype: str) -> None:
        original = nib.MGHImage(texture(), oblique())
        data = texture(seed=1) / 10
        saved = io.save(io.like(data, original, dtype), tmp_path / f"new{suffix}")
        image = io.load(saved)
        assert isinstance(image, nib.MGHImage)
        assert image.get_data_dtype() == np.dtype(dtype).newbyteorder(">")
        np.testing.assert_allclose(image.affine, oblique(), atol=1e-4)
        expected = data if dtype == "float32" else np.rint(data)
        np.testing.assert_array_equal(image.get_fdata(), expected)

    def test_across_formats(self, tmp_path: Path) -> None:
        data = texture()
        for original, suffix in [(image_of(data, LPS), ".mgz"), (nib.MGHImage(data, LPS), ".nii")]:
            path = io.save(io.like(data, original), tmp_path / f"new{suffix}")
            image = io.load(path)
            np.testing.assert_array_equal(image.get_fdata(), data)
            np.testing.assert_allclose(image.affine, LPS, atol=1e-4)
            assert image.get_data_dtype().newbyteorder("=") == np.float32

    def test_integers_are_rounded_and_clipped(self) -> None:
        data = np.array([-1e6, -40.6, -0.4, 0.6, 41.5, 1e6], dtype=np.float32).reshape(1, 2, 3)
        original = image_of(data)
        int16 = np.asanyarray(io.like(data, original, np.int16).dataobj)
        assert int16.dtype == np.int16
        np.testing.assert_array_equal(int16.ravel(), [-32768, -41, 0, 1, 42, 32767])
        uint8 = np.asanyarray(io.like(data, original, np.uint8).dataobj)
        np.testing.assert_array_equal(uint8.ravel(), [0, 0, 0, 1, 42, 255])

    def test_wide_integers_are_clipped(self) -> None:
        """2^31 - 1 is no float32: rounding it up must not wrap round to -2^31."""
        data = np.array([-1e10, 0, 5, 1e10], dtype=np.float32).reshape(1, 2, 2)
        int32 = np.asanyarray(io.like(data, image_of(data), np.int32).dataobj).ravel()
        np.testing.assert_array_equal(int32[:3], [-(2**31), 0, 5])
        assert int32[3] > 2**31 - 200

    def test_scale_factors_are_reset(self, tmp_path: Path) -> None:
        original = image_of(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
        original.header.set_slope_inter(0.5, 10)
        original.header["cal_max"] = 99
        nib.save(original, tmp_path / "scaled.nii")
        scaled = io.load(tmp_path / "scaled.nii")
        assert (scaled.dataobj.slope, scaled.dataobj.inter) == (0.5, 10)
        data = np.arange(60).reshape(3, 4, 5) * 3
        path = io.save(io.like(data, scaled, np.int16), tmp_path / "new.nii")
        image = io.load(path)
        assert (image.dataobj.slope, image.dataobj.inter) == (1, 0)
        assert image.header["cal_max"] == 0
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), data)
        np.testing.assert_array_equal(image.dataobj.get_unscaled(), data)

    def test_scale_factors_set_in_memory_are_reset(self, tmp_path: Path) -> None:
        """A header that asks for a scale factor would store other numbers than the values."""
        original = image_of(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
        original.header.set_slope_inter(0.5, 10)
        data = np.arange(60).reshape(3, 4, 5) * 3
        path = io.save(io.like(data, original, np.int16), tmp_path / "new.nii")
        np.testing.assert_array_equal(nib.load(path).dataobj.get_unscaled(), data)

    def test_the_original_header_is_untouched(self) -> None:
        original = image_of(texture())
        io.like(texture(), original, np.uint8)
        assert original.get_data_dtype() == np.float32


class TestWriteAtomically:
    def test_content_and_suffix(self, tmp_path: Path) -> None:
        seen = []

        def write(temporary: Path) -> None:
            seen.append(temporary)
            temporary.write_text("whole")

        path = files.write_atomically(tmp_path / "new" / "a.nii.gz", write)
        assert path.read_text() == "whole"
        assert seen[0].name == "a.nii.gz"
        assert seen[0] != path
        assert list(tmp_path.rglob("*")) == [tmp_path / "new", path]

    @pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
    def test_nothing_left_when_the_writer_raises(
        self, tmp_path: Path, kind: type[BaseException]
    ) -> None:
        def write(temporary: Path) -> None:
            temporary.write_text("half")
            raise kind

        with pytest.raises(kind):
            files.write_atomically(tmp_path / "a.nii", write)
        assert list(tmp_path.iterdir()) == []

    def test_the_old_file_survives(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text("old")

        def write(temporary: Path) -> None:
            temporary.write_text("half")
            assert path.read_text() == "old"
            raise OSError

        with pytest.raises(OSError):
            files.write_atomically(path, write)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_the_old_file_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text("old")
        files.write_atomically(path, lambda temporary: temporary.write_text("new"))
        assert path.read_text() == "new"


def test_sha256(tmp_path: Path) -> None:
    """FIPS 180-2, appendix B.1."""
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert files.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
