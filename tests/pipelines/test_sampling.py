import warnings

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline
from gaussian import ALPHAS_BAR, MEAN, SPREAD, exact_x, gaussian_pipeline, marginal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ptq4dm.errors import ModelError, RecipeError
from ptq4dm.pipelines.sampling import (
    calls_per_picture,
    sample,
    seeded_noise,
    seeded_start,
    to_picture,
    trajectory,
)
from ptq4dm.pipelines.schedulers import SCHEDULERS, make_scheduler

SHAPE = (3, 16, 16)


def walk_to_end(walk):
    steps = []
    while True:
        try:
            steps.append(next(walk))
        except StopIteration as end:
            return steps, end.value


def diffusers_pictures(kind, pipe, seeds, steps):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    other = kind(pipe.unet, pipe.scheduler)
    other.set_progress_bar_config(disable=True)
    pictures = other(batch_size=len(seeds), generator=generators, num_inference_steps=steps, output_type="np").images
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


@pytest.mark.parametrize(("name", "kind"), [("ddpm", DDPMPipeline), ("ddim", DDIMPipeline)])
@pytest.mark.parametrize("steps", [1, 7])
def test_same_pictures_as_diffusers(pipe, name, kind, steps):
    seeds = [5, 0, 123456789]
    ours = sample(pipe.unet, name, pipe.scheduler.config, SHAPE, seeds, steps, batch_size=3, shown=False)
    torch.testing.assert_close(ours, diffusers_pictures(kind, pipe, seeds, steps), atol=1e-6, rtol=0)


# Relative error (in standard deviations of the pictures) that the order of each solver leaves at 100 steps.
SOLVERS = {"ddim": 0.07, "euler": 0.07, "pndm": 0.003, "dpmsolver++": 0.025, "unipc": 0.025}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_solvers_follow_the_exact_ode_of_gaussian_pictures(name, spacing):
    """Forgetting `scale_model_input` or `init_noise_sigma`, or a wrong order of time-steps, is an error above 1."""
    pipeline = gaussian_pipeline()
    scheduler = make_scheduler(name, {**pipeline.scheduler.config, "timestep_spacing": spacing})
    x_T = seeded_noise((3, 8, 8), range(4))
    errors = {}
    for steps in (50, 100):
        visits, x_0 = walk_to_end(trajectory(pipeline.unet, scheduler, steps, x_T))
        exact = exact_x(x_T, float(visits[0].timestep), 0)
        errors[steps] = float((x_0 - exact).std()) / SPREAD
    assert errors[100] < SOLVERS[name]
    assert errors[100] < 0.65 * errors[50] or errors[50] < 0.004


@pytest.mark.parametrize("name", ["pndm", "dpmsolver++", "unipc", "euler"])
def test_network_sees_the_noise_level_of_its_time_step(name):
    pipeline = gaussian_pipeline()
    scheduler = make_scheduler(name, pipeline.scheduler.config)
    for step in trajectory(pipeline.unet, scheduler, 100, seeded_noise((3, 8, 8), range(16))):
        *_, mean, spread = marginal(float(step.timestep))
        assert float(step.x_t.std()) == pytest.approx(float(spread), rel=0.08)
        assert float(step.x_t.mean()) == pytest.approx(float(mean), abs=0.05)


def test_ddpm_draws_the_mean_and_variance_of_its_own_recursion():
    """DDPM (Ho et al., 2020), Eq. 7, on linear-Gaussian data: mean and variance of x_0 follow from scalars."""
    pipeline, steps = gaussian_pipeline(), 50
    ratio = 1000 // steps
    mean, variance = 0.0, 1.0
    for t in np.arange(steps)[::-1] * ratio:
        bar, bar_before = ALPHAS_BAR[t], ALPHAS_BAR[t - ratio] if t >= ratio else 1.0
        alpha = bar / bar_before
        a, b = np.sqrt(bar), np.sqrt(1 - bar)
        gain = a * SPREAD**2 / (a**2 * SPREAD**2 + b**2)  # E[x_0 | x_t] = MEAN + gain (x_t - a MEAN)
        of_x0, of_x = np.sqrt(bar_before) * (1 - alpha) / (1 - bar), np.sqrt(alpha) * (1 - bar_before) / (1 - bar)
        slope = of_x0 * gain + of_x
        mean = of_x0 * (MEAN - gain * a * MEAN) + slope * mean
        variance = slope**2 * variance + (1 - bar_before) / (1 - bar) * (1 - alpha)
    x_T, generators = seeded_start((3, 8, 8), range(64))
    scheduler = make_scheduler("ddpm", {**pipeline.scheduler.config, "clip_sample": False})
    _, x_0 = walk_to_end(trajectory(pipeline.unet, scheduler, steps, x_T, generators))
    assert float(x_0.mean()) == pytest.approx(mean, abs=4 * np.sqrt(variance / x_0.numel()))
    assert float(x_0.var()) == pytest.approx(variance, rel=4 * np.sqrt(2 / x_0.numel()))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_batch_size_changes_a_picture_by_float_rounding_only(name):
    pipeline = gaussian_pipeline()
    config, seeds = pipeline.scheduler.config, [3, 1, 4, 1, 5]
    alone = [sample(pipeline.unet, name, config, (3, 8, 8), [seed], 12, 1, shown=False) for seed in seeds]
    for batch_size in (2, 5):
        together = sample(pipeline.unet, name, config, (3, 8, 8), seeds, 12, batch_size, shown=False)
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_batch_size_on_a_network(pipe, name):
    seeds = [3, 1, 4]
    one, three = (sample(pipe.unet, name, pipe.scheduler.config, SHAPE, seeds, 6, n, shown=False) for n in (1, 3))
    torch.testing.assert_close(one, three, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_draws_finite_pictures_in_range(pipe, name):
    pictures = sample(pipe.unet, name, pipe.scheduler.config, SHAPE, [0, 1], 5, 2, shown=False)
    assert pictures.shape == (2, *SHAPE) and pictures.dtype == torch.float32
    assert torch.isfinite(pictures).all() and pictures.min() >= 0 and pictures.max() <= 1
    assert not torch.equal(pictures[0], pictures[1])


@settings(max_examples=20)
@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6))
def test_noise_depends_on_the_own_seed_only(seeds):
    together = seeded_noise((3, 4, 4), seeds)
    for seed, noise in zip(seeds, together, strict=True):
        expected = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))[0]
        assert torch.equal(noise, expected)


