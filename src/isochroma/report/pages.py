"""What all pages share: templates, style, drawings, and the files beside them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from isochroma.files import write_atomically
from isochroma.version import __version__

HERE = Path(__file__).parent
SHARED = "figures"  # folder of the files that all pages load
NIIVUE = f"{SHARED}/niivue.umd.js"
BIBLIOGRAPHY = f"{SHARED}/isochroma.bib"
COLOURS = ("#3b76b5", "#d1692c", "#3c9256", "#8d5bb5", "#b03a5b", "#6b6f76", "#a08a1f", "#2f9c9c")

REFERENCES = f"""@software{{isochroma,
  author = {{{{The isochroma developers}}}},
  title = {{isochroma: blind 3D harmonization of brain MR scans}},
  version = {{{__version__}}}
}}
@article{{jeong2025,
  author = {{Jeong, Hwihun and others}},
  title = {{Efficient and robust 3D blind harmonization for large domain gaps}},
  journal = {{arXiv:2505.00133}},
  year = {{2025}}
}}
@article{{canny1986,
  author = {{Canny, John}},
  doi = {{10.1109/TPAMI.1986.4767851}},
  year = {{1986}}
}}
@article{{tustison2010,
  author = {{Tustison, Nicholas J. and others}},
  doi = {{10.1109/TMI.2010.2046908}},
  year = {{2010}}
}}
@article{{fisch2024,
  author = {{Fisch, Lukas and others}},
  doi = {{10.1016/j.compbiomed.2024.108845}},
  year = {{2024}}
}}
"""


def render(template: str, **values: Any) -> str:
    """Fill a template of this folder; the style is in every page.

    Parameters
    ----------
    template : str
        Its name.
    **values : object
        What it names.

    Returns
    -------
    page : str
        HTML.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    style = Markup((HERE / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(style=style, version=__version__, **values)


def write_shared(folder: Path) -> None:
    """Write the files that all pages of a derivative load: the viewer and the references."""
    place = folder / SHARED
    place.mkdir(parents=True, exist_ok=True)
    for name in ("niivue.umd.js", "niivue.LICENSE.txt"):
        write_atomically(place / name, partial(shutil.copyfile, HERE / name))
    write_atomically(folder / BIBLIOGRAPHY, lambda to: to.write_text(REFERENCES, encoding="utf-8"))


def curves(
    x: np.ndarray, shown: Mapping[str, np.ndarray], label: str, width: int = 420, height: int = 190
) -> Markup:
    """Draw curves over one axis as SVG.

    Parameters
    ----------
    x : (N,) ndarray of float
        Ascending.
    shown : mapping of str to (N,) ndarray of float
        Curves by name, at least 0.
    label : str
        Of the axis.
    width, height : int
        Pixels.

    Returns
    -------
    svg : Markup
    """
    top = max((float(np.max(curve)) for curve in shown.values()), default=1.0) or 1.0
    left, bottom, head = 8, height - 22, 8 + 15 * -(-len(shown) // 3)
    across = left + (x - x[0]) / (x[-1] - x[0]) * (width - 2 * left)
    parts = [f'<line x1="{left}" x2="{width - left}" y1="{bottom}" y2="{bottom}" stroke="#999"/>']
    for number, (name, curve) in enumerate(shown.items()):
        colour = COLOURS[number % len(COLOURS)]
        up = bottom - np.asarray(curve) / top * (bottom - head)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, up, strict=True))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
        )
        at, line = left + 130 * (number % 3), 12 + 15 * (number // 3)
        parts.append(f'<rect x="{at}" y="{line - 8}" width="9" height="9" fill="{colour}"/>')
        parts.append(f'<text x="{at + 13}" y="{line}">{escape(name)}</text>')
    parts.append(f'<text x="{left}" y="{height - 6}">{escape(label)}</text>')
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return Markup(f'<svg {size} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>')
