"""Draw slices of what `real_scans.py` stored: `PANELS`, from left to right.

python experiments/second_stage/slices.py STORED.npz OUT.png --at X Y Z --half 40 --zoom 4
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

PANELS = ("source", "earlier", "network", "default", "deviation")
WIDEST = 0.4  # model units, drawn white in the map of standard deviations
PLANES = {2: (0, 1), 1: (0, 2), 0: (1, 2)}  # axis: the two that are drawn, across and up


def panel(volume: np.ndarray, at: np.ndarray, axis: int, half: int, zoom: int) -> np.ndarray:
    """Cut a square around a voxel out of the plane across an axis, and enlarge it.

    Parameters
    ----------
    volume : (I, J, K) ndarray
        From 0, black, to 1, white.
    at : (3,) ndarray of int
        Voxel.
    axis : int
        0 sagittal, 1 coronal, 2 axial.
    half : int
        Half of the square's edge, voxels.
    zoom : int
        Pixels a voxel.

    Returns
    -------
    pixels : ndarray of uint8
    """
    plane = volume.take(at[axis], axis=axis)
    i, j = (at[each] for each in PLANES[axis])
    plane = np.pad(plane, half)[i : i + 2 * half, j : j + 2 * half]
    pixels = (255 * np.clip(plane, 0, 1)).astype(np.uint8).T[::-1]
    return np.kron(pixels, np.ones((zoom, zoom), np.uint8))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stored", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--at", type=float, nargs=3, help="world, mm; else the brain's centre")
    parser.add_argument("--half", type=int, default=90, help="voxels")
    parser.add_argument("--zoom", type=int, default=2)
    options = parser.parse_args()
    with np.load(options.stored) as stored:
        mask, affine = stored["mask"], stored["affine"]
        volumes = {name: np.where(mask, (stored[name] + 1) / 2, 0) for name in PANELS[:-1]}
        volumes["deviation"] = np.where(mask, stored["deviation"] / WIDEST, 0)
    at = np.argwhere(mask).mean(0).round().astype(int)
    if options.at:
        at = np.rint(np.linalg.inv(affine) @ [*options.at, 1])[:3].astype(int)
    rows = [
        np.hstack([panel(volumes[name], at, axis, options.half, options.zoom) for name in PANELS])
        for axis in PLANES
    ]
    Image.fromarray(np.vstack(rows)).save(options.out)


if __name__ == "__main__":
    main()
