"""Render real scans with and without the second stage of its own, and measure what can be.

    python experiments/second_stage/real_scans.py --data DIR --out DIR

Scans take the product's own preparation. The table is for reading: nothing is chosen on it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from isochroma.evaluation.measures.anatomy import contrast_kept, recall
from isochroma.evaluation.measures.sample import Lesions, label_lesions
from isochroma.evaluation.tissues import classify
from isochroma.images import metrics
from isochroma.images.grid import Grid, resample, resample_mask
from isochroma.images.io import load
from isochroma.images.masked import extend_outside
from isochroma.images.preprocess import from_model_units
from isochroma.models.folder import Model, load_model
from isochroma.pipeline import Harmonizer
from isochroma.stages import record

SCANS = {
    "kirby113_T1w": "contrasts_kirby113/113_T1w.nii.gz",
    "kirby113_T2w": "contrasts_kirby113/113_T2w.nii.gz",
    "kirby113_FLAIR": "contrasts_kirby113/113_FLAIR.nii.gz",
    "ms07_T1w": "contrasts_ms07/ms07_T1w.nii.gz",
    "ms07_T1wpost": "contrasts_ms07/ms07_T1wpost.nii.gz",
    "ms07_T2w": "contrasts_ms07/ms07_T2w.nii.gz",
    "ms07_FLAIR": "contrasts_ms07/ms07_FLAIR.nii.gz",
    "ds000011_T1w": "source_ds000011/sub-01_T1w.nii.gz",
    "oasis1000_T1w": "source_oasis1/1000_T1w.nii.gz",
}
LESIONS = "contrasts_ms07/ms07_lesions.nii.gz"
TISSUES = "source_oasis1/1000_tissues.nii.gz"
IMAGES = ("source", "edges_alone", "draft", "earlier", "network", "default")
"""What is compared: "earlier" has the first stage's network in place of the second stage's, and
"network" is what the second stage makes before its structure is restored."""


def render(harmonizer: Harmonizer, earlier: Harmonizer, path: Path) -> dict[str, Any]:
    """Prepare a scan and render it with both second stages.

    Parameters
    ----------
    harmonizer, earlier : Harmonizer
        The product, and the same without a second stage of its own.
    path : Path
        The scan.

    Returns
    -------
    rendered : dict of str to ndarray
        Mask and affine of the model grid, the `IMAGES`, the expected error, and seconds of each
        stage as JSON.
    """
    with record() as seconds:
        result = harmonizer.run(path)
    source, rendering = result.source, result.rendering
    assert rendering.revised is not None
    assert result.doubt is not None
    return {
        "mask": source.mask,
        "affine": source.grid.affine,
        "source": source.image,
        "edges_alone": rendering.first,
        "draft": rendering.refined,
        "earlier": earlier.render(source).output,
        "network": rendering.revised.image,
        "default": rendering.output,
        "deviation": result.doubt.error,
        "seconds": json.dumps({name: round(value, 2) for name, value in seconds.items()}),
    }


def grid_of(one: dict[str, Any]) -> Grid:
    """Return the model grid of a rendered scan."""
    return Grid(one["mask"].shape, one["affine"])


def agreement(a: dict[str, Any], b: dict[str, Any], image: str) -> float:
    """Return the SSIM of one image of two co-registered scans, on the scale [0, 1]."""
    grid, moved = grid_of(a), grid_of(b)
    second = resample(extend_outside(b[image], b["mask"]), moved, grid)
    common = a["mask"] & resample_mask(b["mask"], moved, grid)
    return metrics.ssim(from_model_units(a[image], 0, 1), from_model_units(second, 0, 1), common, 1)


def on_grid(path: Path, value: int, one: dict[str, Any]) -> np.ndarray:
    """Bring the voxels of one label to a rendered scan's grid, inside its mask."""
    image = load(path)
    labels = np.rint(np.asarray(image.dataobj)) == value
    return resample_mask(labels, Grid.of(image), grid_of(one)) & one["mask"]


def lesions_kept(
    one: dict[str, Any], t1w: dict[str, Any], tissues: np.ndarray, path: Path
) -> dict[str, Any]:
    """Compare each lesion's contrast with that in the T1w scan.

    Parameters
    ----------
    one, t1w : dict
        Rendered scan, and the same person's T1w scan.
    tissues : (I, J, K) ndarray of uint8
        Tissue labels of the T1w scan.
    path : Path
        Lesion mask.

    Returns
    -------
    kept : dict
        For each of `IMAGES` the median, the share of lesions that keep half, and their number.
    """
    grid, other = grid_of(one), grid_of(t1w)
    shown = resample(extend_outside(t1w["source"], t1w["mask"]), other, grid)
    labels = np.zeros(one["mask"].shape, np.uint8)
    for value in (1, 2, 3):
        labels[resample_mask(tissues == value, other, grid)] = value
    lesions = Lesions(label_lesions(on_grid(path, 1, one)), shown)
    found = {}
    for image in IMAGES:
        kept = contrast_kept(one[image], lesions, labels)
        kept = kept[np.isfinite(kept)]
        found[image] = {
            "median": round(float(np.median(kept)), 3),
            "half or more": round(recall(kept), 3),
            "n": len(kept),
        }
    return found


def auc(image: np.ndarray, grey: np.ndarray, white: np.ndarray) -> float:
    """Return the probability that a white matter voxel is brighter than a grey matter voxel."""
    low = np.sort(image[grey])
    below = np.searchsorted(low, image[white], "left") + np.searchsorted(low, image[white], "right")
    return float(below.mean() / (2 * len(low)))


def measure(found: dict[str, dict[str, Any]], data: Path) -> dict[str, Any]:
    """Compute all numbers that the rendered scans allow."""
    report: dict[str, Any] = {
        "seconds": {name: json.loads(str(one["seconds"])) for name, one in found.items()},
        "ssim": {},
        "lesions": {},
    }
    for person in ("kirby113", "ms07"):
        names = [name for name in found if name.startswith(person)]
        for a, b in itertools.combinations(names, 2):
            report["ssim"][f"{a} {b}"] = {
                image: round(agreement(found[a], found[b], image), 4) for image in IMAGES
            }
    if "ms07_T1w" in found:
        t1w = found["ms07_T1w"]
        tissues, _ = classify(t1w["source"], t1w["mask"])
        for name, one in found.items():
            if name.startswith("ms07"):
                report["lesions"][name] = lesions_kept(one, t1w, tissues, data / LESIONS)
    if "oasis1000_T1w" in found:
        one = found["oasis1000_T1w"]
        grey, white = (on_grid(data / TISSUES, value, one) for value in (2, 3))
        report["auc"] = {image: round(auc(one[image], grey, white), 4) for image in IMAGES}
    return report


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real scans")
    parser.add_argument("--out", type=Path, required=True, help="scans found here are not repeated")
    parser.add_argument("--scans", nargs="*", default=list(SCANS), choices=list(SCANS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = load_model("default")
    without = dataclasses.replace(model.config, reviser_sha256="")
    harmonizer, earlier = Harmonizer(model), Harmonizer(Model(model.network, without))
    found: dict[str, dict[str, Any]] = {}
    for name in options.scans:
        stored = options.out / f"{name}.npz"
        if not stored.is_file():
            np.savez(stored, **render(harmonizer, earlier, options.data / SCANS[name]))
        with np.load(stored) as volumes:
            found[name] = dict(volumes)
        print(name, found[name]["seconds"], flush=True)
    report = measure(found, options.data)
    (options.out / "real_scans.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
