"""The contract of a model: every setting that shaped the training, typed, with ranges.

`config.json` is the only home of these settings, so that training and use cannot differ. What
decides behaviour is in `Capabilities` and `Validation`; `training` records how the model came about
and decides nothing.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any

from pydantic import Field, model_validator

from isochroma.images.preprocess import PreprocessSettings
from isochroma.method.edges import EdgeSettings
from isochroma.method.intensity_map import IntensityMap
from isochroma.method.network import NetworkSettings
from isochroma.method.patches import PatchSettings
from isochroma.settings import settings

SCHEMA_VERSION = 1
UNKNOWN_ERROR = 0.2  # model units; assumed where no validation was made

Positive = Annotated[float, Field(gt=0)]
ModelUnits = Annotated[float, Field(ge=-1, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]


@settings
class TargetDomain:
    """The scanner that a model renders, as its training scans show it.

    Attributes
    ----------
    lower, upper : float
        Intensities of model units -1 and 1: medians over the training scans.
    scans : int
        Number of training scans.
    quantiles : tuple of float
        In-mask quantiles at equal probabilities 0 to 1, model units, averaged over these scans;
        empty if not known.
    smallest_mm, largest_mm : tuple of 3 floats
        Smallest and largest width, length and height of these scans' brains (`masked.extent`);
        empty if not known.
    suffix : str
        Contrast of these scans as a BIDS suffix, which names what the model makes of a scan.
    """

    lower: float = 0.0
    upper: float = 1.0
    scans: Annotated[int, Field(ge=0)] = 0
    quantiles: Annotated[tuple[ModelUnits, ...], Field(max_length=10_001)] = ()
    smallest_mm: Annotated[tuple[Positive, ...], Field(max_length=3)] = ()
    largest_mm: Annotated[tuple[Positive, ...], Field(max_length=3)] = ()
    suffix: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,20}$")] = "T1w"

    @model_validator(mode="after")
    def _consistent(self) -> TargetDomain:
        if not self.lower < self.upper:
            msg = "upper must be above lower"
            raise ValueError(msg)
        if len(self.smallest_mm) != len(self.largest_mm) or len(self.smallest_mm) not in (0, 3):
            msg = "smallest_mm and largest_mm hold three sizes each, or none"
            raise ValueError(msg)
        return self


@settings
class Capabilities:
    """What a model was trained to do.

    Attributes
    ----------
    second_pass : bool
        Whether the network learned to correct drafts (`FlowSampler.revise`).
    """

    second_pass: bool = False


@settings
class Validation:
    """How well a model does on validation scans of its own target.

    Attributes
    ----------
    psnr : float or None
        Peak signal-to-noise ratio of the first pass, dB; None if not known.
    ssim : float or None
        Its structural similarity.
    errors : tuple of float
        Root mean square error of the first pass, model units, where its output is at equally spaced
        levels from -1 to 1 (`refinement.error_levels`); empty if not known.
    explained : float or None
        Least share of a validation source's variance that the first pass explains
        (`refinement.explained_share`); None if not known.
    """

    psnr: float | None = None
    ssim: Annotated[float, Field(ge=-1, le=1)] | None = None
    errors: Annotated[tuple[Annotated[float, Field(gt=0, le=2)], ...], Field(max_length=1001)] = ()
    explained: Annotated[float, Field(ge=0, le=1)] | None = None

    @property
    def rmse(self) -> float:
        """Root mean square error of the first pass, model units; 0.2 if it is not known."""
        return UNKNOWN_ERROR if self.psnr is None else 2 * 10 ** (-self.psnr / 20)

    @property
    def error_levels(self) -> tuple[float, ...]:
        """The errors by level; where they are not known, `rmse` for all levels."""
        return self.errors or (self.rmse,)


@settings
class ModelConfig:
    """All that is needed to use a model.

    Attributes
    ----------
    schema_version : int
        Version of this contract.
    name : str
        Of the model.
    preprocess, edges, network, patches
        Settings of each part.
    target : TargetDomain
        The scanner that the model renders.
    intensity_map : IntensityMap or None
        From what the network renders to the target, if that is another than it was trained on.
    capabilities : Capabilities
        What the model can do.
    validation : Validation
        How well it does.
    training : dict
        Provenance: steps, batch size, seed, scores. Decides nothing.
    sha256 : str
        Hash of the weights file; empty before it is written.
    reviser_sha256 : str
        Hash of the weights of a second stage of its own (`reviser.Reviser`), which has the shape of
        `network`; empty if the model has none.
    """

    schema_version: Annotated[int, Field(ge=SCHEMA_VERSION, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]{1,255}$")] = "unnamed"
    preprocess: PreprocessSettings = field(default_factory=PreprocessSettings)
    edges: EdgeSettings = field(default_factory=EdgeSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    patches: PatchSettings = field(default_factory=PatchSettings)
    target: TargetDomain = field(default_factory=TargetDomain)
    intensity_map: IntensityMap | None = None
    capabilities: Capabilities = field(default_factory=Capabilities)
    validation: Validation = field(default_factory=Validation)
    training: dict[str, Any] = field(default_factory=dict)
    sha256: Sha256 = ""
    reviser_sha256: Sha256 = ""

    @property
    def second_stage(self) -> str:
        """What corrects the refined first pass: "own network", "same network" or "none"."""
        if self.reviser_sha256:
            return "own network"
        return "same network" if self.capabilities.second_pass else "none"
