"""The pipeline: geometry, masks, determinism, passes, records and refusals."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

import isochroma
from fixtures_pipeline import (
    RAS,
    SHAPE,
    SPACING_MM,
    AnalyticNetwork,
    axes_to_affine,
    config,
    head,
    head_image,
    random_reviser,
    save_tiny_model,
    tiny_harmonizer,
    world_of,
)
from isochroma.errors import InputError
from isochroma.images.brain import find_brain
from isochroma.images.grid import pad_to_multiple
from isochroma.images.preprocess import Prepared, prepare
from isochroma.memory import needed_gb
from isochroma.method.edges import canny
from isochroma.method.sampling import SMALLEST_TILE, ComputeSettings, FlowSampler, activation_bytes
from isochroma.models.config import Capabilities, TargetDomain, Validation
from isochroma.pipeline import (
    PAPER_SAMPLING,
    Harmonizer,
    SamplingSettings,
    white_matter_modes,
)
from isochroma.stages import Event, listening

COS, SIN = 2 * np.cos(0.4), 2 * np.sin(0.4)
GRIDS = {
    "RAS": (SHAPE, [[2, 0, 0], [0, 2, 0], [0, 0, 2]]),
    "LPS": (SHAPE, [[-2, 0, 0], [0, -2, 0], [0, 0, 2]]),
    "PSR": ((50, 42, 44), [[0, -2, 0], [0, 0, 2], [2, 0, 0]]),
    "oblique": ((48, 54, 46), [[COS, SIN, 0], [-SIN, COS, 0.2], [0, -0.2, 2]]),
    "anisotropic": ((56, 42, 36), [[1.5, 0, 0], [0, 2.2, 0], [0, 0, 2.4]]),
}


UNREFINED = SamplingSettings(refine="none")


@pytest.fixture(scope="module")
def harmonizer() -> Harmonizer:
    return tiny_harmonizer()


@pytest.fixture(scope="module")
def source() -> Prepared:
    """`head_image` on the model grid."""
    scan = head_image()
    return prepare(scan, find_brain(scan).mask, config().preprocess)


def image_on(grid: str, dtype: type = np.float32) -> nib.Nifti1Image:
    shape, columns = GRIDS[grid]
    return head_image(shape, axes_to_affine(columns, shape), dtype=dtype)


def analytic(image: object, **options: object) -> Harmonizer:
    """A harmonizer whose network carries every state to `image(condition)`, not refined."""
    return tiny_harmonizer(UNREFINED, AnalyticNetwork(image), **options)


def volume(values: np.ndarray) -> torch.Tensor:
    """(1, 1, I, J, K) what a network gives for a volume on the model grid: padded."""
    return torch.from_numpy(pad_to_multiple(values.astype(np.float32), 4))[None, None]


class TestThickSlices:
    """Slices of 6 mm for a model of 2 mm."""

    SHAPE = (SHAPE[0], SHAPE[1], SHAPE[2] // 3)

    @pytest.fixture
    def scan(self) -> nib.Nifti1Image:
        columns = [[2, 0, 0], [0, 2, 0], [0, 0, 6]]
        return head_image(self.SHAPE, axes_to_affine(columns, self.SHAPE))

    def test_the_output_is_the_mean_over_each_slice(self, scan: nib.Nifti1Image) -> None:
        height = analytic(lambda condition: condition[:, 3:4].square()).run(scan)
        assert height.source.blur is not None
        assert "thick-voxels" in [each.code for each in height.warnings]
        assert height.image.shape == self.SHAPE
        values = np.asarray(height.image.dataobj)
        target = config().target
        found = 2 * (values - target.lower) / (target.upper - target.lower) - 1
        inside = np.asarray(height.mask.dataobj) > 0
        world = world_of(self.SHAPE, scan.affine)[..., 2]
        middle = height.source.grid
        centroid = nib.affines.apply_affine(middle.affine, np.argwhere(height.source.mask).mean(0))
        below, above = ((world - centroid[2] + step) / 100 for step in (-2, 2))
        expected = (below**2 + above**2 + ((world - centroid[2]) / 100) ** 2) / 3
        deep = ndimage.binary_erosion(inside, iterations=2)
        np.testing.assert_allclose(found[deep], expected[deep], atol=2e-4)

    def test_grid_of_the_model(self, scan: nib.Nifti1Image) -> None:
        """Isotropic over the scan's field of view, its header's code kept, anterior anterior."""
        harmonizer = analytic(lambda condition: condition[:, 2:3], grid="model")
        result = harmonizer.run(scan)
        np.testing.assert_allclose(result.image.header.get_zooms(), 2)
        assert result.image.shape == (*self.SHAPE[:2], 3 * self.SHAPE[2])
        assert result.mask.shape == result.image.shape
        assert result.image.get_sform(coded=True)[1] == scan.get_sform(coded=True)[1] == 1
        corners = [
            nib.affines.apply_affine(each.affine, -0.5 * np.ones(3))
            for each in (scan, result.image)
        ]
        np.testing.assert_allclose(*corners, atol=1e-4)
        inside = np.asarray(result.mask.dataobj) > 0
        forward = world_of(result.image.shape, result.image.affine)[inside][:, 1]
        values = np.asarray(result.image.dataobj)[inside]
        assert np.corrcoef(forward, values)[0, 1] > 0.999
        assert result.record.grid == "model"

    def test_outside_and_uncertainty_on_the_grid_of_the_model(self, scan: nib.Nifti1Image) -> None:
        able = config(capabilities=Capabilities(second_pass=True))
        harmonizer = tiny_harmonizer(model_config=able, outside="source", grid="model")
        mask = nib.Nifti1Image((np.asarray(scan.dataobj) > 0).astype(np.uint8), scan.affine)
        whole = nib.Nifti1Image(np.maximum(scan.dataobj, 77).astype(np.float32), scan.affine)
        result = harmonizer.run(whole, mask)
        inside = np.asarray(result.mask.dataobj) > 0
        outer = ~ndimage.binary_dilation(inside, iterations=8)
        np.testing.assert_allclose(np.asarray(result.image.dataobj)[outer], 77, rtol=0.02)
        error = harmonizer.uncertainty(result)
        assert error.shape == result.image.shape
        assert (np.asarray(error.dataobj)[inside] > 0).all()

    def test_a_sidecar_tells_how_thick_they_are(
        self, scan: nib.Nifti1Image, harmonizer: Harmonizer, tmp_path: Path
    ) -> None:
        nib.save(scan, tmp_path / "scan.nii.gz")
        told = []
        for content in ("{}", '{"SliceThickness": 4.5}'):
            (tmp_path / "scan.json").write_text(content)
            blur = harmonizer.run(tmp_path / "scan.nii.gz").source.blur
            assert blur is not None
            told.append(blur.slice_mm)
        assert told == [None, 4.5]

    def test_an_unknown_grid(self) -> None:
        with pytest.raises(InputError, match="choose one of source, model"):
            tiny_harmonizer(grid="mni")


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
        source = result.source
        edges = result.rendering.edges
        np.testing.assert_array_equal(edges, canny(source.image, source.mask, config().edges))
        assert edges.sum() == pytest.approx(config().edges.fraction * source.mask.sum(), rel=0.05)
        expected = np.where(source.mask, 2.0 * edges - 1, 0)
        np.testing.assert_allclose(result.rendering.output, expected, atol=1e-6)

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
        result = tiny_harmonizer(model_config=model).run(scan)
        assert result.record.preprocess.n4
        assert result.record.seconds["n4"] > 0
        assert result.record.brain_ml == pytest.approx(239, abs=3)
        assert result.image.shape == (80, 96, 80)
        assert np.isfinite(np.asarray(result.image.dataobj)).all()

    def test_without_bias_correction(self) -> None:
        model = config(preprocess=dataclasses.replace(config().preprocess, n4=True))
        record = tiny_harmonizer(model_config=model, n4=False).run(head_image()).record
        assert not record.preprocess.n4
        assert "n4" not in record.seconds

    def test_a_type_too_small_for_the_target(self, harmonizer: Harmonizer) -> None:
        with pytest.raises(InputError, match=r"^uint8 cannot hold .*\(up to 500\)") as caught:
            harmonizer.run(head_image(), dtype=np.uint8)
        assert caught.value.argument == "dtype"

    def test_unknown_outside(self) -> None:
        with pytest.raises(InputError, match="'mean' is unknown; choose one of zero, source"):
            tiny_harmonizer(outside="mean")


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
        kept = tiny_harmonizer(outside="source")
        values = np.asarray(kept(scan, given_mask).dataobj)
        assert (values[~mask] == 777).all()
        zeroed = tiny_harmonizer()
        same = np.asarray(zeroed(scan, given_mask).dataobj)
        np.testing.assert_array_equal(values[mask], same[mask])

    def test_outside_matched(self) -> None:
        """The tiny network's output has no contrast in common with the head: told."""
        data, mask = head()
        whole = nib.Nifti1Image(np.where(mask, data, 777).astype(np.float32), RAS)
        given_mask = nib.Nifti1Image(mask.astype(np.uint8), RAS)
        made = tiny_harmonizer(outside="matched").run(whole, given_mask)
        assert "outside-contrast" in [each.code for each in made.warnings]
        assert np.asarray(made.image.dataobj)[~mask].max() > 0

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
        assert result.record.mask_origin == "stripped"
        np.testing.assert_array_equal(result.mask.affine, scan.affine)
        assert result.mask.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asarray(result.mask.dataobj), np.asarray(scan.dataobj) > 0)

    def test_given_mask_is_used(self, harmonizer: Harmonizer) -> None:
        smaller = np.linalg.norm(world_of(SHAPE, RAS) / [34, 42, 35], axis=-1) < 1
        result = harmonizer.run(head_image(), nib.Nifti1Image(smaller.astype(np.uint8), RAS))
        assert result.record.mask_origin == "given"
        np.testing.assert_array_equal(np.asarray(result.mask.dataobj), smaller)
        np.testing.assert_array_equal(np.asarray(result.image.dataobj) != 0, smaller)

    def test_mask_of_another_grid(self, harmonizer: Harmonizer) -> None:
        moved = RAS.copy()
        moved[0, 3] += 1
        other_affine = nib.Nifti1Image(head()[1].astype(np.uint8), moved)
        other_shape = nib.Nifti1Image(np.ones((44, 50, 41), np.uint8), RAS)
        for mask in (other_affine, other_shape):
            with pytest.raises(InputError, match=r"^the mask's grid") as caught:
                harmonizer.run(head_image(), mask)
            assert caught.value.argument == "mask"

    def test_empty_mask(self, harmonizer: Harmonizer) -> None:
        with pytest.raises(InputError, match="holds 0 ml"):
            harmonizer(head_image(), nib.Nifti1Image(np.zeros(SHAPE, np.uint8), RAS))


