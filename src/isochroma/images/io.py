"""Load scans, check them, and save volumes whole or not at all."""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import DTypeLike

from isochroma.errors import LONGEST_REASON, InputError, one_line
from isochroma.files import write_atomically
from isochroma.images.grid import Grid
from isochroma.tables import read_json

SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")
MIN_VOXEL_MM, MAX_VOXEL_MM = 0.1, 2.5
MAX_SLICE_MM = 7.0  # along one axis
MAX_VOXELS = 160_000_000  # which take up to 4 GB; a head padded to 512^3 has 134 million
MAX_BYTES = 2**30 + 2**20  # of the voxels and what precedes them
MAX_TRAILER = 1 << 26  # bytes after the voxels
HEADER_BYTES = 544  # the longest header, with its extension flag
FARTHEST_MM = 1e5  # from the origin of the world, or along a voxel
LARGEST = 1e30  # intensity; beyond, squares overflow
QUATERNION_ROUNDING = 1e-3


def has_volume_suffix(path: Path | str) -> bool:
    """Tell whether a file name ends as a volume that can be read and written."""
    return str(path).lower().endswith(SUFFIXES)


def split_suffix(path: Path | str) -> tuple[str, str]:
    """Split a file name into its stem and its volume suffix.

    Parameters
    ----------
    path : Path or str
        A file; its folder is ignored.

    Returns
    -------
    stem, suffix : str
        The suffix is empty if the name ends in none of `SUFFIXES`.

    Examples
    --------
    >>> split_suffix("a/sub-01_T1w.nii.gz")
    ('sub-01_T1w', '.nii.gz')
    """
    name = Path(path).name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)], name[-len(suffix) :]
    return name, ""


def stem(path: Path | str) -> str:
    """Return a file's name without its volume suffix.

    Examples
    --------
    >>> stem("a/sub-01_T1w.nii.gz")
    'sub-01_T1w'
    """
    return split_suffix(path)[0]


def load(path: Path | str, constant: bool = False) -> nib.spatialimages.SpatialImage:
    """Load one 3D scan, or a file of more dimensions with one volume, and check it.

    The format is told by the content, not by the suffix. Nothing is allocated before the header's
    size was compared with a bound and with the file, and compressed files are read to their end, so
    that the checksum is compared.

    Parameters
    ----------
    path : Path or str
        A NIfTI or MGH file.
    constant : bool
        Accept one value everywhere, as an empty label map has.

    Returns
    -------
    scan : SpatialImage
        3D, held in memory.

    Raises
    ------
    InputError
        If the file is missing, is no volume, is damaged, holds several volumes, or fails `as_scan`.
    """
    path = Path(path)
    try:
        if path.is_dir():
            msg = f"{path}: a folder, not a scan. Name the files in it."
            raise InputError(msg)
        if not path.is_file():
            fetched = path.is_symlink()
            hint = "a link to a file that was not fetched" if fetched else "no such file"
            msg = f"{path}: {hint}. {'Fetch it first.' if fetched else 'Check the path.'}"
            raise InputError(msg)
    except (OSError, RuntimeError) as error:  # links in a circle, names too long
        msg = f"{path}: cannot be opened ({one_line(error, LONGEST_REASON)}). Check the path."
        raise InputError(msg) from error
    if not has_volume_suffix(path):
        msg = f"{path}: not a volume isochroma reads. Convert it to one of {', '.join(SUFFIXES)}."
        raise InputError(msg)
    with about_file(path):
        image = read_volume(path)
    return as_scan(image, str(path), constant)


def slice_thickness(path: Path) -> float | None:
    """Read how thick a scan's slices are from the BIDS sidecar beside it.

    Parameters
    ----------
    path : Path
        The scan.

    Returns
    -------
    slice_mm : float or None
        "SliceThickness", mm; None if no sidecar tells.
    """
    sidecar = path.with_name(f"{stem(path)}.json")
    try:
        found = (read_json(sidecar) or {}).get("SliceThickness")
    except InputError:
        return None
    if isinstance(found, (int, float)) and 0 < found <= 3 * MAX_SLICE_MM:
        return float(found)
    return None


def load_mask(path: Path | str) -> nib.spatialimages.SpatialImage:
    """Load a mask, which may be constant; an `InputError` is about the argument "mask".

    Parameters
    ----------
    path : Path or str
        A NIfTI or MGH file.

    Returns
    -------
    mask : SpatialImage
        3D.
    """
    try:
        return load(path, constant=True)
    except InputError as error:
        raise InputError(str(error), "mask") from error


