"""The study: the list of scans to evaluate, with what is known of each.

Columns of the TSV (or keys of the YAML list); only `path` and `site` must be there:

path        the scan, relative to the study file
site        scanner or site
scan        unique name; the file's name if absent
person      who was scanned; the scan's name if absent
contrast    T1w, T2w, FLAIR, ... ; T1w if absent
split       train, val or test for scans of the target site; empty for all others
age, sex    years; M or F
mask        brain mask
tissues     labels: 0 background, 1 CSF, 2 grey matter, 3 white matter
lesions     lesion mask
regions     labels of brain regions, numbered as the outside segmenter numbers them
truth       the same head as the target scanner shows it
preset      the simulated scanner that made the scan, for simulations
grid        scans with the same value are co-registered, voxel by voxel
core        yes for the scans that slow methods, and the classical segmenter, are limited to
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from isochroma.errors import LONGEST_REASON, InputError, about, one_line
from isochroma.files import sha256
from isochroma.images.brain import find_brain
from isochroma.images.grid import Grid, resample, resample_mask
from isochroma.images.io import load, stem
from isochroma.images.masked import extend_outside
from isochroma.images.preprocess import Prepared, PreprocessSettings, prepare
from isochroma.tables import read_table, read_text

SPLITS = ("train", "val", "test")
DEEPEST = 10  # levels of a YAML file
MAX_YAML_BYTES = 1 << 22  # which take half a minute
OLDEST = 130  # years
EMPTY = (None, "", "n/a", "null", "~")
WITH_LESIONS = " with lesions"  # the suffix of the preset of a simulation with planted lesions
OF_CASE = ("path", "mask", "tissues", "lesions", "truth")
FILES = (*OF_CASE, "regions")  # the last is read where it is compared, and not kept


@dataclass(frozen=True)
class Scan:
    """One row of the study.

    Attributes
    ----------
    path, site, scan, person, contrast, split, age, sex, preset, grid, core
        The columns of the study file, see the module's docstring. Empty strings and NaN (`age`)
        where nothing is known.
    mask, tissues, lesions, regions, truth : Path or None
        Files that belong to the scan.
    """

    path: Path
    site: str
    scan: str
    person: str
    contrast: str = "T1w"
    split: str = ""
    age: float = math.nan
    sex: str = ""
    mask: Path | None = None
    tissues: Path | None = None
    lesions: Path | None = None
    regions: Path | None = None
    truth: Path | None = None
    preset: str = ""
    grid: str = ""
    core: bool = False

    @property
    def group(self) -> str:
        """The group in the report: the site, and the simulated scanner or else the contrast."""
        return f"{self.site}, {self.preset or self.contrast}"


@dataclass(frozen=True)
class Case:
    """A scan as every method and every measure sees it, on one model grid.

    Attributes
    ----------
    scan : Scan
        The row of the study.
    prepared : Prepared
        Image (model units) and brain mask.
    truth : (I, J, K) ndarray of float32 or None
        The same head as the target scanner shows it, model units.
    tissues : (I, J, K) ndarray of uint8 or None
        Labels of the study: 0 background, 1 CSF, 2 grey matter, 3 white matter.
    lesions : (I, J, K) ndarray of bool or None
        Lesion mask.
    """

    scan: Scan
    prepared: Prepared
    truth: np.ndarray | None = None
    tissues: np.ndarray | None = None
    lesions: np.ndarray | None = None


def read_study(path: Path) -> list[Scan]:
    """Read a study file (.tsv, .yaml, .yml) or a BIDS folder.

    Parameters
    ----------
    path : Path
        The file or folder. Paths in it are relative to the folder that it lies in.

    Returns
    -------
    scans : list of Scan
        The rows in the order of the file.

    Raises
    ------
    InputError
        If it cannot be read, names a file that is not there, repeats a scan, or has no target
        scans (`split` train) or more than one target site.
    """
    path = Path(path)
    if path.is_dir():
        rows = bids_rows(path)
    elif path.suffix in (".yaml", ".yml"):
        rows = read_yaml(path) or []
    elif path.is_file():
        rows = read_table(path)
    else:
        msg = f"{path}: no such study. Give a TSV or YAML file, or a BIDS folder."
        raise InputError(msg)
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and all(isinstance(key, str) for key in row) for row in rows
    ):
        msg = f"{path}: not a list of scans. Write one mapping a scan."
        raise InputError(msg)
    folder = path if path.is_dir() else path.parent
    scans = [parse_row(row, folder, f"{path}, scan {n}") for n, row in enumerate(rows, 1)]
    names = [scan.scan for scan in scans]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        msg = f"{path}: {repeated[0]} names two scans. Give each its own name in the column scan."
        raise InputError(msg)
    target = sorted({scan.site for scan in scans if scan.split == "train"})
    if len(target) != 1:
        msg = (
            f"{path}: the scans with split = train are of {len(target)} sites "
            f"({', '.join(target) or 'none'}). They must all be the target scanner's."
        )
        raise InputError(msg)
    return scans


def read_yaml(path: Path) -> Any:
    """Read a YAML file of text.

    Parameters
    ----------
    path : Path
        The file. Aliases are refused: a short file could stand for gigabytes.

    Returns
    -------
    content : object
        Lists, dicts and text: a site named NO or 012 stays what is written.

    Raises
    ------
    InputError
        If it is not such YAML, or a key stands twice in a mapping.
    """
    import yaml

    text = read_text(path, MAX_YAML_BYTES)
    with about(path):
        try:
            depth = 0
            for event in yaml.parse(text, yaml.BaseLoader):
                depth += isinstance(event, yaml.CollectionStartEvent)
                depth -= isinstance(event, yaml.CollectionEndEvent)
                if depth > DEEPEST:
                    msg = "nested too deeply. Write one mapping a scan."
                    raise InputError(msg)
                if isinstance(event, yaml.AliasEvent):
                    msg = "has aliases (*name). Write the values out."
                    raise InputError(msg)
            return _plain(yaml.compose(text, yaml.BaseLoader))
        except yaml.YAMLError as error:
            msg = f"not valid YAML ({one_line(error, LONGEST_REASON)}). Check the file."
            raise InputError(msg) from error


def _plain(node: Any) -> Any:
    """Turn a node of YAML into lists, dicts and text."""
    if node is None or node.id == "scalar":
        return node and node.value
    if node.id == "sequence":
        return [_plain(each) for each in node.value]
    plain: dict[str, Any] = {}
    for key, value in node.value:
        name = str(_plain(key))
        if name in plain:
            msg = f"line {key.start_mark.line + 1}: {name} stands twice. Remove one."
            raise InputError(msg)
        plain[name] = _plain(value)
    return plain


def is_file(path: Path) -> bool:
    """Tell whether a path names a file; no file has a name that the system refuses."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def parse_row(row: dict[str, Any], folder: Path, where: str) -> Scan:
    """Check one row of a study.

    Parameters
    ----------
    row : dict
        Column to value; values may be missing, empty, "n/a" or "null".
    folder : Path
        The folder that relative paths start from.
    where : str
        The row's place, for messages.

    Returns
    -------
    scan : Scan
        The row with defaults filled in.

    Raises
    ------
    InputError
        If a column is unknown or missing, a file is not there, or a value is not allowed.
    """
    known = {field.name for field in fields(Scan)}
    unknown = sorted(set(row) - known)
    if unknown:
        msg = f"{where}: unknown column {unknown[0]!r}. Known: {', '.join(sorted(known))}."
        raise InputError(msg)
    given: dict[str, Any] = {key: value for key, value in row.items() if value not in EMPTY}
    for required in ("path", "site"):
        if required not in given:
            msg = f"{where}: {required} is missing."
            raise InputError(msg)
    for key, value in given.items():
        if not isinstance(value, str):
            msg = f"{where}: {key} is {str(value)[:60]}; write text or a number."
            raise InputError(msg)
    for key in FILES:
        if key in given:
            given[key] = folder / given[key]
            if not is_file(given[key]):
                msg = f"{where}: {given[key]} is not there."
                raise InputError(msg)
    given.setdefault("scan", stem(given["path"]))
    given.setdefault("person", given["scan"])
    given["core"] = given.get("core", "").lower() in ("yes", "true", "1")
    if given.get("split", "test") not in SPLITS:
        msg = f"{where}: split is {given['split']!r}; use train, val, test or leave it empty."
        raise InputError(msg)
    try:
        given["age"] = float(given.get("age", math.nan))
    except ValueError as error:
        msg = f"{where}: the age {given['age']!r} is not a number."
        raise InputError(msg) from error
    if given["age"] < 0 or given["age"] > OLDEST:
        msg = f"{where}: an age of {given['age']:g} years is not possible. Give years."
        raise InputError(msg)
    return Scan(**given)


