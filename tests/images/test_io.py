"""Load, check and save volumes."""

from __future__ import annotations

import gzip
import struct
import tempfile
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures_images import LPS, RAS, affine_of, image_of, oblique, texture
from isochroma.errors import InputError
from isochroma.images import io
from isochroma.images.io import MAX_TRAILER, as_scan, load


class TestNames:
    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz", ".mgh", ".NII.GZ"])
    def test_volume_suffixes(self, suffix: str) -> None:
        assert io.has_volume_suffix(f"a.b/sub-01_T1w{suffix}")
        assert io.stem(f"a.b/sub-01_T1w{suffix}") == "sub-01_T1w"

    @pytest.mark.parametrize("name", ["scan.dcm", "scan.gz", "scan.nii.txt", "nii", "scan"])
    def test_other_suffixes(self, name: str) -> None:
        assert not io.has_volume_suffix(name)
        assert io.stem(f"folder/{name}") == name


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
        self.refused(tmp_path, "Name the files in it")

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
        nib.save(image_of(texture(), affine_of(np.diag([1.0, 1, 8]))), path)
        assert "1.00 x 1.00 x 8.00 mm" in self.refused(path, "Use a 3D acquisition")

    def test_thick_along_two_axes(self, tmp_path: Path) -> None:
        path = tmp_path / "scan.nii"
        nib.save(image_of(texture(), affine_of(np.diag([1.0, 3, 3]))), path)
        assert "at most 2.5, and 7 along one axis" in self.refused(path, "Use a 3D acquisition")

    @pytest.mark.parametrize("unit", ["meter", "unknown"])
    def test_voxels_in_another_unit(self, tmp_path: Path, unit: str) -> None:
        path = tmp_path / "scan.nii"
        scan = image_of(texture(), affine_of(np.diag([0.001] * 3)))
        scan.header.set_xyzt_units(unit)
        nib.save(scan, path)
        message = self.refused(path, "give the sizes in mm")
        assert (
            f"0.001 x 0.001 x 0.001 mm are too small (at least 0.1 mm). Its header's unit is {unit}"
            in message
        )

    def test_thickest_voxels_allowed(self) -> None:
        for edges in ([1.0, 2.5003, 2.5], [1.0, 7.0, 2.5], [7.003, 1, 1]):  # rounded headers
            io.as_scan(image_of(texture(), affine_of(np.diag(edges))))

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ('{"SliceThickness": 3}', 3.0),
            ('{"SliceThickness": "3 mm"}', None),
            ('{"SliceThickness": -1}', None),
            ('{"EchoTime": 0.1}', None),
            ("[3]", None),
            ("{", None),
            (None, None),
        ],
    )
    def test_thickness_of_slices(
        self, tmp_path: Path, content: str | None, expected: float | None
    ) -> None:
        if content is not None:
            (tmp_path / "scan.json").write_text(content)
        assert io.slice_thickness(tmp_path / "scan.nii.gz") == expected

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


def stored(path: Path, image: nib.Nifti1Image | None = None) -> bytes:
    """A small scan as an uncompressed NIfTI file's bytes."""
    nib.save(image or image_of(texture()), path.with_name("stored.nii"))
    return path.with_name("stored.nii").read_bytes()


