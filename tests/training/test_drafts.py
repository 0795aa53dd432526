from __future__ import annotations

import numpy as np
import pytest

from fixtures_pipeline import config, random_network
from isochroma.images.preprocess import to_model_units
from isochroma.method.sampling import SamplingSettings
from isochroma.pipeline import Harmonizer
from isochroma.training import drafts


@pytest.fixture(scope="module")
def scan() -> tuple[np.ndarray, np.ndarray]:
    from fixtures_pipeline import head

    data, mask = head()
    return to_model_units(data, mask, 200, 900), mask


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
    def test_what_the_first_pass_makes(self, scan: tuple[np.ndarray, np.ndarray]) -> None:
        sampling = SamplingSettings(revise=False)
        harmonizer = Harmonizer(random_network(), config(), sampling, device="cpu")
        example = drafts.make_example(*scan, harmonizer, np.random.default_rng(0))
        assert {volume.shape for volume in example} == {scan[0].shape}
        assert example.edges.dtype == bool
        spotted = drafts.plant_spots(*scan, np.random.default_rng(0))
        np.testing.assert_array_equal(example.image, spotted)
        assert 0.01 < np.abs(example.draft - example.image)[scan[1]].mean() < 1
        assert not example.draft[~scan[1]].any()
