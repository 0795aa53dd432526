"""The figures of the report: histograms, boxes, ages, slices."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from isochroma.evaluation.measures.age import FEATURES
from isochroma.evaluation.methods import Method
from isochroma.evaluation.study import Scan
from isochroma.evaluation.workspace import Workspace

logger = logging.getLogger(__name__)

Captioned = tuple[str, Figure]
Measured = Mapping[str, tuple[Method, Sequence[Scan]]]  # fitted methods and their scans
THIN = 20  # every 20th voxel is enough for a histogram
TARGET_SCANS = 10


def draw(
    work: Workspace, measured: Measured, sources: Sequence[Scan], rows: pd.DataFrame
) -> dict[str, list[Captioned]]:
    """Draw every figure that the results allow.

    Parameters
    ----------
    work : Workspace
        The study's scans and outputs.
    measured : mapping of str to (Method, sequence of Scan)
        The methods, fitted, and the scans that each was run on.
    sources : sequence of Scan
        The scans that harmonization should change.
    rows : DataFrame
        The table of results.csv.

    Returns
    -------
    figures : dict of str to list of (str, Figure)
        Captions and figures by part of the report. What cannot be read is left out and logged.
    """
    figures: dict[str, list[Captioned]] = {}
    found = all_histograms(work, measured, sources)
    if found is not None:
        figures["closeness"] = [found]
    dice = rows[rows["measure"] == "dice mean"]
    if len(dice):
        caption = "Mean Dice of each scan, tissue network."
        figures["segmentation"] = [(caption, boxes(dice, "Dice"))]
    ages = {scan.scan: scan.age for scan in (*work.train, *work.scans)}
    for kind in FEATURES:
        predicted = rows[rows["measure"] == f"predicted, {kind}"]
        if len(predicted):
            learned = predicted["group"].str.replace(" to .*|, cross-validated", "", regex=True)
            largest = learned.mode()[0]
            shown = predicted[learned == largest].assign(age=predicted["scan"].map(ages))
            caption = f"Predicted and true age, from {kind}, learned from {largest}."
            figures.setdefault("age", []).append((caption, age_scatter(shown)))
    for part, scans in montage_scans(sources).items():
        shown = (outputs_of(work, measured, scan) for scan in scans)
        figures[part] = [captioned for captioned in shown if captioned is not None]
    return figures


@contextmanager
def logged(scan: Scan, method: str) -> Iterator[None]:
    """Log a failure of the body: a figure that lacks something is no reason to lose the report."""
    try:
        yield
    except Exception as error:
        logger.warning("%s, %s, figure: %s", scan.scan, method, error)


def all_histograms(
    work: Workspace, measured: Measured, sources: Sequence[Scan]
) -> Captioned | None:
    """Draw histograms of the T1w source scans under every method that got them all."""
    scans = [scan for scan in sources if not scan.preset and scan.contrast == "T1w"]
    drawn: dict[str, dict[str, list[np.ndarray]]] = {}
    for name, (method, known) in measured.items():
        for scan in scans if set(scans) <= set(known) else []:
            with logged(scan, name):
                values = work.output(method, scan).values[::THIN]
                drawn.setdefault(name, {}).setdefault(scan.site, []).append(values)
    if not drawn:
        return None
    target = [scan.image[scan.mask][::THIN] for scan in work.target[:TARGET_SCANS]]
    joined = {
        method: {site: np.concatenate(values) for site, values in sites.items()}
        for method, sites in drawn.items()
    }
    caption = "Histograms of the T1w source scans, and of target training scans (grey)."
    return caption, histograms(np.concatenate(target), joined)


def montage_scans(sources: Sequence[Scan]) -> dict[str, list[Scan]]:
    """Choose one scan of each simulated contrast, and one co-registered set, by part."""
    chosen: dict[str, Scan] = {}
    for scan in sources:
        if scan.truth is not None:
            chosen.setdefault(scan.contrast, scan)
    together = [scan for scan in sources if scan.grid]
    return {
        "truth": list(chosen.values()),
        "pairs": [scan for scan in together if scan.grid == together[0].grid],
    }


def outputs_of(work: Workspace, measured: Measured, scan: Scan) -> Captioned | None:
    """Draw slices of every method's output for one scan, black outside the brain."""
    volumes, truth = {}, None
    for name, (method, known) in measured.items():
        if scan in known:
            with logged(scan, name):
                case = work.case(scan)
                brain = case.prepared.mask
                volumes[name] = np.where(brain, work.volume(method, case), -1)
                truth = None if case.truth is None else np.where(brain, case.truth, -1)
    if not volumes:
        return None
    rest = "." if truth is None else ", and below their differences from the truth."
    return f"{scan.scan}: outputs{rest}", montage(volumes, truth)


