"""The pipeline: geometry, determinism, tiles, records and refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fixtures_pipeline import (
    RAS,
    SHAPE,
    SPACING_MM,
    TINY,
    AnalyticNetwork,
    axes_to_affine,
    config,
    head,
    head_image,
    random_network,
    save_tiny_model,
    world_of,
)
from isochroma.errors import InputError
from isochroma.method import flow
from isochroma.method.edges import canny
from isochroma.method.network import COMPACT, PAPER, NetworkSettings
from isochroma.method.refinement import follow_source, keep_structure
from isochroma.method.sampling import (
    PAPER_SAMPLING,
    SamplingSettings,
    choose_device,
    pad_to_multiple,
    sample,
    tile_boxes,
    tile_edge,
    tile_window,
    tiled,
)
from isochroma.pipeline import Harmonizer

COS, SIN = 2 * np.cos(0.4), 2 * np.sin(0.4)
GRIDS = {
    "RAS": (SHAPE, [[2, 0, 0], [0, 2, 0], [0, 0, 2]]),
    "LPS": (SHAPE, [[-2, 0, 0], [0, -2, 0], [0, 0, 2]]),
    "PSR": ((50, 42, 44), [[0, -2, 0], [0, 0, 2], [2, 0, 0]]),
    "oblique": ((48, 54, 46), [[COS, SIN, 0], [-SIN, COS, 0.2], [0, -0.2, 2]]),
    "anisotropic": ((56, 42, 36), [[1.5, 0, 0], [0, 2.2, 0], [0, 0, 2.4]]),
}


@pytest.fixture(scope="module")
def harmonizer() -> Harmonizer:
    return Harmonizer(random_network(), config(), device="cpu")


def image_on(grid: str, dtype: type = np.float32) -> nib.Nifti1Image:
    shape, columns = GRIDS[grid]
    return head_image(shape, axes_to_affine(columns, shape), dtype=dtype)


def analytic(image: object, **options: object) -> Harmonizer:
    """A harmonizer whose network carries every state to `image(condition)`, not refined."""
    options.setdefault("sampling", SamplingSettings(refine="none"))
    return Harmonizer(AnalyticNetwork(image), config(), device="cpu", **options)


class TestBasic:
    @pytest.mark.parametrize("grid", GRIDS)
    def test_geometry_is_the_scans(self, harmonizer: Harmonizer, grid: str) -> None:
        scan = image_on(grid)
        scan.set_qform(scan.get_qform(), code=2)
        scan.set_sform(scan.get_sform(), code=4)
        result = harmonizer(scan)
        assert type(result) is nib.Nifti1Image
        assert result.shape == scan.shape
        np.testing.assert_array_equal(result.affine, scan.affine)
        assert result.header.get_xyzt_units() == ("mm", "sec")
        assert result.get_sform(coded=True)[1] == 4
        assert result.get_qform(coded=True)[1] == 2
        np.testing.assert_allclose(result.get_qform(), scan.get_qform(), atol=1e-5)
        np.testing.assert_allclose(result.header.get_zooms(), scan.header.get_zooms())
        assert result.get_data_dtype() == np.float32

    @pytest.mark.parametrize("grid", GRIDS)
    def test_every_orientation_lands_in_the_world_alike(self, grid: str) -> None:
        """A network that paints the anterior coordinate must paint it anterior in the world."""
        scan = image_on(grid)
        result = analytic(lambda condition: condition[:, 2:3]).run(scan)
        mask = np.asarray(result.mask.dataobj) > 0
        world = world_of(scan.shape, scan.affine)
        if grid == "oblique":  # its model grid is oblique too: anterior is its second axis
            world = world @ np.linalg.inv(scan.affine[:3, :3] / 2).T
        expected = 100 + (world[..., 1] / 100 + 1) / 2 * 400  # in the target's units
        error = np.abs(np.asarray(result.image.dataobj) - expected)[mask]
        assert error.mean() < 0.5  # 0.25 mm
        assert error.max() < 5  # at the rim, a voxel

    def test_constant_image_in_the_targets_units(self) -> None:
        result = analytic(lambda condition: torch.full_like(condition[:, :1], 0.25))(head_image())
        inside = head()[1]
        values = np.asarray(result.dataobj)
        np.testing.assert_allclose(values[inside], 100 + 1.25 / 2 * 400, rtol=1e-5)
        assert (values[~inside] == 0).all()

    def test_network_sees_the_scans_own_edges(self) -> None:
        """One Euler step of v = map - x gives the edge map: 1, -1 elsewhere, 0 outside."""
        result = analytic(lambda condition: condition[:, :1]).run(head_image())
        prepared = result.prepared
        edges = canny(prepared.image, prepared.mask, config().edges)
        assert 0.1 < edges[prepared.mask].mean() < 0.3
        expected = np.where(prepared.mask, 2.0 * edges - 1, 0)
        np.testing.assert_allclose(result.output, expected, atol=1e-6)

    def test_values_lie_in_the_targets_range(self, harmonizer: Harmonizer) -> None:
        values = np.asarray(harmonizer(head_image()).dataobj)
        assert np.isfinite(values).all()
        inside = values[head()[1]]
        assert inside.std() > 1
        assert inside.min() > 100 - 40  # clipped to [-1, 1.1] model units; splines overshoot
        assert inside.max() < 520 + 40

    def test_source_units_do_not_matter(self, harmonizer: Harmonizer) -> None:
        scan = head_image()
        brighter = nib.Nifti1Image(np.asarray(scan.dataobj) * 8, scan.affine, scan.header)
        a, b = (np.asarray(harmonizer(image).dataobj) for image in (scan, brighter))
        np.testing.assert_allclose(a, b, atol=0.5)

    def test_input_is_not_modified(self, harmonizer: Harmonizer) -> None:
        scan = head_image()
        before, header = np.array(scan.dataobj), scan.header.copy()
        harmonizer(scan)
        np.testing.assert_array_equal(np.asarray(scan.dataobj), before)
        assert scan.header == header

    def test_four_dimensions_with_one_volume(self, harmonizer: Harmonizer) -> None:
        scan = head_image()
        four = nib.Nifti1Image(np.asarray(scan.dataobj)[..., None], scan.affine, scan.header)
        result = harmonizer(four)
        assert result.shape == SHAPE
        expected = np.asarray(harmonizer(scan).dataobj)
        np.testing.assert_array_equal(np.asarray(result.dataobj), expected)

    @pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float64])
    def test_dtype_of_the_result(self, harmonizer: Harmonizer, dtype: type) -> None:
        scan = image_on("LPS", np.int16)
        result = harmonizer.run(scan, dtype=dtype).image
        exact = np.asarray(harmonizer(scan).dataobj)
        assert result.get_data_dtype() == dtype
        reread = nib.Nifti1Image.from_bytes(result.to_bytes())
        assert reread.get_data_dtype() == dtype
        np.testing.assert_allclose(np.asarray(reread.dataobj), exact, atol=0.51)

    def test_one_millimetre_with_bias_correction(self) -> None:
        """The settings of real models: 1 mm voxels, N4."""
        affine = axes_to_affine([[1, 0, 0], [0, 1, 0], [0, 0, 1]], (80, 96, 80))
        scan = head_image((80, 96, 80), affine)
        settings = dataclasses.replace(config().preprocess, n4=True, spacing_mm=1.0)
        model = config(preprocess=settings)
        result = Harmonizer(random_network(), model, device="cpu").run(scan)
        assert result.record["Preprocessing"]["n4"] is True
        assert result.record["BrainVolumeMl"] == pytest.approx(239, abs=3)
        assert result.image.shape == (80, 96, 80)
        assert np.isfinite(np.asarray(result.image.dataobj)).all()
        without = Harmonizer(random_network(), model, device="cpu", n4=False)
        assert without.preprocess.n4 is False

    def test_unsafe_choices_are_refused(self) -> None:
        with pytest.raises(InputError, match="'mean' is unknown; choose one of zero, source"):
            Harmonizer(random_network(), config(), outside="mean")
        with pytest.raises(InputError, match="'float8' is unknown; choose one of float32"):
            Harmonizer(random_network(), config(), precision="float8")


class TestMasking:
    def test_outside_zero(self, harmonizer: Harmonizer) -> None:
        values = np.asarray(harmonizer(head_image()).dataobj)
        mask = head()[1]
        assert (values[~mask] == 0).all()
        assert (values[mask] > 50).all()

    def test_outside_source(self) -> None:
        data, mask = head()
        rim = np.where(mask, data, 0)
        whole = rim + np.where(mask, 0, 777).astype(np.float32)  # not stripped: a mask is given
        scan = nib.Nifti1Image(whole, RAS)
        given_mask = nib.Nifti1Image(mask.astype(np.uint8), RAS)
        kept = Harmonizer(random_network(), config(), device="cpu", outside="source")
        values = np.asarray(kept(scan, given_mask).dataobj)
        assert (values[~mask] == 777).all()
        zeroed = Harmonizer(random_network(), config(), device="cpu")
        same = np.asarray(zeroed(scan, given_mask).dataobj)
        np.testing.assert_array_equal(values[mask], same[mask])

    def test_what_surrounds_the_mask_has_no_influence(self, harmonizer: Harmonizer) -> None:
        data, mask = head()
        given_mask = nib.Nifti1Image(mask.astype(np.uint8), RAS)
        noise = np.random.default_rng(0).uniform(0, 3000, SHAPE)
        noisy = nib.Nifti1Image(np.where(mask, data, noise).astype(np.float32), RAS)
        a = harmonizer(nib.Nifti1Image(data, RAS), given_mask)
        b = harmonizer(noisy, given_mask)
        np.testing.assert_array_equal(np.asarray(a.dataobj), np.asarray(b.dataobj))

    def test_mask_image(self, harmonizer: Harmonizer) -> None:
        scan = image_on("PSR")
        result = harmonizer.run(scan)
        assert result.record["MaskOrigin"] == "stripped"
        np.testing.assert_array_equal(result.mask.affine, scan.affine)
        assert result.mask.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asarray(result.mask.dataobj), np.asarray(scan.dataobj) > 0)

    def test_given_mask_is_used(self, harmonizer: Harmonizer) -> None:
        smaller = np.linalg.norm(world_of(SHAPE, RAS) / [34, 42, 35], axis=-1) < 1
        result = harmonizer.run(head_image(), nib.Nifti1Image(smaller.astype(np.uint8), RAS))
        assert result.record["MaskOrigin"] == "given"
        np.testing.assert_array_equal(np.asarray(result.mask.dataobj), smaller)
        np.testing.assert_array_equal(np.asarray(result.image.dataobj) != 0, smaller)

    def test_mask_of_another_grid(self, harmonizer: Harmonizer) -> None:
        moved = RAS.copy()
        moved[0, 3] += 1
        other_affine = nib.Nifti1Image(head()[1].astype(np.uint8), moved)
        other_shape = nib.Nifti1Image(np.ones((44, 50, 41), np.uint8), RAS)
        for mask in (other_affine, other_shape):
            with pytest.raises(InputError, match="the mask's grid"):
                harmonizer(head_image(), mask)

    def test_empty_mask(self, harmonizer: Harmonizer) -> None:
        with pytest.raises(InputError, match="holds 0 ml"):
            harmonizer(head_image(), nib.Nifti1Image(np.zeros(SHAPE, np.uint8), RAS))


class TestReproducible:
    sampling = SamplingSettings(steps=2, solver="heun", seed=3)

    def run(self, sampling: SamplingSettings, scan: nib.Nifti1Image | None = None) -> np.ndarray:
        harmonizer = Harmonizer(random_network(), config(), sampling, device="cpu")
        return np.asarray(harmonizer(scan or head_image()).dataobj)

    def test_same_seed_same_voxels(self) -> None:
        np.testing.assert_array_equal(self.run(self.sampling), self.run(self.sampling))

    def test_same_harmonizer_twice(self, harmonizer: Harmonizer) -> None:
        a, b = (np.asarray(harmonizer(head_image()).dataobj) for _ in range(2))
        np.testing.assert_array_equal(a, b)

    def test_global_random_state_plays_no_part(self) -> None:
        torch.manual_seed(1)
        a = self.run(self.sampling)
        torch.manual_seed(2)
        b = self.run(self.sampling)
        np.testing.assert_array_equal(a, b)

    def test_other_seed_other_voxels(self) -> None:
        a = self.run(self.sampling)
        b = self.run(dataclasses.replace(self.sampling, seed=4))
        mask = head()[1]
        assert np.abs(a - b)[mask].mean() > 0.1

    @pytest.mark.parametrize("codes", ["LPS", "PIR", "SAL"])
    def test_reoriented_input(self, codes: str) -> None:
        """The same voxels stored in another order give the same voxels in that order."""
        scan = head_image()
        there = nib.orientations.axcodes2ornt(tuple(codes))
        turned = scan.as_reoriented(there)
        assert not np.allclose(turned.affine, scan.affine)
        harmonizer = Harmonizer(random_network(), config(), self.sampling, device="cpu")
        expected = np.asarray(harmonizer(scan).as_reoriented(there).dataobj)
        values = np.asarray(harmonizer(turned).dataobj)
        np.testing.assert_allclose(values, expected, atol=0.05)
        upside_down = values[::-1]
        assert np.abs(upside_down - expected).mean() > 1  # the comparison can fail


class TestTiles:
    def test_pointwise_network_is_tiled_exactly(self) -> None:
        network = AnalyticNetwork(lambda condition: torch.sin(9 * condition[:, 1:2]))
        x = torch.randn(1, 1, 56, 40, 48)
        condition = torch.rand(1, 4, 56, 40, 48)
        t = torch.zeros(1)
        whole = network(x, t, condition)
        network.times.clear()
        blended = tiled(network, x, t, condition, 24)
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
            blended = tiled(network, x, t, condition, 96)  # 0 to 96 and 64 to 160
        assert (blended - whole).square().mean().sqrt() / whole.std() < 0.01
        apart = (blended - whole)[0, 0].abs().amax((1, 2))
        assert apart[64:96].max() > 0  # it was tiled
        assert apart[:64].max() < 1e-5
        assert apart[96:].max() < 1e-5

    def test_memory_bound_picks_the_tile(self) -> None:
        for settings in (COMPACT, NetworkSettings(width=4, multipliers=(1,))):
            network = random_network(settings)
            edges = [tile_edge(network, gb) for gb in (0.01, 0.1, 1, 8, 64)]
            assert edges == sorted(edges)
            assert edges[0] < edges[2] < edges[-1]
            assert all(edge % settings.divisor == 0 for edge in edges)
            assert edges[0] >= 3 * settings.divisor

    def test_default_bound_holds_a_whole_brain_of_the_compact_network(self) -> None:
        network = random_network(COMPACT)
        assert tile_edge(network, 8.0) ** 3 > 160 * 200 * 160
        assert tile_edge(AnalyticNetworkOf(PAPER), 8.0) ** 3 < 160 * 200 * 160

    def test_small_memory_gives_the_same_image(self) -> None:
        network = AnalyticNetwork(lambda condition: condition[:, :1] + condition[:, 2:3])
        rng = np.random.default_rng(0)
        mask = np.ones((70, 60, 50), bool)
        edges = rng.random(mask.shape) < 0.1
        whole = sample(network, edges, mask, SamplingSettings())
        assert len(network.times) == 1
        bound = 1.01 * 24**3 * 4 * 12 * TINY.width / TINY.space_to_depth**3 / 1e9
        assert tile_edge(network, bound) == 24
        by_tiles = sample(network, edges, mask, SamplingSettings(), max_memory_gb=bound)
        assert len(network.times) > 30
        np.testing.assert_allclose(by_tiles, whole, atol=1e-5)
        assert whole.std() > 0.1

    def test_small_memory_in_the_pipeline(self) -> None:
        """Tiles of 12 voxels, 4 shared, give the same head where the network looks at no
        neighbour.
        """

        def edges(condition: torch.Tensor) -> torch.Tensor:
            return condition[:, :1]

        whole, tiles = analytic(edges), analytic(edges, max_memory_gb=1e-4)
        a, b = (np.asarray(h(head_image()).dataobj) for h in (whole, tiles))
        assert len(whole.network.times) == 1
        assert len(tiles.network.times) > 30
        np.testing.assert_allclose(a, b, atol=1e-2)

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

    @given(st.tuples(*[st.integers(1, 30)] * 3), st.sampled_from([2, 4, 8, 16]))
    def test_padding(self, shape: tuple[int, int, int], multiple: int) -> None:
        volume = np.ones(shape, bool)
        padded = pad_to_multiple(volume, multiple)
        assert all(n % multiple == 0 for n in padded.shape)
        assert all(0 <= p - n < multiple for p, n in zip(padded.shape, shape, strict=True))
        i, j, k = shape
        assert padded[:i, :j, :k].all()
        assert padded.sum() == volume.sum()

    @pytest.mark.parametrize("shape", [(33, 38, 29), (32, 36, 28), (9, 31, 17)])
    def test_result_has_the_shape_of_the_mask(self, shape: tuple[int, int, int]) -> None:
        mask = np.zeros(shape, bool)
        mask[2:-2, 3:-1, 1:-3] = True
        output = sample(random_network(), mask & False, mask, SamplingSettings())
        assert output.shape == shape
        assert output.dtype == np.float32
        assert (output[~mask] == 0).all()
        assert output[mask].std() > 0


class AnalyticNetworkOf(torch.nn.Module):
    """Settings without weights."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings


