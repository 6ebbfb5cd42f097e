"""The schedulers of loaded checkpoints against the original formulae, computed in float64 (`papers.process`)."""

import numpy as np
import pytest
import torch
from papers import process
from papers.improved import Settings, random_weights

from ptq4dm.pipelines.originals.convert import convert_checkpoint
from ptq4dm.pipelines.sampling import advance, begin
from ptq4dm.pipelines.schedulers import make_scheduler

SHAPE = (2, 3, 4, 4)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "small.pt"
    torch.save(random_weights(Settings()), path)
    flags = 'repository = "improved-diffusion"\nimage_size = 16\ndiffusion_steps = 4000\n'
    path.with_suffix(".toml").write_text(flags + 'noise_schedule = "cosine"')
    return convert_checkpoint(path).scheduler.config


def test_the_betas_are_the_original_ones(config, tmp_path):
    scheduler = make_scheduler("ddpm", config)
    np.testing.assert_allclose(scheduler.alphas_cumprod.double(), process.cosine_bars(4000), rtol=1e-3, atol=1e-7)
    torch.save(random_weights(Settings()), tmp_path / "model.pt")
    (tmp_path / "model.json").write_text('{"repository": "guided-diffusion", "image_size": 16, "diffusion_steps": 500}')
    linear = convert_checkpoint(tmp_path / "model.pt").scheduler
    np.testing.assert_allclose(linear.alphas_cumprod.double(), process.linear_bars(500), rtol=1e-3, atol=1e-7)


def at(bar, seed=0):
    """x_t of a picture, the network's six channels, ε near the true one so that some of x_0 is clipped."""
    rng = np.random.default_rng(seed)
    x_0, noise, share = rng.uniform(-1.2, 1.2, SHAPE), rng.normal(size=SHAPE), rng.uniform(-1, 1, SHAPE)
    return np.sqrt(bar) * x_0 + np.sqrt(1 - bar) * noise, noise, share


@pytest.mark.parametrize("steps", [100, 250])
def test_ddim_is_respaced_and_steps_as_the_original(config, steps):
    bars = process.cosine_bars(4000)
    scheduler, _ = begin(make_scheduler("ddim-clipped", config), steps, torch.zeros(SHAPE))
    stride = next(i for i in range(1, 4000) if len(range(0, 4000, i)) == steps)
    assert scheduler.timesteps.tolist() == list(range(0, 4000, stride))[::-1]
    for t in [*scheduler.timesteps.tolist()[1 :: steps // 10], 0]:
        x, noise, share = at(bars[t], seed=t)
        output = torch.from_numpy(np.concatenate([noise, share], axis=1))
        ours = advance(scheduler, output, torch.tensor(t), torch.from_numpy(x), None)
        exact = process.ddim_step(x, noise, bars[t], bars[t - stride] if t else 1.0)
        np.testing.assert_allclose(ours, exact, atol=2e-4)


@pytest.mark.parametrize("steps", [4000, 50])
def test_ddpm_takes_the_learned_variance(config, steps):
    """In all 4,000 steps, and in fewer, spaced as the original spaces them."""
    bars = process.cosine_bars(4000)
    scheduler, _ = begin(make_scheduler("ddpm", {**config, "timestep_spacing": "linspace"}), steps, torch.zeros(SHAPE))
    visited = [round(i * 3999 / (steps - 1)) for i in range(steps)][::-1]
    assert scheduler.timesteps.tolist() == visited
    for index in [*range(1, steps, steps // 10), steps - 1]:
        t, before = visited[index], bars[visited[index + 1]] if index + 1 < steps else 1.0
        x, noise, share = at(bars[t], seed=t)
        output = torch.from_numpy(np.concatenate([noise, share], axis=1))
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        drawn = torch.cat([torch.randn(1, *SHAPE[1:], generator=torch.Generator().manual_seed(s), dtype=torch.float64)
                           for s in (1, 2)])  # fmt: skip
        ours = advance(scheduler, output, torch.tensor(t), torch.from_numpy(x), generators)
        if t:
            exact = process.ddpm_step(x, noise, share, bars[t], before, drawn.numpy())
        else:
            exact = process.clipped_x0(x, noise, bars[0])
        np.testing.assert_allclose(ours, exact, atol=2e-4)
