"""isochroma itself, in its default mode, without refinement and in the paper's mode."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from isochroma.evaluation.methods.base import Role, Stateless, register
from isochroma.images.preprocess import Prepared
from isochroma.pipeline import PAPER_SAMPLING, Harmonizer, SamplingSettings

EDGES_ALONE = SamplingSettings(refine="none", revise=False)


class Ours(Stateless):
    """Harmonize with isochroma. Its model was trained on the target before: nothing is fitted.

    Parameters
    ----------
    model : str or Path
        Name of a shipped model, or a model folder. Its preprocessing must be the study's.
    sampling : SamplingSettings, optional
        Solver, steps and refinement; the seed is that of `apply`.
    name : str
        Title in tables and figures.
    """

    version = 3

    def __init__(
        self,
        model: str | Path = "default",
        sampling: SamplingSettings | None = None,
        name: str = "isochroma",
    ) -> None:
        self.name = name
        self.harmonizer = Harmonizer.from_pretrained(model, sampling=sampling)
        sampled = dataclasses.asdict(dataclasses.replace(self.harmonizer.sampling, seed=0))
        sampled["revise"] = self.harmonizer.revises
        self.settings: dict[str, Any] = {
            "method": "isochroma",
            "version": self.version,
            "model": self.harmonizer.config.sha256,
            "reviser": self.harmonizer.config.reviser_sha256,
            "errors": self.harmonizer.config.validation.errors,
            "edges": dataclasses.asdict(self.harmonizer.config.edges),
            "sampling": sampled,
        }

    def apply(self, scan: Prepared, seed: int = 0) -> np.ndarray:
        """Harmonize the scan; see `Method.apply`."""
        self.harmonizer.sampling = dataclasses.replace(self.harmonizer.sampling, seed=seed)
        return self.harmonizer.render(scan).mapped


@register("default", Role.ISOCHROMA, quick=True, takes_model=True)
def default(model: str) -> Ours:
    """Build isochroma as users run it."""
    return Ours(model)


@register("edges-alone", Role.ISOCHROMA, takes_model=True)
def edges_alone(model: str) -> Ours:
    """Build isochroma's first pass alone, without refinement by the source's intensities."""
    return Ours(model, EDGES_ALONE, "isochroma, edges alone")


@register("paper", Role.ISOCHROMA, takes_model=True)
def paper(model: str) -> Ours:
    """Build isochroma with the paper's sampling and refinement."""
    return Ours(model, PAPER_SAMPLING, "isochroma, paper mode")
