"""The compared methods: known answers, and one interface."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from fixtures_pipeline import RAS, head, save_tiny_model
from isochroma.errors import InputError
from isochroma.evaluation.methods import blindharmony
from isochroma.evaluation.methods import registry as methods
from isochroma.evaluation.methods.blindharmony import BlindHarmony, BlindHarmonySettings
from isochroma.evaluation.methods.registry import METHODS, Command, Method, Ours
from isochroma.images import metrics
from isochroma.images.grid import Grid
from isochroma.images.preprocess import (
    Prepared,
    PreprocessSettings,
    from_model_units,
    intensity_limits,
    to_model_units,
)
from isochroma.method.sampling import SamplingSettings
from isochroma.pipeline import Harmonizer

TINY_FLOW: dict[str, Any] = {
    "levels": 2,
    "steps_per_level": 2,
    "width": 8,
    "train_steps": 24,
    "batch_size": 4,
}
TINY_FLOW |= {"learning_rate": 5e-3, "bins": 4}
CHEAP: dict[str, Callable[[str], Method]] = {
    **{name: METHODS[name] for name in ("raw", "histogram-matching", "nyul", "whitestripe")},
    **{name: METHODS[name] for name in ("zscore", "ssimh", "blur", "target-mean")},
    "blindharmony": lambda model: BlindHarmony(
        levels=1, steps_per_level=1, width=4, train_steps=1, iterations=2
    ),
}


def prepared(seed: int) -> Prepared:
    """A head with partial volume and texture, in model units."""
    data, mask = head(seed=seed)
    data = ndimage.gaussian_filter(data, 1.0)
    rng = np.random.default_rng(seed)
    data += 20 * ndimage.gaussian_filter(rng.standard_normal(data.shape), 1)
    lower, upper = intensity_limits(data[mask], PreprocessSettings())
    return Prepared(
        to_model_units(data, mask, lower, upper), mask, Grid(data.shape, RAS), lower, upper
    )


def recontrasted(scan: Prepared, change: Callable[[np.ndarray], np.ndarray]) -> Prepared:
    image = np.where(scan.mask, change(scan.image), 0).astype(np.float32)
    return dataclasses.replace(scan, image=image)


def gamma(image: np.ndarray) -> np.ndarray:
    return 2 * from_model_units(image, 0, 1) ** 0.6 - 1


@pytest.fixture(scope="module")
def target() -> list[Prepared]:
    return [prepared(seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def fitted(target: list[Prepared]) -> dict[str, Method]:
    made = {name: build("default") for name, build in CHEAP.items()}
    for method in made.values():
        method.fit(target)
    return made


class TestInterface:
    def test_registry(self) -> None:
        assert set(METHODS) == set(CHEAP) | {"default", "edges-alone", "paper"}

    def test_settings_are_plain_and_differ(self, fitted: dict[str, Method]) -> None:
        texts = [json.dumps(method.settings, sort_keys=True) for method in fitted.values()]
        assert len(set(texts)) == len(texts)
        other = [
            json.dumps(method.settings, sort_keys=True)
            for method in (
                methods.Blur(3.0),
                methods.SSIMHistogramMatching(2),
                BlindHarmony(seed=1),
            )
        ]
        assert not set(other) & set(texts)

    @pytest.mark.parametrize("name", sorted(CHEAP))
    def test_output(self, fitted: dict[str, Method], name: str) -> None:
        scan = recontrasted(prepared(3), gamma)
        before = scan.image.copy()
        output = fitted[name].apply(scan)
        assert output.dtype == np.float32
        assert output.shape == scan.image.shape
        assert np.isfinite(output).all()
        assert (output[~scan.mask] == 0).all()
        assert output[scan.mask].std() > 0.1
        np.testing.assert_array_equal(scan.image, before)
        np.testing.assert_array_equal(fitted[name].apply(scan), output)

    @pytest.mark.parametrize("name", sorted(set(CHEAP) - {"raw"}))
    def test_outside_has_no_influence(self, fitted: dict[str, Method], name: str) -> None:
        scan = prepared(3)
        other = dataclasses.replace(scan, image=np.where(scan.mask, scan.image, 50))
        np.testing.assert_array_equal(fitted[name].apply(other), fitted[name].apply(scan))


class TestControls:
    def test_raw_is_the_scan(self, fitted: dict[str, Method]) -> None:
        scan = prepared(3)
        np.testing.assert_array_equal(fitted["raw"].apply(scan), scan.image)

    def test_blur_loses_detail(self, fitted: dict[str, Method]) -> None:
        scan = prepared(3)
        output = fitted["blur"].apply(scan)
        assert metrics.ssim(output + 1, scan.image + 1, scan.mask, 2) < 0.95

    def test_target_mean_knows_no_intensity(self, fitted: dict[str, Method]) -> None:
        scan = prepared(3)
        other = recontrasted(scan, lambda image: -image)
        output = fitted["target-mean"].apply(scan)
        np.testing.assert_array_equal(fitted["target-mean"].apply(other), output)
        assert metrics.ncc(output, scan.image, scan.mask) > 0.5


class TestLinear:
    @pytest.mark.parametrize("name", ["zscore", "whitestripe"])
    def test_undoes_gain_and_offset(self, name: str) -> None:
        scan = prepared(0)
        method = METHODS[name]("default")
        method.fit([scan])
        changed = recontrasted(scan, lambda image: 0.4 * image - 0.3)
        np.testing.assert_allclose(method.apply(changed), scan.image, atol=2e-3)

    def test_zscore_gives_the_mean_moments(
        self, fitted: dict[str, Method], target: list[Prepared]
    ) -> None:
        output = fitted["zscore"].apply(recontrasted(prepared(3), gamma))[target[0].mask]
        values = [scan.image[scan.mask] for scan in target]
        assert output.mean() == pytest.approx(np.mean([v.mean() for v in values]), abs=1e-4)
        assert output.std() == pytest.approx(np.mean([v.std() for v in values]), abs=1e-4)

    def test_white_stripe_finds_white_matter(self, target: list[Prepared]) -> None:
        method = methods.WhiteStripe()
        method.fit(target)
        white = np.concatenate([scan.image[head(seed=0)[0] > 850] for scan in target])
        assert method.mean == pytest.approx(np.median(white), abs=0.1)

    def test_constant_scan(self, fitted: dict[str, Method]) -> None:
        flat = recontrasted(prepared(3), lambda image: 0 * image + 0.5)
        with pytest.raises(InputError, match="z-score cannot be fitted"):
            fitted["zscore"].apply(flat)


class TestHistograms:
    @pytest.mark.parametrize(
        ("name", "error"), [("histogram-matching", 0.02), ("nyul", 0.05), ("ssimh", 0.02)]
    )
    def test_gamma_is_undone(self, name: str, error: float) -> None:
        scan = prepared(0)
        changed = recontrasted(scan, gamma)
        method = METHODS[name]("default")
        method.fit([scan])
        before = np.abs(changed.image - scan.image)[scan.mask].mean()
        after = np.abs(method.apply(changed) - scan.image)[scan.mask].mean()
        assert before > 0.15
        assert after < error

    def test_nyul_keeps_ranks_and_landmarks(
        self, fitted: dict[str, Method], target: list[Prepared]
    ) -> None:
        scan = recontrasted(prepared(3), gamma)
        output = fitted["nyul"].apply(scan)[scan.mask]
        assert np.diff(output[np.argsort(scan.image[scan.mask])]).min() >= -1e-5
        wanted = np.mean([np.percentile(t.image[t.mask], [1, 99]) for t in target], axis=0)
        np.testing.assert_allclose(np.percentile(output, [1, 99]), wanted, atol=5e-3)

    def test_ssimh_has_the_quantiles_and_more_ssim(
        self, fitted: dict[str, Method], target: list[Prepared]
    ) -> None:
        scan = recontrasted(prepared(3), lambda image: np.sin(3 * image))
        output = fitted["ssimh"].apply(scan)
        plain = methods.SSIMHistogramMatching(iterations=0)
        plain.fit(target)
        found = np.quantile(output[scan.mask], methods.PROBABILITIES)
        np.testing.assert_allclose(found, methods.target_quantiles(target), atol=1e-3)
        scores = [
            metrics.ssim(image + 1, scan.image + 1, scan.mask, 2)
            for image in (plain.apply(scan), output)
        ]
        assert scores[1] > scores[0]


class TestOurs:
    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")

    def test_is_the_harmonizer(self, model: Path) -> None:
        scan, sampling = prepared(3), SamplingSettings(steps=2, seed=4)
        ours = Ours(model, SamplingSettings(steps=2), "ours")
        ours.fit([])
        expected = Harmonizer.from_pretrained(model, sampling=sampling).translate(scan)
        np.testing.assert_array_equal(ours.apply(scan, seed=4), expected)
        assert np.abs(ours.apply(scan, seed=5) - expected).max() > 1e-4
        assert (expected[~scan.mask] == 0).all()

    def test_settings(self, model: Path) -> None:
        settings = Ours(model, SamplingSettings(steps=2, seed=4)).settings
        assert json.loads((model / "config.json").read_text())["sha256"] == settings["model"]
        assert settings["sampling"]["steps"] == 2
        assert json.dumps(settings) == json.dumps(Ours(model, SamplingSettings(steps=2)).settings)


class TestCommand:
    def test_copy_gives_the_scan_back(self) -> None:
        scan = prepared(3)
        output = Command("copy", "cp {input} {output}").apply(scan)
        assert np.corrcoef(output[scan.mask], scan.image[scan.mask])[0, 1] > 0.999
        assert (output[~scan.mask] == 0).all()
        assert output.dtype == np.float32

    def test_what_the_command_sees(self, tmp_path: Path) -> None:
        scan = prepared(3)
        with pytest.raises(InputError, match="copy wrote no file"):
            Command("copy", f"sh -c 'cp {{input}} {tmp_path}/seen.nii.gz' {{output}}").apply(scan)
        seen = nib.load(tmp_path / "seen.nii.gz")
        assert Grid.of(seen).same_as(scan.grid)
        values = seen.get_fdata()
        np.testing.assert_array_equal(values > 0, scan.mask)
        assert values[scan.mask].min() == 1
        assert values.max() == pytest.approx(1000)

    def test_another_unit(self) -> None:
        """The output's unit does not matter."""
        script = (
            "import sys, nibabel as nib; image = nib.load(sys.argv[1]); "
            "nib.save(nib.Nifti1Image(image.get_fdata() * 7 - 90, image.affine), sys.argv[2])"
        )
        template = f"{sys.executable} -c {shlex.quote(script)} {{input}} {{output}}"
        output = Command("gain", template).apply(prepared(3))
        np.testing.assert_allclose(
            output, Command("copy", "cp {input} {output}").apply(prepared(3)), atol=1e-4
        )

    @pytest.mark.parametrize(
        ("template", "says"),
        [
            ("sh -c 'echo first >&2; echo last >&2; exit 3' {input} {output}", "code 3: last"),
            ("false {input} {output}", "code 1: no message"),
            ("no-such-program {input} {output}", "no-such-program cannot be run"),
            ("cp {input} out", "no {output}"),
            ("cp in {output}", "no {input}"),
        ],
    )
    def test_failure(self, template: str, says: str) -> None:
        with pytest.raises(InputError, match=says):
            Command("mine", template).apply(prepared(3))

    def test_wrong_grid(self, tmp_path: Path) -> None:
        scan = prepared(3)
        nib.save(nib.Nifti1Image(scan.image[1:], scan.grid.affine), tmp_path / "cut.nii.gz")
        with pytest.raises(InputError, match="another grid"):
            Command("mine", f"sh -c 'cp {tmp_path}/cut.nii.gz {{output}}' {{input}}").apply(scan)


