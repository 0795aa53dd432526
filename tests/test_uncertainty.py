"""The uncertainty map: a known spread, its share, and what it depends on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fixtures_pipeline import (
    RAS,
    SHAPE,
    AnalyticNetwork,
    config,
    head,
    head_image,
    tiny_harmonizer,
    world_of,
)
from isochroma.errors import InputError
from isochroma.method.edges import EdgeSettings
from isochroma.models.config import Validation
from isochroma.pipeline import Harmonizer, Result, SamplingSettings
from isochroma.stages import Event, listening, record
from isochroma.uncertainty import Uncertainty, estimate_uncertainty, spread_over_runs

MODEL = config(validation=Validation(psnr=20.0))  # an error of 0.2 model units


@pytest.fixture(scope="module")
def harmonizer() -> Harmonizer:
    return tiny_harmonizer(model_config=MODEL)


@pytest.fixture(scope="module")
def result(harmonizer: Harmonizer) -> Result:
    return harmonizer.run(head_image())


def alternating(height: float, right_of_mm: float) -> Uncertainty:
    """The map of two runs whose outputs are 0, and `height` at the right of a plane."""
    network = AnalyticNetwork(
        lambda condition: (
            height * (len(network.times) % 2) * (condition[:, 1:2] > right_of_mm / 100)
        ).float()
    )
    harmonizer = tiny_harmonizer(SamplingSettings(refine="none"), network, MODEL)
    return estimate_uncertainty(harmonizer, harmonizer.run(head_image()), 2)


class TestKnownSpread:
    def test_standard_deviation_in_the_targets_units(self) -> None:
        """Of 0 and 1 it is 1 / sqrt 2, and a model unit is 200 of the target's."""
        found = alternating(1.0, right_of_mm=0)
        spread = np.asarray(found.image.dataobj)
        inside, x = head()[1], world_of(SHAPE, RAS)[..., 0]
        np.testing.assert_allclose(spread[inside & (x > 8)], 200 / 2**0.5, rtol=0.01)
        np.testing.assert_allclose(spread[inside & (x < -8)], 0, atol=1)
        assert not spread[~inside].any()
        assert found.image.get_data_dtype() == np.float32
        np.testing.assert_array_equal(found.image.affine, RAS)

    def test_half_of_the_brain_is_uncertain(self) -> None:
        found = alternating(1.0, right_of_mm=0)
        assert found.runs == 2
        assert found.uncertain_share == pytest.approx(0.5, abs=0.03)
        (warning,) = found.warnings
        assert warning.code == "uncertain"
        assert warning.value == pytest.approx(found.uncertain_share, abs=1e-4)
        assert warning.text.startswith(f"{warning.value:.0%} of the brain is less certain")

    def test_less_than_the_models_error_is_not_uncertain(self) -> None:
        """0.25 / sqrt 2 is less than 0.2."""
        found = alternating(0.25, right_of_mm=0)
        assert found.uncertain_share == 0
        assert found.warnings == ()

    def test_a_small_share_is_no_warning(self) -> None:
        """The cap beyond x = 30 of a semi-axis of 36 mm: (1 - h)^2 (2 + h) / 4, h = 30 / 36."""
        found = alternating(1.0, right_of_mm=30)
        h = 30 / 36
        assert found.uncertain_share == pytest.approx((1 - h) ** 2 * (2 + h) / 4, abs=0.01)
        assert 0 < found.uncertain_share < 0.05
        assert found.warnings == ()


class TestRuns:
    def test_of_a_network(self, harmonizer: Harmonizer, result: Result) -> None:
        told: list[Event] = []
        with record() as seconds, listening(told.append):
            found = estimate_uncertainty(harmonizer, result, 3)
        spread, inside = np.asarray(found.image.dataobj), head()[1]
        assert (spread >= 0).all()
        assert not spread[~inside].any()
        assert 0.1 < spread[inside].mean() < 200  # the target's range is 400
        assert seconds["uncertainty"] > 0
        assert {event.stage for event in told} >= {"uncertainty", "edges", "network"}

    def test_seeded(self, harmonizer: Harmonizer, result: Result) -> None:
        a, b = (spread_over_runs(harmonizer, result.source, 2) for _ in range(2))
        np.testing.assert_array_equal(a, b)

    def test_more_noise_less_certain(self, harmonizer: Harmonizer, result: Result) -> None:
        source = result.source
        noise = 0.2 * np.random.default_rng(0).standard_normal(source.mask.shape)
        noisy = np.where(source.mask, np.clip(source.image + noise, -1, 1), 0).astype(np.float32)
        plain, worse = (
            spread_over_runs(harmonizer, dataclasses.replace(source, image=image), 3)
            for image in (source.image, noisy)
        )
        assert worse[source.mask].mean() > 1.5 * plain[source.mask].mean()

    def test_the_runs_differ_in_their_edges(self, result: Result) -> None:
        """The edges are all that this network paints."""
        shares = []

        def paint(condition: torch.Tensor) -> torch.Tensor:
            shares.append(float((condition[:, :1] > 0).sum()))
            return condition[:, :1]

        model = config(edges=EdgeSettings(fraction=0.08))
        harmonizer = tiny_harmonizer(SamplingSettings(refine="none"), AnalyticNetwork(paint), model)
        spread = spread_over_runs(harmonizer, result.source, 3)
        assert len(set(shares)) == 3
        assert (spread[result.source.mask] > 0).any()

    @pytest.mark.parametrize("runs", [1, 0, -2])
    def test_too_few(self, harmonizer: Harmonizer, result: Result, runs: int) -> None:
        with pytest.raises(InputError, match=f"2 runs or more, not {runs}") as caught:
            estimate_uncertainty(harmonizer, result, runs)
        assert caught.value.argument == "uncertainty"
