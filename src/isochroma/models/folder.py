"""A model is a folder: `weights.safetensors`, `config.json` and a card, `README.md`.

A model with a second stage of its own has the weights of that in `reviser.safetensors`. The config
names the SHA-256 of the weights, which is checked at load. Weights are read from safetensors: no
code is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import platformdirs
import torch

from isochroma.errors import InputError, about
from isochroma.files import sha256, write_atomically, write_together
from isochroma.method.network import NetworkSettings, VelocityNetwork
from isochroma.method.reviser import Reviser
from isochroma.models.config import SCHEMA_VERSION, ModelConfig
from isochroma.settings import from_json, to_json
from isochroma.tables import read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Network = TypeVar("Network", bound=VelocityNetwork)

SHIPPED = Path(__file__).parent
INSTALLED = platformdirs.user_data_path("isochroma") / "models"
WEIGHTS = "weights.safetensors"
REVISER = "reviser.safetensors"
CONFIG = "config.json"
CARD = "README.md"
PREVIOUS = "previous.safetensors"  # there only while a model is replaced
MAX_PARAMETERS = 2**29  # five times the paper's network
MAX_WEIGHT_BYTES = 4 * MAX_PARAMETERS + 2**24  # float32, and their names
MAX_CONFIG_BYTES = 2**20


class Model(NamedTuple):
    """Hold a trained model.

    Attributes
    ----------
    network : VelocityNetwork
        In evaluation mode: float32, on the CPU.
    config : ModelConfig
        Its settings.
    reviser : Reviser or None
        A second stage of its own, if it has one; as the network.
    """

    network: VelocityNetwork
    config: ModelConfig
    reviser: Reviser | None = None


def shipped_models() -> dict[str, Path]:
    """List the models that come with the package.

    Returns
    -------
    folders : dict of str to Path
        Name to folder.
    """
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob(f"*/{CONFIG}"))}


def installed_models() -> dict[str, Path]:
    """List the models that the user installed, as `shipped_models` does."""
    return {path.parent.name: path.parent for path in sorted(INSTALLED.glob(f"*/{CONFIG}"))}


def find_model(name: str | Path) -> Path:
    """Find the folder of a model.

    Parameters
    ----------
    name : str or Path
        Name of a shipped or installed model; or a model folder, with a separator in its path
        (`./mine`), so that no folder can stand in for a model that is asked for by name.

    Returns
    -------
    folder : Path

    Raises
    ------
    InputError
        If there is no such model.
    """
    named = installed_models() | shipped_models()
    if str(name) in named:
        return named[str(name)]
    folder = Path(name)
    there = (folder / CONFIG).is_file()
    if there and ("/" in str(name) or os.sep in str(name)):
        return folder
    known = ", ".join(sorted(named)) or "none"
    hint = (
        f"it is a folder: write .{os.sep}{name}" if there else f"give a folder, or one of {known}"
    )
    msg = f"no model {str(name)!r}: {hint}."
    raise InputError(msg, "model")


def load_config(folder: Path) -> ModelConfig:
    """Read and check the config of a model folder.

    Parameters
    ----------
    folder : Path
        A model folder.

    Returns
    -------
    config : ModelConfig

    Raises
    ------
    InputError
        If it is not JSON, of another schema version, or a setting is unknown or out of range.
    """
    path = folder / CONFIG
    text = read_text(path, MAX_CONFIG_BYTES)
    with about(path):
        try:
            version = json.loads(text)["schema_version"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            msg = "not a model config with a schema_version. Restore the model folder."
            raise InputError(msg) from error
        if version != SCHEMA_VERSION:
            msg = (
                f"its schema_version is {version}; this isochroma reads {SCHEMA_VERSION}. "
                "Install the version that made the model, or train it anew."
            )
            raise InputError(msg)
        return from_json(ModelConfig, text)


def load_model(name: str | Path = "default") -> Model:
    """Load a trained model.

    Parameters
    ----------
    name : str or Path
        Name of a shipped model, or a model folder.

    Returns
    -------
    model : Model
        Network and config.

    Raises
    ------
    InputError
        If there is no such model, its config is not valid, or its weights are not those that the
        config names.

    Examples
    --------
    >>> load_model("default").config.target.scans
    37
    """
    folder = find_model(name)
    config = load_config(folder)
    first = (folder / WEIGHTS, folder / PREVIOUS)
    network = _load_network(VelocityNetwork, config.network, first, config.sha256)
    if not config.reviser_sha256:
        return Model(network, config)
    second = (folder / REVISER,)
    reviser = _load_network(Reviser, config.network, second, config.reviser_sha256)
    return Model(network, config, reviser)


def _load_network(
    kind: type[Network], settings: NetworkSettings, files: Sequence[Path], hashed: str
) -> Network:
    """Load a network from the first of the files that holds the weights of a hash."""
    from safetensors.torch import load_file

    there = (path for path in files if path.is_file())
    known = (path for path in there if path.stat().st_size <= MAX_WEIGHT_BYTES)
    path = next((path for path in known if sha256(path) == hashed), None)
    if path is None:
        msg = (
            f"{files[0]}: missing, or not the weights that {CONFIG} names. Install or copy it anew."
        )
        raise InputError(msg, "model")
    with torch.device("meta"):
        network = kind(settings)
    if not _weights_fit(path, network.state_dict()):
        msg = f"{path}: the weights do not fit the network in {CONFIG}. Install or copy it anew."
        raise InputError(msg, "model")
    weights = {key: value.float() for key, value in load_file(path).items()}
    if not all(torch.isfinite(value).all() for value in weights.values()):
        msg = f"{path}: holds weights that are not finite. Install or copy it anew."
        raise InputError(msg, "model")
    network = kind(settings)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


def _weights_fit(path: Path, state: dict[str, Tensor]) -> bool:
    """Compare names and shapes with a network's, before anything of that size is allocated."""
    from safetensors import SafetensorError, safe_open

    if sum(value.numel() for value in state.values()) > MAX_PARAMETERS:
        return False
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except SafetensorError:
        return False
    return shapes == {key: tuple(value.shape) for key, value in state.items()}


