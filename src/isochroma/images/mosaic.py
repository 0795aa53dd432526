"""Mosaics: several slices of each plane, upright, with marks for the sides of the head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from isochroma.images.grid import bounding_box
from isochroma.images.histogram import smoothed

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The axis that each plane is across, in canonical (RAS+) orientation."""

SIDES = {"sagittal": ("P", "A"), "coronal": ("L", "R"), "axial": ("L", "R")}
"""What is at the left and at the right of a slice: posterior, anterior; the patient's sides."""

MARGIN = 6  # voxels around the mask
INNER = 0.12  # share of the mask's extent without slices, at either end
CONTOUR = (255, 80, 40)


@dataclass(frozen=True)
class Cut:
    """Which slices of a volume a mosaic shows.

    Attributes
    ----------
    plane : str
        A key of `PLANES`.
    positions : tuple of int
        Voxel indices across the plane, from left to right.
    box : tuple of 3 slices
        What is shown of each slice.
    """

    plane: str
    positions: tuple[int, ...]
    box: tuple[slice, ...]

    @classmethod
    def through(cls, mask: np.ndarray, plane: str, count: int) -> Cut:
        """Spread slices evenly through a mask.

        Parameters
        ----------
        mask : (I, J, K) ndarray of bool
            The brain, in canonical orientation; not empty.
        plane : str
            A key of `PLANES`.
        count : int
            Number of slices.

        Returns
        -------
        cut : Cut
        """
        tight = bounding_box(mask)[PLANES[plane]]
        inner = INNER * (tight.stop - tight.start)
        places = np.linspace(tight.start + inner, tight.stop - 1 - inner, count)
        return cls(plane, tuple(np.rint(places).astype(int)), bounding_box(mask, MARGIN))

    def row(self, volume: np.ndarray) -> np.ndarray:
        """Lay the slices side by side.

        Parameters
        ----------
        volume : (I, J, K) ndarray
            In canonical orientation.

        Returns
        -------
        row : (H, W) ndarray
            Superior or anterior is up, and the patient's left is at the left.
        """
        axis = PLANES[self.plane]
        inside = [self.box[other] for other in range(3) if other != axis]
        shown = [np.take(volume, place, axis)[tuple(inside)].T[::-1] for place in self.positions]
        return np.concatenate(shown, axis=1)

    def marked(self, picture: Image.Image) -> Image.Image:
        """Write the sides of the head on the first slice of a row's picture.

        Parameters
        ----------
        picture : Image
            Of a row, at any scale.

        Returns
        -------
        marked : Image
        """
        marked = picture.copy()
        draw = ImageDraw.Draw(marked)
        size = max(10, picture.height // 11)
        font = ImageFont.load_default(size)
        width = picture.width / len(self.positions)
        left, right = SIDES[self.plane]
        middle = picture.height / 2
        white = 255 if picture.mode == "L" else (255, 255, 255)
        black = 0 if picture.mode == "L" else (0, 0, 0)
        for x, letter, anchor in ((3, left, "lm"), (width - 3, right, "rm")):
            draw.text((x, middle), letter, white, font, anchor, stroke_width=2, stroke_fill=black)
        return marked


def grey(row: np.ndarray, limits: tuple[float, float] = (-1, 1)) -> np.ndarray:
    """Map values to grey levels.

    Parameters
    ----------
    row : (H, W) ndarray
        Any unit.
    limits : tuple of float
        Values shown black and white.

    Returns
    -------
    levels : (H, W) ndarray of uint8
    """
    low, high = limits
    return (255 * np.clip((row.astype(np.float32) - low) / (high - low), 0, 1)).astype(np.uint8)


def diverging(row: np.ndarray, largest: float = 1.0) -> np.ndarray:
    """Map differences to colours: blue below 0, black at 0, orange above.

    Parameters
    ----------
    row : (H, W) ndarray
        Any unit.
    largest : float
        Magnitude that gets the brightest colour (> 0).

    Returns
    -------
    colours : (H, W, 3) ndarray of uint8
    """
    share = np.clip(row / largest, -1, 1)[..., None]
    warm, cold = np.array([255, 170, 60]), np.array([70, 170, 255])
    return (np.abs(share) * np.where(share > 0, warm, cold)).astype(np.uint8)


def outline(mask_row: np.ndarray, scale: int) -> np.ndarray:
    """Draw the border of a mask.

    Parameters
    ----------
    mask_row : (H, W) ndarray of bool
        A row of slices.
    scale : int
        Pixels a voxel.

    Returns
    -------
    border : (scale * H, scale * W) ndarray of bool
        The pixels of the mask beside pixels outside it, its steps smoothed.
    """
    large = np.kron(mask_row, np.ones((scale, scale)))
    inside = ndimage.gaussian_filter(large, 0.7 * scale) > 0.5
    return inside & ~ndimage.binary_erosion(inside, border_value=1)


def enlarge(pixels: np.ndarray, scale: int) -> Image.Image:
    """Enlarge grey levels or colours by a whole number.

    Parameters
    ----------
    pixels : (H, W) or (H, W, C) ndarray of uint8
        Grey levels, or 3 or 4 channels.
    scale : int
        Factor.

    Returns
    -------
    picture : Image
    """
    picture = Image.fromarray(pixels)
    size = (scale * picture.width, scale * picture.height)
    return picture.resize(size, Image.Resampling.BICUBIC)


def save_mosaic(
    path: Path,
    source: np.ndarray,
    output: np.ndarray,
    mask: np.ndarray,
    histograms: dict[str, np.ndarray],
    count: int = 6,
) -> None:
    """Write a PNG of source, output and their difference in three planes.

    Parameters
    ----------
    path : Path
        The PNG.
    source, output : (I, J, K) ndarray
        Model units, [-1, 1] in the brain, in canonical orientation.
    mask : (I, J, K) ndarray of bool
        The brain; its border is drawn on the source.
    histograms : dict of str to (B,) ndarray
        Name to densities in equal bins from the first to the last bin of model units.
    count : int
        Slices of each plane.
    """
    scale = 2 if max(mask.shape) < 130 else 1
    bands: list[Image.Image] = []
    gap = np.where(mask, output - source, 0)
    before, after = (np.where(mask, volume, -1) for volume in (source, output))
    for plane in reversed(PLANES):
        cut = Cut.through(mask, plane, count)
        shown = enlarge(grey(cut.row(before)), scale).convert("RGB")
        border = outline(cut.row(mask), scale)
        pixels = np.asarray(shown).copy()
        pixels[border] = CONTOUR
        rows = {
            "source, brain mask": Image.fromarray(pixels),
            "harmonized": enlarge(grey(cut.row(after)), scale).convert("RGB"),
            "harmonized - source": enlarge(diverging(cut.row(gap)), scale),
        }
        bands += [titled(cut.marked(picture), title) for title, picture in rows.items()]
    width = max(band.width for band in bands)
    bands.append(_legend(width, histograms))
    sheet = Image.new("RGB", (width, sum(band.height + 2 for band in bands)))
    top = 0
    for band in bands:
        sheet.paste(band, ((width - band.width) // 2, top))
        top += band.height + 2
    sheet.save(path, format="PNG", optimize=True)


def titled(picture: Image.Image, title: str) -> Image.Image:
    """Write a title at the top left of a picture in RGB, and return it."""
    font = ImageFont.load_default(13)
    draw = ImageDraw.Draw(picture)
    draw.text((4, 2), title, (255, 255, 120), font, stroke_width=2, stroke_fill=(0, 0, 0))
    return picture


LINES: Sequence[tuple[int, int, int]] = ((90, 170, 255), (255, 255, 255), (120, 220, 120))


def _legend(width: int, histograms: dict[str, np.ndarray], height: int = 120) -> Image.Image:
    """Draw the difference's colour bar at the left, and histograms at the right."""
    legend = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(legend)
    font = ImageFont.load_default(13)
    half = width // 2
    bar = np.broadcast_to(np.linspace(-1, 1, half - 60), (14, half - 60))
    legend.paste(Image.fromarray(diverging(bar)), (20, 40))
    text = "harmonized - source, share of the intensity range"
    draw.text((20, 18), text, fill=(220, 220, 220), font=font)
    for share in (-1, -0.5, 0, 0.5, 1):
        place = 20 + (share + 1) / 2 * (half - 61)
        label = f"{share / 2:+.0%}" if share else "0"  # model units are half the range
        draw.text((place, 60), label, fill=(220, 220, 220), font=font, anchor="mt")
    histograms = {name: smoothed(curve) for name, curve in histograms.items()}
    top = max((curve.max() for curve in histograms.values()), default=1.0)
    for number, (name, curve) in enumerate(histograms.items()):
        across = half + 10 + np.linspace(0, 1, len(curve)) * (width - half - 20)
        up = height - 6 - curve / top * (height - 30)
        colour = LINES[number % len(LINES)]
        draw.line([*zip(across.tolist(), up.tolist(), strict=True)], fill=colour, width=2)
        draw.text((half + 16 + 120 * number, 4), name, fill=colour, font=font)
    return legend