class TestReproducible:
    sampling = SamplingSettings(steps=2, seed=3)

    def run(self, sampling: SamplingSettings, scan: nib.Nifti1Image | None = None) -> np.ndarray:
        harmonizer = tiny_harmonizer(sampling)
        return np.asarray(harmonizer(scan or head_image()).dataobj)

    def test_same_harmonizer_twice(self, harmonizer: Harmonizer) -> None:
        a, b = (np.asarray(harmonizer(head_image()).dataobj) for _ in range(2))
        np.testing.assert_array_equal(a, b)

    def test_same_seed_same_voxels_whatever_the_global_random_state(self) -> None:
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
        harmonizer = tiny_harmonizer(self.sampling)
        expected = np.asarray(harmonizer(scan).as_reoriented(there).dataobj)
        values = np.asarray(harmonizer(turned).dataobj)
        np.testing.assert_allclose(values, expected, atol=0.05)
        upside_down = values[::-1]
        assert np.abs(upside_down - expected).mean() > 1  # the comparison can fail


class TestPasses:
    def test_default_is_one_evaluation_at_the_start(self) -> None:
        network = AnalyticNetwork(lambda condition: condition[:, :1])
        tiny_harmonizer(network=network).run(head_image())
        assert network.times == [0.0]

    def test_the_papers_sampling(self, source: Prepared) -> None:
        """30 evaluations, at k/30; then 6 steps of 0.005 up the correlation with the source."""
        network = AnalyticNetwork(lambda condition: condition[:, :1])
        result = tiny_harmonizer(PAPER_SAMPLING, network).run(head_image())
        np.testing.assert_allclose(network.times, np.arange(30) / 30, atol=1e-6)
        first, output = result.rendering.first[source.mask], result.rendering.output[source.mask]
        before, after = (np.corrcoef(y, source.image[source.mask])[0, 1] for y in (first, output))
        assert after > before + 0.01
        assert np.sqrt(np.mean((output - first) ** 2)) == pytest.approx(0.03, abs=0.001)
        assert output.mean() == pytest.approx(first.mean(), abs=1e-6)

    def test_a_source_that_agrees_changes_nothing(self, source: Prepared) -> None:
        """The first pass already is a function of the source: the refinement keeps it."""
        network = AnalyticNetwork(lambda condition: volume(-0.5 * source.image))
        rendering = tiny_harmonizer(network=network).run(head_image()).rendering
        np.testing.assert_allclose(rendering.first, -0.5 * source.image, atol=1e-6)
        assert np.abs(rendering.output - rendering.first).mean() < 0.02

    def test_the_models_own_error_decides_how_far_the_source_is_followed(
        self, source: Prepared
    ) -> None:
        """Texture of the source that the first pass lacks comes back if the model is known to err
        by 0.2, and not if by 0.01.
        """
        grain = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE), 1)
        data, mask = head()
        textured = np.where(mask, data + 60 * grain / grain.std(), 0).astype(np.float32)
        sure, unsure = (
            tiny_harmonizer(
                None,
                AnalyticNetwork(lambda condition: volume(source.image)),
                config(validation=Validation(psnr=psnr)),
            ).run(nib.Nifti1Image(textured, RAS))
            for psnr in (46.0, 20.0)
        )
        inside, truth = sure.source.mask, sure.source.image
        lacking, followed, not_followed = (
            np.sqrt(np.mean((image - truth)[inside] ** 2))
            for image in (source.image, unsure.rendering.output, sure.rendering.output)
        )
        assert lacking > 0.1
        assert followed < 0.8 * lacking
        assert not_followed > 0.95 * lacking

    def test_second_pass_where_the_source_agrees(self, source: Prepared) -> None:
        """The first pass is the source itself. The second enters at t = 0.9 with 0.9 of it, and
        its network is made to end at -0.5 source, of which the source is a function again.
        """
        first, wanted = source.image, -0.5 * source.image
        images = iter([first, (wanted - 0.81 * first) / 0.1])
        network = AnalyticNetwork(lambda condition: volume(next(images)))
        model = config(capabilities=Capabilities(second_pass=True))
        result = tiny_harmonizer(None, network, model).run(head_image())
        np.testing.assert_allclose(network.times, [0.0, 0.9], rtol=1e-6)
        assert np.abs(result.rendering.refined - first)[source.mask].mean() < 0.03
        assert np.abs(result.rendering.output - wanted)[source.mask].mean() < 0.03
        assert result.record.sampling.revise
        assert result.record.seconds["revise"] >= 0

    def test_a_second_stage_of_its_own(self) -> None:
        able = config(capabilities=Capabilities(second_pass=True), reviser_sha256="0" * 64)
        result = tiny_harmonizer(model_config=able, reviser=random_reviser()).run(head_image())
        same = tiny_harmonizer(model_config=config(capabilities=able.capabilities))
        other = same.run(head_image()).rendering
        found, inside = result.rendering, result.source.mask
        np.testing.assert_array_equal(found.refined, other.refined)
        assert np.abs(found.output - other.output)[inside].mean() > 0.01
        assert found.revised is not None
        assert found.revised.error is not None
        assert found.revised.error[inside].min() > 0
        assert other.revised is not None
        assert other.revised.error is None
        assert result.record.sampling.revise
        assert result.record.seconds["revise"] >= 0

    def test_it_can_be_left_out(self) -> None:
        able = config(reviser_sha256="0" * 64)
        harmonizer = tiny_harmonizer(SamplingSettings(revise=False), None, able, random_reviser())
        found = harmonizer.run(head_image())
        np.testing.assert_array_equal(found.rendering.output, found.rendering.refined)
        assert found.rendering.revised is None
        assert found.doubt is None

    def test_doubt_of_the_second_pass(self) -> None:
        model = config(capabilities=Capabilities(second_pass=True))
        harmonizer = tiny_harmonizer(model_config=model)
        result = harmonizer.run(head_image())
        assert result.doubt is not None
        error = np.asarray(harmonizer.uncertainty(result).dataobj)
        inside = np.asarray(result.mask.dataobj) > 0
        target = harmonizer.config.target
        assert not error[~inside].any()
        share = np.sqrt((error[inside] ** 2).mean()) / (target.upper - target.lower)
        assert share == pytest.approx(result.doubt.mean / 2, rel=0.05)

    def test_no_doubt_without_it(self, harmonizer: Harmonizer) -> None:
        result = harmonizer.run(head_image())
        assert result.doubt is None
        with pytest.raises(InputError, match="of the second stage alone"):
            harmonizer.uncertainty(result)

    @pytest.mark.parametrize(
        ("capable", "sampling"),
        [
            (False, SamplingSettings()),
            (True, SamplingSettings(revise=False)),
            (True, SamplingSettings(refine="none")),
            (True, SamplingSettings(refine="paper")),
        ],
        ids=["model without it", "not wanted", "not refined", "refined as in the paper"],
    )
    def test_no_second_pass(self, capable: bool, sampling: SamplingSettings) -> None:
        model = config(capabilities=Capabilities(second_pass=capable))
        result = tiny_harmonizer(sampling, model_config=model).run(head_image())
        np.testing.assert_array_equal(result.rendering.output, result.rendering.refined)
        assert not result.record.sampling.revise
        assert "revise" not in result.record.seconds

    def test_provenance_decides_nothing(self) -> None:
        plain, noted = (
            tiny_harmonizer(model_config=config(training=training)).run(head_image())
            for training in ({}, {"draft_share": 0.5, "val_psnr": 60.0})
        )
        np.testing.assert_array_equal(plain.rendering.output, noted.rendering.output)

    @pytest.mark.parametrize(
        ("choice", "message"),
        [
            ({"steps": 0}, "steps: .*greater than or equal to 1, not 0"),
            ({"steps": 2.0}, "steps: .*integer, not 2.0"),
            ({"seed": -1}, "seed: .*greater than or equal to 0, not -1"),
            ({"seed": 2**63}, "seed: .*less than 9223372036854775808"),
            ({"revise": None}, "revise: .*boolean, not None"),
            ({"solver": "rk4"}, "solver: 'rk4' is unknown; choose one of euler, midpoint, heun"),
            ({"refine": "magic"}, "refine: 'magic' is unknown; choose one of local, paper, none"),
        ],
    )
    def test_choices_are_checked(self, choice: dict[str, object], message: str) -> None:
        with pytest.raises(InputError, match=f"^{message}"):
            SamplingSettings(**choice)  # type: ignore[arg-type]


