"""The files of one harmonized scan: their names, the sidecar, and writing all of them or none."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib

from isochroma.errors import InputError
from isochroma.files import sha256, write_together
from isochroma.images.histogram import density, density_of_quantiles
from isochroma.images.io import has_volume_suffix, slice_thickness, split_suffix
from isochroma.images.mosaic import save_mosaic
from isochroma.models.config import TargetDomain
from isochroma.pipeline import Harmonizer, Result
from isochroma.settings import to_json
from isochroma.version import __version__

LONGEST_NAME = 255  # bytes, on the file systems in use


@dataclass(frozen=True)
class OutputFiles:
    """Where the outputs of one scan go.

    Attributes
    ----------
    image, mask, sidecar : Path
        Harmonized scan, brain mask and JSON sidecar: always written.
    preview, uncertainty : Path
        PNG of slices before and after, and uncertainty map: written if asked for.
    mask_sidecar : Path or None
        JSON sidecar of the mask, in layouts that have one.
    """

    image: Path
    mask: Path
    sidecar: Path
    preview: Path
    uncertainty: Path
    mask_sidecar: Path | None = None

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
        always = (self.image, self.mask, self.sidecar, self.preview, self.uncertainty)
        return always if self.mask_sidecar is None else (*always, self.mask_sidecar)


def plan_outputs(scans: Iterable[Path], output: Path) -> dict[Path, OutputFiles]:
    """Name the outputs of every scan, and check that they can be written and lose nothing.

    Parameters
    ----------
    scans : iterable of Path
        The inputs.
    output : Path
        A folder; or, for a single scan, the file name of the harmonized image.

    Returns
    -------
    planned : dict of Path to OutputFiles
        One entry a scan.

    Raises
    ------
    InputError
        If two scans would become one file, an output is one of the inputs, a name is too long, or
        the folder cannot be written to.
    """
    scans = list(dict.fromkeys(scans))
    single = has_volume_suffix(output)
    if single and len(scans) > 1:
        msg = f"{output} is a file name, and there are {len(scans)} scans. Give a folder."
        raise InputError(msg, "output")
    planned: dict[Path, OutputFiles] = {}
    taken: dict[Path, Path] = {}
    sources = {os.path.realpath(scan) for scan in scans}
    for scan in scans:
        stem, suffix = split_suffix(scan)
        suffix = suffix.lower() or ".nii.gz"
        files = OutputFiles.beside(output if single else output / f"{stem}_harmonized{suffix}")
        for path in files.all():
            if path in taken:
                msg = f"{taken[path]} and {scan} would both write {path}. Use two folders."
                raise InputError(msg)
            if os.path.realpath(path) in sources:
                msg = f"{path} is one of the scans to harmonize. Give another output."
                raise InputError(msg, "output")
            if len(os.fsencode(path.name)) > LONGEST_NAME:
                msg = (
                    f"{path.name}: longer than {LONGEST_NAME} bytes. Give the scan a shorter name."
                )
                raise InputError(msg)
            taken[path] = scan
        planned[scan] = files
    _check_writable(output.parent if single else output)
    return planned


def _check_writable(folder: Path) -> None:
    existing = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        msg = f"{folder}: cannot be written to. Check its permissions, or give another folder."
        raise InputError(msg, "output")


def is_finished(
    files: OutputFiles,
    expected: dict[str, Any],
    preview: bool = False,
    uncertainty: bool = False,
    replace: bool = False,
) -> bool:
    """Tell whether the outputs of a scan are there, made from the same input in the same way.

    The sidecar is written last: without it, the outputs are those of a run that was stopped.

    Parameters
    ----------
    files : OutputFiles
        Where they are.
    expected : dict
        Entries that the sidecar must have, from `identity`.
    preview, uncertainty : bool
        Whether the picture and the map must be there too.
    replace : bool
        Whether outputs of another input or of other settings may be replaced; they are then
        unfinished.

    Returns
    -------
    finished : bool

    Raises
    ------
    InputError
        If there are outputs of another input or of other settings, which must not be replaced.
    """
    if not files.sidecar.exists():
        return False
    try:
        known = dict(json.loads(files.sidecar.read_text()))
        entries = json.loads(json.dumps(expected))
        same = all(known.get(key) == value for key, value in entries.items())
    except (OSError, ValueError, TypeError, RecursionError):
        same = False
    if not same and replace:
        return False
    if not same:
        msg = (
            f"{files.sidecar} is there, of another input or other settings. "
            "Allow it to be replaced, or give another folder."
        )
        raise InputError(msg, "overwrite")
    wanted = [files.image, files.mask, *([files.preview] if preview else [])]
    if uncertainty:
        wanted.append(files.uncertainty)
    if files.mask_sidecar is not None:
        wanted.append(files.mask_sidecar)
    return all(path.is_file() for path in wanted)


def identity(
    harmonizer: Harmonizer,
    source: Path,
    mask: Path | None,
    dtype: str,
    others: Sequence[Path] = (),
) -> dict[str, Any]:
    """Describe what determines the outputs of a scan; every entry stands in the sidecar.

    Parameters
    ----------
    harmonizer : Harmonizer
        The model and its settings.
    source : Path
        The scan's file.
    mask : Path or None
        A given brain mask.
    dtype : str
        Voxel type that was asked for.
    others : sequence of Path
        Scans that are harmonized together with it.

    Returns
    -------
    entries : dict
        Plain JSON values.
    """
    mapped = harmonizer.config.intensity_map
    return {
        "SourceSHA256": sha256(source),
        "MaskSHA256": sha256(mask) if mask is not None else None,
        "ModelSHA256": harmonizer.config.sha256,
        "ReviserSHA256": harmonizer.config.reviser_sha256 or None,
        "IntensityMapSHA256": mapped and hashlib.sha256(to_json(mapped).encode()).hexdigest(),
        "Sampling": dataclasses.asdict(
            dataclasses.replace(harmonizer.sampling, revise=harmonizer.revises)
        ),
        "Preprocessing": dataclasses.asdict(harmonizer.preprocess),
        "OutsideMask": harmonizer.outside,
        "Grid": harmonizer.grid,
        "Dtype": dtype,
        "SliceThickness": slice_thickness(source),
        "TogetherSHA256": [sha256(path) for path in others],
    }


def sidecar(
    result: Result,
    source: dict[str, Any],
    made_from: dict[str, Any],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Describe a result as plain JSON values.

    Parameters
    ----------
    result : Result
        From the pipeline.
    source : dict
        Entries that name the scan's file, in the words of the layout.
    made_from : dict
        From `identity`.
    seconds : dict of str to float
        Duration of every stage so far.

    Returns
    -------
    content : dict
        The sidecar.
    """
    made = result.record
    doubt = result.doubt
    return {
        "GeneratedBy": {"Name": "isochroma", "Version": __version__},
        **source,
        "Model": made.model,
        **made_from,
        "SkullStripped": made.outside == "zero",
        "Edges": dataclasses.asdict(made.edges),
        "MaskOrigin": made.mask_origin,
        "BrainVolumeMl": made.brain_ml,
        "Warnings": [
            {"Code": each.code, "Text": each.text, "Value": round(each.value, 4)}
            for each in result.warnings
        ],
        "SourceLimits": list(made.source_limits),
        "TargetLimits": list(made.target_limits),
        "WhiteMatterMode": made.white_matter_mode,
        "ExplainedShare": None if made.explained is None else round(made.explained, 4),
        "Together": [each._asdict() for each in made.together],
        "ExpectedError": None if doubt is None else round(doubt.mean / 2, 4),
        "DoubtfulRegions": [
            {"VolumeMl": each.volume_ml, "CentreMm": each.centre_mm}
            for each in (doubt.regions if doubt else ())
        ],
        "Device": made.device,
        "Precision": made.precision,
        "Seconds": seconds,
    }


