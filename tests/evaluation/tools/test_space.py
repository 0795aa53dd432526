from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from isochroma.errors import InputError
from isochroma.evaluation.tissues import CSF, GREY, WHITE
from isochroma.evaluation.tools.space import CommonSpace, matter

SPACING = 4.0  # mm: heads of 160 mm in 40 voxels
SHAPE = (44, 50, 42)
AXES = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in SHAPE], indexing="ij")


def head(ventricle: float = 0.3, size: float = 1.0) -> np.ndarray:
    """Maps (I, J, K, 2) of an ellipsoid of white matter in grey matter, with two CSF ventricles;
    `ventricle` relative to the brain.
    """
    x, y, z = (axis / size for axis in AXES)
    radius = np.sqrt((x / 15) ** 2 + (y / 19) ** 2 + (z / 13) ** 2)
    csf = np.sqrt(((np.abs(x) - 4) / 6) ** 2 + (y / 12) ** 2 + ((z - 2) / 6) ** 2) < ventricle
    white, grey = (radius < 0.75) & ~csf, (radius < 1) & (radius >= 0.75)
    return np.stack([grey, white], axis=-1).astype(np.float32)


def moved(maps: np.ndarray, matrix: np.ndarray, shift: tuple[float, float, float]) -> np.ndarray:
    middle = (np.array(SHAPE) - 1) / 2
    offset = middle - matrix @ (middle + shift)
    return np.stack(
        [ndimage.affine_transform(maps[..., n], matrix, offset, order=1) for n in (0, 1)], axis=-1
    )


def turn(degrees: float, first: int, second: int) -> np.ndarray:
    matrix = np.eye(3)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix[first, first] = matrix[second, second] = c
    matrix[first, second], matrix[second, first] = -s, s
    return matrix


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.sum(-1) > 0.5, b.sum(-1) > 0.5
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def aligned(space: CommonSpace, maps: np.ndarray) -> np.ndarray:
    return space.place(maps, space.locate(maps))


@pytest.fixture(scope="module")
def space() -> CommonSpace:
    maps = (head(ventricle, size) for ventricle, size in [(0.3, 1), (0.6, 0.95), (0.9, 1.05)])
    return CommonSpace.build(maps, SPACING, voxel_mm=6.0, rounds=1)


class TestCommonSpace:
    @pytest.mark.parametrize(
        ("matrix", "shift"),
        [
            (np.eye(3), (3, -2, 1)),
            (turn(12, 1, 2), (2, 2, -2)),
            (turn(-8, 0, 1) @ turn(10, 1, 2), (0, 3, 0)),
            (np.diag([1.12, 0.92, 1.08]), (1, 0, 2)),
            (np.array([[1, 0.1, 0], [0, 1, -0.1], [0.05, 0, 0.95]]), (0, -2, 0)),
        ],
        ids=["shift", "pitch", "turn", "scale", "shear"],
    )
    def test_moved_scan_comes_back(
        self, space: CommonSpace, matrix: np.ndarray, shift: tuple[float, float, float]
    ) -> None:
        scan = head(0.6)
        still, back = aligned(space, scan), aligned(space, moved(scan, matrix, shift))
        assert overlap(back, space.template) > 0.95
        assert overlap(back, still) > 0.98
        assert np.abs(back - still).mean() < 0.01

    def test_the_moves_were_large(self) -> None:
        scan = head(0.6)
        assert overlap(moved(scan, turn(12, 1, 2), (2, 2, -2)), scan) < 0.9

    def test_same_twice(self, space: CommonSpace) -> None:
        scan = moved(head(0.6), turn(9, 0, 2), (1, 1, 1))
        np.testing.assert_array_equal(aligned(space, scan), aligned(space, scan))

    def test_values_are_probabilities(self, space: CommonSpace) -> None:
        maps = aligned(space, head())
        assert maps.shape == space.template.shape
        assert maps.dtype == np.float32
        assert maps.min() > -0.01
        assert maps.sum(-1).max() < 1.01
        assert space.template.sum(-1).max() > 0.9

    def test_ventricles_stay(self, space: CommonSpace) -> None:
        """An affine cannot close them, so that they tell age."""
        small, large = (aligned(space, head(v)).sum() for v in (0.3, 1.2))
        assert small > 1.02 * large

    def test_no_tissue(self, space: CommonSpace) -> None:
        with pytest.raises(InputError, match="no grey or white"):
            space.locate(np.zeros((*SHAPE, 2)))

    def test_no_scans(self) -> None:
        with pytest.raises(InputError, match="no tissue maps"):
            CommonSpace.build([])

    def test_another_volume_of_the_scan_goes_to_the_same_place(self, space: CommonSpace) -> None:
        maps = moved(head(), turn(8, 1, 2), (2, 0, 1))
        placement = space.locate(maps)
        swapped = space.place(maps[..., ::-1], placement)
        np.testing.assert_allclose(swapped[..., ::-1], space.place(maps, placement), atol=1e-6)


def test_matter() -> None:
    probabilities = np.array([0.0, 0.0, 0.0])
    probabilities[[CSF - 1, GREY - 1, WHITE - 1]] = 0.1, 0.2, 0.7
    np.testing.assert_array_equal(matter(probabilities), [0.2, 0.7])
