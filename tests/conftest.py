"""Fixtures shared by the tests: phantoms, and real scans that are prepared once a session."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
from hypothesis import settings
from scipy import ndimage

from isochroma.images import io, preprocess
from isochroma.images.brain import find_brain
from isochroma.method import edges

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
TRAINING_SUBJECT = "sub-05"  # of the target domain's training split

settings.register_profile("isochroma", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("isochroma")


class Phantom(NamedTuple):
    """Three nested ellipsoids as CSF, grey and white matter: data and mask (I, J, K)."""

    data: np.ndarray
    mask: np.ndarray
    white: np.ndarray


def ball(shape: tuple[int, int, int], radius: float) -> np.ndarray:
    """(I, J, K) bool: a ball in the middle of the volume."""
    return distance_from_centre(shape) <= radius


def distance_from_centre(shape: tuple[int, int, int]) -> np.ndarray:
    """(I, J, K) distance of each voxel from the middle of the volume, voxels."""
    axes = [np.arange(n) - (n - 1) / 2 for n in shape]
    return np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))


@pytest.fixture(scope="session")
def phantom() -> Phantom:
    shape = (48, 52, 44)
    axes = [np.linspace(-1, 1, n) for n in shape]
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
    data = np.select([radius < 0.5, radius < 0.7, radius < 0.85], [800.0, 500.0, 150.0], 0.0)
    texture = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(shape), 1.5)
    data = np.where(data > 0, data + 100 * texture, 0)
    return Phantom(data.astype(np.float32), radius < 0.85, radius < 0.45)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"the real scans are not at {DATA}")
    return DATA


@pytest.fixture(scope="session")
def target_scan(data_folder: Path) -> nib.Nifti1Image:
    """A training scan of the target domain: 0.868 x 0.868 x 1 mm, skull-stripped, LAS."""
    return io.load(data_folder / "target_ds002748" / f"{TRAINING_SUBJECT}_T1w.nii.gz")


@pytest.fixture(scope="session")
def target_mask(target_scan: nib.Nifti1Image) -> np.ndarray:
    return find_brain(target_scan).mask


@pytest.fixture(scope="session")
def uncorrected(target_scan: nib.Nifti1Image, target_mask: np.ndarray) -> preprocess.Prepared:
    """The target scan prepared without bias correction."""
    settings = preprocess.PreprocessSettings(n4=False)
    return preprocess.prepare(target_scan, target_mask, settings)


@pytest.fixture(scope="session")
def prepared(target_scan: nib.Nifti1Image, target_mask: np.ndarray) -> preprocess.Prepared:
    """The target scan prepared as the models' default."""
    return preprocess.prepare(target_scan, target_mask, preprocess.PreprocessSettings())


@pytest.fixture(scope="session")
def target_edges(prepared: preprocess.Prepared) -> np.ndarray:
    return edges.detect_edges(prepared, edges.EdgeSettings())


@pytest.fixture(scope="session")
def example_head() -> nib.Nifti1Image:
    """The shipped whole head, 1 mm."""
    path = ROOT / "examples" / "ch2.nii.gz"
    if not path.is_file():
        pytest.skip(f"the example head is not at {path}")
    return io.load(path)
