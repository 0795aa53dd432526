from __future__ import annotations

import csv
import dataclasses
import errno
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fixtures_pipeline import SPACING_MM, head, head_image
from isochroma.errors import InputError
from isochroma.images.preprocess import prepare
from isochroma.method.edges import canny
from isochroma.training.data import (
    TargetScan,
    cache_scan,
    describe_target,
    find_scans,
    open_scan,
    prepare_scans,
)
from isochroma.training.settings import Recipe


def with_variants(recipe: Recipe, count: int) -> Recipe:
    training = dataclasses.replace(recipe.training, edge_variants=count)
    return dataclasses.replace(recipe, training=training)


class TestFindScans:
    def make(self, folder: Path, *names: str, table: str | None = None) -> Path:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"")
        if table is not None:
            (folder / "participants.tsv").write_text(table)
        return folder

    def test_participants_table(self, tmp_path: Path) -> None:
        names = [f"sub-{n:02d}_T1w.nii.gz" for n in range(1, 6)]
        table = (
            "participant_id\tage\tsplit\nsub-01\t30\ttrain\nsub-02\t31\ttest\n"
            "sub-03\t32\tval\nsub-04\t33\ttrain\n"
        )
        found = find_scans(self.make(tmp_path, *names, "README.md", table=table))
        assert {split: [path.name for path in paths] for split, paths in found.items()} == {
            "train": ["sub-01_T1w.nii.gz", "sub-04_T1w.nii.gz"],
            "val": ["sub-03_T1w.nii.gz"],
        }  # neither the test participant nor one that the table does not know

    def test_plain_folder(self, tmp_path: Path) -> None:
        names = [f"{n:02d}.nii" for n in range(12)]
        found = find_scans(self.make(tmp_path, *names, "notes.txt", "picture.png"))
        assert [path.name for path in found["val"]] == ["00.nii", "10.nii"]
        assert [path.name for path in found["train"]] == names[1:10] + names[11:]

    def test_table_without_splits(self, tmp_path: Path) -> None:
        folder = self.make(tmp_path, "sub-1.nii", "sub-2.nii", table="participant_id\nsub-1\n")
        found = find_scans(folder)
        assert len(found["val"]) == len(found["train"]) == 1

    def test_nested_folders(self, tmp_path: Path) -> None:
        names = ["sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.mgz"]
        table = "participant_id\tsplit\nsub-01\tval\nsub-02\ttrain\n"
        found = find_scans(self.make(tmp_path, *names, table=table))
        assert found == {"val": [tmp_path / names[0]], "train": [tmp_path / names[1]]}

    def test_real_target_domain(self, data_folder: Path) -> None:
        folder = data_folder / "target_ds002748"
        found = find_scans(folder)
        assert {split: len(paths) for split, paths in found.items()} == {"train": 37, "val": 3}
        with (folder / "participants.tsv").open(newline="") as stream:
            rows = csv.DictReader(stream, delimiter="\t")
            held_out = {row["participant_id"] for row in rows if row["split"] == "test"}
        assert len(held_out) == 4
        listed = {path.name.split("_")[0] for paths in found.values() for path in paths}
        assert not listed & held_out

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such folder"):
            find_scans(tmp_path / "gone")

    @pytest.mark.parametrize("count", [0, 1])
    def test_too_few(self, tmp_path: Path, count: int) -> None:
        folder = self.make(tmp_path, *[f"{n}.nii" for n in range(count)])
        with pytest.raises(InputError, match=f"{count} scans found; training needs one"):
            find_scans(folder)

    def test_split_without_validation(self, tmp_path: Path) -> None:
        table = "participant_id\tsplit\nsub-1\ttrain\nsub-2\ttest\n"
        with pytest.raises(InputError, match="validation one more"):
            find_scans(self.make(tmp_path, "sub-1.nii", "sub-2.nii", table=table))


