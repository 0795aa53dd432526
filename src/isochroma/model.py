"""A trained model is a folder: `weights.safetensors`, `config.json` and a card, `README.md`.

The config is the only home of every parameter that shaped the training, so use cannot differ.
It names the SHA-256 of the weights, which is checked at load. No code is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from isochroma.edges import EdgeSettings
from isochroma.errors import InputError
from isochroma.network import NetworkSettings, VelocityNetwork
from isochroma.patches import PatchSettings
from isochroma.preprocess import PreprocessSettings
from isochroma.volume import sha256, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

SHIPPED = Path(__file__).parent / "models"
WEIGHTS = "weights.safetensors"
CONFIG = "config.json"

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class TargetDomain:
    """The scanner that the model renders, in its own units.

    lower, upper
        Intensities of model units -1 and +1: medians over the training scans.
    scans
        Number of training scans.
    quantiles
        In-mask quantiles at equal probabilities 0 to 1 in model units, averaged over these scans.
    smallest_mm, largest_mm
        Width, length and height of these scans' brains (`trust.brain_extent`): the smallest and
        the largest; empty if not known.
    """

    lower: float = 0.0
    upper: float = 1.0
    scans: int = 0
    quantiles: tuple[float, ...] = ()
    smallest_mm: tuple[float, ...] = ()
    largest_mm: tuple[float, ...] = ()


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to use a model, and how it came about.

    errors
        Root mean square error of the first pass on the validation scans, model units, where its
        output is at equally spaced levels from -1 to 1 (`refine.error_levels`); empty if not known.
    training
        What was run, for the record: steps, batch size, seed, validation scores.
    sha256
        Of the weights file.
    """

    name: str = "unnamed"
    preprocess: PreprocessSettings = field(default_factory=PreprocessSettings)
    edges: EdgeSettings = field(default_factory=EdgeSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    patches: PatchSettings = field(default_factory=PatchSettings)
    target: TargetDomain = field(default_factory=TargetDomain)
    errors: tuple[float, ...] = ()
    training: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @property
    def validation_error(self) -> float:
        """Root mean square error on the validation scans, model units; 0.2 if it is not known."""
        psnr = self.training.get("val_psnr")
        return 0.2 if psnr is None else 2 * 10 ** (-psnr / 20)

    @property
    def known_errors(self) -> tuple[float, ...]:
        """`errors`; where they are not known, `validation_error` for all levels."""
        return self.errors or (self.validation_error,)

    @property
    def revises(self) -> bool:
        """Whether the network was trained on drafts (`flow.DRAFT_TIME`)."""
        return self.training.get("draft_share", 0) > 0


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