class TestSampling:
    def test_paper_is_15_midpoint_steps_and_refinement(self) -> None:
        assert SamplingSettings(15, "midpoint", "paper", False, 0) == PAPER_SAMPLING
        network = AnalyticNetwork(lambda condition: condition[:, :1])
        mask = np.ones((8, 8, 8), bool)
        told: list[tuple[int, int]] = []
        progress = lambda done, total: told.append((done, total))  # noqa: E731
        sample(network, mask, mask, PAPER_SAMPLING, progress=progress)
        assert len(network.times) == 30
        np.testing.assert_allclose(network.times, np.arange(30) / 30, atol=1e-6)
        assert told == [(n, 15) for n in range(1, 16)]

    def test_default_is_one_evaluation_at_the_start(self) -> None:
        assert SamplingSettings() == SamplingSettings(1, "euler", "local", True, 0)
        network = AnalyticNetwork(lambda condition: condition[:, :1])
        mask = np.ones((8, 8, 8), bool)
        sample(network, mask, mask, SamplingSettings())
        assert network.times == [0.0]

    @pytest.mark.parametrize("solver", list(flow.SOLVERS))
    def test_evaluations(self, solver: str) -> None:
        network = AnalyticNetwork(lambda condition: condition[:, :1])
        mask = np.ones((8, 8, 8), bool)
        sample(network, mask, mask, SamplingSettings(steps=4, solver=solver))
        assert len(network.times) == 4 * flow.SOLVERS[solver].evaluations

    def test_coordinates_are_millimetres_about_the_brains_centre(self) -> None:
        network = AnalyticNetwork(lambda condition: condition[:, 3:4])
        mask = np.zeros((12, 12, 21), bool)
        mask[2:-2, 2:-2, 5:16] = True  # centre: 10
        output = sample(network, mask, mask, SamplingSettings(), spacing_mm=2.0)
        expected = np.broadcast_to((np.arange(21) - 10) * 2.0 / 100, mask.shape)
        np.testing.assert_allclose(output[mask], expected[mask], atol=1e-6)

    def test_default_follows_the_source_by_the_models_own_error(self) -> None:
        model = config(training={"val_psnr": 20.0})
        assert model.validation_error == pytest.approx(0.2)
        runs = [
            Harmonizer(random_network(), model, SamplingSettings(refine=refine), device="cpu").run(
                head_image()
            )
            for refine in ("none", "local")
        ]
        source = runs[0].prepared
        expected, _ = follow_source(runs[0].output, source.image, source.mask, [0.2])
        np.testing.assert_array_equal(runs[1].output, expected)
        assert np.abs(expected - runs[0].output).max() > 0.01

    def test_default_knows_where_the_model_errs(self) -> None:
        model = config(training={"val_psnr": 20.0}, errors=(0.3, 0.05))
        plain, output = (
            Harmonizer(random_network(), model, SamplingSettings(refine=refine), device="cpu").run(
                head_image()
            )
            for refine in ("none", "local")
        )
        source = plain.prepared
        expected, _ = follow_source(plain.output, source.image, source.mask, [0.3, 0.05])
        np.testing.assert_array_equal(output.output, expected)

    def test_second_pass(self) -> None:
        """Of a model that was trained for it: one Euler step from the draft, at its time, and the
        structure of the source once more, by the first pass's variances.
        """
        plain, draft = (
            Harmonizer(random_network(), config(), sampling, device="cpu").run(head_image())
            for sampling in (SamplingSettings(refine="none"), SamplingSettings())
        )
        trained = config(training={"draft_share": 0.5})
        harmonizer = Harmonizer(random_network(), trained, device="cpu")
        twice = harmonizer.run(head_image())
        mask = draft.prepared.mask
        edges = canny(draft.prepared.image, mask, trained.edges)
        second = sample(
            random_network(), edges, mask, SamplingSettings(), spacing_mm=2.0, draft=draft.output
        )
        _, variance = follow_source(plain.output, draft.prepared.image, mask, [0.2])
        expected = keep_structure(second, draft.prepared.image, mask, 0.2, variance)
        np.testing.assert_allclose(twice.output, expected, atol=1e-5)
        assert np.abs(expected - draft.output).max() > 0.01
        assert "revise" in twice.record["Seconds"]

    def test_second_pass_can_be_left_out(self) -> None:
        trained = config(training={"draft_share": 0.5})
        draft, left_out, unrefined = (
            Harmonizer(random_network(), model, sampling, device="cpu").run(head_image())
            for model, sampling in (
                (config(), SamplingSettings()),
                (trained, SamplingSettings(revise=False)),
                (trained, SamplingSettings(refine="none")),
            )
        )
        np.testing.assert_array_equal(left_out.output, draft.output)
        assert "revise" not in unrefined.record["Seconds"]

    def test_paper_refinement_raises_the_correlation(self) -> None:
        unrefined = SamplingSettings(refine="none")
        plain = Harmonizer(random_network(), config(), unrefined, device="cpu").run(head_image())
        refining = SamplingSettings(refine="paper")
        refined = Harmonizer(random_network(), config(), refining, device="cpu").run(head_image())
        mask, source = plain.prepared.mask, plain.prepared.image
        before, after = (np.corrcoef(r.output[mask], source[mask])[0, 1] for r in (plain, refined))
        assert after > before + 0.01
        assert plain.output[mask].mean() == pytest.approx(refined.output[mask].mean(), abs=1e-6)

    @pytest.mark.parametrize(
        ("choice", "message"),
        [
            ({"steps": 0}, "steps must be 1 or more, not 0"),
            ({"steps": -3}, "steps must be 1 or more, not -3"),
            ({"solver": "rk4"}, "'rk4' is unknown; choose one of euler, midpoint, heun"),
            ({"refine": "magic"}, "'magic' is unknown; choose one of paper, local, none"),
        ],
    )
    def test_choices_are_checked(self, choice: dict[str, object], message: str) -> None:
        with pytest.raises(InputError, match=message):
            SamplingSettings(**choice)


