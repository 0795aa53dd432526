"""Scores of the second stage on simulated sources: likeness, regions, lesions, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from refine_torch import ssim
from simulation import BALANCED, PRESETS, RADII
from torch import Tensor

METHODS = ("draft", "second", "default", "new", "kept")  # kept: new after `keep_structure`
BINS = 60  # of log-variance, from -10 to 1
WORST = 0.05  # share of voxels


def family(name: str) -> str:
    """Return the family of a validation source, in which calibration is pooled."""
    return "presets" if name in PRESETS else "bSSFP" if name in BALANCED else "planted"


def score(
    method: str, volume: Tensor, truth: Tensor, mask: Tensor, regions: Mapping[str, Tensor]
) -> dict[str, float]:
    """Compare a volume with the truth.

    Parameters
    ----------
    method : str
        Becomes the first word of the scores' names.
    volume, truth : (I, J, K) Tensor
        Model units.
    mask : (I, J, K) Tensor of bool
        The brain.
    regions : mapping of str to (I, J, K) Tensor of bool
        Where the error is measured apart.

    Returns
    -------
    scores : dict of str to float
        SSIM and root mean square errors.
    """
    error = (volume - truth).square()
    found = {
        f"{method} ssim": ssim(volume, truth, mask),
        f"{method} rmse": float(error[mask].mean().sqrt()),
    }
    for name, region in regions.items():
        if bool(region.any()):
            found[f"{method} {name}"] = float(error[region].mean().sqrt())
    return found


def contrast_kept(
    method: str, volume: Tensor, truth: Tensor, lesions: Mapping[str, Tensor]
) -> dict[str, float]:
    """Compare the contrast of lesions with that in the truth.

    Parameters
    ----------
    method : str
        Becomes the first word of the scores' names.
    volume, truth : (I, J, K) Tensor
        Model units.
    lesions : mapping of str to Tensor
        See `simulation.with_lesions`.

    Returns
    -------
    scores : dict of str to float
        "METHOD contrast PART RADIUS": the median over the lesions of that radius, or "all", of
        core or rim minus the shell of white matter, over the same in the truth.
    """
    if not lesions:
        return {}
    count = len(lesions["radius"]) + 1

    def means(image: Tensor, part: str) -> Tensor:
        label = lesions[part].long()
        there = label > 0
        voxels = torch.bincount(label[there], minlength=count)
        total = torch.bincount(label[there], image[there].double(), minlength=count)
        return (total / voxels)[1:]  # NaN without voxels

    found = {}
    for part in ("core", "rim"):
        after, before = (means(v, part) - means(v, "shell") for v in (volume, truth))
        kept = torch.where(before.abs() > 0.03, after / before, torch.nan)
        for radius in (*RADII, "all"):
            own = kept if radius == "all" else kept[lesions["radius"] == radius]
            found[f"{method} contrast {part} {radius}"] = float(own.nanmedian())
    return found


def calibration(
    mean: Tensor, truth: Tensor, log_variance: Tensor, mask: Tensor
) -> tuple[Tensor, float]:
    """Compare predicted errors with errors.

    Parameters
    ----------
    mean, truth, log_variance : (I, J, K) Tensor
        Prediction, truth and logarithm of the predicted squared error.
    mask : (I, J, K) Tensor of bool
        The brain.

    Returns
    -------
    sums : (3, BINS) Tensor
        By predicted error: voxels, squared errors, predicted standard deviations.
    worst : float
        Share of the squared error in the 5 % of voxels with the largest predicted error.
    """
    squares, known = (mean - truth)[mask].square().double(), log_variance[mask].float()
    deviation = (0.5 * known).exp().double()
    place = ((known + 10) / 11 * BINS).long().clamp(0, BINS - 1)
    sums = torch.zeros(3, BINS, dtype=torch.float64, device=known.device)
    for row, values in enumerate((torch.ones_like(squares), squares, deviation)):
        sums[row].index_add_(0, place, values)
    worst = known.topk(int(WORST * len(known))).indices
    return sums, float(squares[worst].sum() / squares.sum())


def calibration_error(sums: np.ndarray) -> dict[str, Any]:
    """Compute the expected calibration error, over the range of 2 model units.

    Parameters
    ----------
    sums : (3, BINS) ndarray
        See `calibration`.

    Returns
    -------
    found : dict
        The error "ece" and, for each bin that holds voxels, what it is made of.
    """
    voxels, squares, deviations = sums
    there = voxels > 0
    actual = np.sqrt(squares[there] / voxels[there])
    predicted = deviations[there] / voxels[there]
    share = voxels[there] / voxels.sum()
    return {
        "ece": float((share * np.abs(actual - predicted)).sum() / 2),
        "rmse": float(np.sqrt(squares.sum() / voxels.sum())),
        "predicted": [round(float(x), 4) for x in predicted],
        "actual": [round(float(x), 4) for x in actual],
        "share": [round(float(x), 5) for x in share],
    }


def table(means: Mapping[str, Mapping[str, float]], errors: Mapping[str, dict[str, Any]]) -> str:
    """Write mean scores of each source, and calibration errors, as Markdown."""
    heads = [f"{what} {m}" for what in ("SSIM", "RMSE") for m in METHODS]
    last = f"regions: RMSE {' / '.join(METHODS)}"
    lines = [
        f"| source | {' | '.join(heads)} | worst 5 % hold | {last} |",
        "|" + "---|" * (len(heads) + 3),
    ]
    for name, own in means.items():
        cells = [f"{own[f'{m} {what}']:.4f}" for what in ("ssim", "rmse") for m in METHODS]
        regions = sorted({key.split(" ")[1] for key in own if key.startswith("new ")})
        shown = [
            f"{region}: " + " / ".join(f"{own[f'{m} {region}']:.3f}" for m in METHODS)
            for region in regions
            if region not in ("ssim", "rmse", "contrast")
        ]
        cells += [f"{own['worst5']:.3f}", "; ".join(shown)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    sizes = [f"{part} {radius}" for part in ("core", "rim") for radius in (*RADII, "all")]
    lines += [f"| contrast kept | {' | '.join(sizes)} |", "|" + "---|" * (len(sizes) + 1)]
    for name, own in means.items():
        if f"new contrast {sizes[0]}" in own:
            for method in METHODS:
                cells = [f"{own[f'{method} contrast {size}']:.2f}" for size in sizes]
                lines.append(f"| {name}, {method} | {' | '.join(cells)} |")
    for group, own in errors.items():
        lines.append(f"expected calibration error, {group}: {own['ece']:.4f} of the range")
    return "\n".join(lines)
