"""What the pages show of one scan."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from fixtures_report import TARGET, finished
from isochroma.images.mosaic import CONTOUR
from isochroma.report.scan import (
    Files,
    agreement,
    is_measured,
    load_views,
    measures,
    mosaics,
    write_scan,
)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return finished(tmp_path, "sub-01_T1w")


def test_views_lie_on_one_grid_in_canonical_orientation(files: Files) -> None:
    views = load_views(files, TARGET)
    assert nib.aff2axcodes(views.grid.affine) == ("R", "A", "S")
    assert views.source.shape == views.output.shape == views.mask.shape
    assert np.corrcoef(views.source[views.mask], views.output[views.mask])[0, 1] > 0.98
    assert (views.output[~views.mask] == -1).all()
    assert views.uncertainty is None


def test_measures_before_and_after(files: Files) -> None:
    """Source and output differ by a gain, so that all is as it was."""
    found = measures(load_views(files, TARGET), TARGET)
    for key in ("GreyWhiteContrast", "Noise"):
        assert found["Source"][key] == pytest.approx(found["Output"][key], rel=0.1)
    for shares in found["Histogram"].values():
        assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert sum(found["ClassVolumesMl"]) == pytest.approx(
        0.001 * 0.8 * load_views(files, TARGET).mask.sum(), rel=0.25
    )
    assert is_measured({**found, "Agreement": {}})


@pytest.mark.parametrize(
    "damage", [{"Histogram": {}}, {"Source": None}, {"Agreement": [1]}, {"ClassVolumesMl": ["x"]}]
)
def test_damaged_measures_are_told(files: Files, damage: dict) -> None:
    found = {**measures(load_views(files, TARGET), TARGET), "Agreement": {}}
    assert not is_measured({**found, **damage})


def test_files_that_a_page_needs(files: Files) -> None:
    write_scan(files, TARGET, {"itself": (files.image, files.mask)})
    content = json.loads(files.figure("report.json").read_text())
    assert content["Agreement"] == {"itself": pytest.approx(1, abs=1e-3)}
    sizes = {Image.open(files.figure(f"{name}.jpg")).size for name in ("mask", "source")}
    assert len(sizes) == 1
    script = files.figure("view.js").read_text()
    stored = json.loads(script.partition("] = ")[2].rstrip(";\n"))
    image = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(stored["harmonized"])))
    views = load_views(files, TARGET)
    assert image.shape == views.mask.shape
    assert np.asarray(image.dataobj)[views.mask].max() > 250


def test_the_border_is_drawn_on_the_mask_alone(files: Files) -> None:
    pictures = mosaics(load_views(files, TARGET))
    borders = {
        name: int((np.asarray(picture) == CONTOUR).all(-1).sum())
        for name, picture in pictures.items()
    }
    assert borders["mask"] > 500
    assert borders["source"] == borders["harmonized"] == 0


def test_agreement(files: Files, tmp_path: Path) -> None:
    same = (files.image, files.mask)
    other = finished(tmp_path, "other", seed=5)
    found = agreement(same, (other.image, other.mask), TARGET)
    assert found is not None
    assert found < 0.9 < agreement(same, same, TARGET)


def test_no_agreement_of_masks_that_do_not_meet(files: Files, tmp_path: Path) -> None:
    moved = tmp_path / "moved.nii.gz", tmp_path / "moved_mask.nii.gz"
    for path, to in zip((files.image, files.mask), moved, strict=True):
        image = nib.load(path)
        affine = image.affine.copy()
        affine[:3, 3] += 500
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), to)
    assert agreement((files.image, files.mask), moved, TARGET) is None