class TestContent:
    """What a file holds is told by its content, and nothing of it is taken on trust."""

    def refused(self, path: Path, data: bytes) -> str:
        path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            load(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize("name", ["a.Nii.Gz", "a.nii", "a.NII"])
    def test_compressed_whatever_the_name(self, tmp_path: Path, name: str) -> None:
        data = stored(tmp_path / name)
        (tmp_path / name).write_bytes(gzip.compress(data))
        np.testing.assert_allclose(np.asarray(load(tmp_path / name).dataobj), texture())

    def test_not_compressed_whatever_the_name(self, tmp_path: Path) -> None:
        path = tmp_path / "a.nii.gz"
        path.write_bytes(stored(path))
        np.testing.assert_allclose(np.asarray(load(path).dataobj), texture())

    @given(st.integers(0, 2**31), st.integers(0, 7))
    def test_a_flipped_bit_is_seen(self, place: int, bit: int) -> None:
        """Wherever it is in a compressed file: in the checksum, or before it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.nii.gz"
            data = bytearray(gzip.compress(stored(path), mtime=0))
            place = 10 + place % (len(data) - 10)  # behind gzip's own header
            data[place] ^= 1 << bit
            path.write_bytes(data)
            with pytest.raises(InputError):
                load(path)

    def test_cut_short(self, tmp_path: Path) -> None:
        path = tmp_path / "a.nii.gz"
        data = stored(path)
        assert "cannot be read" in self.refused(path, gzip.compress(data)[:-9])
        assert "it ends after 400 of" in self.refused(path.with_suffix(""), data[:400])

    @pytest.mark.parametrize("sizes", [(3, 3, 4, -5), (4, 3, 4, -5, 1), (4, -3, -4, 5, 1)])
    def test_negative_sizes(self, tmp_path: Path, sizes: tuple[int, ...]) -> None:
        data = bytearray(stored(tmp_path / "a.nii"))
        data[40 : 40 + 2 * len(sizes)] = struct.pack(f"<{len(sizes)}h", *sizes)
        assert "its header has the shape" in self.refused(tmp_path / "a.nii", bytes(data))

    @pytest.mark.parametrize(
        ("kind", "edge"), [(np.int16, 1300), (np.int16, 32000), (np.float64, 520)]
    )
    def test_a_header_that_promises_too_much(
        self, tmp_path: Path, kind: type[np.number], edge: int
    ) -> None:
        """Refused from the header alone: gigabytes are never allocated."""
        header = nib.Nifti1Header()
        header.set_data_dtype(kind)
        header.set_data_shape((edge,) * 3)
        header["magic"], header["vox_offset"] = b"n+1\0", 352
        data = header.binaryblock + bytes(100)
        tracemalloc.start()
        assert "its header promises" in self.refused(tmp_path / "a.nii", data)
        assert "its header promises" in self.refused(tmp_path / "a.nii.gz", gzip.compress(data))
        assert tracemalloc.get_traced_memory()[1] < 50e6
        tracemalloc.stop()

    def test_more_than_the_header_says(self, tmp_path: Path) -> None:
        path = tmp_path / "a.nii.gz"
        bomb = stored(path) + bytes(MAX_TRAILER + (1 << 23))
        assert "far more than its header says" in self.refused(path, gzip.compress(bomb, 1))

    def test_one_volume_of_five_dimensions(self, tmp_path: Path) -> None:
        image = nib.Nifti1Image(texture()[..., None, None], RAS)
        nib.save(image, tmp_path / "a.nii")
        assert load(tmp_path / "a.nii").shape == texture().shape

    def test_a_quaternion_longer_than_one_by_rounding(self, tmp_path: Path) -> None:
        image = image_of(texture())
        image.set_sform(None, 0)
        image.set_qform(np.diag([-1.0, -1.0, 1.0, 1.0]), 1)
        data = bytearray(stored(tmp_path / "a.nii", image))
        data[256:268] = struct.pack("<3f", 0, 0, 1.00001)
        (tmp_path / "a.nii").write_bytes(data)
        found = load(tmp_path / "a.nii").affine[:3, :3]
        np.testing.assert_allclose(found, np.diag([-1, -1, 1]), atol=1e-2)

    def test_no_log_of_nibabel_is_shown(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        data = bytearray(stored(tmp_path / "a.nii"))
        data[252:254] = struct.pack("<h", 64)  # a qform_code that is none
        (tmp_path / "a.nii").write_bytes(data)
        load(tmp_path / "a.nii")
        assert caplog.records == []

    def test_links(self, tmp_path: Path) -> None:
        (tmp_path / "annex.nii").symlink_to("nowhere.nii")
        (tmp_path / "loop.nii").symlink_to("loop.nii")
        for name in ("annex.nii", "loop.nii"):
            with pytest.raises(InputError, match=r"was not fetched|cannot be opened"):
                load(tmp_path / name)

    def test_control_characters_do_not_reach_the_message(self, tmp_path: Path) -> None:
        with pytest.raises(InputError) as caught:
            load(tmp_path / "a\x1b[31m.nii")
        assert "\x1b" not in str(caught.value)

    def test_a_scan_far_away(self) -> None:
        affine = RAS.copy()
        affine[0, 3] = -3.4e38
        with pytest.raises(InputError, match="affine is not valid"):
            as_scan(nib.Nifti1Image(texture(), affine))
