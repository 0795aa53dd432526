from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isochroma.method import flow
from isochroma.method.network import precondition
from isochroma.stages import listening

ORDERS = {"euler": 1, "midpoint": 2, "heun": 2}


class Fake(nn.Module):
    """A network whose velocity is a given function."""

    def __init__(self, velocity: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.velocity = velocity

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return self.velocity(x, t, condition)


def volumes(seed: int = 0, batch: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image (0 outside the mask), mask, condition, noise."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 1, 6, 5, 4)
    mask = (torch.rand(shape, generator=generator) < 0.6).float()
    image = torch.randn(shape, generator=generator) * mask
    condition = torch.randn((batch, 4, 6, 5, 4), generator=generator)
    return image, mask, condition, torch.randn(shape, generator=generator)


class TestInterpolate:
    def test_end_points(self) -> None:
        image, _, _, noise = volumes()
        assert torch.equal(flow.interpolate(noise, image, torch.zeros(2)), noise)
        assert torch.equal(flow.interpolate(noise, image, torch.ones(2)), image)

    def test_each_member_has_its_time(self) -> None:
        image, _, _, noise = volumes()
        x = flow.interpolate(noise, image, torch.tensor([0.25, 1.0]))
        torch.testing.assert_close(x[0], 0.75 * noise[0] + 0.25 * image[0])
        assert torch.equal(x[1], image[1])


class TestLoss:
    def test_zero_for_the_true_velocity(self) -> None:
        image, mask, condition, noise = volumes()
        truth = Fake(lambda x, t, condition: image - noise * mask)
        assert flow.loss(truth, image, mask, condition, noise, torch.rand(2)) == 0

    def test_known_answer(self) -> None:
        """Off by 3 in one member of two, by 1 in the other: the mean over the mask's voxels."""
        image, mask, condition, noise = volumes()
        off = torch.tensor([3.0, 1.0]).view(2, 1, 1, 1, 1)
        network = Fake(lambda x, t, condition: image - noise * mask + off)
        counts = mask.sum((1, 2, 3, 4))
        expected = (9 * counts[0] + counts[1]) / counts.sum()
        result = flow.loss(network, image, mask, condition, noise, torch.rand(2))
        assert float(result) == pytest.approx(float(expected), rel=1e-5)

    def test_zero_velocity(self) -> None:
        """A network that stands still is off by image - noise."""
        image, mask, condition, noise = volumes()
        still = Fake(lambda x, t, condition: torch.zeros_like(x))
        expected = ((image - noise) ** 2)[mask > 0].mean()
        result = flow.loss(still, image, mask, condition, noise, torch.rand(2))
        assert float(result) == pytest.approx(float(expected), rel=1e-5)

    def test_the_network_sees_x_t_and_its_condition(self) -> None:
        image, mask, condition, noise = volumes()
        t = torch.tensor([0.3, 0.8])
        seen = []

        def velocity(x: Tensor, time: Tensor, given: Tensor) -> Tensor:
            seen.append((x, time, given))
            return torch.zeros_like(x)

        flow.loss(Fake(velocity), image, mask, condition, noise, t)
        (x, time, given) = seen[0]
        torch.testing.assert_close(x, flow.interpolate(noise * mask, image, t))
        assert torch.equal(time, t)
        assert torch.equal(given, condition)
        assert not x[mask == 0].any()  # the state lives in the mask

    def test_outside_the_mask_does_not_matter(self) -> None:
        image, mask, condition, noise = volumes()
        still = Fake(lambda x, t, condition: torch.zeros_like(x))
        shouting = Fake(lambda x, t, condition: 1e3 * (1 - mask))
        t = torch.rand(2)
        expected = flow.loss(still, image, mask, condition, noise, t)
        assert flow.loss(shouting, image, mask, condition, noise, t) == expected
        other = noise + 100 * (1 - mask)
        assert flow.loss(still, image, mask, condition, other, t) == expected

    def test_empty_mask(self) -> None:
        image, mask, condition, noise = volumes()
        still = Fake(lambda x, t, condition: torch.zeros_like(x))
        result = flow.loss(still, image * 0, mask * 0, condition, noise, torch.rand(2))
        assert float(result) == 0


class TestDrafts:
    def test_the_drafts_error_takes_the_place_of_the_noise(self) -> None:
        image, _, _, _ = volumes()
        draft = image + 0.1 * torch.randn_like(image)
        t = torch.full((len(image),), flow.DRAFT_TIME)
        state = flow.interpolate(flow.as_noise(draft, image), image, t)
        torch.testing.assert_close(state, flow.DRAFT_TIME * draft)

    def test_one_step_from_the_draft(self) -> None:
        """With the exact velocity, the step ends at the image."""
        image, _, _, _ = volumes()
        draft = image + 0.1 * torch.randn_like(image)
        velocity = image - flow.as_noise(draft, image)
        start = flow.DRAFT_TIME
        result = flow.solve(lambda x, t: velocity, start * draft, 1, "euler", start=start)
        torch.testing.assert_close(result, image)


class TestSolvers:
    def test_every_solver_is_tested(self) -> None:
        assert set(flow.SOLVERS) == set(ORDERS)

    @pytest.mark.parametrize("solver", ORDERS)
    @pytest.mark.parametrize(
        ("velocity", "factor"),
        [
            (lambda x, t: x, np.e),
            (lambda x, t: -2 * t * x, np.exp(-1)),
            (lambda x, t: 3 * t**2 * x, np.e),
        ],
        ids=["x", "-2tx", "3ttx"],
    )
    def test_order_of_convergence(
        self, velocity: flow.Velocity, factor: float, solver: str
    ) -> None:
        """Twice the steps: half the error at first order, a quarter at second."""
        start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        errors = [
            float((flow.solve(velocity, start, steps, solver) - factor * start).abs().max())
            for steps in (64, 128, 256)
        ]
        ratios = [errors[0] / errors[1], errors[1] / errors[2]]
        assert ratios == pytest.approx([2.0 ** ORDERS[solver]] * 2, rel=0.1)
        assert errors[-1] < 0.06

    @pytest.mark.parametrize("solver", ORDERS)
    def test_straight_paths_need_one_step(self, solver: str) -> None:
        image, _, _, noise = volumes()
        result = flow.solve(lambda x, t: image - noise, noise, 1, solver)
        torch.testing.assert_close(result, image)

    @pytest.mark.parametrize("solver", ["midpoint", "heun"])
    def test_second_order_is_exact_for_a_velocity_linear_in_time(self, solver: str) -> None:
        result = flow.solve(lambda x, t: torch.full_like(x, 2 * t), torch.zeros(1), 3, solver)
        assert float(result) == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize("solver", ORDERS)
    def test_number_of_evaluations_and_their_times(self, solver: str) -> None:
        times = []

        def velocity(x: Tensor, t: float) -> Tensor:
            times.append(t)
            return x

        flow.solve(velocity, torch.ones(1), 5, solver)
        assert len(times) == 5 * flow.SOLVERS[solver].evaluations
        expected = {
            "euler": np.arange(5) / 5,
            "midpoint": np.arange(10) / 10,
            "heun": np.repeat(np.arange(6), 2)[1:-1] / 5,
        }[solver]
        np.testing.assert_allclose(times, expected, atol=1e-12)

    def test_progress(self) -> None:
        seen = []
        with listening(lambda event: seen.append((event.done, event.total))):
            flow.solve(lambda x, t: x, torch.ones(1), 3, "euler")
        assert seen == [(1, 3), (2, 3), (3, 3)]

    def test_later_start(self) -> None:
        """From t = 0.4 on: the times that are left, in equal steps."""
        times = []

        def velocity(x: Tensor, t: float) -> Tensor:
            times.append(t)
            return torch.ones_like(x)

        result = flow.solve(velocity, torch.zeros(1), 3, "euler", start=0.4)
        assert times == pytest.approx([0.4, 0.6, 0.8])
        assert float(result) == pytest.approx(0.6)

    def test_noise_is_not_changed(self) -> None:
        noise = torch.ones(3)
        flow.solve(lambda x, t: x, noise, 2)
        assert torch.equal(noise, torch.ones(3))

    def test_unknown_solver(self) -> None:
        with pytest.raises(ValueError, match=r"'rk4'.*euler, midpoint, heun"):
            flow.solve(lambda x, t: x, torch.ones(1), 3, "rk4")

    @pytest.mark.parametrize("steps", [0, -2])
    def test_too_few_steps(self, steps: int) -> None:
        with pytest.raises(ValueError, match=f"1 or more, not {steps}"):
            flow.solve(lambda x, t: x, torch.ones(1), steps)


class TestGaussianTarget:
    """Images of mean m and standard deviation s, each voxel by itself: the exact velocity is
    linear, the flow maps noise z to m + s z.
    """

    mean, std = 0.4, 0.3

    def velocity(self, x: Tensor, t: float) -> Tensor:
        keep, _, _ = precondition(torch.tensor([t], dtype=torch.float64), self.std)
        return self.mean + float(keep) * (x - t * self.mean)

    def test_one_euler_step_is_the_posterior_mean(self) -> None:
        noise = torch.randn(1000, dtype=torch.float64)
        result = flow.solve(self.velocity, noise, 1, "euler")
        torch.testing.assert_close(result, torch.full_like(noise, self.mean))

    @pytest.mark.parametrize("solver", ["midpoint", "heun"])
    def test_many_steps_are_the_exact_flow(self, solver: str) -> None:
        noise = torch.linspace(-3, 3, 50, dtype=torch.float64)
        result = flow.solve(self.velocity, noise, 200, solver)
        torch.testing.assert_close(result, self.mean + self.std * noise, atol=1e-3, rtol=0)

    def test_posterior_mean_of_a_linear_model(self) -> None:
        """With a condition e: E[x | e] = a e + b, whatever the noise."""
        edges = torch.linspace(0, 1, 20, dtype=torch.float64)
        posterior = 0.7 * edges - 0.2
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(20, generator=generator, dtype=torch.float64)
            result = flow.solve(lambda x, t: (posterior - x) / (1 - t), noise, 1, "euler")
            torch.testing.assert_close(result, posterior)
