"""Studies, participants.tsv, and the files of a BIDS data set."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fuzz import mutate
from fuzz.registry import Rng, kind
from isochroma.cohort.derivative import FAILED, check_output, describe_dataset
from isochroma.cohort.group import group_rows, write_group
from isochroma.cohort.plan import Selection, read_filters
from isochroma.cohort.plan import find_scans as find_bids_scans
from isochroma.evaluation.study import FILES, SPLITS, Scan, read_study
from isochroma.training.data import find_scans

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "cp1252")
STUDY = (
    ("path", "site", "scan", "person", "split", "age", "sex", "mask", "core"),
    ("a.nii.gz", "T", "a", "Müller", "train", "31", "F", "", ""),
    ("b.nii.gz", "T", "b", "p2", "train", "40.5", "M", "n/a", ""),
    ("c.nii.gz", "T", "c", "p3", "val", "n/a", "", "", ""),
    ("d.nii.gz", "S", "d", "p4", "", "22", "F", "a.nii.gz", "yes"),
    ("d.nii.gz", "S", "e", "p4", "", "", "", "", ""),
)


def study_folder(folder: Path) -> Path:
    for name in "abcd":
        (folder / f"{name}.nii.gz").write_bytes(b"")
    return folder


def as_text(rows: Any, ending: str = "\n") -> str:
    return "".join("\t".join(row) + ending for row in rows)


def encoded(rng: Rng, text: str) -> bytes:
    encoding = mutate.pick(rng, ENCODINGS)
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")


def decoded(data: bytes) -> str:
    mark = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    known = [name for start, name in mark.items() if data.startswith(start)]
    for encoding in (*known, "utf-8", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeError:
            continue
    return ""


def plausible(scans: list[Scan]) -> bool:
    """What holds for every study, whatever its file says."""
    return len({scan.scan for scan in scans}) == len(scans) and all(
        all(getattr(scan, name) is None or getattr(scan, name).is_file() for name in FILES)
        and scan.split in ("", *SPLITS)
        and (np.isnan(scan.age) or 0 <= scan.age <= 150)
        and isinstance(scan.site + scan.person + scan.contrast + scan.sex, str)
        for scan in scans
    )


def agrees(scans: list[Scan], rows: list[dict[str, str]], folder: Path) -> bool:
    """Whether the cells of a study were read as they stand there."""

    def shown(scan: Scan, name: str) -> str:
        value = getattr(scan, name)
        if name in FILES:
            return "" if value is None else os.path.relpath(value, folder)
        return "" if name == "age" and np.isnan(value) else str(value)

    empty = ("", "n/a", "null", "~")
    for scan, row in zip(scans, rows, strict=True):
        for name, cell in row.items():
            if name == "core" or cell in empty:
                continue
            if name == "age":
                if float(cell) != scan.age and not np.isnan(float(cell)):
                    return False
            elif shown(scan, name) != (os.path.normpath(cell) if name in FILES else cell):
                return False
    return True


@kind("study as TSV", 900)
def study_tsv(rng: Rng, folder: Path) -> bool:
    ending = mutate.pick(rng, ("\n", "\n", "\r\n"))
    rows = [list(row) for row in STUDY]
    changed = rows if rng.random() < 0.1 else mutate.changed_rows(rng, rows)
    data = encoded(rng, as_text(changed, ending))
    if rng.random() < 0.4:
        data = mutate.damaged(rng, data)
    path = study_folder(folder) / "study.tsv"
    path.write_bytes(data)
    scans = read_study(path)
    text = decoded(data)
    if '"' in text or re.search("[\r\n][\r\n]|\r[^\n]", text):
        return plausible(scans)
    lines = [[cell.strip() for cell in line.split("\t")] for line in re.split("\r?\n", text)]
    lines = [line for line in lines if any(line)]
    return plausible(scans) and agrees(
        scans, [dict(zip(lines[0], line, strict=False)) for line in lines[1:]], folder
    )


@kind("study as YAML", 700)
def study_yaml(rng: Rng, folder: Path) -> bool:
    rows: Any = [
        {key: cell for key, cell in zip(STUDY[0], row, strict=True) if cell} for row in STUDY[1:]
    ]
    if rng.random() < 0.6:
        rows = mutate.changed_tree(rng, rows)
    data = encoded(rng, yaml.safe_dump(rows, allow_unicode=True))
    if rng.random() < 0.6:
        data = mutate.damaged(rng, data)
    if rng.random() < 0.2:
        at = int(rng.integers(len(data)))
        data = data[:at] + mutate.pick(rng, mutate.CELLS).encode(errors="replace") + data[at:]
    path = study_folder(folder) / mutate.pick(rng, ("study.yaml", "study.yml"))
    path.write_bytes(data)
    scans = read_study(path)
    known = yaml.load(decoded(data), yaml.BaseLoader)
    return plausible(scans) and agrees(scans, known, folder)


PEOPLE = (
    ("participant_id", "split", "site", "age"),
    ("sub-01", "train", "T", "30"),
    ("sub-02", "train", "T", "31"),
    ("sub-03", "val", "T", "40"),
    ("sub-04", "test", "T", "50"),
)


def people_folder(rng: Rng, folder: Path) -> str:
    """A folder of four people's scans, with a changed participants.tsv; returns its text."""
    for name in "1234":
        anat = folder / f"sub-0{name}" / "anat"
        anat.mkdir(parents=True)
        (anat / f"sub-0{name}_T1w.nii.gz").write_bytes(b"")
    data = encoded(rng, as_text(mutate.changed_rows(rng, [list(row) for row in PEOPLE])))
    if rng.random() < 0.4:
        data = mutate.damaged(rng, data)
    (folder / "participants.tsv").write_bytes(data)
    return decoded(data)


