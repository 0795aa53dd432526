"""The model's contract: every setting is checked, and the figures that decide behaviour."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fixtures_pipeline import config
from isochroma.errors import InputError
from isochroma.models.config import Capabilities, ModelConfig, TargetDomain, Validation
from isochroma.settings import from_json, to_json


def refusal(changes: dict[str, dict[str, object] | object]) -> str:
    """The one line that refuses a config with changed entries."""
    values = json.loads(to_json(config()))
    for group, value in changes.items():
        values[group] = values[group] | value if isinstance(value, dict) else value
    with pytest.raises(InputError) as caught:
        from_json(ModelConfig, json.dumps(values))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


class TestRoundTrip:
    def test_json(self) -> None:
        settings = config(
            target=TargetDomain(
                1.5, 980, 37, (-1.0, 0.2, 1.0), (120.0, 150.0, 100.0), (150.0,) * 3
            ),
            capabilities=Capabilities(second_pass=True),
            validation=Validation(psnr=21.5, ssim=0.8, errors=(0.3, 0.05)),
            training={"steps": 3, "psnr": [20.5, 21.0]},
            sha256="0" * 64,
        )
        assert from_json(ModelConfig, to_json(settings)) == settings

    def test_what_is_left_out_has_its_default(self) -> None:
        assert from_json(ModelConfig, '{"schema_version": 1}') == ModelConfig()


class TestRefusals:
    @pytest.mark.parametrize(
        ("group", "key", "value"),
        [
            ("preprocess", "spacing_mm", 0.1),
            ("preprocess", "spacing_mm", "1"),
            ("preprocess", "n4", 1),
            ("preprocess", "n4_shrink", 0),
            ("preprocess", "n4_shrink", 2.5),
            ("preprocess", "n4_iterations", []),
            ("preprocess", "lower_percentile", -1),
            ("edges", "sigma", 0.0),
            ("edges", "fraction", 0.9),
            ("edges", "low_ratio", 1.0),
            ("edges", "detector", "sobel"),
            ("network", "width", 0),
            ("network", "multipliers", []),
            ("network", "blocks", 1.5),
            ("network", "kernel", -3),
            ("network", "data_std", 0),
            ("patches", "size", 0),
            ("patches", "strided_probability", 1.5),
            ("target", "lower", float("nan")),
            ("target", "upper", float("inf")),
            ("target", "scans", -1),
            ("target", "quantiles", 0.5),
            ("target", "smallest_mm", None),
            ("capabilities", "second_pass", "yes"),
            ("validation", "psnr", float("nan")),
            ("validation", "ssim", 1.2),
            ("validation", "errors", 0.2),
        ],
    )
    def test_type_and_range(self, group: str, key: str, value: object) -> None:
        """The message leads with the setting's place in the config."""
        assert refusal({group: {key: value}}).startswith(f"{group}.{key}: ")

    @pytest.mark.parametrize(
        ("changes", "start"),
        [
            ({"preprocess": {"n4_iterations": [50, 0]}}, "preprocess.n4_iterations.1: "),
            ({"target": {"quantiles": [-1, 0, 1.5]}}, "target.quantiles.2: "),
            ({"target": {"largest_mm": [1, 2, -3], "smallest_mm": [1, 1, 1]}}, "target.largest_mm"),
            ({"validation": {"errors": [0.2, 0]}}, "validation.errors.1: "),
            ({"schema_version": 2}, "schema_version: "),
            ({"name": 7}, "name: "),
            ({"training": "long"}, "training: "),
            ({"sha256": "abc"}, "sha256: "),
        ],
    )
    def test_single_entries(self, changes: dict[str, object], start: str) -> None:
        assert refusal(changes).startswith(start)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"preprocess": {"lower_percentile": 99.5}},
                "preprocess: upper_percentile must be above lower_percentile.",
            ),
            ({"target": {"lower": 600.0}}, "target: upper must be above lower."),
            (
                {"target": {"smallest_mm": [100.0, 100.0, 100.0]}},
                "target: smallest_mm and largest_mm hold three sizes each, or none.",
            ),
            ({"colour": "red"}, "colour: no such setting."),
            ({"edges": {"hue": 1}}, "edges.hue: no such setting."),
            ({"network": {"depth": 4}}, "network.depth: no such setting."),
            ({"validation": {"psnr": -1e999}}, "validation.psnr: input should be a finite number"),
        ],
    )
    def test_messages(self, changes: dict[str, object], message: str) -> None:
        assert refusal(changes).startswith(message)


class TestValidation:
    @pytest.mark.parametrize(("psnr", "rmse"), [(20.0, 0.2), (40.0, 0.02), (0.0, 2.0)])
    def test_error_of_a_known_psnr(self, psnr: float, rmse: float) -> None:
        """Over the range of model units, which is 2."""
        validation = Validation(psnr=psnr)
        assert validation.rmse == pytest.approx(rmse)
        np.testing.assert_allclose(validation.error_levels, [rmse])

    def test_errors_by_level_go_first(self) -> None:
        assert Validation(psnr=20.0, errors=(0.3, 0.05)).error_levels == (0.3, 0.05)

    def test_unknown(self) -> None:
        """Something cautious: the error of a poor model."""
        assert 0.1 <= Validation().rmse <= 0.5
        assert Validation().error_levels == (Validation().rmse,)
