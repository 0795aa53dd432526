from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fixtures_pipeline import RAS, head
from isochroma.errors import InputError
from isochroma.evaluation.phantoms import travelling
from isochroma.evaluation.phantoms.travelling import add_to_study, write_travelling_subject
from isochroma.evaluation.study import read_study
from isochroma.images.preprocess import PreprocessSettings


def textured(seed: int) -> nib.Nifti1Image:
    """A head with noise, which the tissue segmentation needs."""
    data, mask = head(seed=seed)
    data += 30 * np.random.default_rng(seed).standard_normal(data.shape)
    return nib.Nifti1Image(np.where(mask, data, 0).astype(np.float32), RAS)


@pytest.fixture(scope="module", autouse=True)
def coarse() -> Iterator[None]:
    """Work on 2 mm voxels and without bias correction, to save time."""
    with pytest.MonkeyPatch.context() as patch:
        fast = partial(PreprocessSettings, spacing_mm=2.0, n4=False)
        patch.setattr(travelling, "PreprocessSettings", fast)
        yield


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scans") / "t0.nii.gz"
    nib.save(textured(seed=0), path)
    return path


@pytest.fixture(scope="module")
def written(scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two presets of one scan."""
    folder = tmp_path_factory.mktemp("written")
    write_travelling_subject(scan, folder, ["spgr-3T", "flair-3T"])
    return folder


def flair(folder: Path) -> np.ndarray:
    return np.asarray(nib.load(folder / "t0_flair-3T.nii.gz").dataobj)


class TestTravellingSubject:
    def test_scans_truth_and_lesions_are_written_once(self, scan: Path, tmp_path: Path) -> None:
        rows = write_travelling_subject(scan, tmp_path, ["flair-3T"], lesions=True)
        (row,) = rows
        assert row["contrast"] == "FLAIR"
        simulated, truth = (nib.load(row[key]) for key in ("path", "truth"))
        lesions = nib.load(row["lesions"])
        assert truth.shape == lesions.shape
        assert np.asarray(lesions.dataobj).max() >= 1
        inside = np.asarray(simulated.dataobj) > 0
        volume_ml = inside.sum() * abs(np.linalg.det(simulated.affine[:3, :3])) / 1000
        assert volume_ml == pytest.approx(239, rel=0.05)
        record = json.loads(Path(row["path"]).with_suffix("").with_suffix(".json").read_text())
        assert record["Preset"] == "flair-3T"
        before = Path(row["path"]).stat().st_mtime_ns
        assert write_travelling_subject(scan, tmp_path, ["flair-3T"], lesions=True) == rows
        assert Path(row["path"]).stat().st_mtime_ns == before

    def test_another_scan_or_seed_is_refused(
        self, scan: Path, written: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match="another seed"):
            write_travelling_subject(scan, written, ["tse-t2-3T"], seed=1)
        other = tmp_path / scan.name
        nib.save(textured(seed=1), other)
        with pytest.raises(InputError, match="another scan of that name"):
            write_travelling_subject(other, written, ["spgr-3T"])

    def test_a_preset_does_not_depend_on_the_others(
        self, scan: Path, written: Path, tmp_path: Path
    ) -> None:
        write_travelling_subject(scan, tmp_path, ["flair-3T"])
        np.testing.assert_array_equal(flair(tmp_path), flair(written))

    def test_another_seed_is_another_scan(self, scan: Path, written: Path, tmp_path: Path) -> None:
        write_travelling_subject(scan, tmp_path, ["flair-3T"], seed=1)
        assert not np.array_equal(flair(tmp_path), flair(written))

    def test_a_scan_without_its_sidecar_is_made_anew(
        self, scan: Path, written: Path, tmp_path: Path
    ) -> None:
        """A run was killed between the two, whatever its scan was."""
        nib.save(textured(seed=3), tmp_path / "t0_flair-3T.nii.gz")
        write_travelling_subject(scan, tmp_path, ["flair-3T"])
        np.testing.assert_array_equal(flair(tmp_path), flair(written))

    def test_an_unreadable_sidecar_is_of_another_origin(self, scan: Path, tmp_path: Path) -> None:
        (tmp_path / "t0_flair-3T.json").write_bytes(b"[\xff")
        with pytest.raises(InputError, match="another scan of that name"):
            write_travelling_subject(scan, tmp_path, ["flair-3T"])

    def test_missing_scan(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such file"):
            write_travelling_subject(tmp_path / "none.nii", tmp_path, ["flair-3T"])

    def test_unknown_preset(self, scan: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="preset '7T' is unknown; choose from mprage"):
            write_travelling_subject(scan, tmp_path, ["7T"])


class TestAddToStudy:
    def test_rows_of_the_same_scan_are_replaced(self, scan: Path, tmp_path: Path) -> None:
        study = tmp_path / "study.tsv"
        one = {"path": scan, "site": "target", "split": "train", "scan": "one"}
        add_to_study(study, [one, {**one, "scan": "two"}])
        add_to_study(study, [{**one, "split": "val"}, {**one, "scan": "three"}])
        assert {each.scan: each.split for each in read_study(study)} == {
            "one": "val",
            "two": "train",
            "three": "train",
        }
