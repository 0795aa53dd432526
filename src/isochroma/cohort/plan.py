"""Find the scans of a BIDS data set.

The folders are listed and the names matched by one regular expression. pybids builds a database of
all files first and brings a dozen packages; of its queries only the names of entities are needed
here, and those are kept, so that filter files of other BIDS Apps work.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isochroma.errors import InputError
from isochroma.tables import read_json

MODALITIES = {
    "T1w": "T1-weighted",
    "T2w": "T2-weighted",
    "FLAIR": "fluid-attenuated inversion recovery",
    "PDw": "proton density weighted",
}
"""BIDS suffixes that are harmonized, and their names in words."""

ENTITIES = {
    "sub": "subject",
    "ses": "session",
    "task": "task",
    "acq": "acquisition",
    "ce": "ceagent",
    "rec": "reconstruction",
    "run": "run",
    "echo": "echo",
    "part": "part",
    "chunk": "chunk",
}
"""Entities of anatomical scans in the order of their names (BIDS 1.10), with their long names."""

LABEL = "[0-9A-Za-z+]+"
NAME = re.compile(
    "".join(rf"(?:(?:^|_){key}-(?P<{key}>{LABEL}))?" for key in ENTITIES)
    + rf"_(?P<suffix>{'|'.join(MODALITIES)})\.nii(?:\.gz)?"
)
NUMBERS = ("run", "echo", "chunk")
POINTERS = (b"/annex/objects/", b"version https://git-lfs")  # begin files that are not fetched
LONGEST_POINTER = 1024  # bytes


@dataclass(frozen=True)
class Scan:
    """An anatomical scan of a BIDS data set.

    Attributes
    ----------
    root : Path
        The data set.
    relative : str
        Its file, relative to the data set, with forward slashes.
    entities : dict of str to str
        Short name to label, in the order of the file's name.
    modality : str
        Its suffix, in `MODALITIES`.
    others : tuple of str
        Scans of the same session that are harmonized together with it, relative to the data set.
    """

    root: Path
    relative: str
    entities: dict[str, str]
    modality: str
    others: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The file."""
        return self.root / self.relative

    @property
    def stem(self) -> str:
        """Entities as in the file's name, which begins those of all outputs."""
        return "_".join(f"{key}-{label}" for key, label in self.entities.items())

    @property
    def name(self) -> str:
        """The file's name without its ending: unique in the data set."""
        return f"{self.stem}_{self.modality}"

    def is_fetched(self) -> bool:
        """Tell whether the content is there: no dangling link, no pointer of git-annex or LFS."""
        if not self.path.exists():
            return False
        if self.path.stat().st_size > LONGEST_POINTER:
            return True
        with self.path.open("rb") as stream:
            return not stream.read(LONGEST_POINTER).startswith(POINTERS)


@dataclass(frozen=True)
class Selection:
    """Which scans are wanted; an empty field stands for all.

    Attributes
    ----------
    participants, sessions : tuple of str
        Labels, with or without "sub-" or "ses-".
    modalities : tuple of str
        Names in `MODALITIES`.
    filters : mapping
        From `read_filters`.
    """

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    filters: Mapping[str, Mapping[str, Any]] | None = None

    def wants(self, scan: Scan) -> bool:
        """Tell whether a scan is wanted."""
        return (
            _among(scan.entities["sub"], self.participants, "sub-")
            and _among(scan.entities.get("ses"), self.sessions, "ses-")
            and _among(scan.modality, self.modalities, "")
            and all(
                _agrees(scan, entity, wanted)
                for entity, wanted in (self.filters or {}).get(scan.modality.lower(), {}).items()
            )
        )


def _among(label: str | None, wanted: tuple[str, ...], prefix: str) -> bool:
    return not wanted or label in {each.removeprefix(prefix) for each in wanted}


def _agrees(scan: Scan, entity: str, wanted: Any) -> bool:
    if entity == "datatype":
        label: str | None = "anat"
    elif entity == "suffix":
        label = scan.modality
    elif entity == "extension":
        label = scan.path.name.removeprefix(scan.name)
    else:
        label = scan.entities.get(next(key for key, name in ENTITIES.items() if name == entity))
    if wanted == "*":
        return label is not None
    for each in wanted if isinstance(wanted, list) else [wanted]:
        if each is None or label is None:
            agrees = each is label
        elif entity in NUMBERS and label.isdecimal() and str(each).isdecimal():
            agrees = label.lstrip("0") == str(each).lstrip("0")
        else:
            agrees = label == str(each)
        if agrees:
            return True
    return False


def read_filters(path: Path) -> dict[str, dict[str, Any]]:
    """Read a BIDS filter file, as fMRIPrep and MRIQC have it.

    Parameters
    ----------
    path : Path
        JSON: a query ("t1w", "t2w", "flair", "pdw"; others are for other programs) to long names of
        entities to a label, a list of labels, null for scans without the entity, or "*" for any.

    Returns
    -------
    filters : dict
        Queries in lower case.

    Raises
    ------
    InputError
        If it is not such a file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "filter.json"
    ...     _ = path.write_text('{"t1w": {"session": "01", "acquisition": null}}')
    ...     read_filters(path)
    {'t1w': {'session': '01', 'acquisition': None}}
    """
    content = read_json(path)
    queries = {query.lower(): wanted for query, wanted in (content or {}).items()}
    if content is None or not all(isinstance(wanted, dict) for wanted in queries.values()):
        msg = f'{path}: not a filter such as {{"t1w": {{"session": "01"}}}}. Correct the JSON.'
        raise InputError(msg, "filters")
    known = (*ENTITIES.values(), "datatype", "suffix", "extension")
    for query in {name.lower() for name in MODALITIES} & set(queries):
        for entity in queries[query]:
            if entity not in known:
                msg = f"{path}: unknown entity {entity!r}. Use {', '.join(known)}."
                raise InputError(msg, "filters")
    return queries


