from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fixtures_pipeline import RAS, head, head_image
from isochroma.errors import InputError
from isochroma.evaluation.study import contents, open_case, read_study
from isochroma.images.preprocess import PreprocessSettings

SETTINGS = PreprocessSettings(spacing_mm=2.0, n4=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three heads, labels of one."""
    for name, seed in (("a", 0), ("b", 1), ("c", 2)):
        nib.save(head_image(seed=seed), tmp_path / f"{name}.nii.gz")
    data, mask = head(seed=2)
    labels = np.where(mask, np.digitize(data, [400, 750]) + 1, 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, RAS), tmp_path / "labels.nii.gz")
    return tmp_path


def write(folder: Path, text: str, name: str = "study.tsv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


GOOD = "path\tsite\tsplit\tage\tcore\na.nii.gz\tT\ttrain\t30\t\nb.nii.gz\tS\t\tn/a\tyes\n"


class TestReadStudy:
    def test_tsv(self, folder: Path) -> None:
        a, b = read_study(write(folder, GOOD))
        assert (a.scan, a.person, a.site, a.split, a.age) == ("a", "a", "T", "train", 30.0)
        assert a.contrast == "T1w"
        assert not a.core
        assert b.core
        assert np.isnan(b.age)
        assert b.path == folder / "b.nii.gz"

    def test_yaml_reads_the_same(self, folder: Path) -> None:
        text = (
            "- {path: a.nii.gz, site: T, split: train, age: 30}\n"
            "- {path: b.nii.gz, site: S, core: true}\n"
        )
        tsv = read_study(write(folder, GOOD))
        yaml = read_study(write(folder, text, "study.yaml"))
        for left, right in zip(tsv, yaml, strict=True):
            assert repr(left) == repr(right)

    def test_bids_folder(self, tmp_path: Path) -> None:
        bids = tmp_path / "bids"
        for number, name in enumerate(("01", "02")):
            anat = bids / f"sub-{name}" / "anat"
            anat.mkdir(parents=True)
            nib.save(head_image(seed=number), anat / f"sub-{name}_T1w.nii.gz")
        nib.save(head_image(seed=3), bids / "sub-02" / "anat" / "sub-02_T2w.nii.gz")
        (bids / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
        (bids / "participants.tsv").write_text(
            "participant_id\tsite\tsplit\tage\tsex\nsub-01\tT\ttrain\t40\tF\nsub-02\tS\t\t50\tM\n"
        )
        scans = read_study(bids)
        assert [(s.person, s.contrast, s.site, s.split, s.age) for s in scans] == [
            ("sub-01", "T1w", "T", "train", 40.0),
            ("sub-02", "T1w", "S", "", 50.0),
            ("sub-02", "T2w", "S", "", 50.0),
        ]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (GOOD.replace("b.nii.gz", "none.nii.gz"), "none.nii.gz is not there"),
            (GOOD.replace("core", "colour"), "unknown column 'colour'"),
            (GOOD.replace("train", "training"), "split is 'training'"),
            (GOOD.replace("train", ""), "0 sites"),
            (GOOD.replace("\tS\t\t", "\tS\ttrain\t"), "2 sites"),
            (GOOD.replace("\t30\t", "\told\t"), "'old' is not a number"),
            (GOOD.replace("b.nii.gz", "a.nii.gz"), "a names two scans"),
            (GOOD.replace("\tS\t", "\t\t"), "site is missing"),
        ],
    )
    def test_bad_rows_are_named(self, folder: Path, text: str, said: str) -> None:
        with pytest.raises(InputError, match=said.replace("(", r"\(")):
            read_study(write(folder, text))

    def test_missing_study(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such study"):
            read_study(tmp_path / "none.tsv")


class TestScan:
    def test_group_is_the_site_and_what_was_simulated_or_the_contrast(self, folder: Path) -> None:
        plain = read_study(write(folder, GOOD))[1]
        assert plain.group == "S, T1w"
        assert dataclasses.replace(plain, preset="flair-3T").group == "S, flair-3T"

    def test_contents_change_with_any_file(self, folder: Path) -> None:
        scan = read_study(write(folder, GOOD))[1]
        known = contents(scan)
        labelled = dataclasses.replace(scan, tissues=folder / "labels.nii.gz")
        assert contents(labelled) != known
        assert contents(dataclasses.replace(labelled, lesions=labelled.tissues)) != contents(
            dataclasses.replace(labelled, tissues=None, lesions=labelled.tissues)
        )
        scan.path.write_bytes((folder / "a.nii.gz").read_bytes())
        assert contents(scan) != known


class TestOpenCase:
    def test_truth_labels_and_lesions_lie_on_the_model_grid(self, folder: Path) -> None:
        text = (
            "path\tsite\tsplit\ttruth\ttissues\tlesions\n"
            "a.nii.gz\tT\ttrain\t\t\t\n"
            "c.nii.gz\tS\t\tc.nii.gz\tlabels.nii.gz\tlabels.nii.gz\n"
        )
        scan = read_study(write(folder, text))[1]
        case = open_case(scan, SETTINGS)
        assert case.truth is not None
        assert case.tissues is not None
        assert case.lesions is not None
        mask = case.prepared.mask
        assert case.truth.shape == case.tissues.shape == mask.shape
        # The truth is the scan itself.
        np.testing.assert_allclose(case.truth[mask], case.prepared.image[mask], atol=1e-4)
        means = [case.prepared.image[mask & (case.tissues == label)].mean() for label in (1, 2, 3)]
        assert means == sorted(means)
        assert case.lesions.dtype == bool

    def test_mask_is_where_scan_and_truth_both_are(self, folder: Path) -> None:
        data, _ = head(seed=2)
        text = "path\tsite\tsplit\ttruth\na.nii.gz\tT\ttrain\t\nc.nii.gz\tS\t\tcut.nii.gz\n"
        whole = np.flatnonzero(data.any((1, 2)))
        data[: whole[4]] = 0  # a slab is missing
        nib.save(nib.Nifti1Image(data, RAS), folder / "cut.nii.gz")
        scan = read_study(write(folder, text))[1]
        alone = open_case(dataclasses.replace(scan, truth=None), SETTINGS)
        case = open_case(scan, SETTINGS)
        assert case.prepared.mask.sum() < alone.prepared.mask.sum()
        np.testing.assert_array_equal(case.prepared.image[~case.prepared.mask], 0)
        data[:22] = 0  # half a head: 120 ml are none
        nib.save(nib.Nifti1Image(data, RAS), folder / "cut.nii.gz")
        with pytest.raises(InputError, match=r"cut.nii.gz: the brain mask"):
            open_case(scan, SETTINGS)

    def test_no_lesions_are_no_failure(self, folder: Path) -> None:
        none = nib.Nifti1Image(np.zeros(head(seed=2)[0].shape, np.uint8), RAS)
        nib.save(none, folder / "none.nii.gz")
        text = "path\tsite\tsplit\tlesions\na.nii.gz\tT\ttrain\t\nc.nii.gz\tS\t\tnone.nii.gz\n"
        case = open_case(read_study(write(folder, text))[1], SETTINGS)
        assert case.lesions is not None
        assert not case.lesions.any()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [\n", "not valid YAML"),
        ("- {path: a, site: &s x}\n- {path: b, site: *s}\n", "has aliases"),
        ("[" * 20_000, "nested too deeply"),
        ("!!python/object/apply:os.system ['true']\n", "not a list of scans"),
        ("- {path: a.nii.gz, site: x, age: 2020-01-01}\n", "age '2020-01-01' is not a number"),
        ("- {path: a.nii.gz, site: x, age: -3}\n", "an age of -3 years is not possible"),
        ("- {path: a.nii.gz, site: x, age: .inf}\n", "not a number"),
        ("- {path: a.nii.gz, site: x, age: 1e999}\n", "an age of inf years"),
        ("- path: a.nii.gz\n  site: x\n  site: y\n", "line 3: site stands twice"),
        ("- {path: a.nii.gz, site: x, age: [1]}\n", r"age is \['1'\]"),
        ("- {1: a}\n", "unknown column '1'"),
        ("- {[1]: a}\n", "unknown column"),
        ("- 1\n", "not a list of scans"),
    ],
)
def test_yaml_that_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"x")
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        read_study(tmp_path / "study.yaml")
    assert "\n" not in str(caught.value)


def test_yaml_values_are_what_is_written(folder: Path) -> None:
    """No, 012 and 1e3 are names here, not a truth value and numbers."""
    text = "- {path: a.nii.gz, site: NO, split: train, person: 012, scan: 1e3, mask: null}\n"
    (scan,) = read_study(write(folder, text, "study.yaml"))
    assert (scan.site, scan.person, scan.scan, scan.mask) == ("NO", "012", "1e3", None)
