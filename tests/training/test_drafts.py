from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fixtures_pipeline import config, head, random_network
from isochroma.images.preprocess import to_model_units
from isochroma.method.sampling import ComputeSettings
from isochroma.models.folder import Model
from isochroma.pipeline import Harmonizer, SamplingSettings
from isochroma.training import drafts
from isochroma.training.data import Scans, prepare_scans
from isochroma.training.settings import Recipe


@pytest.fixture(scope="module")
def scan() -> tuple[np.ndarray, np.ndarray]:
    data, mask = head()
    return to_model_units(data, mask, 200, 900), mask


@pytest.fixture(scope="module")
def first_pass() -> Harmonizer:
    sampling = SamplingSettings(revise=False)
    model = Model(random_network(), config(sha256="0123456789abcdef" * 4))
    return Harmonizer(model, sampling, ComputeSettings(device="cpu"))


class TestSpots:
    def test_known_share(self, scan: tuple[np.ndarray, np.ndarray]) -> None:
        """Some of the brain changes, nothing outside does, and the rest keeps its texture."""
        image, mask = scan
        spotted = drafts.plant_spots(image, mask, np.random.default_rng(0))
        changed = spotted != image
        assert 0.001 < changed[mask].mean() < 0.5
        assert not changed[~mask].any()
        assert np.abs(spotted).max() <= 1

    def test_seeded(self, scan: tuple[np.ndarray, np.ndarray]) -> None:
        a, b, c = (drafts.plant_spots(*scan, np.random.default_rng(seed)) for seed in (0, 0, 1))
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()

    def test_the_scan_stays(self, scan: tuple[np.ndarray, np.ndarray]) -> None:
        before = scan[0].copy()
        drafts.plant_spots(*scan, np.random.default_rng(0))
        np.testing.assert_array_equal(scan[0], before)


class TestExamples:
    def test_what_the_first_pass_makes(
        self, scan: tuple[np.ndarray, np.ndarray], first_pass: Harmonizer
    ) -> None:
        example = drafts.make_example(*scan, first_pass, np.random.default_rng(0))
        assert {volume.shape for volume in example} == {scan[0].shape}
        assert example.edges.dtype == bool
        spotted = drafts.plant_spots(*scan, np.random.default_rng(0))
        np.testing.assert_array_equal(example.image, spotted)
        assert 0.01 < np.abs(example.draft - example.image)[scan[1]].mean() < 1
        assert not example.draft[~scan[1]].any()


class TestCache:
    @pytest.fixture
    def scans(self, target: Path, tmp_path: Path, recipe: Recipe) -> Scans:
        """Cached scans that no other test shares."""
        return prepare_scans(target, tmp_path / "cache", recipe)

    def test_made_once(self, scans: Scans, first_pass: Harmonizer) -> None:
        completed = drafts.add_examples(scans, first_pass, 1)
        assert [len(scan.examples) for scan in (*completed.train, *completed.val)] == [1, 1, 1]
        example = completed.train[0].examples[0]
        assert {volume.shape for volume in example} == {scans.train[0].mask.shape}
        files = {path: path.stat().st_mtime_ns for path in scans.train[0].folder.rglob("*.npy")}
        again = drafts.add_examples(scans, first_pass, 1)
        for a, b in zip(example, again.train[0].examples[0], strict=True):
            np.testing.assert_array_equal(a, b)
        assert {path: path.stat().st_mtime_ns for path in files} == files

    def test_an_interrupted_one_is_made_again(
        self, scans: Scans, first_pass: Harmonizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def cut_short(path: Path, array: np.ndarray) -> None:
            Path(path).write_bytes(b"half")
            if Path(path).name == "draft.npy":
                raise KeyboardInterrupt

        scan = scans.train[0]
        with monkeypatch.context() as patched:
            patched.setattr(np, "save", cut_short)
            with pytest.raises(KeyboardInterrupt):
                drafts.cache_example(scan, first_pass, 0)
        example = drafts.open_example(drafts.cache_example(scan, first_pass, 0))
        assert example.draft.shape == scan.image.shape