@contextlib.contextmanager
def about_file(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file raises into an `InputError` that names the file.

    What nibabel logs of odd headers besides is not shown.

    Parameters
    ----------
    path : Path
        The file.
    """
    log = nib.imageglobals.logger
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # nibabel and zlib raise many kinds for a damaged file
        why = one_line(error, LONGEST_REASON)
        msg = f"{path}: cannot be read as NIfTI or MGH ({why}). Export or convert it anew."
        raise InputError(msg) from error
    finally:
        log.setLevel(level)


def read_volume(path: Path) -> nib.spatialimages.SpatialImage:
    """Read a NIfTI or MGH file into memory, bounded by what its header promises.

    Parameters
    ----------
    path : Path
        An existing file, compressed or not.

    Returns
    -------
    image : SpatialImage
        Of nibabel's class for the format.

    Raises
    ------
    InputError
        If the header promises more than `MAX_VOXELS` or `MAX_BYTES`, or more than the file holds.
    """
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if compressed else raw
        start = stream.read(HEADER_BYTES)
        kind, header = read_header(start)
        shape = [int(n) for n in header.get_data_shape()]
        if min(shape, default=0) < 0:
            msg = f"its header has the shape {shape}"
            raise ValueError(msg)
        voxels = math.prod(shape)
        promised = int(header.get_data_offset()) + voxels * header.get_data_dtype().itemsize
        if voxels > MAX_VOXELS or promised > MAX_BYTES:
            msg = (
                f"{path}: its header promises {voxels} voxels in {promised / 1e9:.1f} GB; "
                f"{MAX_VOXELS} in {MAX_BYTES / 1e9:.1f} GB are the most that are read. Crop the "
                "empty space around the head."
            )
            raise InputError(msg)
        content = bytearray(start)
        while len(content) < promised and (block := stream.read(1 << 22)):
            content += block
        if len(content) < promised:
            msg = f"it ends after {len(content)} of {promised} bytes"
            raise ValueError(msg)
        rest = 0
        while compressed and (block := stream.read(1 << 22)):  # to the checksum at the end
            rest += len(block)
            if rest > MAX_TRAILER:
                msg = "it holds far more than its header says"
                raise ValueError(msg)
    if kind is nib.MGHImage:
        return kind.from_bytes(bytes(content))
    return kind.from_bytes(with_unit_quaternion(bytes(content), header))


def read_header(start: bytes) -> tuple[Any, Any]:
    """Tell the format of a volume from its first bytes.

    Parameters
    ----------
    start : bytes
        The first `HEADER_BYTES` bytes, decompressed.

    Returns
    -------
    kind : type
        Image class of nibabel.
    header : SpatialHeader
        The parsed header.

    Raises
    ------
    ValueError
        If it is none of the formats.
    """
    for kind, size in ((nib.Nifti1Image, 348), (nib.Nifti2Image, 540)):
        if int.from_bytes(start[:4], "little") == size or int.from_bytes(start[:4], "big") == size:
            if start[344:347] == b"ni1" or start[4:7] == b"ni2":
                msg = "its voxels lie in a second file (.img)"
                raise ValueError(msg)
            return kind, kind.header_class.from_fileobj(io.BytesIO(start))
    if int.from_bytes(start[:4], "big") == 1:
        return nib.MGHImage, nib.MGHImage.header_class.from_fileobj(io.BytesIO(start))
    msg = "unknown format"
    raise ValueError(msg)


def with_unit_quaternion(content: bytes, header: Any) -> bytes:
    """Scale a NIfTI quaternion that is longer than 1 by rounding, which nibabel refuses.

    Parameters
    ----------
    content : bytes
        The file.
    header : Nifti1Header or Nifti2Header
        Its header.

    Returns
    -------
    content : bytes
        The file, with another quaternion if it had to be scaled.
    """
    parts = [float(header[f"quatern_{axis}"]) for axis in "bcd"]
    length = math.hypot(*parts)
    if not 1 < length < 1 + QUATERNION_ROUNDING:
        return content
    layout, offset = ("3f", 256) if len(header.binaryblock) == 348 else ("3d", 352)
    scaled = struct.pack(
        header.endianness + layout, *(part / length * (1 - 1e-6) for part in parts)
    )
    return content[:offset] + scaled + content[offset + len(scaled) :]


def as_scan(
    image: nib.spatialimages.SpatialImage, name: str = "image", constant: bool = False
) -> nib.spatialimages.SpatialImage:
    """Check that an image is one 3D scan that can be harmonized.

    Parameters
    ----------
    image : SpatialImage
        3D, or more dimensions with one volume.
    name : str
        How messages call it.
    constant : bool
        Accept one value everywhere.

    Returns
    -------
    scan : SpatialImage
        3D: finite numbers, not constant, a valid affine, voxels of 0.1 to 2.5 mm, and of up to
        7 mm along one axis.

    Raises
    ------
    InputError
        If any of this does not hold.
    """
    if image.ndim > 3 and set(image.shape[3:]) == {1}:
        data = np.asanyarray(image.dataobj).reshape(image.shape[:3])
        image = image.__class__(data, image.affine, image.header)
    if image.ndim != 3:
        msg = f"{name}: has shape {image.shape}; one 3D volume is needed. Extract one volume first."
        raise InputError(msg)
    if min(image.shape) < 2:
        msg = f"{name}: has shape {image.shape}; a single slice or empty file cannot be harmonized."
        raise InputError(msg)
    affine = image.affine
    if affine is None or not np.isfinite(affine).all() or np.abs(affine).max() > FARTHEST_MM:
        msg = f"{name}: its affine is not valid. Repair the header's geometry first."
        raise InputError(msg)
    sizes = voxel_sizes(affine)
    if sizes.min() <= 0 or abs(np.linalg.det(affine[:3, :3])) < 1e-3 * sizes.prod():
        msg = f"{name}: its affine is not valid. Repair the header's geometry first."
        raise InputError(msg)
    *in_plane, slice_mm = np.sort(sizes) - 0.005  # rounded headers
    thick = slice_mm > MAX_SLICE_MM or max(in_plane) > MAX_VOXEL_MM
    thin = sizes.min() < MIN_VOXEL_MM
    if thick or thin:
        shown = " x ".join(f"{size:.2f}" if thick else f"{size:.2g}" for size in sizes)
        most = f"thick (at most {MAX_VOXEL_MM}, and {MAX_SLICE_MM:g} along one axis:"
        limit = most if thick else f"small (at least {MIN_VOXEL_MM}"
        units = spatial_unit(image)
        hint = "Use a 3D acquisition, or a super-resolution tool first."
        if thin or units not in ("mm", "unknown"):
            hint = f"Its header's unit is {units}, read as mm: give the sizes in mm."
        msg = f"{name}: voxels of {shown} mm are too {limit} mm). {hint}"
        raise InputError(msg)
    data = np.asanyarray(image.dataobj)
    if not np.issubdtype(data.dtype, np.number) or np.iscomplexobj(data):
        msg = (
            f"{name}: voxels of type {data.dtype} are not intensities. Save magnitudes as numbers."
        )
        raise InputError(msg)
    if not np.isfinite(data).all():
        msg = f"{name}: holds NaN or infinite voxels. Replace them (for example by 0) first."
        raise InputError(msg)
    if data.min() == data.max() and not constant:
        msg = f"{name}: every voxel has the value {data.flat[0]}. Check the export."
        raise InputError(msg)
    if float(np.abs([data.min(), data.max()]).max()) > LARGEST:
        msg = f"{name}: holds voxels beyond {LARGEST:.0e}. Check the export."
        raise InputError(msg)
    return image


def spatial_unit(image: nib.spatialimages.SpatialImage) -> str:
    """Return the unit of length that an image's header names: mm, meter, micron or unknown."""
    units = getattr(image.header, "get_xyzt_units", None)
    try:
        return units()[0] if units else "mm"
    except KeyError:  # a code that no unit has
        return "unknown"


def like(
    data: np.ndarray, image: nib.spatialimages.SpatialImage, dtype: DTypeLike = np.float32
) -> nib.spatialimages.SpatialImage:
    """Make an image with the class, affine, header and units of another.

    Parameters
    ----------
    data : (I, J, K) ndarray
        Values of the new image; rounded and clipped for integer types.
    image : SpatialImage
        The image to imitate; it stays as it is.
    dtype : dtype
        Type of the stored voxels. Scale factors are reset: stored values are the values.

    Returns
    -------
    made : SpatialImage
    """
    dtype = np.dtype(dtype)
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        data = np.clip(np.rint(data.astype(np.float64)), limits.min, limits.max)
    header = image.header.copy()
    header.set_data_dtype(dtype)
    if isinstance(header, nib.Nifti1Header):
        header.set_slope_inter(1.0, 0.0)
        header["cal_min"] = header["cal_max"] = 0
    return image.__class__(np.ascontiguousarray(data, dtype=dtype), image.affine, header)


def on_grid(
    data: np.ndarray, image: nib.spatialimages.SpatialImage, grid: Grid
) -> nib.spatialimages.SpatialImage:
    """Make an image with the class and header of another, on another grid of its world space.

    Parameters
    ----------
    data : (I, J, K) ndarray
        Values, stored as float32.
    image : SpatialImage
        The image to imitate.
    grid : Grid
        Where the voxels lie.

    Returns
    -------
    made : SpatialImage
    """
    made = image.__class__(data.astype(np.float32), grid.affine, image.header)
    header, known = made.header, image.header
    if isinstance(header, nib.Nifti1Header) and isinstance(known, nib.Nifti1Header):
        code = int(known["sform_code"]) or int(known["qform_code"])
        header.set_sform(grid.affine, code)
        header.set_qform(grid.affine, code)
    return made


def save(image: nib.spatialimages.SpatialImage, path: Path | str) -> Path:
    """Write an image whole or not at all.

    Parameters
    ----------
    image : SpatialImage
        What to write.
    path : Path or str
        Where; the suffix chooses the format.

    Returns
    -------
    path : Path
        The written file.
    """
    return write_atomically(path, lambda temporary: nib.save(image, temporary))
