from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from fixtures_pipeline import SPACING_MM, AnalyticNetwork, random_network
from isochroma.method import flow
from isochroma.method.sampling import FlowSampler
from isochroma.training.batches import Batch
from isochroma.training.data import Example, TargetScan
from isochroma.training.module import FlowTraining, noise_and_times, rate_factor, reconstruct
from isochroma.training.settings import Recipe, TrainingSettings


def batch(count: int, drafted: list[int] | None = None) -> Batch:
    """Patches of 0.5; those with a draft are drafted as 0.7."""
    image = torch.full((count, 1, 4, 4, 4), 0.5)
    with_draft = torch.zeros(count, dtype=torch.bool)
    with_draft[drafted or []] = True
    draft = torch.where(with_draft.view(-1, 1, 1, 1, 1), 0.7, torch.zeros_like(image))
    mask = torch.ones_like(image)
    return Batch(image, mask, draft, torch.zeros(count, 4, 4, 4, 4), with_draft)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestNoiseAndTimes:
    @pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
    def test_share_at_the_start(self, share: float) -> None:
        settings = TrainingSettings(start_share=share)
        _, t = noise_and_times(batch(2000), settings, generator())
        assert float((t == 0).float().mean()) == pytest.approx(share, abs=0.03)
        later = t[t > 0].numpy()
        assert (later < 1).all()
        if later.size:  # the others are uniform
            expected = np.linspace(0, 1, 5)
            np.testing.assert_allclose(np.quantile(later, expected), expected, atol=0.05)

    def test_noise_is_standard_normal(self) -> None:
        noise, _ = noise_and_times(batch(500), TrainingSettings(), generator())
        assert float(noise.mean()) == pytest.approx(0, abs=0.02)
        assert float(noise.std()) == pytest.approx(1, abs=0.02)

    def test_drafts_enter_at_their_time(self) -> None:
        """The state of a patch with a draft is the scaled draft; the others keep their noise."""
        some = batch(3, drafted=[1])
        noise, t = noise_and_times(some, TrainingSettings(start_share=0.0), generator())
        assert float(t[1]) == pytest.approx(flow.DRAFT_TIME)
        state = flow.interpolate(noise, some.image, t)
        torch.testing.assert_close(state[1], flow.DRAFT_TIME * some.draft[1])
        plain, times = noise_and_times(batch(3), TrainingSettings(start_share=0.0), generator())
        for n in (0, 2):
            assert torch.equal(noise[n], plain[n])
            assert t[n] == times[n]


class TestRateFactor:
    def test_warm_up_is_linear(self) -> None:
        settings = TrainingSettings(steps=10**6, warmup_steps=4)
        factors = [rate_factor(step, settings) for step in range(4)]
        assert factors == pytest.approx([0.25, 0.5, 0.75, 1.0])

    def test_cosine(self) -> None:
        settings = TrainingSettings(steps=100, warmup_steps=0, final_rate=0.1)
        factors = [rate_factor(step, settings) for step in (0, 50, 100, 200)]
        assert factors == pytest.approx([1.0, 0.55, 0.1, 0.1])

    def test_constant(self) -> None:
        settings = TrainingSettings(steps=100, warmup_steps=0, final_rate=1.0)
        assert {rate_factor(step, settings) for step in range(101)} == {1.0}


class TestWeights:
    def test_seed_decides(self, recipe: Recipe) -> None:
        torch.manual_seed(999)  # global state must play no part
        a = FlowTraining(recipe).network.state_dict()
        b = FlowTraining(recipe).network.state_dict()
        other = dataclasses.replace(recipe.training, seed=1)
        c = FlowTraining(dataclasses.replace(recipe, training=other)).network.state_dict()
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert any(not torch.equal(a[name], c[name]) for name in a)

    def test_given(self, recipe: Recipe) -> None:
        given = random_network(seed=4).state_dict()
        started = FlowTraining(recipe, given).network.state_dict()
        assert all(torch.equal(started[name], given[name]) for name in given)


class TestReconstruct:
    """A network whose first step from noise gives 0.2 on edges and -0.2 elsewhere in the brain."""

    shape = (8, 12, 8)

    @staticmethod
    def sampler() -> FlowSampler:
        return FlowSampler(AnalyticNetwork(lambda condition: 0.2 * condition[:, :1]), SPACING_MM)

    def test_known_answer(self) -> None:
        mask = np.ones(self.shape, bool)
        mask[0] = False
        edges = np.random.default_rng(0).random(self.shape) < 0.3
        image = np.where(mask, 0.5, 0).astype(np.float16)
        scan = TargetScan(Path(), image, mask, (edges & mask)[None], np.full(3, 4.0), 0, 1)
        rebuilt = reconstruct(self.sampler(), scan)
        assert list(rebuilt) == ["val"]
        np.testing.assert_array_equal(rebuilt["val"].truth, image)
        expected = np.where(mask, np.where(edges, 0.2, -0.2), 0)
        np.testing.assert_allclose(rebuilt["val"].output, expected, atol=1e-6)

    def test_each_draft_is_corrected(self) -> None:
        """From the state s = t y of the draft y, one step of image - s ends nearer to the image."""
        mask = np.ones(self.shape, bool)
        examples = [
            Example(np.full(self.shape, level), mask, np.full(self.shape, draft))
            for level, draft in ((0.1, 0.3), (0.2, 0.5))
        ]
        image = np.zeros(self.shape, np.float16)
        scan = TargetScan(Path(), image, mask, mask[None], np.full(3, 4.0), 0, 1, tuple(examples))
        rebuilt = reconstruct(self.sampler(), scan)
        assert list(rebuilt) == ["val", "val_draft0", "val_draft1"]
        for example, each in zip(examples, list(rebuilt.values())[1:], strict=True):
            state = flow.DRAFT_TIME * example.draft
            expected = state + (1 - flow.DRAFT_TIME) * (0.2 - state)
            np.testing.assert_allclose(each.output, expected, atol=1e-6)
            np.testing.assert_array_equal(each.truth, example.image.astype(np.float32))
