"""The report as one self-contained HTML page: verdict, worst scans, tables, figures."""

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
from PIL import Image

from isochroma.evaluation.measures import PARTS
from isochroma.evaluation.report.figures import Captioned
from isochroma.evaluation.report.tables import tables
from isochroma.evaluation.report.verdict import unjudged, verdicts
from isochroma.evaluation.report.worst import JUDGED, WorstCase
from isochroma.evaluation.summary import Summary
from isochroma.files import write_atomically


def write_page(
    path: Path,
    summary: Summary,
    figures: Mapping[str, Sequence[Captioned]],
    worst: Sequence[tuple[WorstCase, Image.Image]] = (),
) -> None:
    """Write the page.

    Parameters
    ----------
    path : Path
        The HTML file.
    summary : Summary
        The outcome of the evaluation.
    figures : mapping of str to sequence of (str, Figure)
        Captions and figures by part.
    worst : sequence of (WorstCase, Image)
        The scans that the method of the verdict harms most.
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
                    "tables": tables(chosen, summary.reference, (summary.ours, summary.reference)),
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
        verdicts=verdicts(summary.records, summary.ours, summary.others),
        unjudged=unjudged(summary.records),
        worst=[{"case": case, "jpeg": jpeg(picture)} for case, picture in worst],
        judged=[part.title for part in JUDGED],
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


def jpeg(picture: Image.Image) -> str:
    """Return a picture as base64 JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
