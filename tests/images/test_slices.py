"""Pictures of slices: layout and orientation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isochroma.images.slices import save_slices

SHAPE = (40, 50, 44)


def picture(path: Path, volume: np.ndarray, **options: tuple[float, float]) -> np.ndarray:
    """(height, width) grey levels of a picture at one pixel a voxel, its title painted over."""
    save_slices(path, {"": volume}, **options)
    image = Image.open(path)
    return np.asarray(image)[::2, ::2]


def block(where: tuple[slice, slice, slice]) -> np.ndarray:
    """A volume of -1 with a bright block."""
    volume = np.full(SHAPE, -1.0, dtype=np.float32)
    volume[where] = 1.0
    return volume


def panels(grey: np.ndarray) -> list[np.ndarray]:
    """The axial (I x J), coronal (I x K) and sagittal (J x K) pictures, cut to their own size."""
    i, j, k = SHAPE
    found, left = [], 0
    for width, height in ((i, j), (i, k), (j, k)):
        found.append(grey[max(i, j, k) - height :, left : left + width])
        left += width + 4
    return found


EVERYWHERE = slice(None)


class TestBasic:
    def test_size_is_a_row_a_volume(self, tmp_path: Path) -> None:
        volumes = {name: np.zeros(SHAPE) for name in ("source", "harmonized", "truth")}
        path = save_slices(tmp_path / "preview.png", volumes)
        assert path == tmp_path / "preview.png"
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.size == (2 * (40 + 40 + 50 + 3 * 4), 3 * 2 * 50)
        assert [p.name for p in tmp_path.iterdir()] == ["preview.png"]

    def test_anterior_is_at_the_top_of_the_axial_view(self, tmp_path: Path) -> None:
        volume = block((EVERYWHERE, slice(40, 50), EVERYWHERE))
        axial, coronal, sagittal = panels(picture(tmp_path / "a.png", volume))
        assert axial[:9].mean() > 200
        assert axial[12:].mean() < 5
        assert coronal.mean() < 5  # the middle slice is not anterior
        assert sagittal[:, 42:].mean() > 200
        assert sagittal[:, :38].mean() < 5

    def test_superior_is_at_the_top_of_the_coronal_and_sagittal_views(self, tmp_path: Path) -> None:
        volume = block((EVERYWHERE, EVERYWHERE, slice(36, 44)))
        axial, coronal, sagittal = panels(picture(tmp_path / "s.png", volume))
        for panel in (coronal, sagittal):
            assert panel[:7].mean() > 200
            assert panel[10:].mean() < 5
        assert axial[:, 12:].mean() < 5  # (the title stands at the left)

    def test_right_is_on_one_side_in_both_views(self, tmp_path: Path) -> None:
        volume = block((slice(32, 40), EVERYWHERE, EVERYWHERE))
        axial, coronal, sagittal = panels(picture(tmp_path / "r.png", volume))
        for panel in (axial, coronal):
            assert panel[15:, 33:].mean() > 200
            assert panel[15:, :30].mean() < 5
        assert sagittal.mean() < 5

    @pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
    def test_limits_are_black_and_white(self, tmp_path: Path, value: float) -> None:
        volume = np.full(SHAPE, value, dtype=np.float32)
        grey = panels(picture(tmp_path / "g.png", volume))[2]
        assert grey[5:-5, 5:-5].mean() == pytest.approx(127.5 * (value + 1), abs=1)

    def test_values_beyond_the_limits_are_clipped(self, tmp_path: Path) -> None:
        volume = np.full(SHAPE, 9.0)
        grey = panels(picture(tmp_path / "c.png", volume, limits=(0, 4)))[2]
        assert (grey[5:-5, 5:-5] == 255).all()
        grey = panels(picture(tmp_path / "d.png", volume / 9, limits=(0, 4)))[2]
        assert grey[5:-5, 5:-5].mean() == pytest.approx(255 / 4, abs=1)

    def test_existing_picture_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "p.png"
        path.write_text("old")
        save_slices(path, {"a": np.zeros(SHAPE)})
        with Image.open(path) as image:
            assert image.format == "PNG"
