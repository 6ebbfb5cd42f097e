from itertools import groupby
from operator import itemgetter

import numpy as np
import pytest
import torch
from gaussian import ALPHAS_BAR, exact_x, gaussian_pipeline, marginal
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_pipeline

from ptq4dm.calibration.collect import collect, sample_seed
from ptq4dm.calibration.sources import nearest_visits
from ptq4dm.pipelines.pipeline import open_pipeline
from ptq4dm.pipelines.sampling import trajectory
from ptq4dm.pipelines.schedulers import SCHEDULERS, make_scheduler
from ptq4dm.recipe import CalibrationRecipe


@pytest.fixture(scope="module")
def pipeline():
    return open_pipeline(tiny_pipeline())


def noise_of(recipe, index, shape):
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(sample_seed(recipe.seed, index)))


def ddim_by_hand(network, x, steps):
    """DDIM (Song et al., 2021), Eq. 12 with σ = 0, x_0 clipped to [-1, 1]: {t: x_t}, in float64 around the network."""
    ratio, seen = 1000 // steps, {}
    x = x.double()
    for t in range((steps - 1) * ratio, -1, -ratio):
        seen[t] = x.clone()
        with torch.no_grad():
            epsilon = network(x.float(), torch.tensor(t)).sample.double()
        bar, before = ALPHAS_BAR[t], ALPHAS_BAR[t - ratio] if t else 1.0
        x_0 = ((x - np.sqrt(1 - bar) * epsilon) / np.sqrt(bar)).clamp(-1, 1)
        x = np.sqrt(before) * x_0 + np.sqrt(1 - before) * epsilon
    return seen


def test_each_x_t_is_paired_with_its_own_time_step(pipeline):
    """Counting the steps from the wrong end (x_t of time-step 900 - t kept as x_t of t) fails here."""
    recipe = CalibrationRecipe(samples=6, steps=10, timesteps="explicit", batch_size=4,
                               law_options={"timesteps": [0, 100, 330, 560, 800, 999]})  # fmt: skip
    found = collect(pipeline, recipe, shown=False)
    assert found.timesteps.tolist() == [0, 100, 300, 600, 800, 900]
    assert found.drawn.tolist() == [0, 100, 330, 560, 800, 999]
    for index, (x_t, t) in enumerate(zip(found.x_t, found.timesteps.tolist(), strict=True)):
        seen = ddim_by_hand(pipeline.denoiser, noise_of(recipe, index, (3, 16, 16)), 10)
        torch.testing.assert_close(x_t, seen[t][0].float(), atol=2e-4, rtol=0)
        assert float((x_t - seen[900 - t][0]).abs().max()) > 0.1


def test_noise_level_is_that_of_the_time_step():
    """On Gaussian pictures, the exact marginal of x_t: wrong labels show in its standard deviation and its values."""
    pipeline = open_pipeline(gaussian_pipeline())
    recipe = CalibrationRecipe(samples=40, steps=100, timesteps="uniform")
    found = collect(pipeline, recipe, shown=False)
    for index, (x_t, t) in enumerate(zip(found.x_t, found.timesteps.tolist(), strict=True)):
        *_, spread = marginal(t)
        assert float(x_t.std()) == pytest.approx(float(spread), rel=0.25)
        exact = exact_x(noise_of(recipe, index, (3, 8, 8)), 990, t)[0]
        assert float((x_t - exact).abs().max()) < 0.25 * float(spread)
    assert len(set(found.timesteps.tolist())) > 20


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_a_shrinking_batch_leaves_every_trajectory_its_own(sampler):
    """Multi-step schedulers remember the whole batch: rows must leave their memory too."""
    pipeline = open_pipeline(gaussian_pipeline())
    recipe = CalibrationRecipe(samples=7, steps=10, sampler=sampler, timesteps="uniform", batch_size=7, seed=3)
    found = collect(pipeline, recipe, shown=False)
    scheduler = make_scheduler(sampler, pipeline.scheduler.config)
    for index, (x_t, t) in enumerate(zip(found.x_t, found.timesteps.tolist(), strict=True)):
        generator = torch.Generator().manual_seed(sample_seed(3, index))
        x_T = torch.randn(1, 3, 8, 8, generator=generator)
        alone = next(s for s in trajectory(pipeline.denoiser, scheduler, 10, x_T, [generator]) if s.timestep == t)
        torch.testing.assert_close(x_t, alone.x_t[0], atol=1e-4, rtol=1e-4)


