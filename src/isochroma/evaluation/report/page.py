"""The report as one self-contained HTML page: tables of all methods, where ours loses, figures."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from isochroma.evaluation.measures import PARTS
from isochroma.evaluation.report.figures import Captioned
from isochroma.evaluation.report.tables import losses, tables
from isochroma.evaluation.summary import Summary
from isochroma.files import write_atomically


def write_page(path: Path, summary: Summary, figures: Mapping[str, Sequence[Captioned]]) -> None:
    """Write the page.

    Parameters
    ----------
    path : Path
        The HTML file.
    summary : Summary
        The outcome of the evaluation.
    figures : mapping of str to sequence of (str, Figure)
        Captions and figures by part.
    """
    parts = []
    for part in PARTS.values():
        chosen = [record for record in summary.records if record["part"] == part.name]
        if chosen:
            shown = [
                {"caption": caption, "png": png(figure)}
                for caption, figure in figures.get(part.name, [])
            ]
            parts.append(
                {
                    "title": part.title,
                    "about": part.about,
                    "tables": tables(chosen),
                    "figures": shown,
                }
            )
    template = jinja2.Template(
        Path(__file__).with_name("page.html.j2").read_text(),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = template.render(
        **dataclasses.asdict(summary),
        parts=parts,
        losses=losses(summary.records, summary.ours),
    )
    write_atomically(path, lambda temporary: temporary.write_text(page))


def png(figure: Figure) -> str:
    """Return the figure as base64 PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return base64.b64encode(buffer.getvalue()).decode()
