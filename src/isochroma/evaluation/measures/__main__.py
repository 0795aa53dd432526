"""Write the documentation of the measures: python -m isochroma.evaluation.measures FILE."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from isochroma.evaluation.measures import PARTS
from isochroma.evaluation.measures.registry import Measure, Part
from isochroma.evaluation.measures.sample import NEEDS
from isochroma.files import write_atomically


def documentation() -> str:
    """Return the page on all measures, Markdown."""
    lines = [
        "# Measures",
        "",
        "Generated from the registry by `python -m isochroma.evaluation.measures`: edit the "
        "measure's own docstring and registration instead.",
    ]
    for part in PARTS.values():
        lines += ["", *describe(part)]
    lines += ["", "## What the measures need", ""]
    lines += [f"- {name}: {need.text}" for name, need in NEEDS.items()]
    return "\n".join(lines) + "\n"


def describe(part: Part) -> list[str]:
    """Return the lines on one part: its introduction, and a table and text on its measures."""
    module = next(iter(part.measures.values())).compute.__module__
    lines = [f"## {part.title}", "", part.about, "", f"Part `{part.name}`, in `{module}`."]
    lines += ["", "| name | measure | unit | better | of | needs |", "|---|---|---|---|---|---|"]
    for measure in part.measures.values():
        cells = (
            f"`{measure.name}`",
            measure.title,
            measure.unit,
            measure.direction or "neither",
            measure.of,
            ", ".join(measure.needs),
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for text in dict.fromkeys(definition(measure) for measure in part.measures.values()):
        names = [m.name for m in part.measures.values() if definition(m) == text]
        lines.append(f"- {', '.join(f'`{name}`' for name in names)}: {text}")
    return lines


def definition(measure: Measure) -> str:
    """Return a measure's definition, the docstring up to its sections, and its source."""
    text = (inspect.getdoc(measure.compute) or "").split("\n\nParameters\n")[0]
    words = " ".join(text.split()).removeprefix("Return ")
    source = f" Source: {measure.source}." if measure.source else ""
    return words[0].upper() + words[1:] + source


if __name__ == "__main__":
    page = documentation()
    if len(sys.argv) > 1:
        write_atomically(Path(sys.argv[1]), lambda to: to.write_text(page))
    else:
        sys.stdout.write(page)