@dataclass(frozen=True)
class Found:
    """What was found in a data set.

    Attributes
    ----------
    scans : tuple of Scan
        Scans to harmonize, sorted by subject, session and name.
    missing : tuple of Scan
        Wanted scans whose content was not fetched.
    left_out : dict of str to str
        Files with the name of a wanted modality that are no such scans, relative to the data set,
        to the reason.
    """

    scans: tuple[Scan, ...]
    missing: tuple[Scan, ...]
    left_out: dict[str, str]


def by_session(scans: Iterable[Scan]) -> tuple[Scan, ...]:
    """Put the scans of each session together, the first contrast of `MODALITIES` first.

    Parameters
    ----------
    scans : iterable of Scan
        Sorted by subject and session.

    Returns
    -------
    sessions : tuple of Scan
        One scan a session, with the others.
    """
    order = list(MODALITIES)
    sessions: dict[tuple[str | None, str | None], list[Scan]] = {}
    for scan in scans:
        key = (scan.entities.get("sub"), scan.entities.get("ses"))
        sessions.setdefault(key, []).append(scan)
    found = []
    for own in sessions.values():
        first, *others = sorted(own, key=lambda scan: (order.index(scan.modality), scan.name))
        relative = tuple(other.relative for other in others)
        found.append(dataclasses.replace(first, others=relative))
    return tuple(found)


def find_scans(folder: Path, selection: Selection) -> Found:
    """Find the scans of a BIDS data set that are wanted.

    Parameters
    ----------
    folder : Path
        The data set; nothing is written to it.
    selection : Selection
        Which scans.

    Returns
    -------
    found : Found

    Raises
    ------
    InputError
        If it is no BIDS data set, a participant or session is not in it, or nothing is wanted.
    """
    if not folder.is_dir():
        msg = f"{folder}: no such folder. Give a BIDS data set."
        raise InputError(msg, "bids_dir")
    subjects = _labels(folder, "sub-")
    if not subjects:
        msg = f"{folder}: has no folders sub-*. Give the root of a BIDS data set."
        raise InputError(msg, "bids_dir")
    _check_known(selection.participants, subjects, "sub-", folder, "participants")
    left_out: dict[str, str] = {}
    every = list(_scans(folder.resolve(), subjects, left_out))
    sessions = {scan.entities["ses"] for scan in every if "ses" in scan.entities}
    _check_known(selection.sessions, sessions, "ses-", folder, "sessions")
    wanted: dict[str, Scan] = {}
    for scan in filter(selection.wants, every):
        if scan.entities.get("part", "mag") != "mag":
            left_out[scan.relative] = "not a magnitude image"
        elif scan.name in wanted:
            left_out[scan.relative] = f"the same name as {wanted[scan.name].relative}"
        else:
            wanted[scan.name] = scan
    if not wanted:
        msg = f"{folder}: no scan fits. Check the labels, the modalities and the filter."
        raise InputError(msg)
    fetched = {name: scan.is_fetched() for name, scan in wanted.items()}
    return Found(
        tuple(scan for name, scan in wanted.items() if fetched[name]),
        tuple(scan for name, scan in wanted.items() if not fetched[name]),
        left_out,
    )


def _labels(folder: Path, prefix: str) -> list[str]:
    found = (path for path in folder.glob(f"{prefix}*") if path.is_dir())
    return sorted(path.name.removeprefix(prefix) for path in found)


def _check_known(
    wanted: Iterable[str], known: Iterable[str], prefix: str, folder: Path, argument: str
) -> None:
    unknown = {each.removeprefix(prefix) for each in wanted} - set(known)
    if unknown:
        msg = f"{folder}: has no {prefix}{min(unknown)}. Check the label."
        raise InputError(msg, argument)


def _scans(root: Path, subjects: list[str], left_out: dict[str, str]) -> Iterator[Scan]:
    for subject in subjects:
        folder = root / f"sub-{subject}"
        places = {None: folder} | {ses: folder / f"ses-{ses}" for ses in _labels(folder, "ses-")}
        for session, place in places.items():
            for path in sorted((place / "anat").glob("*.nii*"), key=_order):
                relative = path.relative_to(root).as_posix()
                match = NAME.fullmatch(path.name)
                labels = match.groupdict() if match else {}
                if labels.get("sub") == subject and labels.get("ses") == session:
                    suffix = labels.pop("suffix")
                    entities = {key: label for key, label in labels.items() if label is not None}
                    yield Scan(root, relative, entities, suffix)
                elif path.name.split(".")[0].endswith(tuple(f"_{name}" for name in MODALITIES)):
                    left_out[relative] = "not a BIDS name in its folder"


def _order(path: Path) -> tuple[str, bool]:
    """Order by name, compressed files first."""
    return path.name.split(".")[0], path.suffix != ".gz"
