"""The pipeline: a scan in, the same head as the target scanner shows it out.

mask -> model grid, N4, intensity scale -> edges -> flow -> refinement -> the scan's own grid.

Every entry point (command line, API, evaluation) goes through `Harmonizer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isochroma.errors import InputError
from isochroma.method import flow
from isochroma.method.condition import centroid_of, condition_channels, coordinates
from isochroma.method.network import VelocityNetwork
from isochroma.method.refinement import REFINEMENTS
from isochroma.method.runtime import OpenVinoNetwork

TILE_OVERLAP = 32
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class SamplingSettings:
    """How the flow is solved and refined.

    steps, solver
        Integration of the flow; "euler" with one step gives the posterior mean E[x | edges].
    refine
        "local" (`refine.follow_source`), "paper" (global correlation ascent) or "none".
    revise
        Whether the locally refined image is a draft that goes through the flow once more
        (`flow.DRAFT_TIME`), and is refined again, if the model was trained for it.
    seed
        Of the initial noise.
    """

    steps: int = 1
    solver: str = "euler"
    refine: str = "local"
    revise: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the choices."""
        if self.steps < 1:
            msg = f"steps must be 1 or more, not {self.steps}."
            raise InputError(msg)
        for value, known in ((self.solver, flow.SOLVERS), (self.refine, REFINEMENTS)):
            if value not in known:
                msg = f"{value!r} is unknown; choose one of {', '.join(known)}."
                raise InputError(msg)


PAPER_SAMPLING = SamplingSettings(steps=15, solver="midpoint", refine="paper", revise=False)


def choose_device(name: str) -> torch.device:
    """The torch device for "auto" (CUDA where there is one), "cpu", "cuda", ..."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        msg = f"device {name!r} cannot be used here. Use --device cpu."
        raise InputError(msg) from error
    return device


@torch.inference_mode()
def sample(
    network: VelocityNetwork | OpenVinoNetwork,
    edges: np.ndarray,
    mask: np.ndarray,
    sampling: SamplingSettings,
    device: torch.device | str = "cpu",
    spacing_mm: float = 1.0,
    max_memory_gb: float = 8.0,
    precision: str = "float32",
    draft: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Solve the flow to an image with these edges, from noise or from a draft of the image.

    Parameters
    ----------
    network
        Velocity network.
    edges, mask
        (I, J, K) bool on the model grid.
    max_memory_gb
        The whole volume is evaluated at once if its activations fit, else in blended tiles.
    precision
        Of the network's convolutions, a key of `PRECISIONS`; the flow is integrated in float32.
    draft
        (I, J, K) in model units.

    Returns
    -------
    (I, J, K) float32 in model units, 0 outside the mask. The same seed gives the same noise on
    every device.
    """
    padded = pad_to_multiple(mask, network.settings.divisor)
    where = coordinates(centroid_of(mask), np.zeros(3), padded.shape, spacing_mm=spacing_mm)
    channels = condition_channels(pad_to_multiple(edges, network.settings.divisor), padded, where)
    condition = torch.from_numpy(channels)[None].to(device)
    inside = torch.from_numpy(padded)[None, None].to(device)
    if draft is None:
        generator = torch.Generator().manual_seed(sampling.seed)
        x, start = torch.randn((1, 1, *padded.shape), generator=generator), 0.0
    else:
        known = torch.from_numpy(pad_to_multiple(draft, network.settings.divisor))[None, None]
        x, start = flow.DRAFT_TIME * known, flow.DRAFT_TIME
    x = x.to(device) * inside

    tile = tile_edge(network, max_memory_gb)
    whole = padded.size <= tile**3

    def velocity(x: Tensor, t: float) -> Tensor:
        times = torch.full((1,), t, device=device)
        kind = PRECISIONS[precision]
        with torch.autocast(x.device.type, kind, enabled=kind != torch.float32):
            if whole:
                return network.forward(x, times, condition).float() * inside
            return tiled(network, x, times, condition, tile) * inside

    output = flow.solve(velocity, x, sampling.steps, sampling.solver, progress, start)
    i, j, k = mask.shape
    return output[0, 0, :i, :j, :k].float().cpu().numpy()


def tiled(
    network: VelocityNetwork | OpenVinoNetwork, x: Tensor, t: Tensor, condition: Tensor, size: int
) -> Tensor:
    """The network's velocity, computed in overlapping tiles blended with a smooth window.

    Neighbours share 32 voxels, or a third of a small tile.
    """
    overlap = min(TILE_OVERLAP, size // 3)
    total = torch.zeros_like(x)
    weight = torch.zeros_like(x)
    for box in tile_boxes(x.shape[2:], size, overlap, network.settings.divisor):
        part = (..., *box)
        window = torch.from_numpy(tile_window(x[part].shape[2:], overlap)).to(x.device)
        total[part] += window * network.forward(x[part], t, condition[part]).float()
        weight[part] += window
    return total / weight


def tile_edge(network: VelocityNetwork | OpenVinoNetwork, max_memory_gb: float) -> int:
    """Edge in voxels of the largest cube whose activations fit into `max_memory_gb`.

    At the peak, the last block of the first level holds about twelve maps of its width.
    """
    settings = network.settings
    bytes_per_voxel = 4 * 12 * settings.width / settings.space_to_depth**3
    edge = int((max_memory_gb * 1e9 / bytes_per_voxel) ** (1 / 3))
    return max(edge // settings.divisor, 3) * settings.divisor


def pad_to_multiple(volume: np.ndarray, multiple: int) -> np.ndarray:
    """Pad (I, J, K) with zeros at the ends of its axes to multiples of `multiple`."""
    return np.pad(volume, [(0, -n % multiple) for n in volume.shape])


def tile_boxes(
    shape: tuple[int, ...], size: int, overlap: int, multiple: int = 1
) -> list[tuple[slice, slice, slice]]:
    """Boxes of at most `size` voxels an edge that cover `shape`, neighbours sharing `overlap`.

    Parameters
    ----------
    shape
        (I, J, K), multiples of `multiple`.
    size, overlap
        Edge of a tile and shared voxels, size > overlap; both are rounded down to `multiple`.
    multiple
        Every box starts and ends at a multiple of this.
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
    """Smooth positive weight (I, J, K) of a tile: raised-cosine ramps of `overlap` voxels at its
    faces, 1 between them.
    """
    ramps = []
    for n in shape:
        depth = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5
        ramps.append(np.sin(0.5 * np.pi * np.minimum(1, depth / max(overlap, 1))) ** 2)
    i, j, k = ramps
    return (i[:, None, None] * j[None, :, None] * k[None, None, :]).astype(np.float32) + 1e-6