class TestBlindHarmony:
    settings = BlindHarmonySettings(**TINY_FLOW)

    def test_invertible(self) -> None:
        flow = blindharmony.build_flow(self.settings)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter += 0.05 * torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(1)
                )
            x = torch.rand((3, 1, 16, 20), generator=torch.Generator().manual_seed(0)) - 0.5
            latents, log_det = flow.inverse_and_log_det(x)
            back, log_det_back = flow.forward_and_log_det(latents)
        assert sum(latent[0].numel() for latent in latents) == x[0].numel()
        assert max((latent - x.mean()).abs().max() for latent in latents) > 0.6  # it does something
        torch.testing.assert_close(back, x, atol=1e-3, rtol=0)
        torch.testing.assert_close(log_det_back, -log_det, atol=1e-2, rtol=1e-4)

    def test_likelihood_is_the_jacobian(self) -> None:
        """The log-determinant against that of the whole Jacobian, by autograd."""
        flow = blindharmony.build_flow(self.settings).double()
        x = torch.rand((1, 1, 4, 4), generator=torch.Generator().manual_seed(0)).double() - 0.5
        flow.inverse_and_log_det(x.repeat(2, 1, 1, 1) + torch.rand(2, 1, 4, 4).double())

        def to_latent(pixels: torch.Tensor) -> torch.Tensor:
            latents, _ = flow.inverse_and_log_det(pixels.reshape(1, 1, 4, 4))
            return torch.cat([latent.flatten() for latent in latents])

        jacobian = torch.autograd.functional.jacobian(to_latent, x.flatten())
        _, log_det = flow.inverse_and_log_det(x)
        assert torch.linalg.slogdet(jacobian)[1].item() == pytest.approx(log_det.item(), abs=1e-4)

    def test_training_lowers_the_loss(self, target: list[Prepared]) -> None:
        flow = blindharmony.build_flow(self.settings)
        losses = blindharmony.train_flow(flow, target, self.settings)
        assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
        again = blindharmony.build_flow(self.settings)
        assert blindharmony.train_flow(again, target, self.settings) == losses

    def test_shrinking_moves_the_latent_to_the_centre(self, target: list[Prepared]) -> None:
        scan = target[0]
        settings = dataclasses.replace(
            self.settings, train_steps=5, shrink_deviation=0.5, shrink_mean=0.5
        )
        flow = blindharmony.build_flow(settings)
        blindharmony.train_flow(flow, [scan], settings)
        x = blindharmony.to_slices(scan.image[..., 18:22], scan.mask[..., 18:22], (44, 52))

        def size(slices: torch.Tensor) -> float:
            latents, _ = flow.inverse_and_log_det(slices - 0.5)
            return float(sum(latent.square().sum() for latent in latents))

        with torch.no_grad():
            assert size(blindharmony.shrink_latent(flow, x, settings)) < 0.6 * size(x)
        none = dataclasses.replace(settings, shrink_deviation=0.0, shrink_mean=0.0)
        torch.testing.assert_close(blindharmony.shrink_latent(flow, x, none), x, atol=1e-3, rtol=0)

    def test_step_toward_the_source(self) -> None:
        rng = np.random.default_rng(0)
        mask = np.zeros((1, 1, 16, 20), dtype=np.float32)
        mask[:, :, 3:13, 4:16] = 1
        x, source = rng.random((2, *mask.shape)) * mask
        ncc_only = dataclasses.replace(self.settings, detail_step=0.0)
        stepped = blindharmony.toward_source(x, source, mask, ncc_only)
        inside = mask > 0
        assert metrics.ncc(stepped, source, inside) > metrics.ncc(x, source, inside) + 0.02
        assert stepped[inside].mean() == pytest.approx(x[inside].mean(), abs=1e-5)
        whole = dataclasses.replace(self.settings, ncc_step=0.0, detail_step=1.0, cutoff=-1.0)
        everywhere = blindharmony.toward_source(x, source, mask, whole)
        np.testing.assert_allclose(everywhere, source, atol=1e-6)

    def test_keeps_the_person(self, target: list[Prepared]) -> None:
        scan = recontrasted(prepared(3), gamma)
        method = BlindHarmony(**TINY_FLOW)
        method.fit(target)
        output = method.apply(scan)
        start = metrics.ncc(
            methods.baselines.place_head(method.head, scan.mask), scan.image, scan.mask
        )
        assert metrics.ncc(output, scan.image, scan.mask) > max(0.9, start)
        np.testing.assert_array_equal(output[..., ~scan.mask.any(axis=(0, 1))], 0)