class TestPrecision:
    def test_bfloat16_is_close_to_float32_and_not_the_same(self) -> None:
        unrefined = SamplingSettings(refine="none")
        outputs = [
            Harmonizer(random_network(), config(), unrefined, device="cpu", precision=precision)
            .run(head_image())
            .output
            for precision in ("float32", "bfloat16")
        ]
        spread = outputs[0].std()
        assert 0 < np.abs(outputs[1] - outputs[0]).max() < 0.2 * spread
        assert np.abs(outputs[1] - outputs[0]).mean() < 0.02 * spread


class TestDevice:
    def test_cuda_where_there_is_none(self) -> None:
        if torch.cuda.is_available():
            pytest.skip("this machine has CUDA")
        with pytest.raises(InputError) as caught:
            Harmonizer(random_network(), config(), device="cuda")
        assert "'cuda' cannot be used here" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_unknown_name(self) -> None:
        with pytest.raises(InputError, match="'abacus' cannot be used here"):
            choose_device("abacus")

    def test_auto(self) -> None:
        expected = "cuda" if torch.cuda.is_available() else "cpu"
        assert choose_device("auto").type == expected


class TestRecord:
    KEYS = (
        "Model ModelSHA256 Sampling Preprocessing Edges MaskOrigin BrainVolumeMl Doubts "
        "OutsideMask SourceLimits TargetLimits WhiteMatterMode Device Precision Runtime Seconds"
    )

    def test_record_is_complete_and_serialisable(self) -> None:
        harmonizer = Harmonizer(
            random_network(), config(sha256="abc"), SamplingSettings(seed=7), device="cpu"
        )
        record = harmonizer.run(head_image()).record
        assert list(record) == self.KEYS.split()
        assert json.loads(json.dumps(record)) == json.loads(json.dumps(record, default=str))
        assert record["Model"] == "tiny"
        assert record["ModelSHA256"] == "abc"
        sampling = {"steps": 1, "solver": "euler", "refine": "local", "revise": False, "seed": 7}
        assert record["Sampling"] == sampling
        assert record["Preprocessing"]["spacing_mm"] == SPACING_MM
        assert record["BrainVolumeMl"] == pytest.approx(239, abs=6)
        assert record["TargetLimits"] == [100.0, 500.0]
        modes = record["WhiteMatterMode"]
        assert set(modes) == {"Output", "Target"}
        assert all(300 <= mode <= 500 for mode in modes.values())  # the brighter half
        low, high = record["SourceLimits"]
        assert 150 < low < 300
        assert 850 < high < 1100
        stages = ["mask", "resample", "scale", "edges", "network", "refine", "restore"]
        assert list(record["Seconds"]) == stages
        assert all(seconds >= 0 for seconds in record["Seconds"].values())

    def test_progress_names_the_stages(self, harmonizer: Harmonizer) -> None:
        told: list[tuple[str, int, int]] = []
        harmonizer.run(head_image(), progress=lambda *step: told.append(step))
        names = list(dict.fromkeys(name for name, _, _ in told))
        assert names == ["mask", "resample", "scale", "edges", "network", "refine", "restore"]
        assert ("network", 1, 1) in told


class TestPublicInterface:
    def test_names(self) -> None:
        import isochroma

        assert isochroma.Harmonizer is Harmonizer
        assert isochroma.SamplingSettings is SamplingSettings
        with pytest.raises(AttributeError, match="no attribute 'harmonise'"):
            _ = isochroma.harmonise

    def test_from_pretrained_passes_options(self, tmp_path: Path) -> None:
        folder = save_tiny_model(tmp_path / "model")
        harmonizer = Harmonizer.from_pretrained(folder, device="cpu", outside="source")
        assert harmonizer.outside == "source"
        assert harmonizer.config.name == "tiny"
        assert len(harmonizer.config.sha256) == 64