def test_noise_of_the_steps_is_not_the_starting_noise():
    x_T, generators = seeded_start((3, 4, 4), [7])
    assert not torch.equal(torch.randn(1, 3, 4, 4, generator=generators[0]), x_T)


def test_trajectory_can_be_watched_and_stopped(pipe):
    calls = []
    handle = pipe.unet.register_forward_hook(lambda module, args, output: calls.append(float(args[1])))
    scheduler = make_scheduler("ddim", pipe.scheduler.config)
    before = scheduler.timesteps.clone()
    walk = trajectory(pipe.unet, scheduler, 10, seeded_noise(SHAPE, [0]))
    try:
        first, second = next(walk), next(walk)
        assert torch.is_grad_enabled(), "no_grad must not leak out of the generator"
    finally:
        handle.remove()
    assert calls == [900.0, 800.0] == [float(first.timestep), float(second.timestep)]
    assert (first.index, second.index) == (0, 1)
    assert torch.equal(first.x_t, seeded_noise(SHAPE, [0]))
    assert torch.equal(second.output, pipe.unet(second.x_t, second.timestep).sample)
    assert scheduler.num_inference_steps is None and torch.equal(scheduler.timesteps, before)


def test_ddpm_without_generators_is_refused():
    pipeline = gaussian_pipeline()
    with pytest.raises(RecipeError, match="give one generator a picture"):
        next(trajectory(pipeline.unet, pipeline.scheduler, 10, seeded_noise((3, 8, 8), [0])))


def test_pndm_calls_are_counted():
    pipeline = gaussian_pipeline()
    scheduler = make_scheduler("pndm", pipeline.scheduler.config)
    steps, _ = walk_to_end(trajectory(pipeline.unet, scheduler, 10, seeded_noise((3, 8, 8), [0])))
    assert calls_per_picture(scheduler, 10) == len(steps) == 19


def test_to_picture_clips():
    assert to_picture(torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0])).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


class Broken(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, t):
        return self.answer(x)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x * float("nan"), "output at time-step 800 holds NaN or infinity"),
        (lambda x: x / 0, "output at time-step 800 holds NaN or infinity"),
        (lambda x: {"sample": x}, "returned dict"),
    ],
)
def test_a_broken_network_is_one_clear_line(pipe, answer, message):
    with pytest.raises(ModelError, match=message):
        sample(Broken(answer), "ddim", pipe.scheduler.config, SHAPE, [0], 5, 1, shown=False)


def test_a_network_may_return_a_tensor_or_a_tuple(pipe):
    config = pipe.scheduler.config
    bare, packed = (
        sample(Broken(answer), "ddim", config, SHAPE, [0], 5, 1, shown=False)
        for answer in (lambda x: x * 0.5, lambda x: (x * 0.5,))
    )
    assert torch.equal(bare, packed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheduler_name": "ddmp"}, "unknown scheduler 'ddmp': accepted are ddpm, ddim, pndm"),
        ({"steps": 0}, "steps = 0: DDIMScheduler takes 1 to 1000"),
        ({"steps": 1001}, "steps = 1001: DDIMScheduler takes 1 to 1000"),
        ({"scheduler_name": "pndm", "steps": 3}, "steps = 3: PNDMScheduler takes 4 to 1000"),
        ({"seeds": []}, "0 pictures in batches of 2"),
        ({"batch_size": 0}, "2 pictures in batches of 0"),
    ],
)
def test_bad_settings(pipe, change, message):
    settings = {"scheduler_name": "ddim", "seeds": [0, 1], "steps": 5, "batch_size": 2} | change
    with pytest.raises(RecipeError, match=message):
        sample(pipe.unet, scheduler_config=pipe.scheduler.config, picture_shape=SHAPE, shown=False, **settings)


def test_progress_goes_to_stderr_only(pipe, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sample(pipe.unet, "ddim", pipe.scheduler.config, SHAPE, [0], 5, 1, shown=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "pictures" in captured.err
