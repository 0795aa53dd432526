"""The interface that every method keeps, and the registry."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from fixtures_pipeline import save_tiny_model
from isochroma.errors import InputError
from isochroma.evaluation.methods import (
    METHODS,
    BlindHarmony,
    Blur,
    Method,
    Role,
    SSIMHistogramMatching,
    Stateless,
    method_names,
    named_methods,
    register,
)
from isochroma.images.preprocess import Prepared

SMALL = {"levels": 1, "steps_per_level": 1, "width": 4, "train_steps": 1, "iterations": 2}
NAMES = method_names()
FAST = sorted(set(NAMES) - {"paper"})  # which is the class of "default" with 30 evaluations


@pytest.fixture(scope="module")
def fitted(target: list[Prepared], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Method]:
    """The registered methods, those with a network at a small size."""
    model = save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    made = dict(zip(FAST, named_methods(FAST, str(model)), strict=True))
    made["blindharmony"] = BlindHarmony(**SMALL)
    for method in made.values():
        method.fit(target)
    return made


class TestInterface:
    @pytest.mark.parametrize("name", FAST)
    def test_output(self, fitted: dict[str, Method], name: str, source: Prepared) -> None:
        before = source.image.copy()
        output = fitted[name].apply(source)
        assert output.dtype == np.float32
        assert output.shape == source.image.shape
        assert np.isfinite(output).all()
        assert (output[~source.mask] == 0).all()
        assert output[source.mask].std() > 0.1
        np.testing.assert_array_equal(source.image, before)
        np.testing.assert_array_equal(fitted[name].apply(source), output)

    @pytest.mark.parametrize("name", sorted(set(FAST) - {"raw", "n4"}))
    def test_outside_has_no_influence(
        self, fitted: dict[str, Method], name: str, source: Prepared
    ) -> None:
        other = dataclasses.replace(source, image=np.where(source.mask, source.image, 50))
        np.testing.assert_array_equal(fitted[name].apply(other), fitted[name].apply(source))

    def test_settings_identify_the_method(self, fitted: dict[str, Method]) -> None:
        others = [Blur(3.0), SSIMHistogramMatching(2), BlindHarmony(seed=1)]
        methods = [*fitted.values(), *others]
        assert len({json.dumps(method.settings, sort_keys=True) for method in methods}) == len(
            methods
        )
        assert all(method.settings["version"] == method.version for method in methods)

    def test_titles_differ(self, fitted: dict[str, Method]) -> None:
        assert len({method.name for method in fitted.values()}) == len(fitted)


class TestRegistry:
    def test_a_new_method_is_listed_and_built(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in NAMES:
            monkeypatch.setitem(METHODS, name, METHODS[name])  # restored after the test

        @register("mine", Role.REFERENCE)
        class Mine(Stateless):
            name = "my method"

        try:
            assert method_names().index("mine") < method_names().index("default")
            assert "mine" not in method_names(quick=True)
            assert isinstance(named_methods(["mine"])[0], Mine)
        finally:
            del METHODS["mine"]

    def test_controls_come_last_and_the_scan_first(self) -> None:
        assert NAMES[:2] == ["raw", "n4"]
        assert set(NAMES[-2:]) == {"blur", "target-mean"}

    def test_quick_methods_are_few_and_in_the_same_order(self) -> None:
        quick = method_names(quick=True)
        assert quick == [name for name in NAMES if name in quick]
        assert {"raw", "n4", "default"} < set(quick)
        assert len(quick) < len(NAMES) / 2

    def test_our_methods_take_the_model(self, tmp_path: Path) -> None:
        model = save_tiny_model(tmp_path / "tiny")
        digests = {method.settings.get("model") for method in named_methods(NAMES, str(model))}
        assert digests == {None, json.loads((model / "config.json").read_text())["sha256"]}

    def test_unknown_name(self) -> None:
        with pytest.raises(InputError, match="'magic' is unknown; choose from raw, ") as raised:
            named_methods(["raw", "magic"])
        assert raised.value.argument == "method"
