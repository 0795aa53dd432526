"""From edges to an image: evaluate the velocity network on whole heads and solve the flow."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Annotated, NamedTuple, TypeVar

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from isochroma.errors import InputError
from isochroma.images.grid import pad_to_multiple
from isochroma.images.masked import centroid
from isochroma.method import flow
from isochroma.method.condition import condition_channels, coordinates
from isochroma.method.network import VelocityNetwork
from isochroma.method.refinement import Refined
from isochroma.method.reviser import EXTRA, STEEPEST, Reviser
from isochroma.settings import choose, settings

TILE_OVERLAP = 32  # voxels
REVISER_BYTES = 100  # of a voxel of a tile, beside the U-Net's
REVISION_BYTES = 80  # of a voxel of the head, for what the second stage is shown and gives
SMALLEST_TILE = 64  # voxels: the edge of training patches
PRECISIONS: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Own = TypeVar("Own", bound="WholeHead")


@settings
class ComputeSettings:
    """Where and how the network runs.

    Attributes
    ----------
    device : str
        "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1" or any torch device.
    precision : str
        Name in `PRECISIONS`, for the network's convolutions; the flow is integrated in float32.
    max_memory_gb : float
        Bound on the memory of the process, or on a GPU's; heads whose activations do not fit are
        computed in blended tiles.
    """

    device: str = "auto"
    precision: str = "float32"
    max_memory_gb: Annotated[float, Field(ge=0.1, le=10_000)] = 8.0

    @field_validator("precision")
    @classmethod
    def _known_precision(cls, value: str) -> str:
        return choose(value, PRECISIONS)


def choose_device(name: str) -> torch.device:
    """Find the torch device of a name and check that it works.

    Parameters
    ----------
    name : str
        "auto", "cpu", "cuda" or any torch device.

    Returns
    -------
    device : torch.device

    Raises
    ------
    InputError
        If it cannot be used on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        msg = f"device {name!r} cannot be used here. Use cpu."
        raise InputError(msg, "device") from error
    return device


class WholeHead:
    """Apply a network to whole heads, in tiles where memory is short.

    Parameters
    ----------
    network : VelocityNetwork
        On the device.
    spacing_mm : float
        Edge of the model grid's voxels.
    device : torch.device or str
        Where the network is.
    precision : str
        Name in `PRECISIONS`.
    max_memory_gb : float
        Bound on the activations: a volume that needs more is computed in tiles.
    """

    def __init__(
        self,
        network: VelocityNetwork,
        spacing_mm: float = 1.0,
        device: torch.device | str = "cpu",
        precision: str = "float32",
        max_memory_gb: float = 8.0,
    ) -> None:
        self.network = network
        self.spacing_mm = spacing_mm
        self.device = torch.device(device)
        self.precision = PRECISIONS[precision]
        self.tile = tile_edge(network, max_memory_gb)

    def within(self: Own, max_memory_gb: float) -> Own:
        """Return the same with another bound on the activations, GB."""
        bounded = copy.copy(self)
        bounded.tile = tile_edge(self.network, max_memory_gb)
        return bounded

    def _padded(self, volume: np.ndarray) -> Tensor:
        """Return a volume on the device as (1, 1, I', J', K'), multiples of the divisor."""
        padded = pad_to_multiple(volume, self.network.settings.divisor)
        return torch.from_numpy(padded)[None, None].to(self.device)

    def _condition(self, edges: np.ndarray, mask: np.ndarray) -> Tensor:
        """Return edges and coordinates on the device: (1, 4, I', J', K')."""
        divisor = self.network.settings.divisor
        padded = pad_to_multiple(mask, divisor)
        where = coordinates(centroid(mask), np.zeros(3), padded.shape, spacing_mm=self.spacing_mm)
        channels = condition_channels(pad_to_multiple(edges, divisor), padded, where)
        return torch.from_numpy(channels)[None].to(self.device)

    def _apply(self, function: Callable[..., Tensor], *volumes: Tensor) -> Tensor:
        """Apply a function of volumes (1, C, I', J', K') to one of (1, D, I', J', K'), float32."""
        mixed = self.precision != torch.float32
        with torch.autocast(self.device.type, self.precision, enabled=mixed):
            if volumes[0].numel() <= self.tile**3:
                return function(*volumes).float()
            return tiled(function, volumes, self.tile, self.network.settings.divisor)


