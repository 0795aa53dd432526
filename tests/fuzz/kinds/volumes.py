"""Volumes and masks: damaged, lying, compressed, renamed."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from fixtures_pipeline import config, head, head_image
from fuzz import mutate
from fuzz.registry import Rng, base, kind
from isochroma.images.brain import find_brain, is_stripped
from isochroma.images.io import load, load_mask
from isochroma.images.preprocess import prepare
from isochroma.method.edges import detect_edges

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "ch2.nii.gz"
SMALL = 300_000  # voxels of a volume that goes on through the cheap stages


@base
def volumes() -> dict[str, nib.spatialimages.SpatialImage]:
    """A drawn head in several formats, and a small part of a real one with its header."""
    plain = head_image(dtype=np.int16)
    real = nib.load(EXAMPLE)
    data = np.asanyarray(real.dataobj)[::5, ::5, ::5]
    affine = real.affine @ np.diag([2.5, 2.5, 2.5, 1])
    return {
        "nifti1": plain,
        "nifti2": nib.Nifti2Image.from_image(plain),
        "float": head_image(),
        "real": nib.Nifti1Image(data, affine, real.header),
        "mgh": nib.MGHImage(np.asanyarray(plain.dataobj), plain.affine),
    }


@base
def example() -> bytes:
    """The whole example head, as it lies on disk."""
    return EXAMPLE.read_bytes()


def disturbed(
    rng: Rng, image: nib.spatialimages.SpatialImage, fields: float = 0.5, head: int = 400
) -> bytes:
    """An image as the bytes of a file: with changed header fields, or with damage anywhere."""
    if rng.random() < fields:
        start = mutate.changed_header(rng, image)
        return start + image.to_bytes()[len(start) :]
    return mutate.damaged(rng, image.to_bytes(), head)


def reference(data: bytes, folder: Path) -> nib.spatialimages.SpatialImage:
    """What nibabel reads from the bytes of an uncompressed file."""
    path = folder / ("reference.mgh" if data[:4] == b"\0\0\0\1" else "reference.nii")
    path.write_bytes(data)
    return nib.load(path)


def same_volume(read: nib.spatialimages.SpatialImage, known: Any) -> bool:
    """Whether two images have the same voxels and lie in the same place."""
    values = np.asarray(known.dataobj).reshape(known.shape[:3])
    return np.array_equal(np.asarray(read.dataobj), values) and np.allclose(
        read.affine, known.affine, atol=1e-5
    )


def can_be_used(scan: nib.spatialimages.SpatialImage) -> bool:
    """Take an accepted small, stripped scan through the stages before the network."""
    data = np.asanyarray(scan.dataobj)
    if data.size > SMALL or not is_stripped(data):
        return True
    made = prepare(scan, find_brain(scan).mask, config().preprocess)
    edges = detect_edges(made, config().edges)
    return bool(np.isfinite(made.image).all() and np.abs(made.image).max() <= 1 and edges.any())


def read_back(path: Path, folder: Path, original: bytes | None = None) -> bool:
    """Read a file; compare with the original, or with what nibabel reads from its content."""
    scan = load(path)
    data = original
    if data is None:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    return same_volume(scan, reference(data, folder)) and can_be_used(scan)


def written(rng: Rng, folder: Path, data: bytes, suffix: str) -> Path:
    """The bytes in a file, compressed or not, whatever its suffix says."""
    path = folder / f"scan{suffix}{mutate.pick(rng, ('', '.gz')) if suffix == '.nii' else ''}"
    path.write_bytes(gzip.compress(data, 1) if rng.random() < 0.5 else data)
    return path


@kind("NIfTI header fields", 3000)
def nifti_fields(rng: Rng, folder: Path) -> bool:
    image = volumes()[mutate.pick(rng, ("nifti1", "nifti2", "float", "real"))]
    return read_back(written(rng, folder, disturbed(rng, image, 1), ".nii"), folder)


@kind("NIfTI bytes", 1500)
def nifti_bytes(rng: Rng, folder: Path) -> bool:
    image = volumes()[mutate.pick(rng, ("nifti1", "nifti2", "float", "real"))]
    return read_back(written(rng, folder, disturbed(rng, image, 0), ".nii"), folder)


@kind("MGH header fields and bytes", 1000)
def mgh(rng: Rng, folder: Path) -> bool:
    data = disturbed(rng, volumes()["mgh"], head=100)
    return read_back(written(rng, folder, data, mutate.pick(rng, (".mgh", ".mgz"))), folder)


@kind("compressed bytes (.nii.gz, .mgz)", 1200)
def compressed(rng: Rng, folder: Path) -> bool:
    name = mutate.pick(rng, ("nifti1", "real", "mgh"))
    data = volumes()[name].to_bytes()
    path = folder / ("scan.mgz" if name == "mgh" else "scan.nii.gz")
    path.write_bytes(mutate.damaged(rng, gzip.compress(data, 1), 20))
    return read_back(path, folder, data)


@kind("the whole example head", 100)
def whole_head(rng: Rng, folder: Path) -> bool:
    path = folder / "ch2.nii.gz"
    path.write_bytes(mutate.damaged(rng, example()))
    return read_back(path, folder, gzip.decompress(example()))


@base
def zeros() -> bytes:
    """64 MB of zeros, compressed: a member of a gzip file may be followed by others."""
    return gzip.compress(bytes(1 << 26))


@kind("gzip bombs", 30, together=1)
def bombs(rng: Rng, folder: Path) -> bool:
    """Up to 8 GB in 8 MB, whatever the header says."""
    blocks = int(2 ** rng.uniform(0, 7))
    header = nib.Nifti1Header(endianness=mutate.pick(rng, "<>"))
    kind = mutate.pick(rng, (np.uint8, np.int16, np.float32, np.float64, np.complex128))
    header.set_data_dtype(kind)
    edge = ((blocks << 26) / np.dtype(kind).itemsize) ** (1 / 3)  # of what there is
    header.set_data_shape([min(int(edge * 2 ** rng.normal(0, 0.2)), 32767)] * 3)
    header.set_sform(np.eye(4), 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    start = header.binaryblock + bytes(4) + rng.bytes(1000)
    path = folder / "scan.nii.gz"
    path.write_bytes(gzip.compress(start) + blocks * zeros())
    return load(path).shape == header.get_data_shape()


@kind("NIfTI in two files, other formats", 200)
def pairs(rng: Rng, folder: Path) -> bool:
    data = np.asanyarray(volumes()["nifti1"].dataobj)
    nib.save(nib.Nifti1Pair(data, np.eye(4)), folder / "scan.img")
    for path in list(folder.glob("scan.*")):
        path.write_bytes(mutate.damaged(rng, path.read_bytes()))
    suffix = mutate.pick(rng, (".img", ".hdr", ".nii", ".nii.gz", ".mgz", ".nrrd"))
    path = folder / f"scan{suffix}"
    if not path.exists():
        shutil.copy(folder / "scan.hdr", path)
    load(path)
    return False


@kind("masks", 800)
def masks(rng: Rng, folder: Path) -> bool:
    scan = volumes()["nifti1"]
    values = head()[1].astype(mutate.pick(rng, (np.uint8, np.int16, np.float32)))
    image = nib.Nifti1Image(values * mutate.pick(rng, (1, 1, 3)), scan.affine)
    if rng.random() < 0.3:
        turned = nib.orientations.axcodes2ornt(mutate.pick(rng, ("LPS", "PIR", "ASL", "LAS")))
        image = image.as_reoriented(turned)
    data = disturbed(rng, image) if rng.random() < 0.8 else image.to_bytes()
    path = written(rng, folder, data, ".nii")
    given = load_mask(path)
    found = nib.Nifti1Image(find_brain(scan, given).mask.astype(np.uint8), scan.affine)
    known = nib.as_closest_canonical(reference(data, folder))
    truth = np.asarray(known.dataobj)
    soft = truth.dtype.kind == "f" and (truth != np.rint(truth)).any()
    truth = (truth >= truth.max() / 2 if soft else truth > 0).reshape(known.shape[:3])
    return np.array_equal(np.asarray(nib.as_closest_canonical(found).dataobj) > 0, truth)