def save_model(
    folder: Path,
    weights: dict[str, Tensor],
    config: ModelConfig,
    reviser: dict[str, Tensor] | None = None,
) -> ModelConfig:
    """Write weights and config into a folder, so that it holds a usable model at every moment.

    Two files cannot be replaced at once. The weights that the old config names stay beside the new
    ones until the new config is there.

    Parameters
    ----------
    folder : Path
        The model folder.
    weights : dict of str to Tensor
        State of the network; stored as float16.
    config : ModelConfig
        Its settings; the hashes are filled in.
    reviser : dict of str to Tensor, optional
        State of a second stage, stored likewise.

    Returns
    -------
    config : ModelConfig
        With the hashes of the weights.
    """
    data, second = _packed(weights), b"" if reviser is None else _packed(reviser)
    config = dataclasses.replace(
        config, sha256=_hash(data), reviser_sha256=_hash(second) if second else ""
    )
    old, new = folder / PREVIOUS, folder / WEIGHTS
    files = {new: lambda path: path.write_bytes(data)}
    if second:
        files[folder / REVISER] = lambda path: path.write_bytes(second)
    files[folder / CONFIG] = lambda path: path.write_text(to_json(config))
    if new.is_file():
        write_atomically(old, partial(shutil.copyfile, new))
    try:
        write_together(files)
    except OSError:
        if old.is_file() and sha256(old) == sha256(new):  # nothing was replaced
            old.unlink()
        raise
    old.unlink(missing_ok=True)
    return config


def _packed(weights: dict[str, Tensor]) -> bytes:
    """Return weights as the content of a safetensors file, float16."""
    from safetensors.torch import save

    return save({key: value.detach().half().contiguous().cpu() for key, value in weights.items()})


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
