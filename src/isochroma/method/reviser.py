"""The second stage: from a draft, and what it was made from, to an image and its error.

The network is the U-Net of the first stage with five more channels in: it sees the draft, the edges
and coordinates, and also the source, the first pass, slope and residual of the source's curve, and
the standard deviation of the source around the curve. It returns an image and the logarithm of its
expected squared error. With the first stage's weights it would be that network's own second pass:
at t = `flow.DRAFT_TIME`, one Euler step of the flow from a draft y with edges e is

    y' = t y + (1 - t) v(t y, t, e) = kept y + step F(shown y, e)

with the U-Net F without its preconditioning.

The U-Net works on blocks of 2 x 2 x 2 voxels, and few of its channels are left for fine detail. So
it also returns gains, by which volumes that have the detail are added to its own output (`guides`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from isochroma.method.flow import DRAFT_TIME
from isochroma.method.network import (
    IN_CHANNELS,
    NetworkSettings,
    VelocityNetwork,
    precondition,
)

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
    t = torch.tensor([DRAFT_TIME], device="cpu")
    keep, gain, shrink = (float(factor) for factor in precondition(t, data_std))
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
