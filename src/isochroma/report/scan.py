"""What the pages show of one scan: figures, volumes for the viewer, and measures.

All of it is made from the files of a finished scan, so that pages can be made again later.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image
from scipy import ndimage

from isochroma.files import write_together
from isochroma.images import histogram
from isochroma.images.grid import Grid, bounding_box, model_grid, resample, resample_mask
from isochroma.images.io import load, load_mask
from isochroma.images.masked import extend_outside
from isochroma.images.metrics import ssim
from isochroma.images.mosaic import CONTOUR, PLANES, Cut, enlarge, grey, outline
from isochroma.method.refinement import noise_variance
from isochroma.models.config import TargetDomain

MARGIN_VOXELS = 12  # around the brain, so that the skull is seen
SLICES = 7
AGREEMENT_MM = 2.0
QUALITY = 85  # of JPEG


@dataclass(frozen=True)
class Files:
    """The files of a finished scan, and where what the pages show of it goes.

    Attributes
    ----------
    source, image, mask : Path
        The scan, the harmonized image and the brain mask.
    uncertainty : Path
        Map of the expected error, if it was written.
    folder : Path
        Of the figures.
    stem : str
        Begins the names of the figures.
    """

    source: Path
    image: Path
    mask: Path
    uncertainty: Path
    folder: Path
    stem: str

    def figure(self, ending: str) -> Path:
        """Name a figure."""
        return self.folder / f"{self.stem}_{ending}"


@dataclass(frozen=True)
class Views:
    """A scan and its result in canonical orientation and isotropic voxels, around the brain.

    Attributes
    ----------
    source, output : (I, J, K) ndarray of float32
        The source from its 0.5 to its 99.5 percentile in the brain as -1 to 1; the output in model
        units, -1 outside the mask.
    mask : (I, J, K) ndarray of bool
        The brain.
    uncertainty : (I, J, K) ndarray of float32 or None
        Expected error, model units.
    grid : Grid
        Where the voxels lie.
    """

    source: np.ndarray
    output: np.ndarray
    mask: np.ndarray
    uncertainty: np.ndarray | None
    grid: Grid


def load_output(
    image: Path, mask: Path, target: TargetDomain, spacing_mm: float
) -> tuple[np.ndarray, np.ndarray, Grid]:
    """Read a harmonized image in canonical orientation and isotropic voxels, around the brain.

    Parameters
    ----------
    image, mask : Path
        The image and its brain mask.
    target : TargetDomain
        Of the model that made it.
    spacing_mm : float
        Edge of the voxels.

    Returns
    -------
    output : (I, J, K) ndarray of float32
        Model units; -1 outside the mask.
    brain : (I, J, K) ndarray of bool
        The mask.
    grid : Grid
        Where the voxels lie.
    """
    harmonized = load(image)
    brain, own = np.asanyarray(load_mask(mask).dataobj) > 0, Grid.of(harmonized)
    whole = model_grid(harmonized, spacing_mm)
    inside = resample_mask(brain, own, whole)
    box = bounding_box(inside, MARGIN_VOXELS)
    inside, grid = inside[box], whole.crop(box)
    values = extend_outside(np.asarray(harmonized.dataobj, dtype=np.float32), brain)
    scaled = (resample(values, own, grid, 1) - target.lower) / (target.upper - target.lower)
    return np.where(inside, 2 * scaled - 1, -1).astype(np.float32), inside, grid


def load_views(files: Files, target: TargetDomain) -> Views:
    """Read a scan and its result, and bring both to one grid of 1 mm.

    Parameters
    ----------
    files : Files
        Of the scan.
    target : TargetDomain
        Of the model that made it.

    Returns
    -------
    views : Views
    """
    output, mask, grid = load_output(files.image, files.mask, target, 1.0)
    scan = load(files.source)
    own, brain = Grid.of(scan), np.asanyarray(load_mask(files.mask).dataobj) > 0
    data = np.asarray(scan.dataobj, dtype=np.float32)
    low, high = np.percentile(data[brain], [0.5, 99.5])
    source = 2 * (resample(data, own, grid, 1) - low) / max(high - low, 1e-6) - 1
    uncertainty = None
    if files.uncertainty.is_file():
        values = np.asarray(load(files.uncertainty).dataobj, dtype=np.float32)
        values = resample(extend_outside(values, brain), own, grid, 1)
        uncertainty = np.where(mask, 2 * values / (target.upper - target.lower), 0)
    return Views(source, output, mask, uncertainty, grid)


def write_scan(files: Files, target: TargetDomain, others: Mapping[str, tuple[Path, Path]]) -> None:
    """Write what the pages show of a scan.

    Parameters
    ----------
    files : Files
        Of the scan.
    target : TargetDomain
        Of the model that made it.
    others : mapping of str to (Path, Path)
        Harmonized images of the session and their masks, by name: compared with this one.
    """
    views = load_views(files, target)
    agreements = {
        name: agreement((files.image, files.mask), other, target) for name, other in others.items()
    }
    content = {**measures(views, target), "Agreement": agreements}
    files.folder.mkdir(parents=True, exist_ok=True)
    writers: dict[Path, Callable[[Path], object]] = {
        files.figure(f"{name}.jpg"): partial(picture.save, format="JPEG", quality=QUALITY)
        for name, picture in mosaics(views).items()
    }
    script, values = viewer_data(views, files.stem), json.dumps(content)
    writers[files.figure("view.js")] = lambda path: path.write_text(script)
    writers[files.figure("report.json")] = lambda path: path.write_text(values)
    write_together(writers)


def mosaics(views: Views) -> dict[str, Image.Image]:
    """Draw slices in three planes: the source with the border of the mask, the source, the output.

    Parameters
    ----------
    views : Views
        Of the scan.

    Returns
    -------
    pictures : dict of str to Image
        "mask", "source" and "harmonized"; all of one size.
    """
    rows: dict[str, list[Image.Image]] = {"mask": [], "source": [], "harmonized": []}
    for plane in PLANES:
        cut = Cut.through(views.mask, plane, SLICES)
        source = enlarge(grey(cut.row(views.source)), 1).convert("RGB")
        harmonized = enlarge(grey(cut.row(views.output)), 1).convert("RGB")
        pixels = np.asarray(source).copy()
        pixels[outline(cut.row(views.mask), 1)] = CONTOUR
        shown = {"mask": Image.fromarray(pixels), "source": source, "harmonized": harmonized}
        for name, picture in shown.items():
            rows[name].append(cut.marked(picture))
    return {name: stacked(pictures) for name, pictures in rows.items()}


def stacked(pictures: list[Image.Image]) -> Image.Image:
    """Put pictures below each other, each as wide as the widest."""
    width = max(picture.width for picture in pictures)
    sized = [
        picture.resize((width, round(picture.height * width / picture.width)))
        for picture in pictures
    ]
    sheet = Image.new("RGB", (width, sum(picture.height + 2 for picture in sized)))
    top = 0
    for picture in sized:
        sheet.paste(picture, (0, top))
        top += picture.height + 2
    return sheet


def viewer_data(views: Views, stem: str) -> str:
    """Write source, output and, if known, expected error as a script that holds three NIfTI files.

    A page that was opened from disk may load scripts, but no images of volumes.

    Parameters
    ----------
    views : Views
        Of the scan.
    stem : str
        Under which the page finds them, in `window.volumes`.

    Returns
    -------
    script : str
        Voxels have 8 bits: about 3 MB for a head.
    """
    volumes = {"source": grey(views.source), "harmonized": grey(views.output)}
    if views.uncertainty is not None:
        volumes["expected error"] = grey(views.uncertainty, (0, 1))
    encoded = {}
    for name, volume in volumes.items():
        image = nib.Nifti1Image(volume, views.grid.affine)
        packed = gzip.compress(image.to_bytes(), 6, mtime=0)
        encoded[name] = base64.b64encode(packed).decode()
    return (
        "window.volumes = window.volumes || {};\n"
        f"window.volumes[{json.dumps(stem)}] = {json.dumps(encoded)};\n"
    )


def measures(views: Views, target: TargetDomain) -> dict[str, Any]:
    """Measure a scan before and after.

    Grey and white matter are the middle and the brightest of three classes of the output's values
    (Otsu's thresholds), the same voxels before and after. They are no segmentation: good enough to
    compare sites, not to report volumes.

    Parameters
    ----------
    views : Views
        Of the scan.
    target : TargetDomain
        Of the model that made it.

    Returns
    -------
    measured : dict
        Histograms of source, output and target (64 bins, shares); class volumes, ml; and, before
        and after, the contrast of grey and white matter over their pooled standard deviation, the
        noise's standard deviation and the distance of the histogram to the target's, both as a
        share of the range.
    """
    inside = ndimage.binary_erosion(views.mask, iterations=2)
    inside = inside if inside.any() else views.mask
    output, source = views.output[inside], views.source[inside]
    lower, upper = histogram.three_classes(output)
    grey_matter, white_matter = (output > lower) & (output <= upper), output > upper
    ml = views.grid.voxel_ml
    known = histogram.density_of_quantiles(target.quantiles) if target.quantiles else None
    measured: dict[str, Any] = {
        "Histogram": {"Target": None if known is None else known.round(5).tolist()},
        "ClassVolumesMl": [
            round(float(count) * ml, 1)
            for count in ((output <= lower).sum(), grey_matter.sum(), white_matter.sum())
        ],
    }
    for name, volume, values in (
        ("Source", views.source, source),
        ("Output", views.output, output),
    ):
        shares = histogram.density(volume[views.mask])
        measured["Histogram"][name] = shares.round(5).tolist()
        spread = np.sqrt((values[grey_matter].var() + values[white_matter].var()) / 2)
        gap = values[white_matter].mean() - values[grey_matter].mean()
        measured[name] = {
            "GreyWhiteContrast": round(float(gap / max(spread, 1e-6)), 3),
            "Noise": round(noise_variance(volume, views.mask) ** 0.5 / 2, 4),
            "DistanceToTarget": None
            if known is None
            else round(histogram.distance(shares, known) / 2, 4),
        }
    return measured


def is_measured(content: Any) -> bool:
    """Tell whether a value is what `measures` returns, as far as the pages need it."""
    try:
        shares = np.array([content["Histogram"][name] for name in ("Source", "Output")], float)
        numbers = [
            content[name][key]
            for name in ("Source", "Output")
            for key in ("GreyWhiteContrast", "Noise", "DistanceToTarget")
        ]
        numbers += [*content["ClassVolumesMl"], *content["Agreement"].values()]
        target = np.array(content["Histogram"]["Target"] or shares[0], float)
        known = np.array([each for each in numbers if each is not None], float)
    except (LookupError, TypeError, ValueError, AttributeError):
        return False
    sizes = shares.shape == (2, histogram.BINS) and target.shape == (histogram.BINS,)
    return sizes and bool(np.isfinite([*shares.ravel(), *target, *known]).all())


def agreement(
    one: tuple[Path, Path], other: tuple[Path, Path], target: TargetDomain
) -> float | None:
    """Compare the outputs of two scans of a session, which should show one head in one contrast.

    Parameters
    ----------
    one, other : tuple of 2 Paths
        Harmonized image and mask of each.
    target : TargetDomain
        Of the model that made both.

    Returns
    -------
    ssim : float or None
        Structural similarity within both masks at 2 mm, by the headers alone: movement between the
        scans lowers it. None where the masks hardly meet.
    """
    (output, brain, grid), (moving, covered, there) = (
        load_output(*each, target, AGREEMENT_MM) for each in (one, other)
    )
    mask = brain & resample_mask(covered, there, grid)
    if mask.sum() < 0.5 * brain.sum():
        return None
    moved = resample(extend_outside(moving, covered), there, grid, 1)
    return round(ssim(output + 1, moved + 1, mask, 2.0), 3)