@given(st.lists(st.integers(0, 999), min_size=1, max_size=30), st.lists(st.integers(0, 999), min_size=1, max_size=20))
def test_snapping_finds_the_nearest_first_visit(visits, drawn):
    found = nearest_visits(torch.tensor(visits), torch.tensor(drawn)).tolist()
    for t, index in zip(drawn, found, strict=True):
        nearest = min(abs(visit - t) for visit in visits)
        level = max(visit for visit in visits if abs(visit - t) == nearest)
        assert index == visits.index(level)


def test_the_network_is_called_no_more_than_needed(pipeline):
    recipe = CalibrationRecipe(samples=9, steps=10, timesteps="explicit", batch_size=5,
                               law_options={"timesteps": [900, 500, 500, 200, 400, 0, 700, 100, 900]})  # fmt: skip
    batches = []
    handle = pipeline.denoiser.register_forward_hook(
        lambda module, args, out: batches.append((int(args[1]), len(args[0])))
    )
    try:
        found = collect(pipeline, recipe, shown=False)
    finally:
        handle.remove()
    expected = [(t, sum(own < t for own in chunk))
                for chunk in ([900, 500, 500, 200, 400], [0, 700, 100, 900])
                for t in range(900, min(chunk), -100)]  # fmt: skip
    # one step's batch may go through the network in parts
    assert [(t, sum(size for _, size in parts)) for t, parts in groupby(batches, key=itemgetter(0))] == expected
    made = sum(size for _, size in batches)
    assert found.facts["calls_made"] == made
    assert found.facts["calls_made"] + found.facts["calls_saved"] == 9 * 10


def test_pictures_are_raw_and_all_used():
    pipeline = open_pipeline(gaussian_pipeline())
    pictures = torch.rand(5, 3, 8, 8) * 2 - 1
    recipe = CalibrationRecipe(samples=10, source="pictures", timesteps="uniform", batch_size=4)
    found = collect(pipeline, recipe, shown=False, pictures=pictures)
    which = [next(i for i, picture in enumerate(pictures) if torch.equal(picture, x)) for x in found.x_t]
    assert sorted(which) == sorted([0, 1, 2, 3, 4] * 2)
    assert torch.equal(found.timesteps, found.drawn)
    assert found.facts["calls_made"] == 0


def test_diffused_pictures_have_the_training_noise():
    pipeline = open_pipeline(gaussian_pipeline())
    recipe = CalibrationRecipe(samples=12, source="diffused", timesteps="uniform", batch_size=5)
    found = collect(pipeline, recipe, shown=False, pictures=torch.full((1, 3, 8, 8), 0.5))
    for index, (x_t, t) in enumerate(zip(found.x_t, found.timesteps.tolist(), strict=True)):
        expected = np.sqrt(ALPHAS_BAR[t]) * 0.5 + np.sqrt(1 - ALPHAS_BAR[t]) * noise_of(recipe, index, (3, 8, 8))[0]
        torch.testing.assert_close(x_t, expected.float(), atol=1e-5, rtol=0)


def test_noise_is_noise():
    pipeline = open_pipeline(gaussian_pipeline())
    found = collect(pipeline, CalibrationRecipe(samples=50, source="noise"), shown=False)
    assert float(found.x_t.mean()) == pytest.approx(0, abs=0.05)
    assert float(found.x_t.std()) == pytest.approx(1, abs=0.05)
    assert torch.equal(found.timesteps, found.drawn)
