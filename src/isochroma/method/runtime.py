"""Run the network by OpenVINO: faster on a CPU, checked against torch before use."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from isochroma.errors import InputError
from isochroma.method.network import IN_CHANNELS, NetworkSettings, VelocityNetwork

logger = logging.getLogger(__name__)
RUNTIMES = ("torch", "openvino")
HINTS = {"float32": "f32", "bfloat16": "bf16"}
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}  # root mean square difference over deviation


class OpenVinoNetwork:
    """Run a compiled `VelocityNetwork` on volumes of any size.

    Parameters
    ----------
    network : VelocityNetwork
        On the CPU.
    precision : str
        "float32" or "bfloat16".

    Raises
    ------
    InputError
        If OpenVINO is not installed, cannot convert the network, or computes something else.
    """

    def __init__(self, network: VelocityNetwork, precision: str = "float32") -> None:
        try:
            import openvino
        except ModuleNotFoundError as failure:
            msg = "OpenVINO is not installed. Run: pip install 'isochroma[openvino]'"
            raise InputError(msg) from failure
        self.settings: NetworkSettings = network.settings
        example = self.example(4 * network.settings.divisor)
        try:
            converted = openvino.convert_model(network, example_input=example)
            hint = {"INFERENCE_PRECISION_HINT": HINTS[precision]}
            self.compiled = openvino.Core().compile_model(converted, "CPU", hint)
            error = self.difference(network, 6 * network.settings.divisor)
        except RuntimeError as failure:
            msg = f"OpenVINO cannot run the network ({str(failure).splitlines()[0]}). Use torch."
            raise InputError(msg) from failure
        if not error < TOLERANCE[precision]:
            msg = f"OpenVINO's result differs from torch's by {error:.2g}. Use torch."
            raise InputError(msg)

    @staticmethod
    def example(edge: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw state, time and condition of a random cube."""
        generator = torch.Generator().manual_seed(edge)
        cube = torch.randn(1, IN_CHANNELS, edge, edge, edge, generator=generator)
        return cube[:, :1], torch.full((1,), 0.5), cube[:, 1:]

    def difference(self, network: VelocityNetwork, edge: int) -> float:
        """Compare with torch on a random cube: RMS difference over torch's standard deviation."""
        inputs = self.example(edge)
        with torch.inference_mode():
            expected = network(*inputs)
        return float((self.forward(*inputs) - expected).square().mean().sqrt() / expected.std())

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Compute the velocity, as `VelocityNetwork.forward`."""
        arrays = tuple(each.numpy(force=True) for each in (x, t, condition))
        return torch.from_numpy(self.compiled(arrays)[0])


def choose_network(
    network: VelocityNetwork, runtime: str, precision: str
) -> VelocityNetwork | OpenVinoNetwork:
    """Choose what runs the network; torch, with a warning, if the runtime asked for fails.

    Parameters
    ----------
    network : VelocityNetwork
        On its device.
    runtime : str
        Name in `RUNTIMES`.
    precision : str
        "float32" or "bfloat16".

    Returns
    -------
    network : VelocityNetwork or OpenVinoNetwork
    """
    if runtime == "torch":
        return network
    try:
        if next(network.parameters()).device.type != "cpu":
            msg = "OpenVINO is for CPUs."
            raise InputError(msg)
        return OpenVinoNetwork(network, precision)
    except InputError as error:
        logger.warning("%s torch is used instead.", error)
        return network
