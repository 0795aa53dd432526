"""Which files of a BIDS data set are scans to harmonize."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fixtures_cohort import touch_bids
from isochroma.cohort.plan import Scan, Selection, find_scans, read_filters
from isochroma.errors import InputError

NAMES = [
    "sub-01/ses-a/anat/sub-01_ses-a_run-1_T1w.nii.gz",
    "sub-01/ses-a/anat/sub-01_ses-a_run-2_T1w.nii.gz",
    "sub-01/ses-a/anat/sub-01_ses-a_acq-3d_ce-gd_rec-norm_run-01_part-mag_FLAIR.nii",
    "sub-01/ses-b/anat/sub-01_ses-b_T2w.nii.gz",
    "sub-02/anat/sub-02_echo-1_PDw.nii.gz",
    "sub-02/anat/sub-02_T1w.nii.gz",
]


def names(scans: tuple[Scan, ...]) -> list[str]:
    return [scan.relative.rpartition("/")[2].split(".")[0] for scan in scans]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = touch_bids(tmp_path / "bids", NAMES)
    for scan in NAMES:
        (folder / scan).write_bytes(bytes(2000))
    return folder


def select(study: Path, **wanted: object) -> list[str]:
    return names(find_scans(study, Selection(**wanted)).scans)  # type: ignore[arg-type]


class TestFinding:
    def test_sessions_runs_and_modalities(self, study: Path) -> None:
        found = find_scans(study, Selection())
        assert {scan.relative for scan in found.scans} == set(NAMES)
        assert found.missing == ()
        assert found.left_out == {}
        flair = next(scan for scan in found.scans if scan.modality == "FLAIR")
        assert flair.entities == {
            "sub": "01",
            "ses": "a",
            "acq": "3d",
            "ce": "gd",
            "rec": "norm",
            "run": "01",
            "part": "mag",
        }
        assert flair.stem == "sub-01_ses-a_acq-3d_ce-gd_rec-norm_run-01_part-mag"
        assert flair.path.read_bytes() == bytes(2000)

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("sub-02_part-phase_T1w.nii.gz", "not a magnitude image"),
            ("sub-02_T1w.nii", "the same name as sub-02/anat/sub-02_T1w.nii.gz"),
            ("sub-02_run-1_acq-x_T1w.nii.gz", "not a BIDS name in its folder"),  # order
            ("sub-02_defaced_T1w.nii.gz", "not a BIDS name in its folder"),
            ("sub-03_T1w.nii.gz", "not a BIDS name in its folder"),  # another subject's
            ("sub-02_ses-a_T1w.nii.gz", "not a BIDS name in its folder"),
        ],
    )
    def test_what_is_left_out_is_named(self, study: Path, name: str, reason: str) -> None:
        relative = f"sub-02/anat/{name}"
        (study / relative).write_bytes(bytes(2000))
        found = find_scans(study, Selection())
        assert found.left_out == {relative: reason}
        assert {scan.relative for scan in found.scans} == set(NAMES)

    @pytest.mark.parametrize(
        "name",
        [
            "sub-02_T2starw.nii.gz",
            "sub-02_T1w.json",
            "sub-02_T1map.nii.gz",
            "sub-02_T1w_mask.nii.gz",
        ],
    )
    def test_other_files_are_of_no_concern(self, study: Path, name: str) -> None:
        (study / "sub-02" / "anat" / name).touch()
        found = find_scans(study, Selection())
        assert {scan.relative for scan in found.scans} == set(NAMES)
        assert found.left_out == {}

    def test_contents_that_are_not_fetched(self, study: Path) -> None:
        anat = study / "sub-02" / "anat"
        (anat / "sub-02_T1w.nii.gz").unlink()
        (anat / "sub-02_T1w.nii.gz").symlink_to("../../.git/annex/objects/aa/key")
        (anat / "sub-02_echo-1_PDw.nii.gz").write_bytes(b"/annex/objects/MD5E-s1--x.nii.gz\n")
        (anat / "sub-02_FLAIR.nii.gz").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
        (anat / "sub-02_T2w.nii.gz").write_bytes(b"short, but no pointer")
        found = find_scans(study, Selection(("02",)))
        assert names(found.missing) == ["sub-02_FLAIR", "sub-02_T1w", "sub-02_echo-1_PDw"]
        assert names(found.scans) == ["sub-02_T2w"]

    def test_linked_contents_are_fetched(self, study: Path) -> None:
        path = study / NAMES[-1]
        path.rename(study / "content")
        path.symlink_to(study / "content")
        assert select(study, participants=("02",), modalities=("T1w",)) == ["sub-02_T1w"]

    @pytest.mark.parametrize("name", ["nothing", "bids/sub-01"])
    def test_no_data_set(self, study: Path, name: str) -> None:
        with pytest.raises(InputError, match=r"Give .* BIDS data set") as caught:
            find_scans(study.parent / name, Selection())
        assert caught.value.argument == "bids_dir"


class TestSelection:
    def test_participants_and_sessions(self, study: Path) -> None:
        assert select(study, participants=("sub-02",)) == ["sub-02_T1w", "sub-02_echo-1_PDw"]
        assert select(study, sessions=("b",)) == ["sub-01_ses-b_T2w"]
        assert select(study, participants=("01",), sessions=("ses-b",)) == ["sub-01_ses-b_T2w"]
        assert len(select(study, participants=("01", "02"))) == 6

    def test_modalities(self, study: Path) -> None:
        assert select(study, modalities=("T2w", "PDw")) == [
            "sub-01_ses-b_T2w",
            "sub-02_echo-1_PDw",
        ]

    @pytest.mark.parametrize(
        ("wanted", "argument"),
        [({"participants": ("01", "sub-9")}, "participants"), ({"sessions": ("c",)}, "sessions")],
    )
    def test_unknown_labels(self, study: Path, wanted: dict, argument: str) -> None:
        with pytest.raises(InputError, match=r"has no s\w\w-[9c]\.") as caught:
            select(study, **wanted)
        assert caught.value.argument == argument

    def test_nothing_fits(self, study: Path) -> None:
        with pytest.raises(InputError, match="no scan fits"):
            select(study, participants=("02",), modalities=("FLAIR",))

    @pytest.mark.parametrize(
        ("entity", "label", "expected"),
        [
            ("run", 1, ["run-1"]),
            ("run", "02", ["run-2"]),
            ("run", [1, "2"], ["run-1", "run-2"]),
            ("run", "*", ["run-1", "run-2"]),
            ("run", ["9" * 5000, "0001"], ["run-1"]),
            ("run", None, ["sub-02"]),
            ("session", [None, "a"], ["run-1", "run-2", "sub-02"]),
            ("extension", ".nii.gz", ["run-1", "run-2", "sub-02"]),
            ("datatype", "anat", ["run-1", "run-2", "sub-02"]),
            ("suffix", "T1w", ["run-1", "run-2", "sub-02"]),
            ("subject", "02", ["sub-02"]),
        ],
    )
    def test_filters(self, study: Path, entity: str, label: object, expected: list[str]) -> None:
        path = study.parent / "filter.json"
        path.write_text(json.dumps({"t1w": {entity: label}, "bold": {"echo": 1, "mystery": 2}}))
        found = select(study, modalities=("T1w",), filters=read_filters(path))
        shown = [next(part for part in each.split("_")[::-1] if part != "T1w") for each in found]
        assert shown == expected

    def test_a_filter_concerns_its_query(self, study: Path) -> None:
        found = select(study, filters={"t1w": {"run": 2}})
        assert len(found) == 4
        assert "sub-01_ses-a_run-2_T1w" in found
        assert "sub-01_ses-b_T2w" in found

    @pytest.mark.parametrize(
        "text", ["", "[]", '{"t1w": 3}', '{"t1w": []}', '{"t1w": {"sesion": "1"}}', "[" * 100_000]
    )
    def test_wrong_filters(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "filter.json"
        path.write_text(text)
        with pytest.raises(InputError, match=r"filter\.json: (not a filter|unknown entity)") as bad:
            read_filters(path)
        assert bad.value.argument == "filters"
