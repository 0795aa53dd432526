"""The files of one harmonized scan: their names, the sidecar, and writing all of them or none."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib

from isochroma import __version__
from isochroma.errors import InputError
from isochroma.files import sha256, write_together
from isochroma.images.io import SUFFIXES, has_volume_suffix, split_suffix
from isochroma.images.slices import save_slices
from isochroma.pipeline import Result
from isochroma.uncertainty import Uncertainty


@dataclass(frozen=True)
class OutputFiles:
    """Where the outputs of one scan go.

    Attributes
    ----------
    image, mask, sidecar : Path
        Harmonized scan, brain mask and JSON sidecar: always written.
    preview, uncertainty : Path
        PNG of source and result, and uncertainty map: written if asked for.
    """

    image: Path
    mask: Path
    sidecar: Path
    preview: Path
    uncertainty: Path

    @classmethod
    def beside(cls, image: Path) -> OutputFiles:
        """Derive all names from that of the harmonized image."""
        stem, suffix = split_suffix(image)

        def named(ending: str) -> Path:
            return image.with_name(f"{stem}{ending}")

        return cls(
            image=image,
            mask=named(f"_mask{suffix}"),
            sidecar=named(".json"),
            preview=named(".png"),
            uncertainty=named(f"_uncertainty{suffix}"),
        )

    def all(self) -> tuple[Path, ...]:
        """Return every path, whether it will be written or not."""
        return (self.image, self.mask, self.sidecar, self.preview, self.uncertainty)


def plan_outputs(
    scans: Iterable[Path], output: Path, overwrite: bool = False
) -> dict[Path, OutputFiles]:
    """Name the outputs of every scan, and check that nothing is lost.

    Parameters
    ----------
    scans : iterable of Path
        The inputs.
    output : Path
        A folder; or, for a single scan, the file name of the harmonized image.
    overwrite : bool
        Whether existing outputs may be replaced.

    Returns
    -------
    planned : dict of Path to OutputFiles
        One entry a scan.

    Raises
    ------
    InputError
        If two scans would become one file, an output is one of the inputs, or a file exists and may
        not be replaced.
    """
    scans = list(scans)
    single = has_volume_suffix(output)
    if single and len(scans) > 1:
        msg = f"{output} is a file name, and there are {len(scans)} scans. Give a folder."
        raise InputError(msg, "output")
    planned: dict[Path, OutputFiles] = {}
    taken: dict[Path, Path] = {}
    sources = {scan.resolve() for scan in scans}
    for scan in scans:
        stem, suffix = split_suffix(scan)
        suffix = suffix.lower() if suffix.lower() in SUFFIXES else ".nii.gz"
        files = OutputFiles.beside(output if single else output / f"{stem}_harmonized{suffix}")
        for path in files.all():
            if path in taken:
                msg = f"{taken[path]} and {scan} would both write {path}. Use two folders."
                raise InputError(msg)
            if path.resolve() in sources:
                msg = f"{path} is one of the scans to harmonize. Give another output."
                raise InputError(msg, "output")
            taken[path] = scan
            if path.exists() and not overwrite:
                msg = f"{path} exists already. Allow it to be replaced."
                raise InputError(msg, "overwrite")
        planned[scan] = files
    return planned


def sidecar(
    result: Result, source: Path, seconds: dict[str, float], uncertainty: Uncertainty | None = None
) -> dict[str, Any]:
    """Describe a result as plain JSON values.

    Parameters
    ----------
    result : Result
        From the pipeline.
    source : Path
        The scan's file.
    seconds : dict of str to float
        Duration of every stage so far.
    uncertainty : Uncertainty, optional
        If it was estimated.

    Returns
    -------
    content : dict
        The sidecar.
    """
    made = result.record
    warnings = [*result.warnings, *(uncertainty.warnings if uncertainty else ())]
    content: dict[str, Any] = {
        "GeneratedBy": {"Name": "isochroma", "Version": __version__},
        "Source": str(source),
        "SourceSHA256": sha256(source),
        "Model": made.model,
        "ModelSHA256": made.model_sha256,
        "Sampling": dataclasses.asdict(made.sampling),
        "Preprocessing": dataclasses.asdict(made.preprocess),
        "Edges": dataclasses.asdict(made.edges),
        "MaskOrigin": made.mask_origin,
        "BrainVolumeMl": made.brain_ml,
        "Warnings": [
            {"Code": each.code, "Text": each.text, "Value": round(each.value, 4)}
            for each in warnings
        ],
        "OutsideMask": made.outside,
        "SourceLimits": list(made.source_limits),
        "TargetLimits": list(made.target_limits),
        "WhiteMatterMode": made.white_matter_mode,
        "Device": made.device,
        "Precision": made.precision,
        "Runtime": made.runtime,
        "Seconds": seconds,
    }
    if uncertainty is not None:
        content["Uncertainty"] = {
            "Runs": uncertainty.runs,
            "UncertainShare": uncertainty.uncertain_share,
        }
    return content


def write_outputs(
    files: OutputFiles,
    result: Result,
    content: dict[str, Any],
    uncertainty: Uncertainty | None = None,
    preview: bool = False,
) -> None:
    """Write the outputs of one scan; all of them appear, or none.

    Outputs of an earlier run that are not written again are removed.

    Parameters
    ----------
    files : OutputFiles
        Where they go.
    result : Result
        From the pipeline.
    content : dict
        The sidecar.
    uncertainty : Uncertainty, optional
        If it was estimated.
    preview : bool
        Whether to write a PNG of source and result.
    """
    writers: dict[Path, Callable[[Path], object]] = {
        files.image: lambda path: nib.save(result.image, path),
        files.mask: lambda path: nib.save(result.mask, path),
    }
    if uncertainty is not None:
        writers[files.uncertainty] = lambda path: nib.save(uncertainty.image, path)
    if preview:
        writers[files.preview] = lambda path: save_before_after(result, path)
    writers[files.sidecar] = lambda path: path.write_text(json.dumps(content, indent=2) + "\n")
    write_together(writers)
    for stale in set(files.all()) - set(writers):
        stale.unlink(missing_ok=True)


def save_before_after(result: Result, path: Path) -> None:
    """Draw slices of source and result, one above the other, black outside the brain.

    Parameters
    ----------
    result : Result
        From the pipeline.
    path : Path
        The PNG.
    """
    volumes = {"source": result.source.image, "harmonized": result.rendering.output}
    outside = ~result.source.mask
    save_slices(path, {name: volume - outside for name, volume in volumes.items()})