class TestCacheScan:
    def stamps(self, folder: Path) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}

    def test_computed_once(self, target: Path, tmp_path: Path, recipe: Recipe) -> None:
        path = target / "sub-01_T1w.nii.gz"
        folder = cache_scan(path, tmp_path, recipe)
        assert folder.parent == tmp_path
        before = self.stamps(folder)
        assert cache_scan(path, tmp_path, recipe) == folder
        assert self.stamps(folder) == before
        assert list(tmp_path.iterdir()) == [folder]

    @pytest.mark.parametrize("change", ["edges", "preprocess", "variants", "file"])
    def test_recomputed_when_anything_changed(
        self, tmp_path: Path, recipe: Recipe, change: str
    ) -> None:
        path = tmp_path / "a.nii"
        nib.save(head_image(), path)
        folder = cache_scan(path, tmp_path / "cache", recipe)
        before = self.stamps(folder)
        if change == "edges":
            edges = dataclasses.replace(recipe.edges, fraction=0.1)
            recipe = dataclasses.replace(recipe, edges=edges)
        elif change == "preprocess":
            preprocess = dataclasses.replace(recipe.preprocess, upper_percentile=98)
            recipe = dataclasses.replace(recipe, preprocess=preprocess)
        elif change == "variants":
            recipe = with_variants(recipe, 2)
        else:
            nib.save(head_image(seed=5), path)
        folder = cache_scan(path, tmp_path / "cache", recipe)
        after = self.stamps(folder)
        assert all(after[name] != before[name] for name in before)
        assert len(open_scan(folder).edges) == 1 + recipe.training.edge_variants

    @pytest.mark.parametrize("name", ["image.npy", "edges.npy", "limits.npy", "settings.json"])
    @pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
    def test_damaged_is_made_anew(
        self, target: Path, tmp_path: Path, recipe: Recipe, name: str, damage: str
    ) -> None:
        path = target / "sub-01_T1w.nii.gz"
        folder = cache_scan(path, tmp_path, recipe)
        known = (folder / name).read_bytes()
        data = bytearray(known)
        data[len(data) // 2] ^= 255
        if damage == "gone":
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(data if damage == "flipped" else data[:-9])
        assert cache_scan(path, tmp_path, recipe) == folder
        assert (folder / name).read_bytes() == known

    def test_holds_the_prepared_scan(self, target: Path, tmp_path: Path, recipe: Recipe) -> None:
        path = target / "sub-01_T1w.nii.gz"
        cached = open_scan(cache_scan(path, tmp_path, with_variants(recipe, 2)))
        prepared = prepare(nib.load(path), head(seed=1)[1], recipe.preprocess)
        np.testing.assert_array_equal(cached.mask, prepared.mask)
        np.testing.assert_allclose(cached.image, prepared.image, atol=1e-3)
        assert (cached.lower, cached.upper) == (prepared.lower, prepared.upper)
        own = canny(prepared.image, prepared.mask, recipe.edges)
        assert cached.edges.shape == (3, *prepared.mask.shape)
        np.testing.assert_array_equal(cached.edges[0], own)
        for copy in cached.edges[1:]:
            assert copy.any()
            assert (copy != own).any()
            assert not copy[~prepared.mask].any()

    def test_same_scan_same_copies(self, target: Path, tmp_path: Path, recipe: Recipe) -> None:
        path = target / "sub-01_T1w.nii.gz"
        a, b = (open_scan(cache_scan(path, tmp_path / n, recipe)) for n in "ab")
        np.testing.assert_array_equal(a.edges, b.edges)

    def test_failure_leaves_nothing(
        self, target: Path, tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save = np.save

        def save_until_full(path: Path, array: np.ndarray) -> None:
            if Path(path).name == "edges.npy":
                raise OSError(errno.ENOSPC, "No space left on device")
            save(path, array)

        monkeypatch.setattr(np, "save", save_until_full)
        with pytest.raises(OSError, match="No space left"):
            cache_scan(target / "sub-01_T1w.nii.gz", tmp_path, recipe)
        assert list(tmp_path.iterdir()) == []

    def test_scans_of_one_name_do_not_share_a_cache(self, tmp_path: Path, recipe: Recipe) -> None:
        """FreeSurfer's layout: bert/mri/T1.mgz, ernie/mri/T1.mgz."""
        paths = [tmp_path / person / "mri" / "T1.mgz" for person in ("bert", "ernie")]
        for seed, path in enumerate(paths):
            path.parent.mkdir(parents=True)
            image = head_image(seed=seed)
            nib.save(nib.MGHImage(np.asarray(image.dataobj), image.affine), path)
        first, second = (cache_scan(path, tmp_path / "cache", recipe) for path in paths)
        assert first != second
        assert not np.array_equal(open_scan(first).image, open_scan(second).image)

    def test_an_unreadable_scan_is_named(self, tmp_path: Path, recipe: Recipe) -> None:
        path = tmp_path / "flat.nii"
        nib.save(nib.Nifti1Image(np.ones((40, 40, 40), np.float32), np.diag([4, 4, 4, 1])), path)
        with pytest.raises(InputError, match=r"flat\.nii: "):
            cache_scan(path, tmp_path / "cache", recipe)


class TestPrepareScans:
    def test_splits(self, target: Path, cache: Path, recipe: Recipe) -> None:
        scans = prepare_scans(target, cache, recipe)
        for scan, number in zip((*scans.train, *scans.val), (1, 2, 3), strict=True):
            assert scan.mask.sum() == pytest.approx(head(seed=number)[1].sum(), rel=0.01)
            assert scan.folder.name.startswith(f"sub-{number:02d}_T1w-")
            assert scan.examples == ()


class TestDescribeTarget:
    def test_intensities(self, target: Path, cache: Path, recipe: Recipe) -> None:
        scans = prepare_scans(target, cache, recipe).train
        domain = describe_target(scans, SPACING_MM)
        data = [head(seed=seed)[0] for seed in (1, 2)]
        limits = [np.percentile(d[d > 0], [0.5, 99.5]) for d in data]
        assert domain.scans == 2
        assert domain.lower == pytest.approx(np.median([low for low, _ in limits]), abs=8)
        assert domain.upper == pytest.approx(np.median([high for _, high in limits]), abs=8)
        quantiles = np.array(domain.quantiles)
        assert len(quantiles) == 101
        assert (np.diff(quantiles) >= 0).all()
        assert quantiles[0] == -1
        assert quantiles[-1] == 1
        median = np.mean([np.median(d[d > 0]) for d in data])
        middle = domain.lower + (quantiles[50] + 1) / 2 * (domain.upper - domain.lower)
        assert middle == pytest.approx(median, abs=20)

    def test_sizes(self) -> None:
        """Blocks of 5 x 6 x 7 and 8 x 4 x 9 voxels of 2 mm."""
        scans = []
        for size in ((5, 6, 7), (8, 4, 9)):
            mask = np.zeros((12, 12, 12), bool)
            mask[tuple(slice(2, 2 + n) for n in size)] = True
            image = np.where(mask, 0.5, 0).astype(np.float16)
            scans.append(TargetScan(Path(), image, mask, mask[None], np.zeros(3), 0, 1))
        domain = describe_target(scans, 2.0)
        assert domain.smallest_mm == (10, 8, 14)
        assert domain.largest_mm == (16, 12, 18)
