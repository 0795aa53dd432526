"""The pipeline: a scan in, the same head as the target scanner would have shown it out.

`Harmonizer.run` and `Harmonizer.render` are the walk of a scan, stage by stage. Every entry point
(command line, Python, evaluation) goes through them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, TypeAlias, overload

import nibabel as nib
import numpy as np
import torch
from numpy.typing import DTypeLike
from pydantic import Field, field_validator

from isochroma import memory
from isochroma.checks import (
    Doubt,
    ScanWarning,
    check_doubt,
    check_explained,
    check_file,
    check_outside,
    check_refinement,
    check_scan,
)
from isochroma.errors import InputError, about
from isochroma.images.brain import find_brain, is_stripped
from isochroma.images.grid import (
    Grid,
    bounding_box,
    model_grid,
    resample,
    resample_mask,
    shrink,
)
from isochroma.images.io import as_scan, like, load, load_mask, on_grid, slice_thickness
from isochroma.images.masked import extend_outside
from isochroma.images.outside import FILLINGS
from isochroma.images.preprocess import (
    MARGIN_VOXELS,
    Prepared,
    PreprocessSettings,
    from_model_units,
    prepare,
    white_matter_mode,
)
from isochroma.images.resolution import sample_slices
from isochroma.method import flow
from isochroma.method.correlation import ascend_correlation
from isochroma.method.doubt import expected_error
from isochroma.method.edges import EdgeSettings, detect_edges
from isochroma.method.refinement import (
    Refined,
    compare,
    explained_share,
    follow_source,
    keep_structure,
)
from isochroma.method.sampling import (
    REVISION_BYTES,
    SMALLEST_TILE,
    ComputeSettings,
    FlowSampler,
    Revised,
    RevisionSampler,
    activation_bytes,
    choose_device,
)
from isochroma.models.config import ModelConfig, TargetDomain
from isochroma.models.folder import Model, Network, load_model
from isochroma.settings import choose, settings
from isochroma.stages import record, stage

Image: TypeAlias = nib.spatialimages.SpatialImage
Scan: TypeAlias = Image | str | Path


def _local(first: np.ndarray, source: Prepared, config: ModelConfig) -> Refined:
    errors = config.validation.error_levels
    return follow_source(first, source.image, source.mask, errors, source.blur)


def _paper(first: np.ndarray, source: Prepared, config: ModelConfig) -> Refined:
    return Refined(ascend_correlation(first, source.image, source.mask))


def _none(first: np.ndarray, source: Prepared, config: ModelConfig) -> Refined:
    return Refined(first)


GRIDS = ("source", "model")
"""Where a result's voxels lie: the scan's own, or isotropic ones over its field of view."""

REFINEMENTS: dict[str, Callable[[np.ndarray, Prepared, ModelConfig], Refined]] = {
    "local": _local,
    "paper": _paper,
    "none": _none,
}
"""Refinements of the first pass by name; "local" is `refinement.follow_source`."""


@settings
class SamplingSettings:
    """How the flow is solved and its result refined.

    Attributes
    ----------
    steps : int
        Steps of the solver.
    solver : str
        Name in `flow.SOLVERS`; "euler" with one step gives the posterior mean E[image | edges].
    refine : str
        Name in `REFINEMENTS`.
    revise : bool
        Whether the locally refined image goes through the model's second stage
        (`ModelConfig.second_stage`) and is refined again, if the model has one.
    seed : int
        Of the initial noise.
    """

    steps: Annotated[int, Field(ge=1, le=10_000)] = 1
    solver: str = "euler"
    refine: str = "local"
    revise: bool = True
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @field_validator("solver")
    @classmethod
    def _known_solver(cls, value: str) -> str:
        return choose(value, flow.SOLVERS)

    @field_validator("refine")
    @classmethod
    def _known_refinement(cls, value: str) -> str:
        return choose(value, REFINEMENTS)


PAPER_SAMPLING = SamplingSettings(steps=15, solver="midpoint", refine="paper", revise=False)
"""The sampling of the paper (arXiv:2505.00133): 30 network evaluations and its refinement."""


@dataclass(frozen=True)
class Rendering:
    """A source rendered in the target domain, on the model grid.

    Attributes
    ----------
    edges : (I, J, K) ndarray of bool
        The source's edges.
    first, refined, output : (I, J, K) ndarray of float32
        First pass, first pass refined, and image of the last pass; model units, 0 outside the mask.
    mapped : (I, J, K) ndarray of float32
        The final image: the output, brought to the model's target if its network was trained on
        another one; model units of that target.
    variance, explained : float or None
        What the first refinement found about the source (`refinement.Refined`).
    revised : Revised or None
        What the second stage made of the refined first pass, before its structure was restored;
        None without one.
    """

    edges: np.ndarray
    first: np.ndarray
    refined: np.ndarray
    output: np.ndarray
    mapped: np.ndarray
    variance: float | None = None
    explained: float | None = None
    revised: Revised | None = None


class Contribution(NamedTuple):
    """What a scan contributed to an image that was made of several.

    Attributes
    ----------
    scan : str
        Name of its file.
    share : float
        Mean weight over the brain; those of all scans sum to 1.
    likeness : float
        Correlation of its own output with the first scan's, both registered.
    """

    scan: str
    share: float
    likeness: float


@dataclass(frozen=True)
class Record:
    """How a result was made, for the sidecar.

    Attributes
    ----------
    model, model_sha256 : str
        Name of the model and hash of its weights.
    sampling : SamplingSettings
        With `revise` as it was done.
    preprocess : PreprocessSettings
        As it was done.
    edges : EdgeSettings
        Of the model.
    mask_origin : str
        How the brain was found.
    brain_ml : float
        Volume of the brain mask.
    outside, grid : str
        What voxels outside the mask hold, and where voxels lie.
    source_limits, target_limits : tuple of float
        Intensities that correspond to model units -1 and 1.
    white_matter_mode : dict of str to float
        Of the output and, if known, of the target: target intensities.
    explained : float or None
        Share of the source's variance that the first pass explains; low if the scan shows
        something else than the model knows.
    device, precision : str
        What ran the network.
    seconds : dict of str to float
        Wall-clock duration of each stage.
    together : tuple of Contribution
        Of each scan, the first included; empty for a result of one scan.
    """

    model: str
    model_sha256: str
    sampling: SamplingSettings
    preprocess: PreprocessSettings
    edges: EdgeSettings
    mask_origin: str
    brain_ml: float
    outside: str
    grid: str
    source_limits: tuple[float, float]
    target_limits: tuple[float, float]
    white_matter_mode: dict[str, float]
    explained: float | None
    device: str
    precision: str
    seconds: dict[str, float]
    together: tuple[Contribution, ...] = ()


@dataclass(frozen=True)
class Result:
    """What the pipeline made of one scan.

    Attributes
    ----------
    image, mask : SpatialImage
        The harmonized scan, in the target's intensity units, and its brain mask; both on the
        input's grid.
    source : Prepared
        The scan on the model grid, model units.
    rendering : Rendering
        What became of it there, stage by stage.
    doubt : Doubt or None
        How far the output may be from the truth; None without a second stage.
    warnings : tuple of ScanWarning
        What is unusual about it.
    record : Record
        How it was made.
    """

    image: Image
    mask: Image
    source: Prepared
    rendering: Rendering
    doubt: Doubt | None
    warnings: tuple[ScanWarning, ...]
    record: Record


class Harmonizer:
    """Harmonize scans with one trained model.

    Parameters
    ----------
    model : Model
        A trained model, as `load_model` gives it.
    sampling : SamplingSettings, optional
        How the flow is solved and its result refined.
    compute : ComputeSettings, optional
        Where the network runs.
    n4 : bool
        False skips the bias-field correction, for scans that had one.
    outside : str
        Name in `outside.FILLINGS`: what voxels outside the brain hold.
    grid : str
        Name in `GRIDS`: where the results' voxels lie.

    Examples
    --------
    >>> harmonizer = Harmonizer.from_pretrained("default")
    >>> harmonizer("sub-01_T1w.nii.gz").to_filename("sub-01_harmonized.nii.gz")  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Model,
        sampling: SamplingSettings | None = None,
        compute: ComputeSettings | None = None,
        n4: bool = True,
        outside: str = "zero",
        grid: str = "source",
    ) -> None:
        compute = compute or ComputeSettings()
        device = choose_device(compute.device)
        self.config = config = model.config
        self.sampling = sampling or SamplingSettings()
        self.compute = dataclasses.replace(compute, device=str(device))
        self.preprocess = dataclasses.replace(config.preprocess, n4=config.preprocess.n4 and n4)
        self.outside = choose(outside, FILLINGS)
        self.grid = choose(grid, GRIDS)
        where = (config.preprocess.spacing_mm, device, compute.precision, compute.max_memory_gb)
        self.sampler = FlowSampler(_placed(model.network, device), *where)
        self.revision: RevisionSampler | None = None
        if model.reviser is not None:
            self.revision = RevisionSampler(_placed(model.reviser, device), *where)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "default",
        sampling: SamplingSettings | None = None,
        compute: ComputeSettings | None = None,
        n4: bool = True,
        outside: str = "zero",
        grid: str = "source",
    ) -> Harmonizer:
        """Load a shipped model by name, or a model folder; other parameters as for the class."""
        return cls(load_model(name), sampling, compute, n4, outside, grid)

    def __repr__(self) -> str:
        return (
            f"Harmonizer(model={self.config.name!r}, sampling={self.sampling}, "
            f"compute={self.compute}, n4={self.preprocess.n4}, outside={self.outside!r}, "
            f"grid={self.grid!r})"
        )

    @overload
    def __call__(self, scans: Scan, mask: Scan | None = None) -> Image: ...

    @overload
    def __call__(self, scans: list[Scan], mask: None = None) -> list[Image]: ...

    def __call__(self, scans: Scan | list[Scan], mask: Scan | None = None) -> Image | list[Image]:
        """Harmonize one scan or several.

        Parameters
        ----------
        scans : path, SpatialImage or list of these
            The scans.
        mask : path or SpatialImage, optional
            Brain mask of a single scan, on its grid.

        Returns
        -------
        harmonized : SpatialImage or list of SpatialImage
            float32, the target's intensity units, each on its input's grid.
        """
        if not isinstance(scans, list):
            return self.run(scans, mask).image
        if mask is not None:
            msg = "a mask goes with one scan. Harmonize scans with masks one at a time."
            raise InputError(msg, "mask")
        return [self.run(scan).image for scan in scans]

    def run(
        self,
        scan: Scan,
        mask: Scan | None = None,
        dtype: DTypeLike = np.float32,
        slice_mm: float | None = None,
    ) -> Result:
        """Harmonize one scan and keep the record.

        Parameters
        ----------
        scan : path or SpatialImage
            A 3D scan, or 4D with one volume: any orientation, voxels of at most 2.5 mm, and of up
            to 7 mm along one axis.
        mask : path or SpatialImage, optional
            Brain mask on the scan's grid; found if not given.
        dtype : dtype
            Voxel type of the result.
        slice_mm : float, optional
            Thickness of thick slices, if they have gaps or overlap; if not given, what a BIDS
            sidecar beside the scan's file says, or the voxels' edge.

        Returns
        -------
        result : Result
            Image, mask, intermediate volumes, warnings and record.

        Raises
        ------
        InputError
            If the scan, the mask or the type cannot be used.
        """
        if isinstance(scan, (str, Path)):
            loaded = load(scan)
            with about(Path(scan)):
                return self.run(loaded, mask, dtype, slice_mm or slice_thickness(Path(scan)))
        self._check_dtype(dtype)
        with record() as seconds:
            scan = as_scan(scan)
            given = load_mask(mask) if isinstance(mask, (str, Path)) else mask
            self._check_memory(scan, given)
            with stage("mask"):
                brain = find_brain(scan, given)
            needed = self._needed_gb(scan, brain.mask)
            source = prepare(scan, brain.mask, self.preprocess, slice_mm)
            rendering = self.render(source, needed_gb=needed)
            doubt = self._doubt(source, rendering)
            values, shown, inside = self.restore(rendering.mapped, source, scan, brain.mask)
        found = [
            *check_file(scan, brain.mask),
            *check_scan(source, Grid.of(scan), self.config.target),
            *check_refinement(
                rendering.first, rendering.refined, source, self.config.validation.rmse
            ),
            *check_explained(
                rendering.explained,
                self.config.validation.explained,
                lambda: self._explained_turned(source, rendering.edges),
            ),
            *check_doubt(doubt),
            *check_outside(self.outside, shown, values, inside),
        ]
        return Result(
            like(values, shown, dtype),
            like(inside, shown, np.uint8),
            source,
            rendering,
            doubt,
            tuple(found),
            self._record(source, rendering, brain.origin, seconds),
        )

    def render(
        self, source: Prepared, edges: EdgeSettings | None = None, needed_gb: float | None = None
    ) -> Rendering:
        """Render a prepared source in the target domain.

        Parameters
        ----------
        source : Prepared
            The scan on the model grid, model units.
        edges : EdgeSettings, optional
            Edge detector, if not the model's.
        needed_gb : float, optional
            What the process needs beside the network's activations, if not for the source alone.

        Returns
        -------
        rendering : Rendering
            Every stage, model units.
        """
        sampling, mask = self.sampling, source.mask
        memory_gb = self._memory_beside(needed_gb or memory.needed_gb(0, mask.size))
        sampler = self.sampler.within(memory_gb)
        with stage("edges"):
            edge_map = detect_edges(source, edges or self.config.edges)
        with stage("network"):
            first = sampler.sample(edge_map, mask, sampling.steps, sampling.solver, sampling.seed)
        with stage("refine"):
            refined = REFINEMENTS[sampling.refine](first, source, self.config)
        output, revised = refined.image, None
        if refined.variance is not None and self.revises:
            with stage("revise"):
                if self.revision is None:
                    revised = sampler.revise(edge_map, mask, refined.image)
                else:
                    revision = self.revision.within(memory_gb - REVISION_BYTES * mask.size / 1e9)
                    revised = revision.revise(edge_map, mask, first, source.image, refined)
            with stage("refine"):
                error, variance = self.config.validation.rmse, refined.variance
                output = keep_structure(
                    revised.image,
                    source.image,
                    mask,
                    error,
                    variance,
                    source.blur,
                    revised.error,
                )
        mapped = output
        if self.config.intensity_map is not None:
            with stage("map"):
                spacing_mm = self.preprocess.spacing_mm
                mapped = self.config.intensity_map.apply(output, mask, spacing_mm)
        return Rendering(
            edge_map,
            first,
            refined.image,
            output,
            mapped,
            refined.variance,
            refined.explained,
            revised,
        )

    def uncertainty(self, result: Result) -> Image:
        """Map the expected error of a result to its scan's grid.

        Parameters
        ----------
        result : Result
            Of this harmonizer, with `doubt`.

        Returns
        -------
        image : SpatialImage
            Float32, the target's intensity units; 0 outside the mask.

        Raises
        ------
        InputError
            If the error is not known, because there was no second stage.
        """
        if result.doubt is None:
            msg = "the expected error is known for outputs of the second stage alone."
            raise InputError(msg, "uncertainty")
        target = self.config.target
        inside = np.asanyarray(result.mask.dataobj) > 0
        error = self.to_scan_grid(result.doubt.error, result.source, Grid.of(result.image))
        error *= (target.upper - target.lower) / 2
        if self.config.intensity_map is not None:
            error *= self.config.intensity_map.gain
        return like(np.where(inside, np.clip(error, 0, None), 0), result.image, np.float32)

    @property
    def revises(self) -> bool:
        """Whether there is a second stage: wanted, after the local refinement, and in the model."""
        wanted = self.sampling.revise and self.sampling.refine == "local"
        return wanted and self.config.second_stage != "none"

    def to_scan_grid(self, volume: np.ndarray, source: Prepared, grid: Grid) -> np.ndarray:
        """Resample a volume from the model grid to a scan's own.

        Parameters
        ----------
        volume : (I, J, K) ndarray
            On the model grid; in-mask values are extended outwards before they are interpolated,
            or averaged over thick slices.
        source : Prepared
            The scan on the model grid.
        grid : Grid
            The scan's own.

        Returns
        -------
        resampled : (I', J', K') ndarray of float32
        """
        extended = extend_outside(volume, source.mask)
        if source.blur is None or self.grid == "model":
            return resample(extended, source.grid, grid)
        return sample_slices(extended, source.grid, grid, source.blur.slice_mm)

    def restore(
        self, mapped: np.ndarray, source: Prepared, scan: Image, brain: np.ndarray
    ) -> tuple[np.ndarray, Image, np.ndarray]:
        """Bring an image from the model grid to where the result's voxels lie.

        Parameters
        ----------
        mapped : (I, J, K) ndarray of float
            Final image on the model grid, model units.
        source : Prepared
            The scan there.
        scan : SpatialImage
            The scan.
        brain : ndarray of bool
            Its brain mask.

        Returns
        -------
        values : (I', J', K') ndarray of float32
            The target's intensity units; outside the mask as `outside` says.
        shown : SpatialImage
            The scan on the same grid.
        inside : (I', J', K') ndarray of bool
            The brain mask, likewise.
        """
        with stage("restore"):
            shown, inside = scan, brain
            if self.grid == "model":
                own, grid = Grid.of(scan), model_grid(scan, self.preprocess.spacing_mm)
                data = resample(np.asarray(scan.dataobj, dtype=np.float32), own, grid)
                shown, inside = on_grid(data, scan, grid), resample_mask(brain, own, grid)
            target = self.config.target
            intensities = from_model_units(np.clip(mapped, -1.0, 1.1), target.lower, target.upper)
            values = np.zeros(shown.shape, dtype=np.float32)
            box = bounding_box(inside)
            values[box] = self.to_scan_grid(intensities, source, Grid.of(shown).crop(box))
            fill = FILLINGS[self.outside]
            data = np.asanyarray(shown.dataobj)
            return fill(values, data, inside, Grid.of(shown).voxel_mm), shown, inside

    def _doubt(self, source: Prepared, rendering: Rendering) -> Doubt | None:
        if rendering.variance is None or not self.revises:
            return None
        with stage("uncertainty"):
            error = expected_error(
                rendering.first,
                rendering.refined,
                rendering.output,
                source.image,
                source.mask,
                self.config.validation.error_levels,
                rendering.variance,
                rendering.revised,
                source.blur,
            )
            return Doubt.of(error, source)

    def _explained_turned(self, source: Prepared, edges: np.ndarray) -> tuple[float, float]:
        """Compute the share of the source that is explained, as it is and upside down.

        Half the resolution will do: the network knows strided patches.
        """
        mask = shrink(source.mask, np.mean) >= 0.5
        inside = np.maximum(shrink(source.mask, np.mean), 0.5)
        image = np.where(mask, shrink(np.where(source.mask, source.image, 0), np.mean) / inside, 0)
        edges = shrink(edges, np.max) & mask
        sampler = FlowSampler(
            self.sampler.network, 2 * self.preprocess.spacing_mm, self.sampler.device
        )

        def share(*axes: int) -> float:
            shown, inside, edged = (
                np.ascontiguousarray(np.flip(each, axes)) for each in (image, mask, edges)
            )
            first = sampler.sample(edged, inside)
            return explained_share(compare(first, shown, inside))

        with stage("orientation"):
            return share(), max(share(2), share(1, 2))  # a mirror image, a turn

    def _memory_beside(self, needed_gb: float) -> float:
        """Return the memory that is left for a network's activations, GB; a GPU has its own."""
        on_cpu = self.sampler.device.type == "cpu"
        return self.compute.max_memory_gb - needed_gb * on_cpu

    def _check_memory(self, scan: Image, given: Image | None) -> None:
        """Raise an InputError if the mask cannot be found within the memory that is allowed."""
        needed = memory.needed_gb(int(np.prod(scan.shape)))
        tight = needed + memory.EXTRACTION_GB > self.compute.max_memory_gb
        if tight and given is None and not is_stripped(np.asanyarray(scan.dataobj)):
            needed += memory.EXTRACTION_GB
        self._refuse_beyond(needed)

    def _needed_gb(self, scan: Image, brain: np.ndarray) -> float:
        """Estimate what the process needs beside the network's activations.

        Raises
        ------
        InputError
            If the smallest tile does not fit beside it.
        """
        box = Grid.of(scan).crop(bounding_box(brain, MARGIN_VOXELS))
        voxels = int(np.prod(box.shape) * box.voxel_ml * 1000 / self.preprocess.spacing_mm**3)
        needed = memory.needed_gb(int(np.prod(scan.shape)), voxels)
        tile, beside = SMALLEST_TILE**3 * activation_bytes(self.sampler.network), 0
        if self.revises and self.revision is not None:
            tile = SMALLEST_TILE**3 * activation_bytes(self.revision.network)
            beside = REVISION_BYTES * voxels
        self._refuse_beyond(needed + (tile + beside) / 1e9 * (self.sampler.device.type == "cpu"))
        return needed

    def _refuse_beyond(self, needed_gb: float) -> None:
        allowed = self.compute.max_memory_gb
        if needed_gb > allowed:
            msg = f"takes {needed_gb:.1f} GB of memory, and {allowed:g} are allowed. Allow more."
            raise InputError(msg, "max_memory_gb")

    def _check_dtype(self, dtype: DTypeLike) -> None:
        kind, upper = np.dtype(dtype), self.config.target.upper
        if np.issubdtype(kind, np.integer) and np.iinfo(kind).max < upper:
            msg = f"{kind} cannot hold the target's intensities (up to {upper:.0f}). Write float32."
            raise InputError(msg, "dtype")

    def _record(
        self, source: Prepared, rendering: Rendering, mask_origin: str, seconds: dict[str, float]
    ) -> Record:
        config, target = self.config, self.config.target
        return Record(
            model=config.name,
            model_sha256=config.sha256,
            sampling=dataclasses.replace(self.sampling, revise=self.revises),
            preprocess=self.preprocess,
            edges=config.edges,
            mask_origin=mask_origin,
            brain_ml=round(float(source.mask.sum() * source.grid.voxel_ml), 1),
            outside=self.outside,
            grid=self.grid,
            source_limits=(source.lower, source.upper),
            target_limits=(target.lower, target.upper),
            white_matter_mode=white_matter_modes(rendering.mapped[source.mask], target),
            explained=rendering.explained,
            device=self.compute.device,
            precision=self.compute.precision,
            seconds=seconds,
        )


def _placed(network: Network, device: torch.device) -> Network:
    """Move a network to a device, in the layout that convolutions prefer."""
    network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return network


def white_matter_modes(values: np.ndarray, target: TargetDomain) -> dict[str, float]:
    """Return the white-matter modes of output and target.

    Parameters
    ----------
    values : (V,) ndarray of float
        In-mask values of the output, model units.
    target : TargetDomain
        With its quantiles, if known.

    Returns
    -------
    modes : dict of str to float
        "Output" and, if the target's quantiles are known, "Target": target intensities.
    """
    shown = {"Output": values}
    if target.quantiles:
        known = np.linspace(0, 1, len(target.quantiles))
        shown["Target"] = np.interp(np.linspace(0, 1, 10_001), known, target.quantiles)
    modes = np.array([white_matter_mode(each) for each in shown.values()])
    intensities = from_model_units(modes, target.lower, target.upper).round(1).tolist()
    return dict(zip(shown, intensities, strict=True))
