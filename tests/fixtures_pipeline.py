"""Helpers of the pipeline's tests: heads drawn in world space, tiny networks, analytic networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from isochroma.images.preprocess import PreprocessSettings
from isochroma.method.edges import EdgeSettings
from isochroma.method.network import NetworkSettings, VelocityNetwork
from isochroma.method.patches import PatchSettings
from isochroma.method.reviser import Reviser
from isochroma.method.sampling import ComputeSettings
from isochroma.models.config import ModelConfig, TargetDomain
from isochroma.models.folder import Model, save_model
from isochroma.pipeline import Harmonizer, SamplingSettings

SEMI_AXES_MM = np.array([36.0, 44.0, 36.0])  # 239 ml
SPACING_MM = 2.0
SHAPE = (44, 50, 42)
TINY = NetworkSettings(width=8, multipliers=(1, 2))


def axes_to_affine(columns: list[list[float]], shape: tuple[int, ...]) -> np.ndarray:
    """(4, 4) affine with these voxel axes (mm) that puts the volume's middle at the origin."""
    linear = np.array(columns, dtype=float).T
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = -linear @ (np.array(shape) - 1) / 2
    return affine


RAS = axes_to_affine([[2, 0, 0], [0, 2, 0], [0, 0, 2]], SHAPE)


def world_of(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """(I, J, K, 3) world position of each voxel, mm."""
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return voxels @ affine[:3, :3].T + affine[:3, 3]


def head(
    shape: tuple[int, ...] = SHAPE, affine: np.ndarray = RAS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A stripped head on any grid: (I, J, K) float32 data, 0 outside the (I, J, K) bool mask.

    Layers of CSF, folded grey matter and white matter, two ventricles and a one-sided lesion, so
    that no mirror image equals it. `seed` varies the folds, as between people.
    """
    world = world_of(shape, affine)
    rng = np.random.default_rng(seed)
    phase, wave = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.28, 0.34, 3)
    folds = np.sin(world * wave + phase).prod(-1)
    radius = np.linalg.norm(world / SEMI_AXES_MM, axis=-1)
    mask = radius <= 1
    depth = radius + 0.06 * folds
    data = np.select([depth < 0.68, depth < 0.9], [900.0, 600.0], 220.0) + 4.0 * world[..., 1] / 10
    for x, y in ((-9.0, 2.0), (9.0, -2.0)):
        ventricle = np.linalg.norm((world - [x, y, 4]) / [4, 12, 6], axis=-1) < 1
        data = np.where(ventricle, 200.0, data)
    data = np.where(np.linalg.norm(world - [16, 14, -8], axis=-1) < 5, 1050.0, data)
    return np.where(mask, data, 0).astype(np.float32), mask


def head_image(
    shape: tuple[int, ...] = SHAPE,
    affine: np.ndarray = RAS,
    seed: int = 0,
    dtype: type = np.float32,
) -> nib.Nifti1Image:
    """`head` as NIfTI, with units and both form codes set."""
    image = nib.Nifti1Image(np.rint(head(shape, affine, seed)[0]).astype(dtype), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1, strip_shears=True)
    return image


def config(**changes: object) -> ModelConfig:
    """A model on 2 mm voxels without N4: fast. Intensities of the target: 100 to 500."""
    settings = ModelConfig(
        name="tiny",
        preprocess=PreprocessSettings(spacing_mm=SPACING_MM, n4=False),
        edges=EdgeSettings(),
        network=TINY,
        patches=PatchSettings(size=16),
        target=TargetDomain(100.0, 500.0, 3, tuple(np.linspace(-1, 1, 101))),
    )
    return dataclasses.replace(settings, **changes)  # type: ignore[arg-type]


def random_network(
    settings: NetworkSettings = TINY, scale: float = 0.1, seed: int = 0
) -> VelocityNetwork:
    """A network whose every weight is moved at random, so that its output is not 0."""
    torch.manual_seed(seed)
    network = VelocityNetwork(settings)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += scale * torch.randn_like(parameter)
    return network.eval().requires_grad_(False)


def random_reviser(scale: float = 0.1, seed: int = 0) -> Reviser:
    """A second stage, likewise."""
    torch.manual_seed(seed)
    network = Reviser(TINY)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += scale * torch.randn_like(parameter)
    return network.eval().requires_grad_(False)


def save_tiny_model(folder: Path, **changes: object) -> Path:
    """A model folder with random weights."""
    folder.mkdir(parents=True)
    settings = config(**changes)
    save_model(folder, random_network(settings.network).state_dict(), settings)
    return folder


def save_tiny_model_of_two_stages(folder: Path) -> Path:
    """The same with a second stage of its own."""
    save_model(folder, random_network().state_dict(), config(), random_reviser().state_dict())
    return folder


def tiny_harmonizer(
    sampling: SamplingSettings | None = None,
    network: torch.nn.Module | None = None,
    model_config: ModelConfig | None = None,
    reviser: Reviser | None = None,
    n4: bool = True,
    outside: str = "zero",
    grid: str = "source",
    **compute: object,
) -> Harmonizer:
    """A harmonizer on the CPU; with random weights and `config` if nothing else is given."""
    model_config = model_config or config()
    model = Model(network or random_network(model_config.network), model_config, reviser)
    settings = ComputeSettings(**{"device": "cpu", **compute})  # type: ignore[arg-type]
    return Harmonizer(model, sampling, settings, n4, outside, grid)


class AnalyticNetwork(torch.nn.Module):
    """A velocity that carries any state to `image(condition)` in one Euler step from t = 0, and
    counts its evaluations.
    """

    def __init__(self, image: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.image = image
        self.settings = TINY
        self.times: list[float] = []

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """(B, 1, I, J, K): image - x."""
        self.times.append(float(t[0]))
        return self.image(condition) - x
