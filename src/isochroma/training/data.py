"""Target scans of a training run: found, preprocessed once into a cache, opened, described.

Only the target folder is read; no other scanner's scan is ever opened. A cached scan is a folder of
arrays that are memory-mapped, so that many scans cost little memory.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from isochroma.errors import InputError, about
from isochroma.files import replacing, sha256
from isochroma.images.brain import find_brain
from isochroma.images.io import has_volume_suffix, load, stem
from isochroma.images.masked import centroid, extent
from isochroma.images.preprocess import Prepared, from_model_units, prepare
from isochroma.method.edges import detect_edges
from isochroma.method.recontrast import random_scanner
from isochroma.models.config import TargetDomain
from isochroma.tables import read_table
from isochroma.training.settings import Recipe

logger = logging.getLogger(__name__)

CONTRASTS = ("T1w", "T2w", "PDw", "FLAIR", "T2starw")  # BIDS suffixes of weighted images
ARRAYS = ("image", "mask", "edges", "limits")  # of a cached scan
QUANTILES = 101  # of the target domain: one a percent
NO_SCANS = (
    *("_mask", "_dseg", "_probseg", "_labels", "_tissues", "_lesions"),
    *("_harmonized", "_uncertainty"),
)  # endings of what lies beside scans


class Example(NamedTuple):
    """Hold one training example of the second pass (see `drafts.make_example`).

    Attributes
    ----------
    image : (I, J, K) ndarray of float
        A target scan with planted spots, in model units.
    edges : (I, J, K) ndarray of bool
        Edges of that scan as another scanner shows it.
    draft : (I, J, K) ndarray of float
        What the first pass and the refinement make of it, in model units.
    """

    image: np.ndarray
    edges: np.ndarray
    draft: np.ndarray


class TargetScan(NamedTuple):
    """Hold one cached target scan on the model grid, cropped to the brain.

    Attributes
    ----------
    folder : Path
        The cached scan's folder.
    image : (I, J, K) ndarray of float16
        In model units.
    mask : (I, J, K) ndarray of bool
        Brain mask.
    edges : (V, I, J, K) ndarray of bool
        The scan's own edges first, then those of its re-contrasted copies.
    centroid : (3,) ndarray of float
        Centroid of the mask, in voxels.
    lower, upper : float
        Intensities of the scan that became -1 and +1.
    examples : tuple of Example
        Examples for the second pass, if any.
    """

    folder: Path
    image: np.ndarray
    mask: np.ndarray
    edges: np.ndarray
    centroid: np.ndarray
    lower: float
    upper: float
    examples: tuple[Example, ...] = ()


class Scans(NamedTuple):
    """Hold the target scans to train on and to validate on.

    Attributes
    ----------
    train, val : tuple of TargetScan
        At least one each.
    """

    train: tuple[TargetScan, ...]
    val: tuple[TargetScan, ...]


def prepare_scans(target: Path, cache: Path, recipe: Recipe) -> Scans:
    """Find the scans of a target folder and preprocess those that the cache lacks.

    Parameters
    ----------
    target : Path
        Folder of one scanner's scans.
    cache : Path
        Where preprocessed scans are kept.
    recipe : Recipe
        Its preprocessing, edge detector and number of re-contrasted copies are used.

    Returns
    -------
    scans : Scans
        The opened scans.
    """
    opened: dict[str, list[TargetScan]] = {}
    for split, paths in find_scans(target).items():
        opened[split] = []
        for number, path in enumerate(paths, 1):
            logger.info("preparing %s scan %d of %d: %s", split, number, len(paths), path.name)
            opened[split].append(open_scan(cache_scan(path, cache, recipe)))
    return Scans(tuple(opened["train"]), tuple(opened["val"]))


def find_scans(target: Path) -> dict[str, list[Path]]:
    """Choose the training and validation scans of a target folder.

    If the folder has a `participants.tsv` with a `split` column, the participants whose split is
    "train" or "val" are taken; others, "test" among them, are never read. If not, every tenth
    person (at least one) is for validation and the others are for training; a person is what the
    file names have before their first underscore. Hidden folders, masks, label maps and earlier
    outputs of this package are left out.

    Parameters
    ----------
    target : Path
        Folder of one scanner's scans; they may lie in subfolders.

    Returns
    -------
    paths : dict
        Paths of the scans, in order of their names, for "train" and "val".

    Raises
    ------
    InputError
        If there is no such folder, or no scan for one of the two.
    """
    folder = Path(target)
    if not folder.is_dir():
        msg = f"{folder}: no such folder. Give the folder that holds the target scans."
        raise InputError(msg)
    scans = sorted(path for path in folder.rglob("*") if is_target_scan(path.relative_to(folder)))
    people = list(dict.fromkeys(person(path) for path in scans))
    splits = read_splits(folder / "participants.tsv")
    if not any(splits.values()):
        splits = {name: "train" if number % 10 else "val" for number, name in enumerate(people)}
    chosen: dict[str, list[Path]] = {"train": [], "val": []}
    for path in scans:
        split = splits.get(person(path))
        if split in chosen and path.is_file():
            chosen[split].append(path)
    if not chosen["train"] or not chosen["val"]:
        msg = f"{folder}: {len(scans)} scans found; training needs one, and validation one more."
        raise InputError(msg)
    return chosen


def is_target_scan(path: Path) -> bool:
    """Tell by its name whether a file of the target folder is a scan to train on."""
    hidden = any(part.startswith(".") for part in path.parts)
    return not hidden and has_volume_suffix(path) and not stem(path).endswith(NO_SCANS)


def person(path: Path) -> str:
    """Return who was scanned: what the file's name has before its first underscore.

    Examples
    --------
    >>> person(Path("sub-01_ses-1_T1w.nii.gz"))
    'sub-01'
    """
    return stem(path).split("_")[0]


def read_splits(table: Path) -> dict[str, str | None]:
    """Read the split of each participant from a `participants.tsv`; none if it does not exist."""
    if not table.is_file():
        return {}
    rows = read_table(table, required=("participant_id",))
    return {row["participant_id"]: row.get("split") for row in rows}


def read_scan(path: Path, recipe: Recipe) -> Prepared:
    """Load a scan, find its brain and preprocess it."""
    scan = load(path)
    with about(path):
        return prepare(scan, find_brain(scan).mask, recipe.preprocess)


def cache_scan(
    path: Path,
    cache: Path,
    recipe: Recipe,
    read: Callable[[Path, Recipe], Prepared] = read_scan,
) -> Path:
    """Preprocess one scan into the cache, unless it is there already.

    Parameters
    ----------
    path : Path
        The scan.
    cache : Path
        Where preprocessed scans are kept.
    recipe : Recipe
        See `prepare_scans`.
    read : callable
        Makes the preprocessed scan of the file; `read_scan` if not given.

    Returns
    -------
    folder : Path
        The cached scan's folder. It is made anew if the file or any of the settings changed, or if
        it is damaged, and it appears whole or not at all.
    """
    settings = {
        "sha256": sha256(path),
        "preprocess": dataclasses.asdict(recipe.preprocess),
        "edges": dataclasses.asdict(recipe.edges),
        "variants": recipe.training.edge_variants,
    }
    settings = json.loads(json.dumps(settings))
    cached = cache / f"{stem(path)}-{settings['sha256'][:8]}"
    if is_cached(cached, settings):
        return cached
    prepared = read(path, recipe)
    rng = np.random.default_rng(int(settings["sha256"][:8], 16))
    unit = from_model_units(prepared.image, 0, 1)
    maps = [detect_edges(prepared, recipe.edges)]
    for _ in range(recipe.training.edge_variants):
        copy = random_scanner(rng).render(unit, prepared.mask, rng)
        maps.append(detect_edges(dataclasses.replace(prepared, image=copy), recipe.edges))
    with replacing(cached) as work:
        np.save(work / "image.npy", prepared.image.astype(np.float16))
        np.save(work / "mask.npy", prepared.mask)
        np.save(work / "edges.npy", np.stack(maps))
        np.save(work / "limits.npy", [prepared.lower, prepared.upper])
        hashes = {name: sha256(work / f"{name}.npy") for name in ARRAYS}
        record = {"settings": settings, "sha256": hashes}
        (work / "settings.json").write_text(json.dumps(record))
    return cached


def is_cached(folder: Path, settings: dict[str, Any]) -> bool:
    """Tell whether a folder holds a scan with these settings, undamaged."""
    try:
        record = json.loads((folder / "settings.json").read_text())
        return record["settings"] == settings and all(
            sha256(folder / f"{name}.npy") == record["sha256"][name] for name in ARRAYS
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def open_scan(folder: Path) -> TargetScan:
    """Memory-map a cached scan.

    Parameters
    ----------
    folder : Path
        A folder that `cache_scan` returned.

    Returns
    -------
    scan : TargetScan
        Without examples for the second pass.
    """
    image, mask, edges, limits = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS)
    lower, upper = map(float, limits)
    return TargetScan(folder, image, mask, edges, centroid(np.asarray(mask)), lower, upper)


def contrast_suffix(paths: Sequence[Path]) -> str:
    """Return the BIDS suffix of scans: what all their names end on, or T1w.

    Parameters
    ----------
    paths : sequence of Path
        The scans.

    Returns
    -------
    suffix : str

    Examples
    --------
    >>> contrast_suffix([Path("sub-01_T2w.nii.gz"), Path("sub-02_run-1_T2w.nii")])
    'T2w'
    >>> contrast_suffix([Path("anna.nii"), Path("ben.nii")])
    'T1w'
    """
    suffixes = {stem(path).rpartition("_")[2] for path in paths}
    return suffixes.pop() if len(suffixes) == 1 and suffixes <= set(CONTRASTS) else "T1w"


def describe_target(
    scans: Sequence[TargetScan | Prepared], spacing_mm: float, suffix: str = "T1w"
) -> TargetDomain:
    """Summarise intensities and brain sizes of the training scans.

    Parameters
    ----------
    scans : sequence of TargetScan or Prepared
        The training scans.
    spacing_mm : float
        Edge of the model grid's voxels in mm.
    suffix : str
        Their contrast as a BIDS suffix.

    Returns
    -------
    domain : TargetDomain
        Median intensity limits, mean in-mask quantiles, smallest and largest brain.
    """
    probabilities = np.linspace(0, 1, QUANTILES)
    quantiles = [np.quantile(np.asarray(s.image)[s.mask], probabilities) for s in scans]
    extents = np.array([extent(np.asarray(scan.mask)) * spacing_mm for scan in scans])
    return TargetDomain(
        lower=float(np.median([scan.lower for scan in scans])),
        upper=float(np.median([scan.upper for scan in scans])),
        scans=len(scans),
        quantiles=tuple(round(float(q), 4) for q in np.mean(quantiles, axis=0)),
        smallest_mm=tuple(float(size) for size in extents.min(0)),
        largest_mm=tuple(float(size) for size in extents.max(0)),
        suffix=suffix,
    )
