"""The pages of a derivative, from the files that its scans have left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from isochroma.cohort.derivative import describe_entities, session_outputs, stem_of
from isochroma.cohort.group import MISSING, read_reports
from isochroma.errors import InputError
from isochroma.models.config import TargetDomain
from isochroma.outputs import OutputFiles
from isochroma.report import group as group_page
from isochroma.report import participant as participant_page
from isochroma.report.pages import write_shared
from isochroma.report.scan import Files, write_scan
from isochroma.tables import read_json


def report_scan(files: OutputFiles, source: Path, target: TargetDomain) -> None:
    """Write the figures and measures of a finished scan.

    Parameters
    ----------
    files : OutputFiles
        Of the scan.
    source : Path
        The scan.
    target : TargetDomain
        Of the model that made it.
    """
    shown = Files(
        source=source,
        image=files.image,
        mask=files.mask,
        uncertainty=files.uncertainty,
        folder=files.preview.parent,
        stem=stem_of(files.image),
    )
    write_scan(shown, target, session_outputs(files))


def write_pages(folder: Path, rows: list[dict[str, str]], title: str) -> Path:
    """Write a page for each participant, and one for all scans.

    Parameters
    ----------
    folder : Path
        The derivative.
    rows : list of dict of str to str
        From `group.group_rows`.
    title : str
        Heading of the page of all scans.

    Returns
    -------
    path : Path
        The page of all scans.
    """
    write_shared(folder)
    reports = read_reports(folder)
    people: dict[str, list[participant_page.Shown]] = {}
    lines = []
    for row in rows:
        known = {key: "" if value == MISSING else value for key, value in row.items()}
        person = known["participant_id"]
        shown = _shown(folder, known, reports)
        people.setdefault(person, []).append(shown)
        lines.append(
            group_page.Row(
                participant=person,
                title=shown.title,
                site=known["site"],
                modality=known["modality"],
                status=known["status"],
                warnings=known["warnings"].replace(",", ", "),
                failure=known["failure"],
                page=f"{person}.html#{shown.name}",
                sidecar=shown.sidecar,
                report=shown.report,
            )
        )
    for person, scans in people.items():
        try:
            participant_page.write_page(folder / f"{person}.html", person, scans)
        except (LookupError, TypeError, ValueError, AttributeError, TemplateError) as error:
            msg = f"{folder / person}: not all sidecars are of this program. Run it again."
            raise InputError(msg, "out_dir") from error
    return group_page.write_page(folder / "group.html", title, lines)


def _shown(
    folder: Path, row: dict[str, str], reports: dict[str, dict[str, Any]]
) -> participant_page.Shown:
    output = folder / row["output"] if row["output"] else None
    title = describe_entities(row["source"])
    if output is None:
        name = Path(row["source"]).name.partition(".")[0]
        return participant_page.Shown(name, title, row["source"], failure=row["failure"])
    name = stem_of(output)
    figures = folder / row["participant_id"] / "figures" / name
    viewer = figures.with_name(f"{name}_view.js")
    return participant_page.Shown(
        name=name,
        title=title,
        source=row["source"],
        sidecar=read_json(output.with_name(f"{name}.json")) or {},
        report=reports.get(name, {}),
        figures=figures.relative_to(folder),
        viewer_bytes=viewer.stat().st_size if viewer.is_file() else 0,
        failure=row["failure"],
    )
