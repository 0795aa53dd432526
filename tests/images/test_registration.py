"""Rigid registration finds a known motion."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from fixtures_pipeline import RAS, head
from isochroma.images.grid import Grid
from isochroma.images.registration import register_rigidly


def motion_of(degrees: float, shift: tuple[float, float, float]) -> np.ndarray:
    """A turn about an oblique axis, then a shift in mm."""
    axis = np.array([0.5, 0.3, -0.8]) / np.linalg.norm([0.5, 0.3, -0.8])
    cross = np.cross(np.eye(3), -axis)
    angle = np.deg2rad(degrees)
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return nib.affines.from_matvec(turn, shift)


def test_a_known_motion() -> None:
    """The same voxels, whose world was moved: no interpolation is involved."""
    data, mask = head()
    image = data / 600 - 1
    motion = motion_of(7, (4.0, -6.0, 5.0))
    fixed, moving = Grid(data.shape, RAS), Grid(data.shape, motion @ RAS)
    found = register_rigidly(image, mask, fixed, image, mask, moving)
    places = nib.affines.apply_affine(RAS, np.argwhere(mask)[::97])
    apart = nib.affines.apply_affine(found, places) - nib.affines.apply_affine(motion, places)
    assert np.linalg.norm(apart, axis=1).max() < 0.3


def test_no_motion() -> None:
    data, mask = head()
    grid = Grid(data.shape, RAS)
    found = register_rigidly(data, mask, grid, 0.5 * data + 3, mask, grid)
    np.testing.assert_allclose(found, np.eye(4), atol=0.05)
