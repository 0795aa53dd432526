"""A trained model is a folder: `weights.safetensors`, `config.json` and a card, `README.md`.

The config is the only home of every parameter that shaped the training, so use cannot differ.
It names the SHA-256 of the weights, which is checked at load. No code is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from isochroma.errors import InputError
from isochroma.files import sha256, write_atomically
from isochroma.method.network import VelocityNetwork
from isochroma.models.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

SHIPPED = Path(__file__).parent
WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
Settings = TypeVar("Settings")


def from_dict(kind: type[Settings], values: dict[str, Any], where: str = "config") -> Settings:
    """Build a settings dataclass from plain JSON values.

    Raises
    ------
    InputError
        If a key is unknown: a config from a newer version must not be half understood.
    """
    hints = get_type_hints(kind)
    unknown = set(values) - set(hints)
    if unknown:
        msg = f"{where}: unknown settings {sorted(unknown)}; known are {sorted(hints)}."
        raise InputError(msg)
    converted = {}
    for key, value in values.items():
        if dataclasses.is_dataclass(hints[key]):
            value = from_dict(hints[key], value, f"{where}.{key}")
        converted[key] = tuple(value) if isinstance(value, list) else value
    return kind(**converted)


def save_model(folder: Path, weights: dict[str, Tensor], config: ModelConfig) -> ModelConfig:
    """Write weights (as float16) and config into `folder`; return the config with its hash."""
    from safetensors.torch import save

    half = {name: tensor.detach().half().contiguous().cpu() for name, tensor in weights.items()}
    path = write_atomically(folder / WEIGHTS, lambda temporary: temporary.write_bytes(save(half)))
    config = dataclasses.replace(config, sha256=sha256(path))
    text = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
    write_atomically(folder / CONFIG, lambda temporary: temporary.write_text(text))
    return config


def find_model(name: str | Path) -> Path:
    """Folder of a shipped model's name, or of a path."""
    for folder in (Path(name), SHIPPED / str(name)):
        if (folder / CONFIG).is_file():
            return folder
    shipped = sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))
    msg = f"no model {str(name)!r}: give a model folder or one of {', '.join(shipped) or 'none'}."
    raise InputError(msg)


def load_config(folder: Path) -> ModelConfig:
    """Read a model folder's config."""
    try:
        values = json.loads((folder / CONFIG).read_text())
    except ValueError as error:
        msg = f"{folder / CONFIG}: not valid JSON ({error}). Restore the model folder."
        raise InputError(msg) from error
    return from_dict(ModelConfig, values, str(folder / CONFIG))


def load_model(name: str | Path = "default") -> tuple[VelocityNetwork, ModelConfig]:
    """The network in evaluation mode (float32, on the CPU) and its config.

    Raises
    ------
    InputError
        If there is no such model, or its weights are not those the config names.
    """
    from safetensors.torch import load_file

    folder = find_model(name)
    config = load_config(folder)
    path = folder / WEIGHTS
    if not path.is_file() or sha256(path) != config.sha256:
        msg = f"{path}: missing, or not the weights that {CONFIG} names. Install or copy it anew."
        raise InputError(msg)
    network = VelocityNetwork(config.network)
    network.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return network.eval().requires_grad_(False), config
