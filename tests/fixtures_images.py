"""Helpers of the image tests: hand-made affines and textured volumes."""

from __future__ import annotations

import nibabel as nib
import numpy as np

RAS = np.array([[1.0, 0, 0, -20], [0, 1, 0, -30], [0, 0, 1, -40], [0, 0, 0, 1]])
LPS = np.array([[-1.0, 0, 0, 90], [0, -1, 0, 126], [0, 0, 1, -72], [0, 0, 0, 1]])
RPS = np.array([[1.0, 0, 0, -90], [0, -1, 0, 126], [0, 0, 1, -72], [0, 0, 0, 1]])
PIR = np.array([[0.0, 0, 1, -90], [-1, 0, 0, 126], [0, -1, 0, 72], [0, 0, 0, 1]])


def rotation(x: float, y: float, z: float) -> np.ndarray:
    return nib.eulerangles.euler2mat(z, y, x)


def affine_of(linear: np.ndarray, origin: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    return nib.affines.from_matvec(np.asarray(linear, dtype=float), origin)


def oblique(sizes: tuple[float, ...] = (0.868, 0.868, 1.0)) -> np.ndarray:
    return affine_of(rotation(0.3, -0.2, 0.15) @ np.diag(sizes), (-70.5, -101.0, -55.25))


def texture(shape: tuple[int, ...] = (12, 14, 10), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1000, shape).astype(np.float32)


def image_of(data: np.ndarray, affine: np.ndarray = RAS) -> nib.Nifti1Image:
    return nib.Nifti1Image(data, affine)