class Revised(NamedTuple):
    """Hold what the second stage makes of a draft: (I, J, K) ndarrays of float32, model units.

    Attributes
    ----------
    image : ndarray
        Within [-1, 1], 0 outside the mask.
    error : ndarray or None
        Standard deviation of its error as a `Reviser` predicts it, 0 outside the mask; None if the
        first stage's network made the image.
    """

    image: np.ndarray
    error: np.ndarray | None


class FlowSampler(WholeHead):
    """Solve the flow of one velocity network on whole heads."""

    def sample(
        self,
        edges: np.ndarray,
        mask: np.ndarray,
        steps: int = 1,
        solver: str = "euler",
        seed: int = 0,
    ) -> np.ndarray:
        """Solve the flow from Gaussian noise (t = 0) to an image with these edges (t = 1).

        Parameters
        ----------
        edges, mask : (I, J, K) ndarray of bool
            Edge map and brain on the model grid.
        steps : int
            Steps of the solver; one Euler step gives the posterior mean E[image | edges].
        solver : str
            Name in `flow.SOLVERS`.
        seed : int
            Seed of the noise, which is the same on every device.

        Returns
        -------
        image : (I, J, K) ndarray of float32
            Model units, 0 outside the mask.
        """
        shape = pad_to_multiple(mask, self.network.settings.divisor).shape
        noise = torch.randn((1, 1, *shape), generator=torch.Generator().manual_seed(seed))
        return self._solve(noise, 0.0, edges, mask, steps, solver)

    def revise(self, edges: np.ndarray, mask: np.ndarray, draft: np.ndarray) -> Revised:
        """Enter the flow with a draft at t = `flow.DRAFT_TIME` and take one Euler step to t = 1.

        Parameters
        ----------
        edges, mask : (I, J, K) ndarray of bool
            Edge map and brain on the model grid.
        draft : (I, J, K) ndarray of float32
            An estimate of the image, model units.

        Returns
        -------
        revised : Revised
            The posterior mean E[image | draft, edges], without an error.
        """
        state = flow.DRAFT_TIME * self._padded(draft)
        return Revised(self._solve(state, flow.DRAFT_TIME, edges, mask, 1, "euler"), None)

    @torch.inference_mode()
    def _solve(
        self,
        state: Tensor,
        start: float,
        edges: np.ndarray,
        mask: np.ndarray,
        steps: int,
        solver: str,
    ) -> np.ndarray:
        condition, inside = self._condition(edges, mask), self._padded(mask)

        def velocity(x: Tensor, t: float) -> Tensor:
            times = torch.full((1,), t, device=self.device)

            def at_t(x: Tensor, condition: Tensor) -> Tensor:
                return self.network.forward(x, times, condition)

            return self._apply(at_t, x, condition) * inside

        x = state.to(self.device) * inside
        output = flow.solve(velocity, x, steps, solver, start=start)
        i, j, k = mask.shape
        return output[0, 0, :i, :j, :k].float().cpu().numpy()


class RevisionSampler(WholeHead):
    """Apply the second stage to whole heads; `network` is a `Reviser`."""

    network: Reviser

    @torch.inference_mode()
    def revise(
        self,
        edges: np.ndarray,
        mask: np.ndarray,
        first: np.ndarray,
        source: np.ndarray,
        refined: Refined,
    ) -> Revised:
        """Correct a refined first pass, and predict the error that is left.

        Parameters
        ----------
        edges, mask : (I, J, K) ndarray of bool
            Edge map and brain on the model grid.
        first, source : (I, J, K) ndarray of float
            First pass and source, model units.
        refined : Refined
            The first pass refined: the draft, with what the refinement found.

        Returns
        -------
        revised : Revised
            The image, and its expected error.
        """
        assert refined.variance is not None
        assert refined.slope is not None
        shown = {
            "source": np.where(mask, source, 0),
            "first": first,
            "slope": np.clip(refined.slope, -STEEPEST, STEEPEST),
            "residual": refined.residual,
            "spread": refined.variance**0.5 * mask,
        }
        extra = torch.cat([self._padded(shown[name].astype(np.float32)) for name in EXTRA], dim=1)

        def both(*volumes: Tensor) -> Tensor:
            return torch.cat(self.network.forward(*volumes), dim=1)

        condition = self._condition(edges, mask)
        found = self._apply(both, self._padded(refined.image), condition, extra)
        i, j, k = mask.shape
        mean, log_variance = found[0, :, :i, :j, :k].cpu()
        return Revised(mean.clamp(-1, 1).numpy() * mask, (0.5 * log_variance).exp().numpy() * mask)


