"""A trained model is a folder: `weights.safetensors`, `config.json` and a card, `README.md`.

The config is the only home of every parameter that shaped the training, so use cannot differ.
It names the SHA-256 of the weights, which is checked at load. No code is ever unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from isochroma.images.preprocess import PreprocessSettings
from isochroma.method.edges import EdgeSettings
from isochroma.method.network import NetworkSettings
from isochroma.method.patches import PatchSettings

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class TargetDomain:
    """The scanner that the model renders, in its own units.

    lower, upper
        Intensities of model units -1 and +1: medians over the training scans.
    scans
        Number of training scans.
    quantiles
        In-mask quantiles at equal probabilities 0 to 1 in model units, averaged over these scans.
    smallest_mm, largest_mm
        Width, length and height of these scans' brains (`trust.brain_extent`): the smallest and
        the largest; empty if not known.
    """

    lower: float = 0.0
    upper: float = 1.0
    scans: int = 0
    quantiles: tuple[float, ...] = ()
    smallest_mm: tuple[float, ...] = ()
    largest_mm: tuple[float, ...] = ()


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to use a model, and how it came about.

    errors
        Root mean square error of the first pass on the validation scans, model units, where its
        output is at equally spaced levels from -1 to 1 (`refine.error_levels`); empty if not known.
    training
        What was run, for the record: steps, batch size, seed, validation scores.
    sha256
        Of the weights file.
    """

    name: str = "unnamed"
    preprocess: PreprocessSettings = field(default_factory=PreprocessSettings)
    edges: EdgeSettings = field(default_factory=EdgeSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    patches: PatchSettings = field(default_factory=PatchSettings)
    target: TargetDomain = field(default_factory=TargetDomain)
    errors: tuple[float, ...] = ()
    training: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @property
    def validation_error(self) -> float:
        """Root mean square error on the validation scans, model units; 0.2 if it is not known."""
        psnr = self.training.get("val_psnr")
        return 0.2 if psnr is None else 2 * 10 ** (-psnr / 20)

    @property
    def known_errors(self) -> tuple[float, ...]:
        """`errors`; where they are not known, `validation_error` for all levels."""
        return self.errors or (self.validation_error,)

    @property
    def revises(self) -> bool:
        """Whether the network was trained on drafts (`flow.DRAFT_TIME`)."""
        return self.training.get("draft_share", 0) > 0
