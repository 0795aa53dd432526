"""Start the second stage from the first, and store its weights, without nibabel."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from isochroma.method.network import ChannelNorm, NetworkSettings, VelocityNetwork
from isochroma.method.reviser import Reviser


@torch.no_grad()
def start_from(
    network: Reviser, state: dict[str, Tensor], seed: int = 0, size: float = 0.003
) -> None:
    """Take over weights of fewer channels; those of new channels are small and random.

    Parameters
    ----------
    network : Reviser
        The network.
    state : dict of str to Tensor
        State of the first stage, or of an earlier reviser.
    seed : int
        Of the new weights.
    size : float
        Their standard deviation. Channels in that start from zero are hardly taken up.
    """
    generator = torch.Generator().manual_seed(seed)
    own = network.state_dict()
    for name, value in state.items():
        if own[name].shape == value.shape:
            own[name].copy_(value)
            continue
        own[name].copy_(size * torch.randn(own[name].shape, generator=generator))
        own[name][tuple(slice(n) for n in value.shape)] = value


def fast_norm(self: ChannelNorm, x: Tensor) -> Tensor:
    """Normalise as `ChannelNorm.forward` in one kernel, in the precision of the input."""
    with torch.autocast(x.device.type, enabled=False):
        gain, bias = (each.flatten().to(x.dtype) for each in (self.gain, self.bias))
        shown = functional.layer_norm(x.movedim(1, -1), (x.shape[1],), gain, bias, 1e-3)
    return shown.movedim(-1, 1)


def load_first(folder: Path) -> tuple[VelocityNetwork, dict[str, Any]]:
    """Load the first stage without the parts of the package that need nibabel.

    Parameters
    ----------
    folder : Path
        A model folder.

    Returns
    -------
    network : VelocityNetwork
        In evaluation mode.
    config : dict
        The model's `config.json`.

    Raises
    ------
    ValueError
        If the weights are not those that the config names.
    """
    config = json.loads((folder / "config.json").read_text())
    weights = folder / "weights.safetensors"
    if hashlib.sha256(weights.read_bytes()).hexdigest() != config["sha256"]:
        msg = f"{weights}: not the weights that config.json names"
        raise ValueError(msg)
    network = VelocityNetwork(settings_of(config["network"]))
    network.load_state_dict(read_state(weights))
    return network.eval(), config


def settings_of(values: dict[str, Any]) -> NetworkSettings:
    """Return the network settings of a model config."""
    return NetworkSettings(**(values | {"multipliers": tuple(values["multipliers"])}))


def read_state(path: Path) -> dict[str, Tensor]:
    """Read stored weights as float32."""
    with safe_open(path, "pt") as stored:
        return {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118


def save_reviser(state: dict[str, Tensor], path: Path, record: dict[str, Any]) -> None:
    """Write weights as float16, through a temporary file.

    Parameters
    ----------
    state : dict of str to Tensor
        State of the network.
    path : Path
        The file.
    record : dict
        How they were made; becomes metadata.
    """
    half = {name: value.detach().half().cpu().contiguous() for name, value in state.items()}
    temporary = path.with_suffix(".partial")
    save_file(half, temporary, {"reviser": json.dumps(record)})
    temporary.replace(path)
