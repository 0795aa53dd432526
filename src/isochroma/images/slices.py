"""Pictures for people: axial, coronal and sagittal slices of volumes side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from isochroma.files import write_atomically


def save_preview(
    path: Path, volumes: dict[str, np.ndarray], limits: tuple[float, float] = (-1, 1)
) -> Path:
    """Write a PNG with a row a volume: its middle axial, coronal and sagittal slices.

    Parameters
    ----------
    path
        The PNG.
    volumes
        Title to (I, J, K) volume, all of one shape, canonical (RAS+) orientation.
    limits
        Values shown black and white.
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