def tiled(
    function: Callable[..., Tensor], volumes: tuple[Tensor, ...], size: int, divisor: int
) -> Tensor:
    """Apply a function in overlapping tiles, blended with a smooth window.

    Parameters
    ----------
    function : callable
        From tiles of the volumes to a tile of the result.
    volumes : tuple of (1, C, I, J, K) Tensor
        Edges are multiples of the divisor; the first gives the number of voxels.
    size : int
        Edge of a tile, voxels; neighbours share 32 voxels, or a third of a small tile.
    divisor : int
        Of the network.

    Returns
    -------
    result : (1, D, I, J, K) Tensor
        Blended, float32.
    """
    overlap = min(TILE_OVERLAP, size // 3)
    shape, device = volumes[0].shape[2:], volumes[0].device
    weight = torch.zeros((1, 1, *shape), device=device)
    total: Tensor | None = None
    for box in tile_boxes(shape, size, overlap, divisor):
        part = (..., *box)
        found = function(*(volume[part] for volume in volumes)).float()
        if total is None:
            total = torch.zeros((1, found.shape[1], *shape), device=device)
        window = torch.from_numpy(tile_window(found.shape[2:], overlap)).to(device)
        total[part] += window * found
        weight[part] += window
    assert total is not None
    return total / weight


def tile_edge(network: VelocityNetwork, max_memory_gb: float) -> int:
    """Find the edge of the largest cube whose activations fit into a memory bound.

    Parameters
    ----------
    network : VelocityNetwork
        With its settings.
    max_memory_gb : float
        The bound, GB.

    Returns
    -------
    edge : int
        Voxels, a multiple of the network's divisor.
    """
    settings = network.settings
    edge = int((max(max_memory_gb, 0) * 1e9 / activation_bytes(network)) ** (1 / 3))
    return max(edge // settings.divisor, 3) * settings.divisor


def activation_bytes(network: VelocityNetwork) -> float:
    """Estimate the bytes of a network's activations, for each voxel of a tile.

    Parameters
    ----------
    network : VelocityNetwork
        With its settings.

    Returns
    -------
    bytes : float
        At its peak, the last block of the first level holds about nine maps of its width. A
        `Reviser` holds volumes of full resolution beside them.
    """
    beside = REVISER_BYTES if isinstance(network, Reviser) else 0
    return 4 * 9 * network.settings.width / network.settings.space_to_depth**3 + beside


def tile_boxes(
    shape: tuple[int, ...], size: int, overlap: int, multiple: int = 1
) -> list[tuple[slice, slice, slice]]:
    """Cover a volume by overlapping boxes.

    Parameters
    ----------
    shape : tuple of int
        (I, J, K), multiples of `multiple`.
    size, overlap : int
        Largest edge of a box and voxels that neighbours share, size > overlap; both are rounded
        down to `multiple`.
    multiple : int
        Every box starts and ends at a multiple of this.

    Returns
    -------
    boxes : list of tuple of 3 slices

    Raises
    ------
    ValueError
        If the overlap is not below the size.
    """
    size, overlap = size // multiple * multiple, overlap // multiple * multiple
    if size <= overlap:
        msg = f"tiles of {size} voxels cannot overlap by {overlap}"
        raise ValueError(msg)
    axes = []
    for n in shape:
        starts = [*range(0, max(n - size, 0), size - overlap), max(n - size, 0)]
        axes.append([slice(start, min(start + size, n)) for start in starts])
    return [(i, j, k) for i in axes[0] for j in axes[1] for k in axes[2]]


def tile_window(shape: tuple[int, ...], overlap: int) -> np.ndarray:
    """Weigh the voxels of a tile for blending.

    Parameters
    ----------
    shape : tuple of int
        (I, J, K) voxels of the tile.
    overlap : int
        Length of the raised-cosine ramps at its faces, voxels; 1 between them.

    Returns
    -------
    weights : (I, J, K) ndarray of float32
        Positive.
    """
    ramps = []
    for n in shape:
        depth = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5
        ramps.append(np.sin(0.5 * np.pi * np.minimum(1, depth / max(overlap, 1))) ** 2)
    i, j, k = ramps
    return (i[:, None, None] * j[None, :, None] * k[None, None, :]).astype(np.float32) + 1e-6
