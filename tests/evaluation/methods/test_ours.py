from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from fixtures_pipeline import save_tiny_model
from isochroma.evaluation.methods import Ours, named_methods
from isochroma.images.preprocess import Prepared
from isochroma.pipeline import Harmonizer, SamplingSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


class TestOurs:
    def test_is_the_harmonizer(self, model: Path, source: Prepared) -> None:
        sampling = SamplingSettings(steps=2, seed=4)
        ours = Ours(model, SamplingSettings(steps=2), "ours")
        expected = Harmonizer.from_pretrained(model, sampling=sampling).render(source).output
        np.testing.assert_array_equal(ours.apply(source, seed=4), expected)
        assert np.abs(ours.apply(source, seed=5) - expected).max() > 1e-4

    def test_seed_is_not_part_of_the_settings(self, model: Path) -> None:
        one, other = (Ours(model, SamplingSettings(steps=2, seed=seed)).settings for seed in (0, 4))
        assert json.dumps(one) == json.dumps(other)
        assert one["sampling"]["steps"] == 2

    def test_modes_differ(self, model: Path, source: Prepared) -> None:
        box = (slice(14, 30),) * 3
        source = dataclasses.replace(
            source, image=source.image[box], mask=source.mask[box], grid=source.grid.crop(box)
        )
        modes = named_methods(["default", "edges-alone", "paper"], str(model))
        default, edges_alone, paper = (mode.apply(source) for mode in modes)
        assert np.abs(default - edges_alone).max() > 1e-4
        assert np.abs(paper - edges_alone).max() > 1e-4
