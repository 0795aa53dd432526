"""The page of a participant: what became of each scan, with slices, volumes and warnings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from isochroma.files import write_atomically
from isochroma.images.histogram import bin_centres, smoothed
from isochroma.report.pages import BIBLIOGRAPHY, NIIVUE, curves, render
from isochroma.version import __version__

KEPT_APART = ("Warnings", "Seconds", "Sources", "GeneratedBy", "Description", "DoubtfulRegions")


@dataclass(frozen=True)
class Shown:
    """A scan, as its page shows it.

    Attributes
    ----------
    name, title : str
        The stem of its outputs, and its session and contrast in words.
    source : str
        The scan, relative to the data set.
    sidecar : dict
        Of the harmonized image; empty if there is none.
    report : dict
        From `scan.measures`, with "Agreement"; empty if the figures are missing.
    figures : Path or None
        Beginning of the figures' names, relative to the page.
    viewer_bytes : int
        Size of the viewer's data.
    failure : str
        Why there is no output.
    """

    name: str
    title: str
    source: str
    sidecar: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    figures: Path | None = None
    viewer_bytes: int = 0
    failure: str = ""


def write_page(path: Path, person: str, scans: Sequence[Shown]) -> Path:
    """Write the page of a participant.

    Parameters
    ----------
    path : Path
        The HTML file.
    person : str
        Such as "sub-01".
    scans : sequence of Shown
        In the order of the page.

    Returns
    -------
    path : Path
    """
    page = render(
        "participant.html.j2",
        person=person,
        scans=[_filled(scan, {each.name: each.title for each in scans}) for scan in scans],
        methods=methods([scan.sidecar for scan in scans if scan.sidecar]),
        niivue=NIIVUE,
        bibliography=BIBLIOGRAPHY,
    )
    return write_atomically(path, lambda to: to.write_text(page, encoding="utf-8"))


def _filled(scan: Shown, titles: dict[str, str]) -> dict[str, Any]:
    report = scan.report
    settings = {key: value for key, value in scan.sidecar.items() if key not in KEPT_APART}
    return {
        "name": scan.name,
        "title": scan.title,
        "source": scan.source,
        "sidecar": scan.sidecar,
        "failure": scan.failure,
        "figures": scan.figures.as_posix() if scan.figures and report else "",
        "viewer_mb": f"{scan.viewer_bytes / 1e6:.0f}",
        "settings": json.dumps(settings, indent=1),
        "histogram": _histogram(report) if report else "",
        "measures": _measures(report, scan.sidecar) if report else [],
        "agreement": [
            (titles.get(name, name), value) for name, value in report.get("Agreement", {}).items()
        ],
    }


def _histogram(report: dict[str, Any]) -> Markup:
    shown = {
        name: smoothed(report["Histogram"][key])
        for name, key in (("source", "Source"), ("harmonized", "Output"), ("target", "Target"))
        if report["Histogram"].get(key)
    }
    return curves(bin_centres(), shown, "intensity in the brain, from its lowest to its highest")


def _measures(report: dict[str, Any], sidecar: dict[str, Any]) -> list[tuple[str, str, str]]:
    before, after = report["Source"], report["Output"]

    def row(label: str, key: str, form: str) -> tuple[str, str, str]:
        values = [each[key] for each in (before, after)]
        first, second = ("-" if value is None else format(value, form) for value in values)
        return label, first, second

    rows = [
        row("distance of the histogram to the target's", "DistanceToTarget", ".3f"),
        row("grey/white contrast over spread", "GreyWhiteContrast", ".2f"),
        row("noise, share of the range", "Noise", ".3f"),
    ]
    for label, key in (
        ("explained by edges", "ExplainedShare"),
        ("expected error", "ExpectedError"),
    ):
        value = sidecar.get(key)
        if value is not None:
            rows.append((label, "", f"{value:.3f}"))
    return rows


def methods(sidecars: Sequence[dict[str, Any]]) -> str:
    """Write the paragraph that a paper's methods section needs, with this run's own settings.

    Parameters
    ----------
    sidecars : sequence of dict
        Of the harmonized images.

    Returns
    -------
    text : str
        Empty without images.
    """
    if not sidecars:
        return ""
    first = sidecars[0]
    sampling, preprocessing = first["Sampling"], first["Preprocessing"]
    versions = sorted({each["GeneratedBy"]["Version"] for each in sidecars})
    masks = sorted({each["MaskOrigin"] for each in sidecars})
    found = {
        "deepbet": "found by deepbet (Fisch et al. 2024)",
        "stripped": "taken from skull-stripped scans",
        "given": "given",
    }
    bias = (
        "The bias field was corrected by N4 (Tustison et al. 2010) in SimpleITK."
        if preprocessing["n4"]
        else "The bias field was not corrected."
    )
    weights = first["ModelSHA256"][:12]
    second = ""
    if sampling["revise"]:
        own = first.get("ReviserSHA256")
        by = f"a second network (SHA-256 of its weights {own[:12]}...)" if own else "the same one"
        second = f", corrected in a second stage by {by}"
    isotropic = first.get("Grid") == "model"
    grid = "isotropic voxels over the scan's field of view" if isotropic else "the scan's own grid"
    steps = "one step" if sampling["steps"] == 1 else f"{sampling['steps']} steps"
    return (
        f"Scans were harmonized by isochroma {', '.join(versions)} (page made by {__version__}) "
        f"with the model '{first['Model']}' (SHA-256 of its weights {weights}...), an "
        "implementation of blind 3D harmonization by a rectified flow from edges (Jeong et al. "
        "2025) with changes of its own. Brain masks were "
        f"{' or '.join(found.get(each, each) for each in masks)}. {bias} Scans were resampled to "
        f"{preprocessing['spacing_mm']:g} mm in their own orientation, without registration, and "
        f"their intensities scaled between the {preprocessing['lower_percentile']:g} and "
        f"{preprocessing['upper_percentile']:g} percentiles in the mask. A 3D Canny edge map "
        f"(Canny 1986; sigma {first['Edges']['sigma']:g} voxels, edges of "
        f"{first['Edges']['fraction']:.0%} of the brain) was turned into an image by {steps} of "
        f"the {sampling['solver']} solver, refined against the scan (refinement "
        f"'{sampling['refine']}'){second}, and resampled to {grid}."
    )
