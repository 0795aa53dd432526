"""The pipeline: a scan in, the same head as the target scanner shows it out.

mask -> model grid, N4, intensity scale -> edges -> flow -> refinement -> the scan's own grid.

Every entry point (command line, API, evaluation) goes through `Harmonizer`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.affines import voxel_sizes
from numpy.typing import DTypeLike

from isochroma import checks
from isochroma import uncertainty as spread_of_runs
from isochroma.errors import InputError
from isochroma.images.brain import brain_mask
from isochroma.images.grid import Grid, resample
from isochroma.images.io import as_scan, like
from isochroma.images.masked import extend_outside
from isochroma.images.preprocess import Prepared, from_model_units, prepare, white_matter_mode
from isochroma.method.correlation import ascend_correlation
from isochroma.method.edges import EdgeSettings, canny
from isochroma.method.network import VelocityNetwork
from isochroma.method.refinement import follow_source, keep_structure
from isochroma.method.runtime import RUNTIMES, OpenVinoNetwork, choose_network
from isochroma.method.sampling import (
    PRECISIONS,
    SamplingSettings,
    choose_device,
    sample,
)
from isochroma.models.config import ModelConfig, TargetDomain
from isochroma.models.folder import load_model

Progress = Callable[[str, int, int], None]
OUTSIDE = ("zero", "source")


@dataclass(frozen=True)
class Result:
    """What the pipeline made of one scan.

    image, mask
        The harmonized scan and its brain mask on the input's grid.
    prepared, output
        Source and harmonized volume on the model grid, model units.
    uncertainty
        Standard deviation on the input's grid, in the target's intensity units, if asked for
        (`uncertainty.uncertainty`).
    record
        For the sidecar: model, settings, seconds for each stage.
    """

    image: nib.spatialimages.SpatialImage
    mask: nib.spatialimages.SpatialImage
    prepared: Prepared
    output: np.ndarray
    record: dict[str, Any]
    uncertainty: nib.spatialimages.SpatialImage | None = None


@dataclass
class Stopwatch:
    """Wall-clock seconds of named stages, told to a progress callback as they start; a stage that
    comes twice is summed.
    """

    progress: Progress | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body as stage `name`."""
        if self.progress is not None:
            self.progress(name, 0, 1)
        start = time.perf_counter()
        yield
        taken = self.seconds.get(name, 0.0) + time.perf_counter() - start
        self.seconds[name] = round(taken, 3)


