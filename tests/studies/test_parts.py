"""Pool, sweep, experiments: what rows stand on."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ptq4dm.calibration.calls import calls_on
from ptq4dm.calibration.collect import sample_seed
from ptq4dm.pipelines.sampling import seeded_start, trajectory
from ptq4dm.pipelines.schedulers import make_scheduler
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.ranges.histograms import band_of
from ptq4dm.ranges.mixture import mixture_of
from ptq4dm.ranges.observe import observe
from ptq4dm.studies.bits import with_input_bits
from ptq4dm.studies.drift import drift_of, layer_drift
from ptq4dm.studies.pool import collect_pool
from ptq4dm.studies.study import Study


def test_the_pool_holds_the_inputs_of_the_float_trajectories(study: Study) -> None:
    pool, pipeline = study.pool, study.pipeline
    x_T, generators = seeded_start(pipeline.picture_shape, [sample_seed(0, index) for index in range(3)])
    scheduler = make_scheduler("ddim", pipeline.scheduler.config)
    for visit, step in enumerate(trajectory(pipeline.denoiser, scheduler, 4, x_T, generators)):
        assert pool.timesteps[visit] == step.timestep
        assert torch.allclose(pool.x_t[visit], step.x_t, atol=1e-5)


def test_a_thinned_pool_holds_each_trajectory_at_some_visits(study: Study, tmp_path: Path) -> None:
    pool = collect_pool(study.pipeline, study.model, "ddim", 4, 4, 2, 0, 2, tmp_path, False)
    x_T, generators = seeded_start(study.pipeline.picture_shape, [sample_seed(0, index) for index in range(4)])
    scheduler = make_scheduler("ddim", study.pipeline.scheduler.config)
    for visit, step in enumerate(trajectory(study.pipeline.denoiser, scheduler, 4, x_T, generators)):
        assert torch.allclose(pool.x_t[visit], step.x_t[visit % 2 :: 2], atol=1e-5)


def test_samples_under_a_law_are_paired_with_their_own_time_step(study: Study) -> None:
    pool = study.pool
    fair, mirrored = (pool.under("uniform", {}, 40, 3, 1000, mirrored=fault) for fault in (False, True))
    assert torch.equal(fair.timesteps, mirrored.timesteps)
    for index in range(40):
        visit = pool.timesteps.tolist().index(int(fair.timesteps[index]))
        assert any(torch.equal(fair.x_t[index], x) for x in pool.x_t[visit])
        assert any(torch.equal(mirrored.x_t[index], x) for x in pool.x_t[3 - visit])
    assert len(fair.timesteps.unique()) == 4


def test_the_sweep_under_uniform_time_steps_is_direct_collection_of_the_pool(study: Study) -> None:
    sweep, network = study.sweep, study.pipeline.denoiser
    names = list(sweep.statistics)
    direct = observe(
        network, names, calls_on(network, study.pool.calls(2)), shown=False, smoothing=sweep.smoothing.factors
    )
    mixed = sweep.under(torch.full((4,), 0.25))
    for name in names:
        one, other = mixture_of(direct[name]), mixture_of(mixed[name])
        assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=1e-5)
        middle = one.quantile(0.5), other.quantile(0.5)
        assert middle[0] == pytest.approx(middle[1], abs=2 * one.width)
        assert direct[name].channel_mean().numpy() == pytest.approx(mixed[name].channel_mean().numpy(), abs=1e-4)


def test_inputs_of_few_bits_take_no_more_values_than_that(study: Study) -> None:
    network = with_input_bits(study.under_law(study.recipe), study.default_statistics, study.recipe.ranges, 4)
    seen: dict[str, set[float]] = {}

    def watch(name: str) -> Any:
        def note(layer: Any, args: Any) -> None:
            centred = layer.centred_input(args[0])
            seen.setdefault(name, set()).update((centred + layer.input_zero_point).unique().tolist())

        return note

    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, QuantizedLayer)}
    assert layers
    for name, layer in layers.items():
        layer.register_forward_pre_hook(watch(name))
    with torch.no_grad():
        network(3 * study.pool.x_t[0], study.pool.timesteps[0])  # beyond what was calibrated, so that it clips
    assert seen.keys() == layers.keys()
    assert all(values <= set(map(float, range(16))) for values in seen.values())
    assert any(15.0 in values for values in seen.values())


def test_weights_of_few_bits_are_small_integers_and_cost_more(study: Study, results: dict[str, Any]) -> None:
    network = study.under_law(study.recipe.replace(weights={"bits": 4}))
    largest = [int(layer.weight.abs().max()) for layer in network.modules() if isinstance(layer, QuantizedLayer)]
    assert largest and max(largest) == 7
    errors = {
        row["variant"]: row["call"]["relative_l2"]["mean"] for row in results["rows"] if row["question"] == "bits"
    }
    assert errors["W8A8"] < errors["W6A6"] < errors["W4A4"]
    assert errors["W8A8"] < errors["W4A8"] and errors["W8A8"] < errors["W8A4"]


def test_drift_is_the_ratio_of_widths_in_bits(study: Study, results: dict[str, Any]) -> None:
    assert drift_of([1.0, 4.0, 2.0]) == 2.0
    assert drift_of([3.0, 3.0]) == 0.0
    (row,) = (row for row in results["rows"] if row["question"] == "drift")
    assert len(row["facts"]["layers"]) == len(study.sweep.statistics)
    name = row["facts"]["layers"][0]["layer"]
    by_band = []
    bands = band_of(study.pool.timesteps, study.sweep.edges).tolist()
    for visit, x_t in enumerate(study.pool.x_t):
        seen: list[torch.Tensor] = []
        hook = study.pipeline.denoiser.get_submodule(name).register_forward_pre_hook(
            lambda layer, args, seen=seen: seen.append(args[0])
        )
        with torch.no_grad():
            study.pipeline.denoiser(x_t, study.pool.timesteps[visit])
        hook.remove()
        smoothing = study.sweep.smoothing.factors.get(name)
        last = isinstance(study.pipeline.denoiser.get_submodule(name), torch.nn.Linear)
        x = seen[0] if smoothing is None else seen[0] / smoothing.view(-1, *([] if last else [1, 1]))
        kept = row["facts"]["layers"][0]["histogram"]
        counts = torch.bincount(((x.flatten() - kept["low"]) / kept["bin"]).floor().long().clamp(0, 63), minlength=64)
        shown = torch.tensor([int(number) for number in kept["per_10000"][bands[visit]].split()]) / 10_000
        assert float((counts / x.numel() - shown).abs().sum()) / 2 < 0.03
        low, high = torch.quantile(x.flatten()[: 1 << 23], torch.tensor([0.01, 0.99])).tolist()
        by_band.append(high - low)
    assert row["facts"]["layers"][0]["drift"] == pytest.approx(math.log2(max(by_band) / min(by_band)), abs=0.05)
    assert layer_drift(name, study.sweep.statistics[name])["drift"] == row["facts"]["layers"][0]["drift"]
