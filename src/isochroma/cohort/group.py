"""The group level: one table of all scans of a derivative."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from isochroma.cohort.derivative import FAILED, stem_of
from isochroma.cohort.plan import ENTITIES, NAME
from isochroma.errors import InputError, printable
from isochroma.files import write_atomically
from isochroma.report.scan import is_measured
from isochroma.tables import read_json, read_table, read_text

TABLE = "group.tsv"
MISSING = "n/a"
REPORT = "_report.json"

MEASURES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "brain_ml": lambda sidecar: sidecar["BrainVolumeMl"],
    "explained_share": lambda sidecar: sidecar["ExplainedShare"],
    "white_matter_mode": lambda sidecar: sidecar["WhiteMatterMode"]["Output"],
    "white_matter_mode_target": lambda sidecar: sidecar["WhiteMatterMode"].get("Target"),
    "source_lower": lambda sidecar: sidecar["SourceLimits"][0],
    "source_upper": lambda sidecar: sidecar["SourceLimits"][1],
    "seconds": lambda sidecar: round(sum(sidecar["Seconds"].values()), 1),
}
"""Columns of the table that come from a sidecar."""


def group_rows(folder: Path, participants: Path | None = None) -> list[dict[str, str]]:
    """Collect what happened to every scan of a derivative.

    Parameters
    ----------
    folder : Path
        The derivative.
    participants : Path, optional
        A participants.tsv, whose column `site` is taken over.

    Returns
    -------
    rows : list of dict of str to str
        One for each scan, sorted by source: its entities, `site`, `modality`, `status` ("done" or
        "failed"), `warnings` (codes), `failure`, `agreement` (the least with another scan of the
        session), `source` (relative to the data set), `output`
        (relative to the derivative) and the columns of `MEASURES`; "n/a" where there is none.

    Raises
    ------
    InputError
        If nothing was harmonized there.
    """
    sites = {}
    if participants is not None and participants.is_file():
        for row in read_table(participants, ("participant_id",)):
            sites[row["participant_id"]] = row.get("site") or MISSING
    found: dict[str, dict[str, Any]] = {row["source"]: row for row in _finished(folder)}
    reports = read_reports(folder)
    for entry in found.values():
        known = reports.get(stem_of(Path(entry["output"])), {}).get("Agreement", {}).values()
        entry["agreement"] = min((value for value in known if value is not None), default=None)
    for row in _failures(folder):
        found[row["source"]] = {**found.get(row["source"], {}), **row}
    if not found:
        msg = f"{folder}: holds no harmonized scans. Run the participant level first."
        raise InputError(msg, "out_dir")
    rows = []
    for source, row in sorted(found.items()):
        match = NAME.fullmatch(source.rpartition("/")[2])
        labels = match.groupdict() if match else {}
        named = {name: labels.get(key) for key, name in ENTITIES.items()}
        person = f"sub-{labels.get('sub')}"
        first = {
            "participant_id": person,
            "session_id": f"ses-{labels['ses']}" if labels.get("ses") else None,
            "site": sites.get(person),
            "modality": labels.get("suffix"),
        }
        rest = {name: named[name] for name in list(ENTITIES.values())[2:]}
        values = {**first, **rest, **dict.fromkeys(_columns()), **row}
        shown = (MISSING if value is None else printable(str(value)) for value in values.values())
        rows.append(dict(zip(values, shown, strict=True)))
    return rows


def _columns() -> list[str]:
    return ["status", "warnings", "failure", *MEASURES, "agreement", "source", "output"]


def read_reports(folder: Path) -> dict[str, dict[str, Any]]:
    """Read what the pages show of each scan.

    Parameters
    ----------
    folder : Path
        The derivative.

    Returns
    -------
    reports : dict of str to dict
        By the name of the harmonized image without its ending; each agreement stands in both.
    """
    reports = {}
    for path in sorted(folder.glob(f"sub-*/figures/*{REPORT}")):
        try:
            content = read_json(path)
        except InputError:
            content = None
        if content is not None and is_measured(content):  # else the page says what is missing
            reports[path.name.removesuffix(REPORT)] = content
    for name, report in reports.items():
        for other, value in report["Agreement"].items():
            if other in reports:
                reports[other]["Agreement"].setdefault(name, value)
    return reports


def _finished(folder: Path) -> Iterator[dict[str, Any]]:
    for path in folder.glob("sub-*/**/anat/*_desc-harmonized*.json"):
        sidecar: Any = read_json(path)
        try:
            yield {
                "source": sidecar["Sources"][0].rpartition(":")[2],
                "output": path.relative_to(folder).with_suffix(".nii.gz").as_posix(),
                "status": "done",
                "warnings": ",".join(each["Code"] for each in sidecar["Warnings"]) or None,
                **{name: measure(sidecar) for name, measure in MEASURES.items()},
            }
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            msg = f"{path}: not a sidecar of this program. Remove it, and run again."
            raise InputError(msg) from error


def _failures(folder: Path) -> Iterator[dict[str, Any]]:
    for path in (folder / FAILED).glob("*.txt"):
        lines = read_text(path).splitlines()
        if len(lines) < 2:
            msg = f"{path}: not a note on a scan. Remove it, and run again."
            raise InputError(msg)
        yield {"source": lines[0], "status": "failed", "failure": lines[1]}


def write_group(folder: Path, rows: list[dict[str, str]]) -> Path:
    """Write the table of all scans.

    Parameters
    ----------
    folder : Path
        The derivative.
    rows : list of dict of str to str
        From `group_rows`.

    Returns
    -------
    path : Path
        The table.
    """
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    text = "".join("\t".join(line) + "\n" for line in lines)
    return write_atomically(folder / TABLE, lambda path: path.write_text(text, encoding="utf-8"))
