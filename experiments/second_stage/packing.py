"""Store target scans in little space: quantise, predict from neighbours, compress by LZMA.

Intensities are rounded to 2^bits levels of [-1, 1]. Tissue fractions are rebuilt from label and
intensity by a table of their means.
"""

from __future__ import annotations

import json
import lzma

import numpy as np
from simulation import Head

BINS = 128  # of intensity, in the table of fractions


def diagonals(mask: np.ndarray) -> list[np.ndarray]:
    """Group the flat positions of the mask's voxels by i + j + k, in rising order.

    The neighbours before a voxel along the axes lie in earlier groups.
    """
    places = np.flatnonzero(mask)
    i, j, k = np.unravel_index(places, mask.shape)
    total = i + j + k
    order = np.argsort(total, kind="stable")
    _, starts = np.unique(total[order], return_index=True)
    return np.split(places[order], starts[1:])


def predicted(flat: np.ndarray, at: np.ndarray, steps: tuple[int, int, int]) -> np.ndarray:
    """Predict the integer levels at flat positions from their earlier neighbours."""
    i, j, k = steps
    near = flat[at - i] + flat[at - j] + flat[at - k]
    beside = flat[at - i - j] + flat[at - i - k] + flat[at - j - k]
    return (2 * near - beside) // 3


def steps_of(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the distances of neighbours along each axis in a flat volume (C order)."""
    return shape[1] * shape[2], shape[2], 1


def pack(
    image: np.ndarray, mask: np.ndarray, labels: np.ndarray, fractions: np.ndarray, bits: int
) -> bytes:
    """Pack a scan.

    Parameters
    ----------
    image : (I, J, K) ndarray of float
        Model units.
    mask : (I, J, K) ndarray of bool
        The brain, at least a voxel away from the volume's faces.
    labels : (I, J, K) ndarray of uint8
        Tissue labels, see `tissues.classify`.
    fractions : (I, J, K, 3) ndarray of float
        Tissue fractions.
    bits : int
        Bits of an intensity.

    Returns
    -------
    data : bytes
    """
    top = 2**bits - 1
    flat = np.zeros(mask.size, dtype=np.int32)
    inside = mask.ravel()
    flat[inside] = np.rint((image[mask] + 1) / 2 * top)
    steps = steps_of(mask.shape)
    order = diagonals(mask)
    residual = [(flat[at] - predicted(flat, at, steps)) % (top + 1) for at in order]
    key = bin_of(flat[inside] / top) * 4 + labels[mask]
    count = np.bincount(key, minlength=4 * BINS)
    table = np.stack(
        [np.bincount(key, fractions[mask][:, t], 4 * BINS) / np.maximum(count, 1) for t in range(3)]
    )
    parts = [
        np.packbits(mask).tobytes(),
        np.concatenate(residual).astype(np.uint8).tobytes(),
        labels[mask].tobytes(),
        np.rint(table * 255).astype(np.uint8).tobytes(),
    ]
    packed = [lzma.compress(part, preset=6) for part in parts]
    head = json.dumps(
        {"shape": list(mask.shape), "bits": bits, "sizes": [len(p) for p in packed]}
    ).encode()
    return len(head).to_bytes(4, "little") + head + b"".join(packed)


def bin_of(unit: np.ndarray) -> np.ndarray:
    """Return the rows of the table of fractions for intensities in [0, 1]."""
    return np.clip((unit * BINS).astype(int), 0, BINS - 1)


def unpack(data: bytes) -> Head:
    """Unpack a scan."""
    length = int.from_bytes(data[:4], "little")
    head = json.loads(data[4 : 4 + length])
    parts, start = [], 4 + length
    for size in head["sizes"]:
        parts.append(lzma.decompress(data[start : start + size]))
        start += size
    shape, top = tuple(head["shape"]), 2 ** head["bits"] - 1
    size = int(np.prod(shape))
    mask = np.unpackbits(np.frombuffer(parts[0], np.uint8), count=size).astype(bool).reshape(shape)
    residual = np.frombuffer(parts[1], np.uint8).astype(np.int32)
    flat = np.zeros(size, dtype=np.int32)
    steps, done = steps_of(shape), 0
    for at in diagonals(mask):
        flat[at] = (predicted(flat, at, steps) + residual[done : done + len(at)]) % (top + 1)
        done += len(at)
    inside = mask.ravel()
    unit = flat[inside] / top
    table = np.frombuffer(parts[3], np.uint8).reshape(3, -1).T.astype(np.float32)
    shares = table[bin_of(unit) * 4 + np.frombuffer(parts[2], np.uint8)]
    shares /= np.maximum(shares.sum(1, keepdims=True), 1)
    image = np.zeros(shape, dtype=np.float32)
    image[mask] = 2 * unit - 1
    fractions = np.zeros((*shape, 3), dtype=np.float32)
    fractions[mask] = shares
    return Head(image, mask, fractions)
