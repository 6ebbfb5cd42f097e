"""Calibration while a pipeline works: the right rows, at the right time-steps, and no step too many."""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LDMPipeline, VQModel
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_unet

import ptq4dm
from ptq4dm.calibration.collect import sample_seed
from ptq4dm.calibration.in_pipeline import batch_of, statistics_in_pipeline, target_of
from ptq4dm.errors import CalibrationError, RecipeError
from ptq4dm.pipelines.conditions import run_inputs
from ptq4dm.pipelines.denoisers import Run, Visit, watch_run, with_found
from ptq4dm.recipe import CalibrationRecipe

STEPS = 5
DRAWN = [0, 999, 400, 650, 200]


@pytest.fixture(scope="module")
def source():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vqvae = VQModel(block_out_channels=(8,), norm_num_groups=4, latent_channels=3, num_vq_embeddings=8)
    return LDMPipeline(vqvae.eval(), tiny_unet(), DDIMScheduler())


def recipe(**changes):
    law = {"timesteps": "explicit", "law_options": {"timesteps": DRAWN}}
    return replace(CalibrationRecipe(samples=len(DRAWN), steps=STEPS, batch_size=2, **law), **changes)


def calibrated(source, asked):
    pipeline = ptq4dm.open_pipeline(source)
    run = watch_run(pipeline, run_inputs(source, [{}], [0], STEPS) or {})
    pipeline = with_found(pipeline, run)
    return statistics_in_pipeline(pipeline, run, [{}], asked, {"unet": ["conv_in"]}, 4, shown=False)


def by_hand(source, asked):
    """x_t of every sample at the visited time-step nearest to its place, by a loop written out here."""
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(STEPS)
    times = scheduler.timesteps.numpy()
    found = []
    for index, t in enumerate(DRAWN):
        wanted = times.min() + t / 999 * (times.max() - times.min())
        target = times[np.abs(times - wanted).argmin()]
        x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(sample_seed(asked.seed, index)))
        for step in scheduler.timesteps:
            if step == target:
                found.append((int(target), x))
                break
            with torch.no_grad():
                x = scheduler.step(source.unet(x, step).sample, step, x).prev_sample
    return found


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_each_picture_is_looked_at_once_at_its_own_time_step(source, batch_size):
    asked = recipe(batch_size=batch_size)
    statistics, facts = calibrated(source, asked)
    expected = by_hand(source, asked)
    assert facts["visited_timesteps"] == {"unet": [float(t) for t, _ in expected]}
    item = statistics["unet"]["conv_in"]
    assert int(item.positions.sum()) == len(DRAWN) * 16 * 16
    edges = item.edges
    for band in range(item.bands):
        last = band == item.bands - 1
        inside = [x for t, x in expected if edges[band] <= t and (t < edges[band + 1] or last)]
        total = sum((x.double().sum((0, 2, 3)) for x in inside), torch.zeros(3, dtype=torch.float64))
        torch.testing.assert_close(item.channel_sum[band], total, rtol=1e-4, atol=1e-3)
        if inside:
            assert float(item.high[band]) == pytest.approx(max(float(x.max()) for x in inside), rel=1e-4)


def test_runs_end_with_the_last_time_step_that_they_need(source):
    calls = []
    handle = source.unet.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    _, facts = calibrated(source, recipe(timesteps="single", law_options={"t": 999}, batch_size=5))
    handle.remove()
    assert calls == STEPS * [1] + [5]  # the run that is watched first, then one call for all pictures at once
    assert facts["calls_made"] == 5 and facts["calls_saved"] == 5 * (STEPS - 1)


def test_pictures_that_stop_early_share_a_run(source):
    _, facts = calibrated(source, recipe(batch_size=2))
    # visits 4, 0, 2 (or 3), 1 and 3 from the noisy end: sorted in pairs they end at 1, 3 and 4
    expected = by_hand(source, recipe())
    visits = sorted([800, 600, 400, 200, 0].index(t) for t, _ in expected)
    made = sum((max(visits[i : i + 2]) + 1) * len(visits[i : i + 2]) for i in range(0, 5, 2))
    assert facts["calls_made"] == made


def axis(*times):
    return Run(tuple(Visit("scheduler", float(t), ("net",)) for t in times), {})


