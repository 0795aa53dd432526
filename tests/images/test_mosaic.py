"""Slices side by side: which, which way up, and what is drawn over them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from isochroma.images.mosaic import PLANES, Cut, diverging, grey, outline


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros((40, 50, 30), dtype=bool)
    mask[10:30, 10:40, 8:22] = True
    return mask


@pytest.mark.parametrize("plane", PLANES)
def test_slices_spread_through_the_mask(mask: np.ndarray, plane: str) -> None:
    cut = Cut.through(mask, plane, 5)
    assert len(set(cut.positions)) == 5
    row = cut.row(mask)
    assert all(part.any() for part in np.split(row, 5, axis=1))
    assert not row[0].any()  # the margin


@pytest.mark.parametrize(
    ("plane", "axis", "side"), [("axial", 0, 1), ("coronal", 0, 1), ("sagittal", 1, 1)]
)
def test_right_and_anterior_are_at_the_right(
    mask: np.ndarray, plane: str, axis: int, side: int
) -> None:
    ramp = np.indices(mask.shape)[axis]
    row = Cut.through(mask, plane, 1).row(ramp)
    assert row[0, -1] > row[0, 0]


@pytest.mark.parametrize(("plane", "axis"), [("axial", 1), ("coronal", 2), ("sagittal", 2)])
def test_anterior_and_superior_are_up(mask: np.ndarray, plane: str, axis: int) -> None:
    ramp = np.indices(mask.shape)[axis]
    row = Cut.through(mask, plane, 1).row(ramp)
    assert row[0, 0] > row[-1, 0]


def test_sides_are_marked(mask: np.ndarray) -> None:
    cut = Cut.through(mask, "axial", 3)
    blank = Image.new("L", (300, 100))
    marked = np.asarray(cut.marked(blank)) > 128
    assert marked[:, :20].any()
    assert marked[:, 80:100].any()
    assert not marked[:, 100:].any()


def test_outline_is_thin_and_closed() -> None:
    square = np.zeros((20, 20), dtype=bool)
    square[5:15, 5:15] = True
    border = outline(square, 3)
    assert border.shape == (60, 60)
    assert 80 < border.sum() < 140
    assert not border[30, 20:40].any()


def test_colours() -> None:
    assert grey(np.array([[-2, 0, 1.0]])).tolist() == [[0, 127, 255]]
    below, zero, above = diverging(np.array([-1, 0, 1.0]))
    assert below[2] > below[0]
    assert zero.tolist() == [0, 0, 0]
    assert above[0] > above[2]
