"""Rectified flow from Gaussian noise to images of the target domain (Liu et al. 2022).

With noise eps, target image x, edges e and time t in [0, 1] (arXiv:2209.03003):

    x_t = (1 - t) eps + t x              straight path from noise (t = 0) to image (t = 1)
    v*  = x - eps                        its velocity
    L   = E || v(x_t, t, e) - v* ||^2    training loss: mean over the mask, t uniform in [0, 1]
    dx/dt = v(x, t, e)                   solved from t = 0 to t = 1 to sample an image with edges e

The state is defined inside the brain mask; outside it is 0 at every t.

One Euler step from t = 0 gives eps + v(eps, 0, e) = E[x | e], the posterior mean. More steps add
texture that the edges do not determine.

Second pass: x_t / t = x + (1 - t) / t eps is the image plus noise. A draft y of the image, with an
error of about the size of that noise, can take its place: the flow is entered at t = `DRAFT_TIME`
with the state t y, and one Euler step to t = 1 gives the posterior mean E[x | y, e]. The network
is trained for this on drafts whose error takes the place of the noise (`as_noise`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from isochroma.stages import advance

Velocity = Callable[[Tensor, float], Tensor]

DRAFT_TIME = 0.9
"""Time at which a draft enters the flow; noise has a standard deviation of 0.11 there."""


def interpolate(noise: Tensor, image: Tensor, t: Tensor) -> Tensor:
    """Return the state x_t = (1 - t) eps + t x on the straight path.

    Parameters
    ----------
    noise, image : (B, 1, I, J, K) Tensor
        Ends of the path, at t = 0 and t = 1.
    t : (B,) Tensor
        Times in [0, 1].

    Returns
    -------
    state : (B, 1, I, J, K) Tensor
        The state x_t.
    """
    t = t.view(-1, *[1] * (image.ndim - 1))
    return (1 - t) * noise + t * image


def as_noise(draft: Tensor, image: Tensor) -> Tensor:
    """Return the noise for which the state at `DRAFT_TIME` is the scaled draft.

    That is eps = t / (1 - t) (draft - image), which gives x_t = t draft.

    Parameters
    ----------
    draft, image : (B, 1, I, J, K) Tensor
        In model units.

    Returns
    -------
    noise : (B, 1, I, J, K) Tensor
        The draft's error, scaled.
    """
    return DRAFT_TIME / (1 - DRAFT_TIME) * (draft - image)


def loss(
    network: torch.nn.Module,
    image: Tensor,
    mask: Tensor,
    condition: Tensor,
    noise: Tensor,
    t: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    """Compute the flow-matching loss: the mean squared velocity error over the mask.

    Parameters
    ----------
    network : torch.nn.Module
        Called as ``network(x_t, t, condition)``.
    image, mask : (B, 1, I, J, K) Tensor
        Image in model units, 0 outside the mask; mask of 0 and 1.
    condition : (B, C, I, J, K) Tensor
        Edges and coordinates.
    noise : (B, 1, I, J, K) Tensor
        The other end of the path.
    t : (B,) Tensor
        Times in [0, 1].
    weight : (B,) Tensor, optional
        Factor of each example's squared error; 1 if not given, as in the paper.

    Returns
    -------
    loss : () Tensor
        The mean; 0 for an empty mask.
    """
    noise = noise * mask
    velocity = network(interpolate(noise, image, t), t, condition)
    error = (velocity.float() - (image - noise)).square() * mask
    if weight is not None:
        error = error * weight.view(-1, 1, 1, 1, 1)
    return error.sum() / mask.sum().clamp(min=1)


def euler(velocity: Velocity, x: Tensor, t: float, dt: float) -> Tensor:
    """Take a first-order step: x + dt v(x, t)."""
    return x + dt * velocity(x, t)


def midpoint(velocity: Velocity, x: Tensor, t: float, dt: float) -> Tensor:
    """Take a second-order step, the paper's: x + dt v(x + dt/2 v(x, t), t + dt/2)."""
    return x + dt * velocity(x + 0.5 * dt * velocity(x, t), t + 0.5 * dt)


def heun(velocity: Velocity, x: Tensor, t: float, dt: float) -> Tensor:
    """Take a second-order step along the mean of the slopes at both of its ends."""
    first = velocity(x, t)
    second = velocity(x + dt * first, t + dt)
    return x + 0.5 * dt * (first + second)


class Solver(NamedTuple):
    """Hold one way to integrate the flow.

    Attributes
    ----------
    step : callable
        Takes (velocity, x, t, dt) and returns x at time t + dt.
    evaluations : int
        Network evaluations a step.
    """

    step: Callable[[Velocity, Tensor, float, float], Tensor]
    evaluations: int


SOLVERS = {"euler": Solver(euler, 1), "midpoint": Solver(midpoint, 2), "heun": Solver(heun, 2)}
"""Solvers by name."""


def solve(
    velocity: Velocity,
    x: Tensor,
    steps: int,
    solver: str = "midpoint",
    start: float = 0.0,
) -> Tensor:
    """Integrate dx/dt = v(x, t) to t = 1 in equal steps, and report progress (`stages.advance`).

    Parameters
    ----------
    velocity : callable
        Maps the state and the time to the velocity, which has the state's shape.
    x : Tensor
        Initial state, of any shape; it is not changed.
    steps : int
        Number of steps, 1 or more.
    solver : str
        A key of `SOLVERS`.
    start : float
        Time of the initial state in [0, 1); 0 for noise.

    Returns
    -------
    x : Tensor
        The state at t = 1.

    Raises
    ------
    ValueError
        If the solver is unknown or there are no steps.
    """
    if solver not in SOLVERS:
        msg = f"solver {solver!r} is unknown; choose one of {', '.join(SOLVERS)}"
        raise ValueError(msg)
    if steps < 1:
        msg = f"steps must be 1 or more, not {steps}"
        raise ValueError(msg)
    step, dt = SOLVERS[solver].step, (1 - start) / steps
    for index in range(steps):
        x = step(velocity, x, start + index * dt, dt)
        advance(index + 1, steps)
    return x
