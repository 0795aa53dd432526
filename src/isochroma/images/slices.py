"""Pictures of volumes: axial, coronal and sagittal slices side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from isochroma.files import write_atomically


def save_slices(
    path: Path, volumes: Mapping[str, np.ndarray], limits: tuple[float, float] = (-1, 1)
) -> Path:
    """Write a PNG with one row a volume: middle axial, coronal and near-middle sagittal slices.

    Parameters
    ----------
    path : Path
        The PNG.
    volumes : mapping of str to (I, J, K) ndarray
        Title to volume; all of one shape, in canonical (RAS+) orientation.
    limits : tuple of float
        Values shown black and white.

    Returns
    -------
    path : Path
        The written file.
    """
    low, high = limits
    rows = []
    for title, volume in volumes.items():
        i, j, k = (n // 2 for n in volume.shape)
        slices = [volume[:, :, k], volume[:, j, :], volume[i - min(8, i), :, :]]
        height = max(part.shape[1] for part in slices)
        shown = []
        for part in slices:
            grey = np.clip((np.asarray(part, dtype=np.float32) - low) / (high - low), 0, 1)
            picture = np.flipud((255 * grey).astype(np.uint8).T)
            shown.append(np.pad(picture, ((height - picture.shape[0], 0), (0, 4))))
        row = Image.fromarray(np.concatenate(shown, axis=1))
        row = row.resize((2 * row.width, 2 * row.height), Image.Resampling.BICUBIC)
        ImageDraw.Draw(row).text((4, 4), title, fill=255)
        rows.append(np.asarray(row))
    sheet = Image.fromarray(np.concatenate(rows, axis=0))
    return write_atomically(path, sheet.save)
