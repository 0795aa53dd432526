"""The report as one self-contained HTML page: tables of all methods, where ours loses, figures."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from isochroma.evaluation.measures import PARTS
from isochroma.evaluation.report.figures import Captioned
from isochroma.evaluation.report.tables import losses, tables, verdicts
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
                    "name": part.name,
                    "title": part.title,
                    "about": part.about,
                    "tables": tables(chosen, (summary.ours, summary.reference)),
                    "figures": shown,
                }
            )
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["code"] = code
    template = environment.from_string(Path(__file__).with_name("page.html.j2").read_text())
    page = template.render(
        **dataclasses.asdict(summary),
        parts=parts,
        verdicts=verdicts(summary.records, summary.ours),
        losses=losses(summary.records, summary.ours),
    )
    write_atomically(path, lambda temporary: temporary.write_text(page))


def code(text: str) -> Markup:
    """Escape a text for HTML, and set what stands between backticks as code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def png(figure: Figure) -> str:
    """Return the figure as base64 PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return base64.b64encode(buffer.getvalue()).decode()