class TestMemory:
    def test_refused_before_the_mask_is_sought(self) -> None:
        harmonizer = tiny_harmonizer(UNREFINED, max_memory_gb=0.1)
        with pytest.raises(
            InputError, match=r"^takes 0\.5 GB of memory, and 0\.1 are allowed"
        ) as caught:
            harmonizer.run(head_image())
        assert caught.value.argument == "max_memory_gb"

    def test_deepbet_needs_more(self) -> None:
        """A head that is not stripped."""
        data = np.asarray(head_image().dataobj) + 1
        scan = nib.Nifti1Image(data, head_image().affine)
        with pytest.raises(InputError, match=r"^takes 1\.4 GB"):
            tiny_harmonizer(UNREFINED, max_memory_gb=1.0).run(scan)

    def test_refused_where_the_smallest_tile_does_not_fit(self) -> None:
        least = needed_gb(int(np.prod(head_image().shape)))
        with pytest.raises(InputError, match="Allow more"):
            tiny_harmonizer(UNREFINED, max_memory_gb=least + 0.01).run(head_image())
        assert tiny_harmonizer(UNREFINED, max_memory_gb=least + 0.05).run(head_image())

    def test_the_second_stage_counts_too(self) -> None:
        able = config(capabilities=Capabilities(second_pass=True), reviser_sha256="0" * 64)
        reviser = random_reviser()
        least = needed_gb(int(np.prod(head_image().shape)))
        tile_gb = SMALLEST_TILE**3 * activation_bytes(reviser) / 1e9
        allowed = least + 0.9 * tile_gb
        assert tiny_harmonizer(UNREFINED, max_memory_gb=allowed).run(head_image())
        with pytest.raises(InputError, match="Allow more"):
            tiny_harmonizer(model_config=able, reviser=reviser, max_memory_gb=allowed).run(
                head_image()
            )

    def test_the_network_gets_what_is_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bounds = []
        within = FlowSampler.within
        monkeypatch.setattr(
            FlowSampler, "within", lambda self, gb: bounds.append(gb) or within(self, gb)
        )
        result = tiny_harmonizer(UNREFINED, max_memory_gb=2.0).run(head_image())
        voxels = int(np.prod(head_image().shape))
        assert 2.0 - needed_gb(voxels, 2 * result.source.mask.size) < bounds[0]
        assert bounds[0] < 2.0 - needed_gb(voxels)

    @pytest.mark.slow
    @pytest.mark.parametrize("allowed", [1.5, 1.7, 2.5])
    def test_the_process_stays_within_it(self, allowed: float, tmp_path: Path) -> None:
        """Peak resident memory of the command on a whole head, the shipped model."""
        example = Path(__file__).parent.parent / "examples" / "ch2.nii.gz"
        words = ["harmonize", str(example), "-o", str(tmp_path), "--max-memory", str(allowed)]
        script = (
            "import resource, sys\nfrom isochroma.cli.app import main\n"
            "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        run = [sys.executable, "-c", script, *words]
        printed = subprocess.run(run, check=True, capture_output=True, text=True).stdout
        assert int(printed.split()[-1]) * 1024 < allowed * 1e9


class TestOrientation:
    """A model that expects stripes along one axis above the centre, along another below it."""

    @staticmethod
    def striped(condition: torch.Tensor) -> torch.Tensor:
        x, y, z = (condition[:, axis : axis + 1] for axis in (1, 2, 3))
        return torch.where(z > 0, torch.sin(40 * x), torch.sin(40 * y))

    @pytest.mark.parametrize("usual", [0.9, None])
    def test_upside_down(self, usual: float | None) -> None:
        harmonizer = tiny_harmonizer(
            SamplingSettings(revise=False), AnalyticNetwork(TestOrientation.striped)
        )
        validation = dataclasses.replace(harmonizer.config.validation, explained=usual)
        harmonizer.config = dataclasses.replace(harmonizer.config, validation=validation)
        seen = harmonizer.run(head_image())
        shown = np.where(seen.source.mask, 500 + 400 * seen.rendering.first, 0)
        for turn in ([1, 1, 1], [1, -1, -1], [1, 1, -1]):
            affine = np.diag([*turn, 1]) @ seen.source.grid.affine
            found = harmonizer.run(nib.Nifti1Image(shown.astype(np.float32), affine)).warnings
            told = usual is not None and turn != [1, 1, 1]
            codes = [each.code for each in found if each.code in ("upside-down", "unlike-mr")]
            assert codes == ["upside-down"] * told


class TestPrecision:
    def test_bfloat16_is_close_to_float32_and_not_the_same(self) -> None:
        exact, rough = (
            tiny_harmonizer(UNREFINED, precision=precision).run(head_image()).rendering.output
            for precision in ("float32", "bfloat16")
        )
        assert 0 < np.abs(rough - exact).max() < 0.2 * exact.std()
        assert np.abs(rough - exact).mean() < 0.02 * exact.std()


class TestRecord:
    def test_known_values(self) -> None:
        sampling = SamplingSettings(steps=2, solver="heun", seed=7)
        made = tiny_harmonizer(sampling, model_config=config(sha256="ab" * 32), outside="source")
        record = made.run(head_image()).record
        assert (record.model, record.model_sha256) == ("tiny", "ab" * 32)
        assert record.sampling == dataclasses.replace(sampling, revise=False)
        assert record.preprocess.spacing_mm == SPACING_MM
        assert record.edges == config().edges
        assert (record.mask_origin, record.outside) == ("stripped", "source")
        assert record.brain_ml == pytest.approx(239, abs=6)
        assert record.target_limits == (100.0, 500.0)
        low, high = record.source_limits
        assert 150 < low < 300
        assert 850 < high < 1100
        assert (record.device, record.precision) == ("cpu", "float32")

    def test_every_stage_is_timed(self) -> None:
        seconds = tiny_harmonizer().run(head_image()).record.seconds
        stages = {"mask", "resample", "scale", "edges", "network", "refine", "restore"}
        assert set(seconds) == stages
        assert all(value >= 0 for value in seconds.values())

    def test_progress_of_the_solver(self) -> None:
        told: list[Event] = []
        network = AnalyticNetwork(lambda condition: condition[:, :1])
        harmonizer = tiny_harmonizer(PAPER_SAMPLING, network)
        with listening(told.append):
            harmonizer.run(head_image())
        steps = [each for each in told if each.stage == "network" and each.seconds is None]
        assert [(each.done, each.total) for each in steps] == [
            (0, 1),
            *((done, 15) for done in range(1, 16)),
        ]


class TestWhiteMatterModes:
    TARGET = TargetDomain(100.0, 500.0)

    def test_of_the_output(self) -> None:
        rng = np.random.default_rng(0)
        values = np.concatenate([rng.normal(-0.2, 0.1, 50_000), rng.normal(0.5, 0.1, 60_000)])
        (found,) = white_matter_modes(values, self.TARGET).values()
        assert found == pytest.approx(100 + 1.5 / 2 * 400, abs=6)

    def test_of_the_target_from_its_quantiles(self) -> None:
        """A target half of whose voxels lie between 0.19 and 0.21."""
        rng = np.random.default_rng(0)
        brain = np.concatenate([rng.uniform(-1, 0, 50_000), rng.uniform(0.19, 0.21, 50_000)])
        quantiles = tuple(np.quantile(brain, np.linspace(0, 1, 101)).tolist())
        target = dataclasses.replace(self.TARGET, quantiles=quantiles)
        modes = white_matter_modes(rng.normal(0.6, 0.05, 10_000), target)
        assert modes["Target"] == pytest.approx(100 + 1.2 / 2 * 400, abs=6)
        assert modes["Output"] == pytest.approx(100 + 1.6 / 2 * 400, abs=6)


class TestWarnings:
    def test_none_for_a_usual_head(self, harmonizer: Harmonizer) -> None:
        assert harmonizer.run(head_image()).warnings == ()

    def test_of_the_scan(self) -> None:
        """A head of 72 x 88 x 72 mm; those of the target are larger."""
        target = TargetDomain(100.0, 500.0, 3, (), (140.0, 80.0, 120.0), (150.0, 90.0, 130.0))
        found = tiny_harmonizer(model_config=config(target=target)).run(head_image()).warnings
        assert [each.code for each in found] == ["brain-size", "brain-size"]
        np.testing.assert_allclose([each.value for each in found], 72, atol=2)

    def test_of_the_result(self, source: Prepared) -> None:
        """The source shows a ball of 16 mm, 17 ml, as dark as fluid; the network paints a healthy
        head. Near the ball's surface, the healthy neighbourhood counts.
        """
        ball = np.linalg.norm(world_of(SHAPE, RAS) - [0, -18, 0], axis=-1) < 16
        ill = nib.Nifti1Image(np.where(ball, 220, head()[0]).astype(np.float32), RAS)
        network = AnalyticNetwork(lambda condition: volume(source.image))
        model = config(validation=Validation(psnr=20.0))  # an error of 0.2
        (found,) = tiny_harmonizer(None, network, model).run(ill).warnings
        assert found.code == "unexplained-region"
        assert 8 < found.value <= 17.2


class TestPublicInterface:
    def test_names(self) -> None:
        assert isochroma.Harmonizer is Harmonizer
        assert isochroma.SamplingSettings is SamplingSettings
        for name in isochroma.__all__:
            assert getattr(isochroma, name) is not None
        with pytest.raises(AttributeError, match="no attribute 'harmonise'"):
            _ = isochroma.harmonise

    def test_from_pretrained(self, tmp_path: Path) -> None:
        folder = save_tiny_model(tmp_path / "model")
        harmonizer = Harmonizer.from_pretrained(
            folder, SamplingSettings(seed=3), ComputeSettings("cpu"), outside="source"
        )
        assert len(harmonizer.config.sha256) == 64
        record = harmonizer.run(head_image()).record
        assert (record.sampling.seed, record.device, record.outside) == (3, "cpu", "source")

    def test_repr_names_model_and_settings(self) -> None:
        shown = repr(tiny_harmonizer(SamplingSettings(steps=3), n4=False, outside="source"))
        assert shown.startswith("Harmonizer(model='tiny', ")
        for part in ("steps=3", "device='cpu'", "n4=False", "outside='source'"):
            assert part in shown

    def test_path_image_and_list(self, harmonizer: Harmonizer, tmp_path: Path) -> None:
        path = tmp_path / "scan.nii.gz"
        nib.save(head_image(), path)
        expected = np.asarray(harmonizer(head_image()).dataobj)
        several = harmonizer([path, str(path), nib.load(path)])
        for image in (harmonizer(path), *several):
            np.testing.assert_array_equal(np.asarray(image.dataobj), expected)
        assert harmonizer([]) == []

    def test_mask_as_a_path(self, harmonizer: Harmonizer, tmp_path: Path) -> None:
        mask = np.asarray(head_image().dataobj) > 210
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), RAS), tmp_path / "mask.nii.gz")
        result = harmonizer.run(head_image(), tmp_path / "mask.nii.gz")
        np.testing.assert_array_equal(np.asarray(result.mask.dataobj), mask)

    def test_one_mask_for_several_scans(self, harmonizer: Harmonizer) -> None:
        with pytest.raises(InputError, match=r"^a mask goes with one scan") as caught:
            harmonizer([head_image(), head_image()], head_image())  # type: ignore[call-overload]
        assert caught.value.argument == "mask"

    def test_an_error_names_the_path_once(self, harmonizer: Harmonizer, tmp_path: Path) -> None:
        flat = tmp_path / "flat.nii"
        nib.save(nib.Nifti1Image(500 * head()[1].astype(np.float32), RAS), flat)
        four = tmp_path / "four.nii"
        nib.save(nib.Nifti1Image(np.ones((4, 4, 4, 2), np.float32), RAS), four)
        for path in (flat, four, tmp_path / "gone.nii"):
            with pytest.raises(InputError) as caught:
                harmonizer(path)
            assert str(caught.value).startswith(f"{path}: ")
            assert str(caught.value).count(path.name) == 1
            assert len(str(caught.value).splitlines()) == 1
