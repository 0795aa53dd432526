"""Cost of a method, and how much its outputs depend on the seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isochroma.evaluation.measures.registry import RUN, SEEDS, Part
from isochroma.evaluation.workspace import Output

part = Part(
    "cost", "Cost and reproducibility", "Wall-clock seconds, peak memory, spread over seeds."
)


@part.measure("seconds", "Time a scan", unit="s", better=-1, of=RUN)
def seconds(output: Output) -> float:
    """Return the wall-clock time from the preprocessed scan to the output."""
    return output.seconds


@part.measure("memory", "Peak memory", unit="MB", better=-1, of=RUN)
def memory(output: Output) -> float:
    """Return the peak resident memory above what the process held before."""
    return output.megabytes


@part.measure("seed sd", "Standard deviation over seeds", unit="model units", better=-1, of=SEEDS)
def seed_sd(outputs: Sequence[Output]) -> float:
    """Return the mean over the voxels of the standard deviation over runs that differ in the seed.

    It is measured on one scan, the first core scan of a source.
    """
    values = [output.values.astype(np.float64) for output in outputs]
    return float(np.std(values, axis=0).mean())
