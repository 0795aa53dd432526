"""From edges to an image: the flow on whole heads, in tiles, from drafts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fixtures_pipeline import TINY, AnalyticNetwork, random_network
from isochroma.errors import InputError
from isochroma.method.network import COMPACT, PAPER, NetworkSettings
from isochroma.method.sampling import (
    ComputeSettings,
    FlowSampler,
    choose_device,
    tile_boxes,
    tile_edge,
    tile_window,
    tiled,
)

CUBE = np.ones((8, 8, 8), bool)


def edge_map(condition: torch.Tensor) -> torch.Tensor:
    """The edges among the condition's channels: 1, and -1 elsewhere in the mask."""
    return condition[:, :1]


class TestSample:
    def test_one_euler_step_gives_the_posterior_mean(self) -> None:
        """Of a network that is sure of an image, whatever the noise: that image."""
        network = AnalyticNetwork(edge_map)
        mask = CUBE.copy()
        mask[0] = False
        edges = np.random.default_rng(0).random(CUBE.shape) < 0.2
        output = FlowSampler(network).sample(edges & mask, mask)
        np.testing.assert_allclose(output, np.where(mask, 2.0 * edges - 1, 0), atol=1e-6)
        assert network.times == [0.0]

    def test_midpoint_evaluates_at_steps_and_halves(self) -> None:
        network = AnalyticNetwork(edge_map)
        FlowSampler(network).sample(CUBE, CUBE, steps=15, solver="midpoint")
        np.testing.assert_allclose(network.times, np.arange(30) / 30, atol=1e-6)

    @pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2)])
    def test_known_solution(self, solver: str, order: int) -> None:
        """dx/dt = c - x carries x to c + (x - c) / e; n steps of order p do to order p."""
        noise = torch.randn((1, 1, 8, 8, 8), generator=torch.Generator().manual_seed(3)).numpy()
        sampler = FlowSampler(AnalyticNetwork(lambda condition: 0.5 + 0 * condition[:, :1]))
        output = sampler.sample(CUBE, CUBE, steps=4, solver=solver, seed=3)
        factor = {1: 1 - 1 / 4, 2: 1 - 1 / 4 + 1 / 32}[order] ** 4  # near exp(-1)
        np.testing.assert_allclose(output, 0.5 + factor * (noise[0, 0] - 0.5), atol=1e-5)

    def test_seed(self) -> None:
        sampler = FlowSampler(random_network())
        a, b, other = (sampler.sample(CUBE, CUBE, steps=2, seed=n) for n in (1, 1, 2))
        np.testing.assert_array_equal(a, b)
        assert np.abs(a - other).mean() > 0.01

    def test_coordinates_are_millimetres_about_the_brains_centre(self) -> None:
        sampler = FlowSampler(AnalyticNetwork(lambda condition: condition[:, 3:4]), spacing_mm=2.0)
        mask = np.zeros((12, 12, 21), bool)
        mask[2:-2, 2:-2, 5:16] = True  # centre: 10
        output = sampler.sample(mask, mask)
        expected = np.broadcast_to((np.arange(21) - 10) * 2.0 / 100, mask.shape)
        np.testing.assert_allclose(output[mask], expected[mask], atol=1e-6)

    @pytest.mark.parametrize("shape", [(33, 38, 29), (32, 36, 28), (9, 31, 17)])
    def test_result_has_the_shape_of_the_mask(self, shape: tuple[int, int, int]) -> None:
        mask = np.zeros(shape, bool)
        mask[2:-2, 3:-1, 1:-3] = True
        output = FlowSampler(random_network()).sample(mask & False, mask)
        assert output.shape == shape
        assert output.dtype == np.float32
        assert (output[~mask] == 0).all()
        assert output[mask].std() > 0


class TestRevise:
    def test_enters_at_nine_tenths_and_takes_one_step(self) -> None:
        """With v = image - x, the state 0.9 draft becomes 0.9 (0.9 draft) + 0.1 image."""
        network = AnalyticNetwork(edge_map)
        draft = np.random.default_rng(0).uniform(-1, 1, CUBE.shape).astype(np.float32)
        mask = CUBE.copy()
        mask[:, :2] = False
        output = FlowSampler(network).revise(mask, mask, draft).image
        np.testing.assert_allclose(network.times, [0.9], rtol=1e-6)
        np.testing.assert_allclose(output, np.where(mask, 0.81 * draft + 0.1, 0), atol=1e-6)

    def test_any_shape(self) -> None:
        shape = (9, 11, 7)
        ones = np.ones(shape, bool)
        sampler = FlowSampler(AnalyticNetwork(edge_map))
        output = sampler.revise(ones, ones, np.ones(shape, "f4")).image
        np.testing.assert_allclose(output, np.full(shape, 0.91), rtol=1e-5)