def histograms(
    target: np.ndarray, outputs: dict[str, dict[str, np.ndarray]], bins: int = 80
) -> Figure:
    """Draw in-mask histograms of each site, one panel for each method, the target's in grey.

    Parameters
    ----------
    target : (N,) ndarray
        Target intensities, model units.
    outputs : dict of str to dict of str to (N,) ndarray
        Intensities by method and site, model units.
    bins : int
        Bins over [-1.1, 1.1].

    Returns
    -------
    figure : Figure
        Not shown anywhere yet.
    """
    edges = np.linspace(-1.1, 1.1, bins + 1)
    figure = Figure(figsize=(3.2 * len(outputs), 2.6))
    axes = figure.subplots(1, len(outputs), sharey=True, squeeze=False)[0]
    for axis, (method, sites) in zip(axes, outputs.items(), strict=True):
        axis.hist(target, edges, density=True, color="0.8", label="target")
        for site, values in sites.items():
            axis.hist(values, edges, density=True, histtype="step", label=site)
        axis.set_title(method, fontsize=9)
        axis.set_xlabel("model units", fontsize=8)
        axis.set_yticks([])
    axes[0].legend(fontsize=6)
    return figure


def boxes(values: pd.DataFrame, label: str) -> Figure:
    """Draw boxes of the column `value` by method, one panel for each group, each scan a dot."""
    groups = list(dict.fromkeys(values["group"]))
    methods = list(dict.fromkeys(values["method"]))
    figure = Figure(figsize=(max(4.0, 0.6 * len(methods) + 1) * len(groups), 3.2))
    axes = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axis, group in zip(axes, groups, strict=True):
        chosen = values[values["group"] == group]
        drawn = [chosen[chosen["method"] == method]["value"].to_numpy() for method in methods]
        axis.boxplot(drawn, showfliers=False)
        for place, dots in enumerate(drawn, 1):
            axis.plot(np.full(len(dots), place), dots, ".", color="0.4", markersize=3)
        axis.set_xticks(range(1, len(methods) + 1), methods, rotation=45, ha="right", fontsize=7)
        axis.set_title(group, fontsize=9)
    axes[0].set_ylabel(label, fontsize=8)
    return figure


def age_scatter(predictions: pd.DataFrame) -> Figure:
    """Draw predicted against true age (columns value, age), one panel for each method."""
    methods = list(dict.fromkeys(predictions["method"]))
    figure = Figure(figsize=(2.4 * len(methods), 2.6))
    axes = figure.subplots(1, len(methods), sharex=True, sharey=True, squeeze=False)[0]
    limits = [predictions["age"].min() - 3, predictions["age"].max() + 3]
    for axis, method in zip(axes, methods, strict=True):
        for group, chosen in predictions[predictions["method"] == method].groupby("group"):
            axis.plot(chosen["age"], chosen["value"], ".", label=group)
        axis.plot(limits, limits, color="0.7", linewidth=0.8)
        axis.set_title(method, fontsize=8)
        axis.set_xlabel("age", fontsize=8)
    axes[0].set_ylabel("predicted age", fontsize=8)
    axes[0].legend(fontsize=6)
    return figure


def montage(volumes: dict[str, np.ndarray], truth: np.ndarray | None = None) -> Figure:
    """Draw middle slices of each volume (model units) and their differences from the truth."""
    rows = 3 if truth is None else 6
    names = list(volumes) if truth is None else ["truth", *volumes]
    shown = volumes if truth is None else {"truth": truth, **volumes}
    figure = Figure(figsize=(1.7 * len(names), 1.9 * rows))
    axes = figure.subplots(rows, len(names), squeeze=False)
    for column, name in enumerate(names):
        axes[0][column].set_title(name, fontsize=8)
        for axis in range(3):
            plane = middle(shown[name], axis)
            axes[axis][column].imshow(plane, cmap="gray", vmin=-1, vmax=1)
            if truth is not None:
                gap = plane - middle(truth, axis)
                axes[3 + axis][column].imshow(gap, cmap="RdBu_r", vmin=-1, vmax=1)
    for axis in axes.ravel():
        axis.axis("off")
    if truth is not None:
        shades = ScalarMappable(Normalize(-1, 1), "RdBu_r")
        bar = figure.colorbar(shades, ax=axes[3:], shrink=0.8, aspect=40, pad=0.01)
        bar.set_label("output - truth, model units", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return figure


def middle(volume: np.ndarray, axis: int) -> np.ndarray:
    """Return the middle slice across an axis, upright."""
    return np.take(volume, volume.shape[axis] // 2, axis).T[::-1]
