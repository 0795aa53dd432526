"""Rectified flow (Liu et al. 2022, arXiv:2209.03003): from Gaussian noise to the target domain.

    x_t = (1 - t) eps + t x          the straight path from noise (t = 0) to image (t = 1)
    v*  = x - eps                    its velocity
    L   = E || v(x_t, t, e) - v* ||^2    over the mask, t uniform in [0, 1]
    dx/dt = v(x, t, e)               solved from t = 0 to t = 1 to sample an image with edges e

The state lives in the brain mask: outside it is 0 at every t.

One Euler step from t = 0 gives eps + v(eps, 0, e) = E[x | e], the posterior mean; more steps add
texture that the edges do not determine.

A draft y of the image, whose error has about the size of the noise in x_t / t, can stand for
x_t / t: the flow is entered at t = DRAFT_TIME with the state t y, and one Euler step to t = 1 gives
the posterior mean E[x | y, e]. For that the network is trained on drafts too, whose error takes the
place of the noise (`as_noise`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
DRAFT_TIME = 0.9


def interpolate(noise: Tensor, image: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) eps + t x, for (B, 1, I, J, K) volumes and t of shape (B,)."""
    t = t.view(-1, *[1] * (image.ndim - 1))
    return (1 - t) * noise + t * image


def as_noise(draft: Tensor, image: Tensor) -> Tensor:
    """The eps for which x_t = t draft at t = DRAFT_TIME: t / (1 - t) (draft - image)."""
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
    """Mean squared velocity error over the mask (paper's flow-matching loss).

    Parameters
    ----------
    network
        Called as network(x_t, t, condition).
    image, mask, noise
        (B, 1, I, J, K); image in model units, 0 outside the mask; mask 0 or 1.
    condition
        (B, C, I, J, K) edges and coordinates.
    t
        (B,) in [0, 1].
    weight
        (B,) factor of each example's error; 1 if not given, as in the paper.
    """
    noise = noise * mask
    velocity = network(interpolate(noise, image, t), t, condition)
    error = (velocity.float() - (image - noise)).square() * mask
    if weight is not None:
        error = error * weight.view(-1, 1, 1, 1, 1)
    return error.sum() / mask.sum().clamp(min=1)


def euler(velocity: Velocity, x: Tensor, t: float, dt: float) -> Tensor:
    """First order, 1 evaluation: x + dt v(x, t)."""
    return x + dt * velocity(x, t)


def midpoint(velocity: Velocity, x: Tensor, t: float, dt: float) -> Tensor:
    """Second order, 2 evaluations: x + dt v(x + dt/2 v(x, t), t + dt/2). The paper's solver."""
    return x + dt * velocity(x + 0.5 * dt * velocity(x, t), t + 0.5 * dt)


def heun(velocity: Velocity, x: Tensor, t: float, dt: float) -> Tensor:
    """Second order, 2 evaluations: the mean of the slopes at both ends of the step."""
    first = velocity(x, t)
    second = velocity(x + dt * first, t + dt)
    return x + 0.5 * dt * (first + second)


SOLVERS = {"euler": euler, "midpoint": midpoint, "heun": heun}
EVALUATIONS = {"euler": 1, "midpoint": 2, "heun": 2}


def solve(
    velocity: Velocity,
    x: Tensor,
    steps: int,
    solver: str = "midpoint",
    progress: Callable[[int, int], None] | None = None,
    start: float = 0.0,
) -> Tensor:
    """Integrate dx/dt = v(x, t) from t = `start` (0: noise) to t = 1 in equal steps.

    Parameters
    ----------
    velocity
        Maps the state and the time to the velocity, of the state's shape.
    x
        Initial state, any shape.
    steps
        Number of steps, 1 or more.
    solver
        "euler", "midpoint" or "heun".
    progress
        Called with (steps done, steps in all).
    start
        Time of the initial state, in [0, 1).
    """
    if solver not in SOLVERS:
        msg = f"solver {solver!r} is unknown; choose one of {', '.join(SOLVERS)}"
        raise ValueError(msg)
    if steps < 1:
        msg = f"steps must be 1 or more, not {steps}"
        raise ValueError(msg)
    step, dt = SOLVERS[solver], (1 - start) / steps
    for index in range(steps):
        x = step(velocity, x, start + index * dt, dt)
        if progress is not None:
            progress(index + 1, steps)
    return x