def bids_rows(folder: Path) -> list[dict[str, Any]]:
    """List the anatomical scans of a BIDS folder with the columns of its participants.tsv.

    Parameters
    ----------
    folder : Path
        A BIDS dataset. Of participants.tsv the columns site, split, age and sex are used; the site
        is the folder's name if there is none.

    Returns
    -------
    rows : list of dict
        One row for each scan, as in a study file.
    """
    from bids import BIDSLayout

    layout = BIDSLayout(folder, validate=False)
    people: dict[str, dict[str, str]] = {}
    table = folder / "participants.tsv"
    if table.is_file():
        people = {row["participant_id"]: row for row in read_table(table, ("participant_id",))}
    rows = []
    found = layout.get(datatype="anat", extension=[".nii", ".nii.gz"])
    for file in sorted(found, key=lambda file: file.path):
        person = f"sub-{file.entities['subject']}"
        about = people.get(person, {})
        rows.append(
            {
                "path": str(Path(file.path).relative_to(layout.root)),
                "person": person,
                "contrast": file.entities["suffix"],
                "site": about.get("site", folder.resolve().name),
                **{key: about[key] for key in ("split", "age", "sex") if about.get(key)},
            }
        )
    return rows


def contents(scan: Scan) -> str:
    """Return a digest of the files of a case; it stands for the scan in the store's keys."""
    files = [getattr(scan, name) for name in OF_CASE]
    return " ".join(sha256(path)[:16] if path else "-" for path in files)