class TestTiles:
    def test_pointwise_network_is_tiled_exactly(self) -> None:
        network = AnalyticNetwork(lambda condition: torch.sin(9 * condition[:, 1:2]))
        x = torch.randn(1, 1, 56, 40, 48)
        condition = torch.rand(1, 4, 56, 40, 48)
        t = torch.zeros(1)
        whole = network(x, t, condition)
        network.times.clear()
        blended = tiled(lambda x, condition: network(x, t, condition), (x, condition), 24, 4)
        assert len(network.times) > 8
        torch.testing.assert_close(blended, whole, atol=1e-5, rtol=1e-5)

    def test_tiled_velocity_agrees_with_the_whole(self) -> None:
        """A receptive field of 13 voxels each way, in an overlap of 32; no shortcut from x to the
        velocity, which would agree by itself.
        """
        settings = NetworkSettings(width=4, multipliers=(1,), space_to_depth=1, data_std=None)
        network = random_network(settings)
        shape = (160, 24, 20)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn((1, 1, *shape), generator=generator)
        condition = torch.rand((1, 4, *shape), generator=generator)
        t = torch.full((1,), 0.3)
        with torch.inference_mode():
            whole = network(x, t, condition)
            # 0 to 96 and 64 to 160
            blended = tiled(lambda x, condition: network(x, t, condition), (x, condition), 96, 4)
        assert (blended - whole).square().mean().sqrt() / whole.std() < 0.01
        apart = (blended - whole)[0, 0].abs().amax((1, 2))
        assert apart[64:96].max() > 0  # it was tiled
        assert apart[:64].max() < 1e-5
        assert apart[96:].max() < 1e-5

    def test_memory_bound_picks_the_tile(self) -> None:
        for settings in (COMPACT, NetworkSettings(width=4, multipliers=(1,))):
            network = SimpleNamespace(settings=settings)
            edges = [tile_edge(network, gb) for gb in (0.01, 0.1, 1, 8, 64)]
            assert edges == sorted(edges)
            assert edges[0] < edges[2] < edges[-1]
            assert all(edge % settings.divisor == 0 for edge in edges)
            assert edges[0] >= 3 * settings.divisor

    def test_default_bound_holds_a_whole_brain_of_the_compact_network(self) -> None:
        compact = SimpleNamespace(settings=COMPACT)
        assert tile_edge(compact, 8.0) ** 3 > 160 * 200 * 160
        assert tile_edge(SimpleNamespace(settings=PAPER), 8.0) ** 3 < 160 * 200 * 160

    def test_small_memory_gives_the_same_image(self) -> None:
        network = AnalyticNetwork(lambda condition: condition[:, :1] + condition[:, 2:3])
        rng = np.random.default_rng(0)
        mask = np.ones((70, 60, 50), bool)
        edges = rng.random(mask.shape) < 0.1
        whole = FlowSampler(network).sample(edges, mask)
        assert len(network.times) == 1
        bound = 1.01 * 24**3 * 4 * 12 * TINY.width / TINY.space_to_depth**3 / 1e9
        assert tile_edge(network, bound) == 24
        by_tiles = FlowSampler(network, max_memory_gb=bound).sample(edges, mask)
        assert len(network.times) > 30
        np.testing.assert_allclose(by_tiles, whole, atol=1e-5)
        assert whole.std() > 0.1

    @given(
        st.tuples(*[st.integers(1, 14)] * 3),
        st.integers(3, 9),
        st.sampled_from([1, 2, 4, 8]),
    )
    def test_tiles_cover_everything(
        self, cells: tuple[int, int, int], size_cells: int, multiple: int
    ) -> None:
        shape = tuple(n * multiple for n in cells)
        size = size_cells * multiple
        overlap = min(32, size // 3)
        weight = np.zeros(shape)
        for box in tile_boxes(shape, size, overlap, multiple):
            assert all(s.start % multiple == 0 and s.stop % multiple == 0 for s in box)
            assert all(0 < s.stop - s.start <= size for s in box)
            assert all(s.stop <= n for s, n in zip(box, shape, strict=True))
            window = tile_window(tuple(s.stop - s.start for s in box), overlap)
            assert window.min() > 0
            assert window.max() <= 1 + 1e-5
            weight[box] += window
        assert weight.min() > 0


class TestPrecision:
    def test_bfloat16_is_close_to_float32_and_not_the_same(self) -> None:
        mask = np.ones((24, 24, 24), bool)
        edges = np.random.default_rng(0).random(mask.shape) < 0.15
        exact, rough = (
            FlowSampler(random_network(), precision=precision).sample(edges, mask)
            for precision in ("float32", "bfloat16")
        )
        assert rough.dtype == np.float32
        assert 0 < np.abs(rough - exact).max() < 0.2 * exact.std()
        assert np.abs(rough - exact).mean() < 0.02 * exact.std()


class TestDevice:
    def test_cuda_where_there_is_none(self) -> None:
        if torch.cuda.is_available():
            pytest.skip("this machine has CUDA")
        with pytest.raises(InputError, match=r"^device 'cuda' cannot be used here") as caught:
            choose_device("cuda")
        assert caught.value.argument == "device"

    def test_unknown_name(self) -> None:
        with pytest.raises(InputError, match="'abacus' cannot be used here"):
            choose_device("abacus")

    def test_auto(self) -> None:
        expected = "cuda" if torch.cuda.is_available() else "cpu"
        assert choose_device("auto").type == expected


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"precision": "float8"}, "'float8' is unknown; choose one of float32, bfloat16"),
        ({"max_memory_gb": 0.0}, "max_memory_gb: .*0.1, not 0.0"),
        ({"max_memory_gb": float("nan")}, "max_memory_gb: .*finite"),
    ],
)
def test_compute_settings_are_checked(choice: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ComputeSettings(**choice)  # type: ignore[arg-type]