@kind("participants.tsv, training", 700)
def participants(rng: Rng, folder: Path) -> bool:
    text = people_folder(rng, folder)
    found = find_scans(folder)
    names = {split: {path.name[:6] for path in paths} for split, paths in found.items()}
    lines = [[cell.strip() for cell in line.split("\t")] for line in re.split("\r\n|\r|\n", text)]
    rows = [dict(zip(lines[0], line, strict=False)) for line in lines[1:]] if lines else []
    told = {row.get("participant_id"): row["split"] for row in rows if row.get("split")}
    if '"' in text or not told:
        return not names["train"] & names["val"]
    return all(told.get(name) == split for split in names for name in names[split])


@kind("participants.tsv, BIDS", 40, together=1)
def bids(rng: Rng, folder: Path) -> bool:
    people_folder(rng, folder)
    (folder / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    return plausible(read_study(folder))


FILTER = {
    "t1w": {"session": "01", "acquisition": None, "run": [1, "02"], "suffix": "T1w"},
    "t2w": {"reconstruction": "*", "datatype": "anat", "extension": ".nii.gz"},
    "bold": {"task": "rest"},
}


@kind("BIDS filter files", 300)
def filters(rng: Rng, folder: Path) -> bool:
    """None is right that lets through a scan which the filter, read plainly, does not name."""
    anat = folder / "sub-01" / "ses-01" / "anat"
    anat.mkdir(parents=True)
    for run in ("01", "2", "03"):
        (anat / f"sub-01_ses-01_run-{run}_T1w.nii.gz").write_bytes(b"")
    (anat / "sub-01_ses-01_rec-a_T2w.nii.gz").write_bytes(b"")
    tree: Any = FILTER
    for _ in range(rng.integers(1, 3)):
        tree = mutate.changed_tree(rng, tree)
    data = encoded(rng, json.dumps(tree))
    if rng.random() < 0.3:
        data = mutate.damaged(rng, data)
    path = folder / "filter.json"
    path.write_bytes(data)
    found = find_bids_scans(folder, Selection(filters=read_filters(path)))
    queries = {key.lower(): value for key, value in json.loads(decoded(data)).items()}

    def allowed(name: str, entity: str, label: str) -> bool:
        wanted = queries.get(name, {}).get(entity, "*")
        words = [str(each) for each in (wanted if isinstance(wanted, list) else [wanted])]
        return wanted == "*" or any(each.lstrip("0") == label.lstrip("0") for each in words)

    return all(
        allowed(scan.modality.lower(), "session", scan.entities["ses"])
        and allowed(scan.modality.lower(), "run", scan.entities.get("run", "None"))
        for scan in found.scans
    )


SIDECAR = {
    "Source": "sub-01/anat/sub-01_T1w.nii.gz",
    "Sources": ["bids:raw:sub-01/anat/sub-01_T1w.nii.gz"],
    "BrainVolumeMl": 1300.5,
    "ExplainedShare": 0.9,
    "WhiteMatterMode": {"Output": 0.7, "Target": 0.7},
    "SourceLimits": [0, 900],
    "Seconds": {"load": 0.1, "network": 2},
    "Warnings": [{"Code": "a", "Text": "b", "Value": 1}],
}


@kind("BIDS derivatives: sidecars, failures, group level", 300)
def derivatives(rng: Rng, folder: Path) -> bool:
    """Right is a table with a row for each sidecar and failure, with the cells that they have."""
    anat, failed = folder / "sub-01" / "anat", folder / FAILED
    anat.mkdir(parents=True)
    failed.mkdir(parents=True)
    path = anat / "sub-01_desc-harmonized_T1w.json"
    path.write_text(json.dumps(SIDECAR))
    (failed / "sub-02_T1w.txt").write_text("sub-02/anat/sub-02_T1w.nii.gz\nno brain.\nTraceback\n")
    (folder / "participants.tsv").write_text("participant_id\tsite\nsub-01\tA\n")
    action = rng.random()
    if action < 0.5:
        path.write_text(json.dumps(mutate.changed_tree(rng, SIDECAR)))
    else:
        changed = mutate.pick(rng, [path, *failed.iterdir(), folder / "participants.tsv"])
        changed.write_bytes(mutate.damaged(rng, changed.read_bytes()))
    table = write_group(folder, group_rows(folder, folder / "participants.tsv"))
    lines = [line.split("\t") for line in table.read_bytes().decode().split("\n")]
    header, rows, end = lines[0], lines[1:-1], lines[-1]
    whole = end == [""] and all(len(row) == len(header) for row in rows)
    printable = all(cell.isprintable() for row in rows for cell in row)
    said = json.loads(decoded(path.read_bytes()))["BrainVolumeMl"]
    shown = next(dict(zip(header, row, strict=True)) for row in rows if "done" in row)
    cell = "n/a" if said is None else str(said)
    return whole and printable and (shown["brain_ml"] == cell or not cell.isprintable())


DESCRIPTION = {
    "Name": "Müller",
    "BIDSVersion": "1.10.0",
    "DatasetType": "derivative",
    "DatasetDOI": "doi:10.1/2",
    "GeneratedBy": [{"Name": "isochroma", "Version": "0.1"}],
}


@kind("BIDS dataset_description.json", 200)
def descriptions(rng: Rng, folder: Path) -> bool:
    """That of the data set and that of the derivative, of which one is changed."""
    source, out = folder / "raw", folder / "derivative"
    for each in (source, out):
        each.mkdir()
        (each / "dataset_description.json").write_text(json.dumps(DESCRIPTION))
    path = mutate.pick(rng, (source, out)) / "dataset_description.json"
    if rng.random() < 0.6:
        path.write_text(json.dumps(mutate.changed_tree(rng, DESCRIPTION)))
    else:
        path.write_bytes(mutate.damaged(rng, path.read_bytes()))
    check_output(source, out)
    describe_dataset(source, out, "T1w")
    made = json.loads((out / "dataset_description.json").read_bytes())
    generator = made["GeneratedBy"][0]["Name"]
    return bool(made["Name"] and made["DatasetType"] == "derivative" and generator == "isochroma")
