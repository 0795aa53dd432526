"""What harmonizing a scan costs: seconds and peak memory of each stage, here and in the paper.

The paper's own network (98.5 M parameters) takes 30 evaluations a scan. One of them is timed, on
one tile, and counted for all tiles and all 30; its weights play no part in its speed.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import psutil
import torch

from isochroma.files import write_atomically
from isochroma.images.io import load
from isochroma.method.flow import SOLVERS
from isochroma.method.network import IN_CHANNELS, PAPER, VelocityNetwork
from isochroma.pipeline import PAPER_SAMPLING, Harmonizer
from isochroma.stages import Event, listening

PAPER_TILE = 64  # voxels


class Cost(NamedTuple):
    """Of one stage: wall-clock seconds, and the process's peak memory in MB, Python included."""

    stage: str
    seconds: float
    megabytes: float


class PeakMemory:
    """Watches this process's resident memory, 100 times a second, while it is entered."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.done = threading.Event()
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.peak = 0.0

    def __enter__(self) -> PeakMemory:
        """Begin."""
        self.watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End."""
        self.done.set()
        self.watcher.join()

    def watch(self) -> None:
        """Look again and again."""
        while not self.done.wait(0.01):
            self.look()

    def look(self) -> float:
        """The peak so far, MB."""
        self.peak = max(self.peak, self.process.memory_info().rss / 1e6)
        return self.peak

    def lap(self) -> float:
        """The peak since the last lap, MB; the next one begins."""
        peak, self.peak = self.look(), 0.0
        return peak


def measure(scan: Path, harmonizer: Harmonizer, out: Path) -> tuple[list[Cost], int]:
    """Harmonize one scan, from file to file, with clock and memory watched.

    Returns
    -------
    The stages' costs, and the number of voxels that the network saw.
    """
    peaks: dict[str, float] = {}
    running = "load"

    with PeakMemory() as memory:

        def begin(event: Event) -> None:
            nonlocal running
            peaks[running] = max(peaks.get(running, 0.0), memory.lap())
            running = event.stage

        start = time.perf_counter()
        image = load(scan)
        loaded = time.perf_counter() - start
        with listening(begin):
            result = harmonizer.run(image)
        begin(Event("save"))
        start = time.perf_counter()
        write_atomically(out, lambda to: nib.save(result.image, to))
        saved = time.perf_counter() - start
        begin(Event("end"))
    seconds = {"load": loaded, **result.record.seconds, "save": saved}
    costs = [Cost(stage, each, peaks[stage]) for stage, each in seconds.items()]
    return costs, result.source.mask.size


def paper_network(voxels: int, device: torch.device) -> Cost:
    """Seconds that the paper's network takes for a head of so many voxels.

    Returns
    -------
    The cost of 30 evaluations, from one tile of 64^3 voxels after a first one for warming up.
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


def table(costs: list[Cost], paper: Cost) -> str:
    """Markdown: the stages, their sum, the paper's network, and how many times ours it takes."""
    rows = ["| stage | seconds | peak memory, MB |", "|---|---|---|"]
    rows += [f"| {stage} | {seconds:.2f} | {peak:.0f} |" for stage, seconds, peak in costs]
    whole = sum(cost.seconds for cost in costs)
    ours = sum(cost.seconds for cost in costs if cost.stage in ("network", "revise"))
    rows += [
        f"| whole | {whole:.1f} | {max(cost.megabytes for cost in costs):.0f} |",
        f"| the paper's network, 30 evaluations | {paper.seconds:.0f} | {paper.megabytes:.0f} |",
        f"| over our network | {paper.seconds / ours:.0f} times | |",
    ]
    return "\n".join(rows)
