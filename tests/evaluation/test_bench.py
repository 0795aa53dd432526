from __future__ import annotations

import time
from pathlib import Path

import nibabel as nib
import pytest
import torch

from fixtures_pipeline import config, head_image, random_network
from isochroma.evaluation import bench
from isochroma.evaluation.bench import Cost
from isochroma.models.folder import Model
from isochroma.pipeline import Harmonizer


class TestMeasure:
    def test_stages_of_a_run(self, tmp_path: Path) -> None:
        nib.save(head_image(), tmp_path / "scan.nii.gz")
        out = tmp_path / "out.nii.gz"
        harmonizer = Harmonizer(Model(random_network(), config()))
        start = time.perf_counter()
        costs, voxels = bench.measure(tmp_path / "scan.nii.gz", harmonizer, out)
        whole = time.perf_counter() - start
        names = [cost.stage for cost in costs]
        assert names[0] == "load"
        assert names[-1] == "save"
        assert {"mask", "edges", "network", "restore"} < set(names)
        assert 0.5 * whole < sum(cost.seconds for cost in costs) < whole + 0.01 * len(costs)
        assert all(cost.megabytes > 50 for cost in costs)
        assert 40_000 < voxels <= 44 * 50 * 42
        assert nib.load(out).shape == head_image().shape


class TestTable:
    def test_sum_and_ratio(self) -> None:
        costs = [Cost("edges", 1, 100), Cost("network", 2, 300), Cost("revise", 3, 200)]
        text = bench.table(costs, Cost("paper", 500, 900))
        assert "| whole | 6.0 | 300 |" in text
        assert "| over our network | 100 times | |" in text

    @pytest.mark.slow
    def test_papers_network(self) -> None:
        """Twice the voxels, twice the seconds, from two measurements."""
        one, two = (bench.paper_network(n * 64**3, torch.device("cpu")) for n in (1, 2))
        assert 1.2 < two.seconds / one.seconds < 3.5
