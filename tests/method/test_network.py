from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from isochroma.method import network
from isochroma.method.network import COMPACT, PAPER, Attention, ChannelNorm, VelocityNetwork

TINY_PAPER = replace(PAPER, width=32, multipliers=(1, 2))
TINY = replace(COMPACT, width=8, multipliers=(1, 2))


def perturbed(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with every parameter moved, so that no zero-initialised layer hides others."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def inputs(
    shape: tuple[int, int, int], batch: int = 1, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((batch, 1, *shape), generator=generator)
    t = torch.rand(batch, generator=generator)
    return x, t, torch.randn((batch, 4, *shape), generator=generator)


class TestConfigurations:
    def test_paper_has_98_5_million_parameters(self) -> None:
        with torch.device("meta"):
            model = VelocityNetwork(PAPER)
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        assert millions == pytest.approx(98.5, abs=0.1)

    def test_divisors(self) -> None:
        assert PAPER.divisor == 8  # the paper pads to 8
        assert COMPACT.divisor == 8
        assert TINY.divisor == 4

    @pytest.mark.parametrize("shape", [(16, 16, 16), (8, 16, 24)])
    def test_compact_output(self, shape: tuple[int, int, int]) -> None:
        model = VelocityNetwork(COMPACT)
        x, t, condition = inputs(shape, batch=2)
        output = model(x, t, condition)
        assert output.shape == x.shape
        assert torch.isfinite(output).all()

    @pytest.mark.parametrize("shape", [(4, 4, 4), (12, 8, 20)])
    def test_smallest_and_odd_multiples(self, shape: tuple[int, int, int]) -> None:
        model = VelocityNetwork(TINY)
        x, t, condition = inputs(shape)
        assert model(x, t, condition).shape == x.shape

    @pytest.mark.parametrize("settings", [TINY_PAPER, TINY], ids=["paper", "compact"])
    def test_every_parameter_gets_a_gradient(self, settings: network.NetworkSettings) -> None:
        model = perturbed(VelocityNetwork(settings))
        x, t, condition = inputs((8, 8, 8), batch=2)
        model(x, t, condition).square().mean().backward()
        without = [
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is None or not parameter.grad.abs().max() > 0
        ]
        assert without == []
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())

    def test_tiny_paper_has_all_of_papers_parts(self) -> None:
        model = VelocityNetwork(TINY_PAPER)
        linear = [m.linear for m in model.modules() if isinstance(m, Attention)]
        assert linear.count(False) == 1
        assert linear.count(True) == 4  # two levels, down and up
        assert model.stem.kernel_size == (7, 7, 7)
        assert model.stem.in_channels == 5
        blocks = [m for m in model.modules() if isinstance(m, network.ResidualBlock)]
        assert len(blocks) == 2 * 2 * 2 + 2 + 1

    def test_untrained_output_is_the_best_linear_guess(self) -> None:
        """The last layer starts at zero: nothing but the skip connection is left."""
        x, t, condition = inputs((8, 8, 8), batch=2)
        compact = VelocityNetwork(TINY)(x, t, condition)
        keep, _, _ = network.precondition(t, TINY.data_std)
        torch.testing.assert_close(compact, keep * x)
        assert not VelocityNetwork(TINY_PAPER)(x, t, condition).any()

    @pytest.mark.parametrize("settings", [TINY_PAPER, TINY], ids=["paper", "compact"])
    def test_every_input_matters(self, settings: network.NetworkSettings) -> None:
        model = perturbed(VelocityNetwork(settings)).eval()
        x, t, condition = inputs((8, 8, 8))
        with torch.no_grad():
            before = model(x, t, condition)
            assert not torch.allclose(model(x + 0.5, t, condition), before, atol=1e-4)
            assert not torch.allclose(model(x, 1 - t, condition), before, atol=1e-4)
            for channel in range(4):
                other = condition.clone()
                other[:, channel] += 0.5
                assert not torch.allclose(model(x, t, other), before, atol=1e-4), channel

    def test_batch_members_are_independent(self) -> None:
        model = perturbed(VelocityNetwork(TINY)).eval()
        x, t, condition = inputs((8, 8, 8), batch=3)
        with torch.no_grad():
            together = model(x, t, condition)
            alone = model(x[1:2], t[1:2], condition[1:2])
        torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)

    def test_far_voxels_have_no_influence(self) -> None:
        """Nothing is normalised over space: without attention, sight ends somewhere."""
        model = perturbed(VelocityNetwork(TINY)).eval()
        x, t, condition = inputs((80, 8, 8))
        other = x.clone()
        other[:, :, 72:] += 5
        with torch.no_grad():
            change = (model(x, t, condition) - model(other, t, condition)).abs()
        assert change[:, :, 72:].max() > 0.1
        assert change[:, :, :8].max() == 0


class TestChannelNorm:
    def test_formula(self) -> None:
        norm = ChannelNorm(5)
        nn.init.normal_(norm.gain)
        nn.init.normal_(norm.bias)
        x = torch.randn(2, 5, 3, 4, 2) * 7
        result = norm(x).detach().numpy()
        values = x.numpy()
        centred = values - values.mean(1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(1, keepdims=True) + 1e-3)
        gain, bias = norm.gain.detach().numpy(), norm.bias.detach().numpy()
        np.testing.assert_allclose(result, centred / deviation * gain + bias, atol=1e-4)

    def test_each_voxel_by_itself(self) -> None:
        norm = ChannelNorm(5)
        x = torch.randn(1, 5, 3, 3, 3)
        louder = x.clone()
        louder[..., 0, 0, 0] *= 100
        changed = (norm(louder) - norm(x)).abs().amax(1)
        changed[..., 0, 0, 0] = 0
        assert changed.max() == 0

    def test_zero_stays_zero(self) -> None:
        assert not ChannelNorm(3)(torch.zeros(1, 3, 2, 2, 2)).any()