@settings(max_examples=50)
@given(
    times=st.lists(st.floats(-80, 1000), min_size=1, max_size=20, unique=True),
    places=st.lists(st.floats(0, 1), min_size=1, max_size=8),
)
def test_a_place_on_any_axis_goes_to_the_nearest_visit(times, places):
    run = axis(*sorted(times, reverse=True))
    target = target_of(run, "net", torch.tensor(places, dtype=torch.float64))
    low, high = min(times), max(times)
    for place, visit, time in zip(places, target.visits.tolist(), target.times.tolist(), strict=True):
        assert run.visits[visit].timestep == time
        wanted = low + place * (high - low)
        assert abs(time - wanted) == pytest.approx(min(abs(each - wanted) for each in times), abs=1e-9)


def test_ends_of_a_continuous_axis_and_of_one_stage():
    edm = axis(1.1, 0.3, -0.5, -1.6)
    assert target_of(edm, "net", torch.tensor([0.0, 1.0])).times.tolist() == [-1.6, 1.1]
    late = Run((Visit("s", 900.0, ("a",)), Visit("s", 400.0, ("net",)), Visit("s", 100.0, ("net",))), {})
    assert target_of(late, "net", torch.tensor([0.0, 1.0])).visits.tolist() == [2, 1]


def test_a_time_step_that_is_visited_twice_is_taken_the_first_time():
    heun = axis(900, 500, 500, 100)
    assert target_of(heun, "net", torch.tensor([0.5])).visits.tolist() == [1]


def test_memory_does_not_grow_with_the_samples(source):
    """The bytes of all tensors that Python knows of, while the network is called."""
    most = []
    for times in (4, 24):
        calls, seen = [], []

        def note(*args, calls=calls, seen=seen):
            calls.append(None)
            if len(calls) % 16 == 0:
                tensors = [item for item in gc.get_objects() if type(item) in (torch.Tensor, torch.nn.Parameter)]
                seen.append(sum({item.data_ptr(): item.untyped_storage().nbytes() for item in tensors}.values()))

        gc.collect()
        handle = source.unet.register_forward_hook(note)
        calibrated(source, recipe(samples=5 * times, law_options={"timesteps": DRAWN * times}))
        handle.remove()
        most.append(max(seen))
    few, many = most
    assert many - few < 100 * 300  # of 100 pictures of 3,072 bytes their time-steps and visits only


def test_what_calibration_of_a_pipeline_refuses(source):
    with pytest.raises(RecipeError, match="source = 'noise': a conditional pipeline is calibrated on its own"):
        calibrated(source, recipe(source="noise"))
    pipeline = ptq4dm.open_pipeline(source)
    run = watch_run(pipeline, {"num_inference_steps": 3})
    with pytest.raises(CalibrationError, match="visits time-step 800 where its first run visited 666"):
        statistics_in_pipeline(with_found(pipeline, run), run, [{}], recipe(), {"unet": ["conv_in"]}, 4, shown=False)


def test_a_run_that_ends_early_is_told(source):
    """A picture that is never looked at would be missing from the statistics in silence."""

    class Hasty(LDMPipeline):
        def __call__(self, batch_size=1, generator=None, num_inference_steps=STEPS):
            self.scheduler.set_timesteps(num_inference_steps)
            runs.append(1)
            x = torch.zeros(batch_size, 3, 16, 16)
            for t in self.scheduler.timesteps[: STEPS if len(runs) == 1 else 2]:
                x = self.scheduler.step(self.unet(x, t).sample, t, x).prev_sample

    runs: list[int] = []
    hasty = Hasty(source.vqvae, source.unet, source.scheduler)
    with pytest.raises(CalibrationError, match="ended after 2 steps where its first run made 5"):
        calibrated(hasty, recipe(timesteps="single", law_options={"t": 0}))


def test_the_batch_of_a_call():
    assert batch_of((torch.zeros(6, 3, 2, 2), torch.tensor(3)), {}) == 6
    assert batch_of((), {"timestep": torch.zeros(2), "hidden_states": torch.zeros(4, 7, 8)}) == 4
    assert batch_of((torch.tensor(1),), {}) == 1
