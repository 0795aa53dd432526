"""Time and memory of harmonizing one scan, by stage, compared with the paper's network.

The paper's own network (98.5 M parameters) is evaluated 30 times a scan. One evaluation on one tile
is timed and scaled to all tiles and all 30; the network's weights do not affect its speed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import torch

from isochroma.files import write_atomically
from isochroma.images.io import load
from isochroma.memory import PeakMemory
from isochroma.method.flow import SOLVERS
from isochroma.method.network import IN_CHANNELS, PAPER, VelocityNetwork
from isochroma.pipeline import PAPER_SAMPLING, Harmonizer
from isochroma.stages import Event, listening, record, stage

PAPER_TILE = 64  # voxels: the paper's patch size
NETWORK_STAGES = ("network", "revise")


class Cost(NamedTuple):
    """What one stage costs.

    Attributes
    ----------
    stage : str
        Name of the stage.
    seconds : float
        Wall-clock time.
    megabytes : float
        Peak resident memory of the process, MB (10^6 bytes), Python included.
    """

    stage: str
    seconds: float
    megabytes: float


def measure(scan: Path, harmonizer: Harmonizer, out: Path) -> tuple[list[Cost], int]:
    """Harmonize one scan, from file to file, and measure each stage.

    Parameters
    ----------
    scan : Path
        The input.
    harmonizer : Harmonizer
        What to measure.
    out : Path
        Where the harmonized scan goes.

    Returns
    -------
    costs : list of Cost
        One a stage, in order.
    voxels : int
        Number of voxels that the network saw.
    """
    peaks: dict[str, float] = {}

    def keep_peak(event: Event) -> None:
        if event.seconds is not None:
            peaks[event.stage] = max(peaks.get(event.stage, 0.0), memory.lap())

    with PeakMemory() as memory, record() as seconds, listening(keep_peak):
        with stage("load"):
            image = load(scan)
        result = harmonizer.run(image)
        with stage("save"):
            write_atomically(out, lambda to: nib.save(result.image, to))
    costs = [Cost(name, each, peaks[name]) for name, each in seconds.items()]
    return costs, result.source.mask.size


def paper_network(voxels: int, device: torch.device) -> Cost:
    """Estimate what the paper's 30 network evaluations cost.

    Parameters
    ----------
    voxels : int
        Size of the head.
    device : torch.device
        Where the network runs.

    Returns
    -------
    cost : Cost
        From one evaluation of a tile of 64^3 voxels, after a first one to warm up.
    """
    network = VelocityNetwork(PAPER).eval().to(device)
    tile = (PAPER_TILE,) * 3
    x = torch.zeros(1, 1, *tile, device=device)
    condition = torch.zeros(1, IN_CHANNELS - 1, *tile, device=device)
    t = torch.zeros(1, device=device)
    with PeakMemory() as memory, torch.inference_mode():
        for _ in range(2):
            start = time.perf_counter()
            network(x, t, condition)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
    evaluations = PAPER_SAMPLING.steps * SOLVERS[PAPER_SAMPLING.solver].evaluations
    return Cost("paper's network", evaluations * seconds * voxels / PAPER_TILE**3, memory.look())


def table(costs: Sequence[Cost], paper: Cost) -> str:
    """Write costs as a Markdown table, with their sum and the paper's network.

    Parameters
    ----------
    costs : sequence of Cost
        As `measure` returns them.
    paper : Cost
        As `paper_network` returns it.

    Returns
    -------
    text : str
        Ends with the ratio of the paper's network to ours.
    """
    rows = ["| stage | seconds | peak memory, MB |", "|---|---|---|"]
    rows += [f"| {name} | {seconds:.2f} | {peak:.0f} |" for name, seconds, peak in costs]
    whole = sum(cost.seconds for cost in costs)
    ours = sum(cost.seconds for cost in costs if cost.stage in NETWORK_STAGES)
    rows += [
        f"| whole | {whole:.1f} | {max(cost.megabytes for cost in costs):.0f} |",
        f"| the paper's network, 30 evaluations | {paper.seconds:.0f} | {paper.megabytes:.0f} |",
        f"| over our network | {paper.seconds / ours:.0f} times | |",
    ]
    return "\n".join(rows)
