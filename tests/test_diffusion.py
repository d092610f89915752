"""Diffusion without networks: on Gaussian images the best denoiser and the exact ODE are known in closed form."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cfxai.diffusion import prediction as predictions
from cfxai.diffusion.denoiser import Denoiser
from cfxai.diffusion.grid import time_grid
from cfxai.diffusion.inversion import euler_inversion, fixed_point_inversion
from cfxai.diffusion.published import PublishedSampling
from cfxai.diffusion.sampling import Sampling
from cfxai.diffusion.schedule import Schedule
from cfxai.diffusion.solvers import ddim, dpm_solver
from cfxai.errors import ConfigError

KINDS = ("linear", "cosine")
PREDICTIONS = ("eps", "x0", "v")
SPREAD = torch.tensor([0.02, 0.2, 1.0, 2.0], dtype=torch.float64).view(1, 4, 1, 1)
"""Standard deviation of each channel of the images: details far below the noise, and features far above it."""


def images(count: int = 6) -> Tensor:
    return SPREAD * torch.randn(count, 4, 4, 4, dtype=torch.float64)


def denoiser(schedule: Schedule, prediction: str = "v") -> Denoiser:
    """E[x_0 | x_t] = alpha s² x_t / (alpha² s² + sigma²), as a network of that kind would say it."""

    def predict(x: Tensor, time: Tensor) -> Tensor:
        alpha, sigma = schedule.level(float(time[0]))
        clean = alpha * SPREAD**2 * x / (alpha**2 * SPREAD**2 + sigma**2)
        return predictions.target(prediction, clean, (x - alpha * clean) / sigma, alpha, sigma)

    return Denoiser(predict, schedule, prediction)


def carried(schedule: Schedule, x: Tensor, start: float, end: float) -> Tensor:
    """Where the exact ODE takes x: it scales by the standard deviations of noised images."""
    before, after = (torch.sqrt((a * SPREAD) ** 2 + s**2) for a, s in map(schedule.level, (start, end)))
    return x * after / before


def mean_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().mean())


def test_schedules_are_the_papers() -> None:
    linear, cosine = (Schedule(kind) for kind in KINDS)
    remaining = 1.0
    for t in range(1000):
        remaining *= 1 - (1e-4 + (0.02 - 1e-4) * t / 999)
        assert math.isclose(float(linear.alpha[t]) ** 2, remaining, rel_tol=1e-4)
    for t in (0, 10, 500, 900):
        f = [math.cos((u / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for u in (t + 1, 0)]
        assert math.isclose(float(cosine.alpha[t]) ** 2, f[0] / f[1], rel_tol=1e-4)
    assert float(cosine.alpha[999]) > 0
    assert not list(linear.state_dict()), "checkpoints need not have what follows from the settings"


@pytest.mark.parametrize("kind", KINDS)
def test_levels_agree_with_the_buffers_and_lie_between_them(kind: str) -> None:
    schedule = Schedule(kind, 50)
    for t in range(50):
        assert schedule.level(t) == pytest.approx((float(schedule.alpha[t]), float(schedule.sigma[t])), rel=1e-5)
    alphas = [schedule.level(t)[0] for t in np.linspace(0, 49, 200)]
    assert all(a > b for a, b in pairwise(alphas))
    assert all(math.isclose(a**2 + s**2, 1) for a, s in map(schedule.level, np.linspace(0, 49, 200)))
    time = torch.tensor([0, 30])
    image, noise = torch.randn(2, 2, 1, 3, 3, 3)
    for i, t in enumerate(time):
        mixed = schedule.alpha[t] * image[i] + schedule.sigma[t] * noise[i]
        assert torch.allclose(schedule.noised(image, noise, time)[i], mixed)
    assert torch.allclose(schedule.snr(time).log() / 2, torch.tensor([schedule.half_log_snr(float(t)) for t in time]))


@given(st.floats(0, 999), st.sampled_from(KINDS))
def test_time_undoes_half_log_snr(time: float, kind: str) -> None:
    schedule = Schedule(kind)
    assert schedule.time(schedule.half_log_snr(time)) == pytest.approx(time, abs=1e-6)


@given(st.floats(0, 999), st.sampled_from(PREDICTIONS))
def test_what_a_network_says_gives_image_and_noise(time: float, prediction: str) -> None:
    alpha, sigma = Schedule().level(time)
    image, noise = torch.randn(2, 3, 1, 5, 5, dtype=torch.float64)
    noisy = alpha * image + sigma * noise
    said = predictions.target(prediction, image, noise, alpha, sigma)
    found = predictions.separated(prediction, said, noisy, alpha, sigma)
    assert torch.allclose(found[0], image)
    assert torch.allclose(found[1], noise)
    wrong = said + torch.randn_like(said)
    a, b = predictions.separated(prediction, wrong, noisy, alpha, sigma)
    assert torch.allclose(alpha * a + sigma * b, noisy), "whatever a network says, the two make up what it saw"


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    ("weighting", "gamma"), [*((name, 5.0) for name in (*PREDICTIONS, "min_snr")), ("min_snr", 0.5)]
)
def test_any_network_can_minimise_any_error(prediction: str, weighting: str, gamma: float) -> None:
    schedule = Schedule()
    time = torch.tensor([0, 3, 200, 600, 999])
    weights = predictions.weight(prediction, weighting, schedule.snr(time), gamma)
    for t, found in zip(time.tolist(), weights.tolist(), strict=True):
        alpha, sigma = schedule.level(t)
        noisy = torch.randn(1, 1, 4, 4, dtype=torch.float64)
        right, wrong = torch.randn(2, 1, 1, 4, 4, dtype=torch.float64)
        (image, noise), (said, heard) = (
            predictions.separated(prediction, x, noisy, alpha, sigma) for x in (right, wrong)
        )
        errors = {"x0": said - image, "eps": heard - noise, "v": alpha * (heard - noise) - sigma * (said - image)}
        wanted = (
            min((alpha / sigma) ** 2, gamma) * errors["x0"].square().mean()
            if weighting == "min_snr"
            else errors[weighting].square().mean()
        )
        assert found * float((wrong - right).square().mean()) == pytest.approx(float(wanted), rel=1e-3)


@given(st.integers(1, 300), st.sampled_from(KINDS))
def test_grids_go_from_image_to_noise_in_equal_steps(steps: int, kind: str) -> None:
    schedule = Schedule(kind)
    for spacing in ("time", "log_snr"):
        grid = time_grid(schedule, steps, spacing)
        assert (len(grid), grid[0], grid[-1]) == (steps + 1, 0.0, 999.0)
        assert time_grid(schedule, steps, spacing, 0.5)[-1] == 499.5
        places = grid if spacing == "time" else [-schedule.half_log_snr(t) for t in grid]
        assert np.diff(places) == pytest.approx((places[-1] - places[0]) / steps, rel=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_inversion_and_rendering_undo_each_other(kind: str, prediction: str) -> None:
    schedule, image = Schedule(kind), images()
    sampling = Sampling(steps=36, iterations=3)
    denoise = denoiser(schedule, prediction)
    noise = sampling.invert(denoise, image)
    assert denoise.evaluations == 108
    error = mean_error(sampling.render(denoise, noise), image)
    assert denoise.evaluations == 144
    plain = Sampling(steps=108, inversion="euler")
    published = mean_error(plain.render(denoise, plain.invert(denoise, image)), image)
    assert error < 2e-4
    assert error < published / 100
    part = Sampling(steps=24, until=0.45)
    assert mean_error(part.render(denoise, part.invert(denoise, image)), image) < 2e-4


def test_more_iterations_return_the_image_as_it_was() -> None:
    schedule, image = Schedule(), images()
    grid = time_grid(schedule, 20)
    errors = []
    for iterations in (1, 2, 4, 12):
        noise = fixed_point_inversion(denoiser(schedule), image, grid, iterations)
        errors.append(mean_error(ddim(denoiser(schedule), noise, grid), image))
    assert all(later < earlier / 4 for earlier, later in pairwise(errors))
    assert errors[-1] < 1e-9


@given(st.floats(-3, 3), st.integers(3, 100))
def test_iterations_shrink_errors_as_promised(log_spread: float, steps: int) -> None:
    """In one step from an exact start, whatever the images' variance."""
    schedule, spread = Schedule(), 10**log_spread
    for time, later in list(pairwise(time_grid(schedule, steps)))[:: max(1, steps // 4)]:
        alpha, _ = schedule.level(later)
        h = schedule.half_log_snr(time) - schedule.half_log_snr(later)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = schedule.level(float(t[0]))
            return alpha * spread**2 * x / (alpha**2 * spread**2 + sigma**2)

        denoise = Denoiser(predict, schedule, "x0")
        exact = torch.ones(1, 1, 2, 2, dtype=torch.float64)
        x = ddim(denoise, exact, (time, later))
        start = alpha / schedule.level(time)[0] * x
        found = fixed_point_inversion(denoise, x, (time, later), 2)
        assert mean_error(found, exact) <= math.tanh(h / 2) ** 2 * mean_error(start, exact) * 1.001 + 1e-12


def test_the_inversion_finds_the_exact_noise_as_steps_become_many() -> None:
    schedule, image = Schedule(), images()
    exact = carried(schedule, image, 0, 999)
    errors = [
        mean_error(fixed_point_inversion(denoiser(schedule), image, time_grid(schedule, steps), 6), exact)
        for steps in (50, 100, 200)
    ]
    assert all(1.8 < earlier / later < 2.2 for earlier, later in pairwise(errors)), errors
    euler = euler_inversion(denoiser(schedule), image, time_grid(schedule, 200))
    assert mean_error(euler, exact) < 3 * errors[-1]


@pytest.mark.parametrize(("solve", "order"), [(ddim, 1), (dpm_solver, 2)])
def test_orders_of_the_solvers(solve: object, order: int) -> None:
    schedule = Schedule()
    noise = torch.randn(6, 4, 4, 4, dtype=torch.float64)
    exact = carried(schedule, noise, 999, 0)
    errors = [mean_error(solve(denoiser(schedule), noise, time_grid(schedule, n)), exact) for n in (80, 160, 320)]
    for earlier, later in pairwise(errors):
        assert math.log2(earlier / later) == pytest.approx(order, abs=0.25)


def test_one_step_of_either_solver_is_the_same() -> None:
    schedule, noise = Schedule("cosine"), torch.randn(2, 4, 4, 4, dtype=torch.float64)
    grid = time_grid(schedule, 1)
    assert torch.allclose(ddim(denoiser(schedule), noise, grid), dpm_solver(denoiser(schedule), noise, grid))
    sampling = Sampling(steps=12, solver="dpm_solver")
    expected = dpm_solver(denoiser(schedule), noise, time_grid(schedule, 12))
    assert torch.equal(sampling.render(denoiser(schedule), noise), expected)


def test_published_samplers_step_as_their_code_does() -> None:
    """Written out anew: every 4th time up, every 10th down, x_0 clipped, alpha_bar 0 and 1 at the ends."""
    schedule, image = Schedule(), images().clamp(-1.5, 1.5)
    remaining = schedule.alpha.double() ** 2

    def step(x: Tensor, t: int, to: float) -> Tensor:
        said = denoiser(schedule, "eps").predict(x, torch.tensor([t]))
        clean = ((x - (1 - remaining[t]).sqrt() * said) / remaining[t].sqrt()).clamp(-1, 1)
        eps = (x / remaining[t].sqrt() - clean) / (1 / remaining[t] - 1).sqrt()
        return clean * to**0.5 + eps * (1 - to) ** 0.5

    x = image
    for t in range(0, 1000, 4):
        x = step(x, t, float(remaining[t + 4]) if t < 996 else 0.0)
    denoise, sampling = denoiser(schedule, "eps"), PublishedSampling(250, 100)
    noise = sampling.invert(denoise, image)
    assert torch.allclose(noise, x, rtol=1e-3, atol=1e-3)
    for t in range(990, -1, -10):
        x = step(x, t, float(remaining[t - 10]) if t else 1.0)
    rendered = sampling.render(denoise, noise)
    assert torch.allclose(rendered, x, rtol=1e-3, atol=1e-3)
    assert rendered.abs().max() <= 1
    assert denoise.evaluations == 350


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Schedule("sigmoid"), "schedule.kind: choose linear or cosine"),
        (lambda: Schedule(length=1), "schedule.length: must be 2 or more"),
        (lambda: Sampling(steps=0), "steps and iterations must be 1 or more"),
        (lambda: Sampling(until=0.0), "sampling.until: must be more than 0"),
        (lambda: Sampling(spacing="leading"), "sampling.spacing: choose log_snr or time"),
        (lambda: Sampling(solver="euler"), "sampling.solver: choose ddim or dpm_solver"),
        (lambda: Sampling(inversion="null_text"), "sampling.inversion: choose fixed_point or euler"),
        (lambda: Sampling(iterations=0), "steps and iterations must be 1 or more"),
        (
            lambda: PublishedSampling(75).invert(denoiser(Schedule()), images()),
            "inversion_steps: 1000 times have no 75 that are equally far apart",
        ),
    ],
)
def test_mistakes_are_named(make: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()
