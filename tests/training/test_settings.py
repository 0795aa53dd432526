from __future__ import annotations

import torch

from isochroma.method.network import VelocityNetwork
from isochroma.training.module import rate_factor
from isochroma.training.settings import COMPACT_RECIPE, PAPER_RECIPE


class TestPaperRecipe:
    """What Jeong et al. 2025 (arXiv:2505.00133) say of their training."""

    def test_network(self) -> None:
        with torch.device("meta"):
            network = VelocityNetwork(PAPER_RECIPE.network)
        millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        assert abs(millions - 98.5) < 0.1
        assert PAPER_RECIPE.network.data_std is None  # no preconditioning

    def test_the_edges_are_the_target_scans_own(self) -> None:
        assert PAPER_RECIPE.training.edge_variants == 0
        assert PAPER_RECIPE.training.variant_share == 0

    def test_times_are_uniform(self) -> None:
        assert PAPER_RECIPE.training.start_share == 0

    def test_there_is_no_second_pass(self) -> None:
        assert PAPER_RECIPE.training.draft_share == 0

    def test_patches(self) -> None:
        assert PAPER_RECIPE.patches.size == 64
        assert PAPER_RECIPE.patches.strided_probability == 0.2

    def test_optimization(self) -> None:
        settings = PAPER_RECIPE.training
        assert settings.batch_size == 8
        assert 150_000 <= settings.steps <= 300_000
        assert settings.precision == "16-mixed"
        rates = {settings.learning_rate * rate_factor(n, settings) for n in range(0, 150_001, 50)}
        assert rates == {5e-5}


class TestCompactRecipe:
    def test_small_enough_for_a_laptop(self) -> None:
        with torch.device("meta"):
            network = VelocityNetwork(COMPACT_RECIPE.network)
        assert sum(parameter.numel() for parameter in network.parameters()) < 5e6