class Harmonizer:
    """Harmonize scans with one trained model.

    Parameters
    ----------
    network, config
        A trained model, as `load_model` gives it.
    sampling
        Solver, steps, refinement and seed.
    device
        "auto", "cpu", "cuda" or any torch device.
    n4
        False skips the bias-field correction, for scans that had one.
    outside
        Voxels outside the brain: "zero", or "source" for the scan's own.
    max_memory_gb
        Bound on the network's activations; larger heads are computed in blended tiles.
    precision
        Of the network's convolutions: "float32" or "bfloat16" (faster where the processor has it).
    runtime
        What runs the network: "torch", or "openvino" (CPU only; torch if it fails its check).

    Examples
    --------
    >>> harmonizer = Harmonizer.from_pretrained("default")  # doctest: +SKIP
    >>> harmonizer(nibabel.load("sub-01_T1w.nii.gz")).to_filename("out.nii.gz")  # doctest: +SKIP
    """

    def __init__(
        self,
        network: VelocityNetwork,
        config: ModelConfig,
        sampling: SamplingSettings | None = None,
        device: str = "auto",
        n4: bool = True,
        outside: str = "zero",
        max_memory_gb: float = 8.0,
        precision: str = "float32",
        runtime: str = "torch",
    ) -> None:
        choices = ((outside, OUTSIDE), (precision, PRECISIONS), (runtime, RUNTIMES))
        for value, known in choices:
            if value not in known:
                msg = f"{value!r} is unknown; choose one of {', '.join(known)}."
                raise InputError(msg)
        self.device = choose_device(device)
        network.to(self.device)
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.network = choose_network(network, runtime, precision)
        self.config = config
        self.sampling = sampling or SamplingSettings()
        self.preprocess = dataclasses.replace(config.preprocess, n4=config.preprocess.n4 and n4)
        self.outside = outside
        self.max_memory_gb = max_memory_gb
        self.precision = precision

    @classmethod
    def from_pretrained(cls, name: str | Path = "default", **options: Any) -> Harmonizer:
        """Load a shipped model by name, or a model folder; options as for the class."""
        return cls(*load_model(name), **options)

    @property
    def revises(self) -> bool:
        """Whether there is a second pass: if it is wanted, after the local refinement, by a model
        that was trained for it.
        """
        wanted = self.sampling.revise and self.sampling.refine == "local"
        return wanted and self.config.revises

    def __call__(
        self,
        image: nib.spatialimages.SpatialImage,
        mask: nib.spatialimages.SpatialImage | None = None,
    ) -> nib.spatialimages.SpatialImage:
        """The harmonized scan (float32, the target's intensity units) on the input's grid."""
        return self.run(image, mask).image

    def run(
        self,
        image: nib.spatialimages.SpatialImage,
        mask: nib.spatialimages.SpatialImage | None = None,
        dtype: DTypeLike = np.float32,
        progress: Progress | None = None,
        uncertainty: int = 0,
    ) -> Result:
        """Harmonize one scan and keep the record.

        Parameters
        ----------
        image
            A 3D scan (or 4D with one volume), any orientation and voxel size up to 2.5 mm.
        mask
            Brain mask on the scan's grid; found if not given.
        dtype
            Voxel type of the result.
        progress
            Called with (stage, done, total).
        uncertainty
            Runs for the uncertainty map, 2 or more; 0 for none.
        """
        if uncertainty == 1 or uncertainty < 0:
            msg = f"an uncertainty map takes 2 runs or more, not {uncertainty}."
            raise InputError(msg)
        scan = as_scan(image)
        kind = np.dtype(dtype)
        if np.issubdtype(kind, np.integer) and np.iinfo(kind).max < self.config.target.upper:
            msg = (
                f"{kind} cannot hold the target's intensities (up to "
                f"{self.config.target.upper:.0f}). Write float32."
            )
            raise InputError(msg)
        watch = Stopwatch(progress)
        with watch.stage("mask"):
            brain, origin = brain_mask(scan, mask)
        prepared = prepare(scan, brain, self.preprocess, watch.stage)
        doubts: list[str] = []
        output = self.translate(prepared, watch, doubts=doubts)
        with watch.stage("restore"):
            values = self.restore(output, prepared, scan, brain)
        target = self.config.target
        doubts = [*checks.doubts(prepared, voxel_sizes(scan.affine), target), *doubts]
        record: dict[str, Any] = {
            "Model": self.config.name,
            "ModelSHA256": self.config.sha256,
            "Sampling": dataclasses.asdict(self.sampling) | {"revise": self.revises},
            "Preprocessing": dataclasses.asdict(self.preprocess),
            "Edges": dataclasses.asdict(self.config.edges),
            "MaskOrigin": origin,
            "BrainVolumeMl": round(prepared.mask.sum() * self.preprocess.spacing_mm**3 / 1000, 1),
            "Doubts": doubts,
            "OutsideMask": self.outside,
            "SourceLimits": [prepared.lower, prepared.upper],
            "TargetLimits": [target.lower, target.upper],
            "WhiteMatterMode": white_matter_modes(output[prepared.mask], target),
            "Device": str(self.device),
            "Precision": self.precision,
            "Runtime": "openvino" if isinstance(self.network, OpenVinoNetwork) else "torch",
            "Seconds": watch.seconds,
        }
        result = Result(
            like(values, scan, dtype), like(brain, scan, np.uint8), prepared, output, record
        )
        if not uncertainty:
            return result
        with watch.stage("uncertainty"):
            deviation = spread_of_runs.uncertainty(self, prepared, uncertainty, progress)
        unsure = float((deviation[prepared.mask] > self.config.validation_error).mean())
        record["Uncertainty"] = {"Runs": uncertainty, "UnsureShare": round(unsure, 4)}
        if unsure > spread_of_runs.UNSURE_SHARE:
            doubts.append(
                f"{unsure:.0%} of the brain is less certain than the model's error on held-out "
                "target scans: see the uncertainty map."
            )
        scale = (self.config.target.upper - self.config.target.lower) / 2
        spread = resample(extend_outside(deviation, prepared.mask), prepared.grid, Grid.of(scan))
        spread_image = like(np.where(brain, np.clip(scale * spread, 0, None), 0), scan, np.float32)
        return dataclasses.replace(result, uncertainty=spread_image)

    def translate(
        self,
        prepared: Prepared,
        watch: Stopwatch | None = None,
        edges: EdgeSettings | None = None,
        doubts: list[str] | None = None,
    ) -> np.ndarray:
        """Source to target domain on the model grid: (I, J, K) float32, model units.

        Parameters
        ----------
        prepared
            The source.
        watch
            A clock.
        edges
            Edge detector, if not the model's.
        doubts
            Where to add what is found strange of the source (`checks.strangeness`).
        """
        watch = watch or Stopwatch()
        with watch.stage("edges"):
            edge_map = canny(prepared.image, prepared.mask, edges or self.config.edges)
        with watch.stage("network"):
            output = sample(
                self.network,
                edge_map,
                prepared.mask,
                self.sampling,
                self.device,
                self.preprocess.spacing_mm,
                self.max_memory_gb,
                self.precision,
                progress=watch.progress
                and (lambda done, total: watch.progress("network", done, total)),
            )
        source = (prepared.image, prepared.mask)
        with watch.stage("refine"):
            if self.sampling.refine == "paper":
                output = ascend_correlation(output, *source)
            elif self.sampling.refine == "local":
                first, error = output, self.config.validation_error
                output, variance = follow_source(first, *source, self.config.known_errors)
                if doubts is not None:
                    doubts += checks.strangeness(first, output, prepared, error)
        if self.revises:
            with watch.stage("revise"):
                output = sample(
                    self.network,
                    edge_map,
                    prepared.mask,
                    SamplingSettings(),
                    self.device,
                    self.preprocess.spacing_mm,
                    self.max_memory_gb,
                    self.precision,
                    draft=output,
                )
            with watch.stage("refine"):
                output = keep_structure(output, *source, error, variance)
        return output

    def restore(
        self,
        output: np.ndarray,
        prepared: Prepared,
        scan: nib.spatialimages.SpatialImage,
        brain: np.ndarray,
    ) -> np.ndarray:
        """Model grid and units to the scan's grid and the target's intensity units."""
        target = self.config.target
        values = from_model_units(np.clip(output, -1.0, 1.1), target.lower, target.upper)
        values = resample(extend_outside(values, prepared.mask), prepared.grid, Grid.of(scan))
        elsewhere = np.asarray(scan.dataobj, np.float32) if self.outside == "source" else 0
        return np.where(brain, values, elsewhere)


def white_matter_modes(values: np.ndarray, target: TargetDomain) -> dict[str, float]:
    """Of an output's in-mask values, and of the target domain if it is known: model units in,
    target's units out.
    """
    shown = {"Output": values}
    if target.quantiles:
        known = np.linspace(0, 1, len(target.quantiles))
        shown["Target"] = np.interp(np.linspace(0, 1, 10_001), known, target.quantiles)
    modes = np.array([white_matter_mode(each) for each in shown.values()])
    intensities = from_model_units(modes, target.lower, target.upper).round(1).tolist()
    return dict(zip(shown, intensities, strict=True))