def write_outputs(
    files: OutputFiles,
    result: Result,
    content: dict[str, Any],
    uncertainty: nib.spatialimages.SpatialImage | None = None,
    preview: bool = False,
    target: TargetDomain | None = None,
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
    uncertainty : SpatialImage, optional
        Map of the expected error.
    preview : bool
        Whether to write a PNG of source and result.
    target : TargetDomain, optional
        Whose histogram the PNG shows, if it is known.
    """
    writers: dict[Path, Callable[[Path], object]] = {
        files.image: lambda path: nib.save(result.image, path),
        files.mask: lambda path: nib.save(result.mask, path),
    }
    if uncertainty is not None:
        writers[files.uncertainty] = lambda path: nib.save(uncertainty, path)
    if preview:
        writers[files.preview] = lambda path: save_preview(result, path, target)
    if files.mask_sidecar is not None:
        kept = ("Sources", "SpatialReference", "MaskOrigin")
        about = {"Type": "Brain", **{key: content[key] for key in kept if key in content}}
        writers[files.mask_sidecar] = lambda path: write_json(path, about)
    writers[files.sidecar] = lambda path: write_json(path, content)
    write_together(writers)
    for stale in set(files.all()) - set(writers):
        stale.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write plain values as indented JSON."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save_preview(result: Result, path: Path, target: TargetDomain | None = None) -> None:
    """Draw source with brain mask, output and difference in three planes, and their histograms.

    Parameters
    ----------
    result : Result
        From the pipeline.
    path : Path
        The PNG.
    target : TargetDomain, optional
        Whose histogram is drawn too, if it is known.
    """
    source, output, mask = result.source.image, result.rendering.mapped, result.source.mask
    histograms = {"source": density(source[mask]), "harmonized": density(output[mask])}
    if target is not None and target.quantiles:
        histograms["target"] = density_of_quantiles(target.quantiles)
    save_mosaic(path, source, output, mask, histograms)
