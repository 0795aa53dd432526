"""The BIDS derivative: names of the outputs, and the files that describe the whole.

What a model makes of a scan looks like its target, so its name ends on the target's suffix,
whatever the scan was. The scan's own suffix, which would be lost, goes into the description:
FLAIR and T1w of a session become `desc-harmonizedFLAIR_T1w` and `desc-harmonized_T1w`. `acq` and
`rec` describe the acquisition and its reconstruction, which do not change and may be used already;
`desc` is for telling the derivatives of one subject apart, and `descriptions.tsv` says what each
means.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from isochroma.cohort.plan import ENTITIES, MODALITIES, NAME, Scan
from isochroma.errors import InputError, printable
from isochroma.files import remove_leavings, write_atomically
from isochroma.outputs import OutputFiles
from isochroma.tables import read_json
from isochroma.version import __version__

BIDS_VERSION = "1.10.0"
DESCRIPTION = "dataset_description.json"
IGNORED = ("logs/", "figures", "group*", "*.html")  # BIDS knows no names for them
LOGS = "logs"
FAILED = f"{LOGS}/failed"
SOURCE = "raw"  # name of the source data set in BIDS URIs
TOGETHER = "Together"  # in descriptions: of all scans of a session


def output_files(folder: Path, scan: Scan, target: str) -> OutputFiles:
    """Name the outputs of a scan.

    Parameters
    ----------
    folder : Path
        The derivative.
    scan : Scan
        The input.
    target : str
        BIDS suffix of the model's target.

    Returns
    -------
    files : OutputFiles
    """
    place = folder / Path(scan.relative).parent
    figures = folder / f"sub-{scan.entities['sub']}" / "figures"
    origin = TOGETHER if scan.others else origin_of(scan.modality, target)
    image = f"{scan.stem}_desc-harmonized{origin}_{target}"
    mask = f"{scan.stem}_desc-brain{origin}_mask"
    return OutputFiles(
        image=place / f"{image}.nii.gz",
        mask=place / f"{mask}.nii.gz",
        sidecar=place / f"{image}.json",
        preview=figures / f"{image}.png",
        uncertainty=place / f"{scan.stem}_desc-uncertainty{origin}_{target}.nii.gz",
        mask_sidecar=place / f"{mask}.json",
    )


def stem_of(image: Path) -> str:
    """Return the name of an output without its ending."""
    return image.name.removesuffix(".gz").removesuffix(".nii")


def session_outputs(files: OutputFiles) -> dict[str, tuple[Path, Path]]:
    """Find the finished outputs that lie beside those of a scan: of the same session.

    Parameters
    ----------
    files : OutputFiles
        Of the scan.

    Returns
    -------
    others : dict of str to (Path, Path)
        Harmonized image and mask of each other scan, by the image's name without its ending.
    """
    others = {}
    for sidecar in sorted(files.image.parent.glob("*_desc-harmonized*.json")):
        begin, _, rest = sidecar.stem.partition("_desc-harmonized")
        origin = rest.partition("_")[0]
        image = sidecar.with_suffix(".nii.gz")
        mask = sidecar.with_name(f"{begin}_desc-brain{origin}_mask.nii.gz")
        if image != files.image and image.is_file() and mask.is_file():
            others[sidecar.stem] = (image, mask)
    return others


def describe_entities(relative: str) -> str:
    """Say in words which scan of its participant a file is, such as "session 1, run 2, FLAIR".

    Parameters
    ----------
    relative : str
        The scan, relative to the data set.

    Returns
    -------
    text : str
    """
    match = NAME.fullmatch(relative.rpartition("/")[2])
    if match is None:
        return relative
    labels = match.groupdict()
    named = [f"{name} {labels[key]}" for key, name in ENTITIES.items() if labels[key]]
    return ", ".join([*named[1:], labels["suffix"]])


def origin_of(modality: str, target: str) -> str:
    """Return what a description says of the scan's suffix: nothing if it is the target's."""
    return "" if modality == target else modality


def source_entries(scan: Scan) -> dict[str, Any]:
    """Name the scan in the words of BIDS sidecars.

    Parameters
    ----------
    scan : Scan
        The input.

    Returns
    -------
    entries : dict
    """
    uris = [f"bids:{SOURCE}:{relative}" for relative in (scan.relative, *scan.others)]
    shown = f"{len(uris)} scans of one session" if scan.others else f"a {scan.modality} scan"
    return {
        "Description": f"The head of {shown} as the target scanner shows it.",
        "Sources": uris,
        "SpatialReference": uris[0],
    }


def describe_dataset(source: Path, folder: Path, target: str) -> None:
    """Write the files that describe the derivative as a whole; remove what killed runs left there.

    They depend on nothing but the arguments, so that runs for different participants may write them
    at the same time.

    Parameters
    ----------
    source : Path
        The data set that is harmonized.
    folder : Path
        The derivative.
    target : str
        BIDS suffix of the model's target.

    Raises
    ------
    InputError
        If the folder is the source, holds another data set, or cannot be written to.
    """
    check_output(source, folder)
    for each in (folder, folder / FAILED):
        remove_leavings(each)
    try:
        for name, text in _dataset_files(source, folder, target).items():
            write_atomically(folder / name, partial(_write, text))
    except OSError as error:
        msg = f"{folder}: cannot be written to ({error.strerror}). Give another folder."
        raise InputError(msg, "out_dir") from error


def check_output(source: Path, folder: Path) -> None:
    """Check that a folder can hold the derivative, without writing to it.

    Parameters
    ----------
    source : Path
        The data set that is harmonized.
    folder : Path
        The derivative.

    Raises
    ------
    InputError
        If the folder is the source, or holds another data set.
    """
    if folder.exists() and folder.samefile(source):
        msg = f"{folder}: is the input. Give another, such as {source}/derivatives/isochroma."
        raise InputError(msg, "out_dir")
    known = folder / DESCRIPTION
    if known.exists() and _read(known).get("DatasetType") != "derivative":
        msg = f"{folder}: holds another data set. Give another folder."
        raise InputError(msg, "out_dir")
    generators = _read(known).get("GeneratedBy") if known.exists() else None
    several = generators if isinstance(generators, list) else [generators]
    names = [each.get("Name") for each in several if isinstance(each, dict)]
    if generators and "isochroma" not in names:
        msg = f"{folder}: holds a derivative of another program. Give another folder."
        raise InputError(msg, "out_dir")


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    """Read a dataset_description.json; one that is not valid says nothing."""
    try:
        return read_json(path) or {}
    except InputError:
        return {}


def _dataset_files(source: Path, folder: Path, target: str) -> dict[str, str]:
    known = _read(source / DESCRIPTION) if (source / DESCRIPTION).is_file() else {}
    inside = folder.resolve().is_relative_to(source.resolve())
    link = os.path.relpath(source, folder) if inside else source.resolve().as_uri()
    doi = known.get("DatasetDOI")
    description = {
        "Name": printable(f"Harmonized by isochroma: {known.get('Name') or source.resolve().name}"),
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "isochroma", "Version": __version__}],
        "SourceDatasets": [{"URL": printable(doi) if doi and isinstance(doi, str) else link}],
        "DatasetLinks": {SOURCE: link},
    }
    rows = [("desc_id", "description")]
    for modality in MODALITIES:
        origin = origin_of(modality, target)
        shows = f"The head of a {modality} scan as the model's target scanner ({target}) shows it"
        rows.append((f"desc-harmonized{origin}", shows))
        rows.append((f"desc-brain{origin}", f"Brain mask of a {modality} scan"))
    shows = f"The head of a session's scans as the model's target scanner ({target}) shows it"
    rows.append((f"desc-harmonized{TOGETHER}", shows))
    rows.append((f"desc-brain{TOGETHER}", "Brain mask of the session's first scan"))
    return {
        DESCRIPTION: json.dumps(description, indent=2, ensure_ascii=False) + "\n",
        "descriptions.tsv": "".join("\t".join(row) + "\n" for row in rows),
        ".bidsignore": "".join(f"{pattern}\n" for pattern in IGNORED),
    }


def record_failure(folder: Path, scan: Scan, reason: str, details: str = "") -> None:
    """Keep why a scan has no output, in a file of its own.

    Parameters
    ----------
    folder : Path
        The derivative; the file is in `logs/failed`.
    scan : Scan
        The input.
    reason : str
        One line; if it is empty, the file of an earlier run is removed.
    details : str
        A traceback.
    """
    path = folder / FAILED / f"{scan.name}.txt"
    if reason:
        text = "\n".join((scan.relative, reason, details))
        write_atomically(path, partial(_write, text))
    else:
        path.unlink(missing_ok=True)