class TestAttention:
    """Against the textbook, head by head in numpy."""

    @staticmethod
    def softmax(x: np.ndarray, axis: int) -> np.ndarray:
        e = np.exp(x - x.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    @pytest.mark.parametrize("linear", [True, False])
    def test_explicit(self, linear: bool) -> None:
        channels, heads, depth, shape = 6, 2, 4, (3, 2, 4)
        module = perturbed(Attention(channels, linear, heads, depth)).double()
        x = torch.randn((2, channels, *shape), dtype=torch.float64)
        with torch.no_grad():
            result = module(x).numpy()
            normed = module.norm(x).numpy().reshape(2, channels, -1)
        project = module.qkv.weight.detach().numpy().reshape(3, heads, depth, channels)
        join = module.out.weight.detach().numpy()[:, :, 0, 0, 0]
        bias = module.out.bias.detach().numpy()[:, None]
        for batch in range(2):
            parts = []
            for head in range(heads):
                q, k, v = (project[part, head] @ normed[batch] for part in range(3))  # (D, N)
                if linear:
                    q, k = self.softmax(q, 0) / np.sqrt(depth), self.softmax(k, 1)
                    weights = q.T @ k  # (N, N): what the linear form never builds
                else:
                    weights = self.softmax(q.T @ k / np.sqrt(depth), 1)
                parts.append(v @ weights.T)
            expected = join @ np.concatenate(parts) + bias
            expected = x[batch].numpy() + expected.reshape(channels, *shape)
            np.testing.assert_allclose(result[batch], expected, rtol=1e-6, atol=1e-9)


class TestSpaceToDepth:
    @given(st.sampled_from([1, 2, 3]), st.integers(1, 3), st.tuples(*[st.integers(1, 4)] * 3))
    def test_inverse(self, block: int, channels: int, cells: tuple[int, ...]) -> None:
        shape = tuple(block * n for n in cells)
        x = torch.arange(2 * channels * np.prod(shape)).view(2, channels, *shape)
        deep = network.space_to_depth(x, block)
        assert deep.shape == (2, channels * block**3, *cells)
        assert torch.equal(network.depth_to_space(deep, block), x)

    def test_channels_of_a_cell_are_its_voxels(self) -> None:
        x = torch.randn(1, 2, 4, 6, 8)
        deep = network.space_to_depth(x, 2)
        for index in [(0, 0, 0), (1, 2, 3), (1, 0, 2)]:
            box = tuple(slice(2 * a, 2 * a + 2) for a in index)
            cell = deep[(0, slice(None), *index)]
            assert torch.equal(cell, x[(0, slice(None), *box)].reshape(-1))


class TestPrecondition:
    """The three factors against a simulated population: x of standard deviation s, unit noise."""

    @pytest.mark.parametrize("s", [0.3, 0.5, 1.2])
    @pytest.mark.parametrize("t", [0.0, 0.25, 0.6, 0.9, 1.0])
    def test_simulation(self, s: float, t: float) -> None:
        rng = np.random.default_rng(0)
        image, noise = rng.normal(0, s, 200_000), rng.standard_normal(200_000)
        state, velocity = (1 - t) * noise + t * image, image - noise
        factors = network.precondition(torch.tensor([t]), s)
        assert all(factor.shape == (1, 1, 1, 1, 1) for factor in factors)
        keep, gain, shrink = (float(factor) for factor in factors)
        slope = np.mean(state * velocity) / np.mean(state**2)
        assert keep == pytest.approx(slope, abs=0.02)
        residual = velocity - keep * state
        assert gain == pytest.approx(residual.std(), rel=0.01)
        guess = np.mean(state * image) / np.mean(state**2)  # of the image, from the state
        assert shrink * s == pytest.approx(guess, abs=0.01)

    def test_start_predicts_the_image(self) -> None:
        """At t = 0, noise + velocity = s F: the network's output is the image in units of s."""
        keep, gain, _ = network.precondition(torch.zeros(1), 0.5)
        assert float(keep) == -1
        assert float(gain) == 0.5

    def test_end_predicts_the_noise(self) -> None:
        keep, gain, _ = network.precondition(torch.ones(1), 0.5)
        assert float(keep) == pytest.approx(1)
        assert float(gain) == pytest.approx(1)

    def test_used_by_the_network(self) -> None:
        model = perturbed(VelocityNetwork(TINY)).eval()
        x, t, condition = inputs((8, 8, 8), batch=2)
        keep, gain, shrink = network.precondition(t, TINY.data_std)
        with torch.no_grad():
            expected = keep * x + gain * model.unet(shrink * x, t, condition)
            torch.testing.assert_close(model(x, t, condition), expected)
            plain = VelocityNetwork(replace(TINY, data_std=None)).eval()
            plain.load_state_dict(model.state_dict())
            torch.testing.assert_close(plain(x, t, condition), model.unet(x, t, condition))


class TestTimeEmbedding:
    def test_distinguishes_near_times(self) -> None:
        embedding = network.TimeEmbedding(32)
        with torch.no_grad():
            out = embedding(torch.tensor([0.0, 0.05, 0.5, 1.0]))
        assert out.shape == (4, 128)
        distances = torch.cdist(out, out) + torch.eye(4)
        assert distances.min() > 0.01
