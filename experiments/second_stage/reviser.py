"""The learned second stage: from a draft, and what it was made from, to an image and its error.

The network is the U-Net of the first stage with five more channels in and one more out, and it
starts from the first stage's weights. At t = `flow.DRAFT_TIME`, one Euler step of the flow from a
draft y with edges e is

    y' = t y + (1 - t) v(t y, t, e) = kept y + step F(shown y, e)

with the U-Net F without its preconditioning. The reviser has this form too, so that before any
training it is the product's second pass.

The U-Net works on blocks of 2 x 2 x 2 voxels, and few of its channels are left for fine detail. So
it also returns gains, by which volumes that have the detail are added to its own output (`guides`).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from isochroma.method.flow import DRAFT_TIME
from isochroma.method.network import (
    IN_CHANNELS,
    ChannelNorm,
    NetworkSettings,
    VelocityNetwork,
    precondition,
)

if TYPE_CHECKING:
    import numpy as np

EXTRA = ("source", "first", "slope", "residual", "spread")
GUIDES = 5  # volumes that are added to the image, by gains
SIGNS = 2  # volumes that are added to the log-variance, by gains
STEEPEST = 4.0  # larger slopes of the curve are cut off
START_LOG_VARIANCE = -4.6  # a standard deviation of 0.1 model units, about the draft's error
LOG_VARIANCES = (-10.0, 1.0)


def draft_factors(data_std: float) -> tuple[float, float, float]:
    """Return the factors `kept`, `step` and `shown` of the second pass.

    Parameters
    ----------
    data_std : float
        Standard deviation of the images, see `NetworkSettings`.

    Returns
    -------
    kept, step, shown : float
        As in the equation above.
    """
    keep, gain, shrink = (float(f) for f in precondition(torch.tensor([DRAFT_TIME]), data_std))
    return (
        DRAFT_TIME * (1 + (1 - DRAFT_TIME) * keep),
        (1 - DRAFT_TIME) * gain,
        DRAFT_TIME * shrink,
    )


class Reviser(VelocityNetwork):
    """Correct a draft and predict the error that is left, smoothed by `blur`.

    Parameters
    ----------
    settings : NetworkSettings
        Shape of the first stage's network.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__(settings)
        voxels = settings.space_to_depth**3
        width = settings.width * settings.multipliers[0]
        channels = (IN_CHANNELS + len(EXTRA)) * voxels
        self.stem = nn.Conv3d(channels, width, settings.kernel, padding=settings.kernel // 2)
        self.out = nn.Conv3d(width, (2 + GUIDES + SIGNS) * voxels, 1)
        self.kept, self.step, self.shown = draft_factors(settings.data_std or 0.5)

    def forward(  # type: ignore[override]
        self, draft: Tensor, condition: Tensor, extra: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict the image and its error.

        Parameters
        ----------
        draft : (B, 1, I, J, K) Tensor
            Model units, 0 outside the mask.
        condition : (B, 4, I, J, K) Tensor
            Edges and coordinates, see `condition.condition_channels`.
        extra : (B, 5, I, J, K) Tensor
            The channels `EXTRA`, 0 outside the mask: source, first pass, slope of the source's
            curve and residual at the first pass, and the standard deviation of the source around
            the curve.

        Returns
        -------
        mean : (B, 1, I, J, K) Tensor
            Model units, float32.
        log_variance : (B, 1, I, J, K) Tensor
            Logarithm of the expected squared error, float32.
        """
        t = torch.full((len(draft),), DRAFT_TIME, device=draft.device)
        found = self.unet(self.shown * draft, t, torch.cat([condition, extra], dim=1)).float()
        shown, signs = guides(draft, extra)
        change, spread, *gains = found.split([1, 1, GUIDES, SIGNS], dim=1)
        change = change + (gains[0] * shown).sum(1, keepdim=True)
        spread = spread + (gains[1] * signs).sum(1, keepdim=True)
        mean = self.kept * draft.float() + self.step * change
        return mean, (START_LOG_VARIANCE + blur(spread)).clamp(*LOG_VARIANCES)

    @torch.no_grad()
    def start_from(self, state: dict[str, Tensor], seed: int = 0, size: float = 0.003) -> None:
        """Take over weights of fewer channels; those of new channels are small and random.

        Parameters
        ----------
        state : dict of str to Tensor
            State of the first stage, or of an earlier reviser.
        seed : int
            Of the new weights.
        size : float
            Their standard deviation. Channels in that start from zero are hardly taken up.
        """
        generator = torch.Generator().manual_seed(seed)
        own = self.state_dict()
        for name, value in state.items():
            if own[name].shape == value.shape:
                own[name].copy_(value)
                continue
            own[name].copy_(size * torch.randn(own[name].shape, generator=generator))
            own[name][tuple(slice(n) for n in value.shape)] = value


def guides(draft: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is added to the image and to the log-variance, by gains.

    To the image: draft, source, first pass, the step from the first pass that would explain the
    source if the curve is right, and as much of the step to the draft as the source supports. To
    the log-variance: the size of the residual over the source's standard deviation around the
    curve, and that of the step to the draft.

    Parameters
    ----------
    draft : (B, 1, I, J, K) Tensor
        Model units.
    extra : (B, 5, I, J, K) Tensor
        The channels `EXTRA`.

    Returns
    -------
    shown : (B, 5, I, J, K) Tensor
    signs : (B, 2, I, J, K) Tensor
    """
    source, first, slope, residual, spread = extra.split(1, dim=1)
    variance = spread.square() + 1e-4
    moved = draft - first
    support = slope.square() / (slope.square() + variance)
    needed = (slope * residual / (slope.square() + variance)).clamp(-1, 1)
    shown = torch.cat([draft, source, first, needed, support * moved], dim=1)
    surprise = (residual.abs() * variance.rsqrt()).clamp(max=6) / 3
    return shown, torch.cat([surprise, 4 * moved.abs()], dim=1)


def blur(volume: Tensor) -> Tensor:
    """Average with the weights 1, 2, 1 along each axis, which leaves no pattern of 2 voxels."""
    volume = functional.avg_pool3d(volume, 2, 1, 1, count_include_pad=False)
    return functional.avg_pool3d(volume, 2, 1)


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


def load_reviser(path: Path, settings: NetworkSettings) -> Reviser:
    """Load stored weights of a reviser.

    Parameters
    ----------
    path : Path
        The file.
    settings : NetworkSettings
        Shape of the first stage's network.

    Returns
    -------
    network : Reviser
        float32, in evaluation mode, on the CPU.
    """
    network = Reviser(settings)
    network.load_state_dict(read_state(path))
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def revise(
    network: Reviser,
    channels: dict[str, np.ndarray],
    edges: np.ndarray,
    mask: np.ndarray,
    spread: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Apply a reviser to a whole head on the CPU.

    Parameters
    ----------
    network : Reviser
        On the CPU.
    channels : dict of str to (I, J, K) ndarray
        `draft`, `source`, `first`, `slope` and `residual`; 0 outside the mask.
    edges, mask : (I, J, K) ndarray of bool
        Edge map and brain.
    spread : float
        Standard deviation of the source around the curve, model units.

    Returns
    -------
    image : (I, J, K) ndarray of float32
        Model units, 0 outside the mask.
    deviation : (I, J, K) ndarray of float32
        Predicted standard deviation of its error, model units, 0 outside the mask.
    """
    import numpy as np

    from isochroma.images.grid import pad_to_multiple
    from isochroma.images.masked import centroid
    from isochroma.method.condition import condition_channels, coordinates

    divisor = network.settings.divisor
    padded = pad_to_multiple(mask, divisor)
    where = coordinates(centroid(mask), np.zeros(3), padded.shape)
    condition = condition_channels(pad_to_multiple(edges, divisor), padded, where)
    shown = dict(channels)
    shown["slope"] = np.clip(shown["slope"], -STEEPEST, STEEPEST)
    shown["spread"] = spread * mask
    volumes = {
        name: torch.from_numpy(pad_to_multiple(volume.astype(np.float32), divisor))
        for name, volume in shown.items()
    }
    mean, log_variance = network(
        volumes["draft"][None, None],
        torch.from_numpy(condition)[None],
        torch.stack([volumes[name] for name in EXTRA])[None],
    )
    i, j, k = mask.shape
    image, deviation = (
        volume[0, 0, :i, :j, :k].numpy() * mask
        for volume in (mean.clamp(-1, 1), (0.5 * log_variance).exp())
    )
    return image, deviation
