from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from isochroma.errors import InputError
from isochroma.evaluation.methods import BlindHarmony, blindharmony
from isochroma.evaluation.methods.blindharmony import BlindHarmonySettings
from isochroma.evaluation.methods.mean_head import place_head
from isochroma.images import metrics
from isochroma.images.preprocess import Prepared

TINY_FLOW: dict[str, Any] = {
    "levels": 2,
    "steps_per_level": 2,
    "width": 8,
    "train_steps": 24,
    "batch_size": 4,
    "learning_rate": 5e-3,
    "bins": 4,
}


def halved(scan: Prepared) -> Prepared:
    """Keep every other voxel, to save time."""
    half = (slice(None, None, 2),) * 3
    return dataclasses.replace(scan, image=scan.image[half], mask=scan.mask[half])


class TestFlow:
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
        losses = blindharmony.train_flow(flow, [halved(scan) for scan in target], self.settings)
        assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3

    def test_training_is_seeded(self, target: list[Prepared]) -> None:
        settings = dataclasses.replace(self.settings, train_steps=3)
        first, again = (
            blindharmony.train_flow(
                blindharmony.build_flow(settings), [halved(target[0])], settings
            )
            for _ in range(2)
        )
        assert first == again


class TestAlternation:
    settings = BlindHarmonySettings(**TINY_FLOW)

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


class TestBlindHarmony:
    def test_keeps_the_person(self, target: list[Prepared], source: Prepared) -> None:
        source = halved(source)
        method = BlindHarmony(**TINY_FLOW)
        method.fit([halved(scan) for scan in target])
        output = method.apply(source)
        start = metrics.ncc(place_head(method.head, source.mask), source.image, source.mask)
        assert metrics.ncc(output, source.image, source.mask) > max(0.9, start)
        np.testing.assert_array_equal(output[..., ~source.mask.any(axis=(0, 1))], 0)

    def test_settings_are_checked(self) -> None:
        with pytest.raises(InputError, match=r"levels: .* greater than or equal to 1, not 0"):
            BlindHarmony(levels=0)
