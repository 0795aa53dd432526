"""What runs the network: OpenVINO, checked against torch, or torch."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from fixtures_pipeline import TINY, head_image, random_network, tiny_harmonizer
from isochroma.errors import InputError
from isochroma.method import runtime
from isochroma.method.network import VelocityNetwork


class TestOpenVino:
    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("openvino", reason="the extra openvino is not installed")

    @pytest.mark.parametrize("shape", [(16, 16, 16), (24, 20, 28)])
    def test_as_torch(self, shape: tuple[int, ...]) -> None:
        """On any size, not that of the conversion alone."""
        network = random_network()
        x, condition = torch.randn(1, 1, *shape), torch.randn(1, 4, *shape)
        for time in (0.0, 0.9):
            t = torch.full((1,), time)
            found = runtime.OpenVinoNetwork(network).forward(x, t, condition)
            torch.testing.assert_close(found, network(x, t, condition), rtol=1e-3, atol=1e-4)

    def test_whole_pipeline(self) -> None:
        torch_result, result = (
            tiny_harmonizer(runtime=name).run(head_image()) for name in ("torch", "openvino")
        )
        expected, found = (each.rendering.output for each in (torch_result, result))
        np.testing.assert_allclose(found, expected, atol=2e-3)
        assert (torch_result.record.runtime, result.record.runtime) == ("torch", "openvino")

    def test_another_result_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runtime.OpenVinoNetwork, "difference", lambda *_: 0.2)
        with pytest.raises(InputError, match=r"differs from torch's by 0.2"):
            runtime.OpenVinoNetwork(random_network())


class TestFallBack:
    def test_torch_if_it_is_not_installed(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setitem(sys.modules, "openvino", None)
        network = VelocityNetwork(TINY)
        assert runtime.choose_network(network, "openvino", "float32") is network
        assert "pip install 'isochroma[openvino]'" in caplog.text

    def test_torch_by_default(self) -> None:
        network = VelocityNetwork(TINY)
        assert runtime.choose_network(network, "torch", "float32") is network

    def test_the_record_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "openvino", None)
        assert tiny_harmonizer(runtime="openvino").run(head_image()).record.runtime == "torch"