def open_case(scan: Scan, settings: PreprocessSettings) -> Case:
    """Load and preprocess one scan and all that is known of it, on one model grid.

    Parameters
    ----------
    scan : Scan
        The row of the study.
    settings : PreprocessSettings
        The preprocessing of the scan and of its truth.

    Returns
    -------
    case : Case
        Where there is a truth, the brain mask is where scan and truth both show the brain.

    Raises
    ------
    InputError
        If a file cannot be used.
    """
    image = load(scan.path)
    given = load(scan.mask) if scan.mask else None
    with about(scan.path):
        prepared = prepare(image, find_brain(image, given).mask, settings)
    truth = None
    if scan.truth:
        other = load(scan.truth)
        with about(scan.truth):
            known = prepare(other, find_brain(other).mask, settings)
        truth = resample(extend_outside(known.image, known.mask), known.grid, prepared.grid)
        both = prepared.mask & resample_mask(known.mask, known.grid, prepared.grid)
        prepared = replace(prepared, image=np.where(both, prepared.image, 0), mask=both)
    tissues = labels_on(scan.tissues, prepared.grid)
    lesions = labels_on(scan.lesions, prepared.grid)
    return Case(scan, prepared, truth, tissues, None if lesions is None else lesions > 0)


def labels_on(path: Path | None, grid: Grid, dtype: type = np.uint8) -> np.ndarray | None:
    """Load a label volume and take the nearest voxels of another grid.

    Parameters
    ----------
    path : Path or None
        A volume of integers.
    grid : Grid
        The grid to sample.
    dtype : type
        Of the labels.

    Returns
    -------
    labels : (I, J, K) ndarray of dtype, or None
        None if there is no file.
    """
    if path is None:
        return None
    image = load(path, constant=True)  # the lesion mask of a scan without lesions is constant
    values = np.asarray(image.dataobj, dtype=np.float32)
    return resample(values, Grid.of(image), grid, order=0).astype(dtype)
