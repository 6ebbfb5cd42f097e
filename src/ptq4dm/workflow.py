"""The whole job as one paragraph: a pretrained diffusion model in, a faster INT8 model out."""

import copy
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from ptq4dm.calibration.batches import calls_of_batches
from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.calibration.collect import collect
from ptq4dm.calibration.in_pipeline import statistics_in_pipeline
from ptq4dm.calibration.time_layers import layers_of_time
from ptq4dm.errors import CalibrationError, RecipeError
from ptq4dm.pipelines.adapters import require_no_adapters
from ptq4dm.pipelines.conditions import Condition, check_conditions, default_conditions, run_inputs
from ptq4dm.pipelines.denoiser import Call, call_on, placement, require_finite_weights
from ptq4dm.pipelines.denoisers import watch_run, with_found
from ptq4dm.pipelines.pipeline import Pipeline, modes_kept, open_pipeline
from ptq4dm.pipelines.processors import require_unfused
from ptq4dm.pipelines.unconditional import why_not_unconditional
from ptq4dm.quantization.attention_products import quantize_products
from ptq4dm.quantization.bisection import shares_within
from ptq4dm.quantization.error_feedback import round_again
from ptq4dm.quantization.facts import calibration_facts, model_facts, product_facts, range_facts
from ptq4dm.quantization.folding import Folds, fold
from ptq4dm.quantization.half_layers import half_forms
from ptq4dm.quantization.layers_qdq import round_outputs
from ptq4dm.quantization.macs import count_macs
from ptq4dm.quantization.plan import float_by_method, leave_out, make_plan, patterns_of, planned
from ptq4dm.quantization.quantized_model import (
    BARE,
    QuantizedDenoiser,
    QuantizedModel,
    example_call,
    with_denoisers,
)
from ptq4dm.quantization.rewrite import quantize_layers, with_layers
from ptq4dm.quantization.sensitivity import best_in_float
from ptq4dm.quantization.smoothing import smoothing_of, watching_largest
from ptq4dm.quantization.time_axis import time_axis_of
from ptq4dm.quantization.weight_only import reasons_of, weight_only_forms
from ptq4dm.ranges.histograms import LayerStatistics, band_edges
from ptq4dm.ranges.observe import observe
from ptq4dm.ranges.range_table import RangeTable, choose_ranges
from ptq4dm.recipe import Recipe, load_recipe

CALIBRATION_SET = "calibration_set.safetensors"
RANGE_TABLE = "range_table.safetensors"
OBSERVED_AT_ONCE = 8
ALONG = 256
"""At how many time-steps the layers that follow the time-step alone are watched."""

TimedCall = tuple[Call, Tensor | None]
"""A call of a network and the time-steps of its samples."""


def quantize(
    model: str | Path | DiffusionPipeline | Pipeline,
    recipe: Recipe | str | Path = "w8a8",
    *,
    conditions: Sequence[Condition] | None = None,
    calibration_set: CalibrationSet | None = None,
    pictures: Tensor | None = None,
    work: Path | None = None,
    progress: bool = False,
) -> QuantizedModel:
    """Quantize the denoisers of a diffusion pipeline to INT8, without any training.

    Args:
        model: a built-in name (`emoji-32`), a diffusers folder, a hub id, or a pipeline object (left as it is).
        recipe: a preset's name, a TOML file, or a Recipe.
        conditions: for a conditional pipeline: what to call it with, one mapping of its keyword arguments a picture,
            such as `[{"prompt": "a cat"}, {"prompt": "a dog"}]`; taken in turn for the recipe's samples. Left out:
            the package's own prompts, or all class labels.
        calibration_set: for an unconditional model: one collected before; else it is collected now.
        pictures: (N, C, H, W) in [-1, 1], for the sources `pictures` and `diffused`.
        work: folder for the calibration set, the ranges and what an interrupted calibration resumes from.
        progress: show progress bars on stderr.

    Raises:
        PTQ4DMError: a user error, with the value, what is accepted and the mend.
    """
    recipe = load_recipe(recipe)
    with modes_kept(model):
        return quantize_opened(open_pipeline(model), recipe, conditions, calibration_set, pictures, work, progress)


def quantize_opened(
    pipeline: Pipeline,
    recipe: Recipe,
    conditions: Sequence[Condition] | None,
    calibration_set: CalibrationSet | None,
    pictures: Tensor | None,
    work: Path | None,
    progress: bool,
) -> QuantizedModel:
    """`quantize` for a pipeline that is open, with its denoisers in evaluation mode."""
    if why_not_unconditional(pipeline.source):
        if calibration_set is not None or pictures is not None:
            raise CalibrationError(
                f"{pipeline.name} ({type(pipeline.source).__name__}) is calibrated while it draws, with conditions: "
                f"leave out {'pictures' if calibration_set is None else 'calibration_set'}"
            )
        wanted = default_conditions(pipeline.source, recipe.calibration.seed) if conditions is None else conditions
        return quantize_at_work(pipeline, recipe, wanted, work, progress)
    if conditions is not None:
        raise CalibrationError(
            f"{pipeline.name} is an unconditional model and takes no conditions: leave them out (prompts, labels)"
        )
    if calibration_set is not None and pictures is not None:
        raise CalibrationError("pictures are given beside a calibration set, which needs none: leave them out")
    pipeline = in_float32(pipeline)
    make_plan(pipeline.denoiser, recipe.keep_float)  # a wrong pattern is told before the long work
    if calibration_set is None:
        calibration_set = collect(pipeline, recipe.calibration, work, progress, pictures)
    calibration_set.check_model(pipeline)
    calls = calls_on(pipeline.denoiser, calibration_set.calls(OBSERVED_AT_ONCE))
    span = (0.0, float(pipeline.num_train_timesteps))
    along = calls_on(pipeline.denoiser, calls_along_time(pipeline.picture_shape, pipeline.num_train_timesteps))
    denoiser, ranges = quantize_network(pipeline.denoiser, calls, span, recipe, progress, along)
    axis = {"argument": "timestep", "low": 0.0, "high": span[1] - 1}
    denoiser = replace(denoiser, example=example_call(pipeline), facts={**denoiser.facts, "time_axis": axis})
    if work is not None:
        calibration_set.save(work / CALIBRATION_SET)
        ranges.save(work / RANGE_TABLE)
    facts = {
        "model": model_facts(pipeline.denoisers, pipeline),
        "calibration": calibration_facts(calibration_set, pipeline.num_train_timesteps) | search_cost([denoiser]),
    }
    quantized = {pipeline.component: denoiser}
    return QuantizedModel(quantized, simulated(pipeline, quantized), recipe, facts)


def quantize_at_work(
    pipeline: Pipeline, recipe: Recipe, conditions: Sequence[Condition], work: Path | None, progress: bool
) -> QuantizedModel:
    """Quantize every denoiser of any pipeline, found and watched while the pipeline does its normal work."""
    check_conditions(pipeline.source, conditions)
    if recipe.arithmetic != "float-out":
        raise RecipeError(f"arithmetic = {recipe.arithmetic!r}: a conditional pipeline is quantized to 'float-out'")
    if recipe.attention_products:
        raise RecipeError("attention_products = true: only unconditional models and bare modules can be calibrated so")
    parts = {name: part for name, part in pipeline.source.components.items() if isinstance(part, nn.Module)}
    with watching_largest(parts) as largest:
        run = watch_run(pipeline, run_inputs(pipeline.source, [conditions[0]], [0], recipe.calibration.steps) or {})
    pipeline = with_found(pipeline, run)
    kept = patterns_of(pipeline.denoisers, recipe.keep_float)
    layers = {
        name: planned(make_plan(denoiser, kept[name], min_channels=recipe.min_channels))
        for name, denoiser in pipeline.denoisers.items()
    }
    smoothing = {
        name: smoothing_of(
            denoiser,
            {layer: channels for layer, channels in largest[name].items() if layer in layers[name]},
            run.examples[name],
            recipe.smoothing,
        )
        for name, denoiser in pipeline.denoisers.items()
    }
    factors = {name: item.factors for name, item in smoothing.items()}
    statistics, facts = statistics_in_pipeline(
        pipeline, run, conditions, recipe.calibration, layers, recipe.ranges.bands, progress, factors, work
    )
    quantized = {}
    for name, denoiser in pipeline.denoisers.items():
        quantized[name], ranges = round_network(
            denoiser,
            statistics[name],
            [run.examples[name], run.latest[name]],
            replace(recipe, keep_float=kept[name], weights=replace(recipe.weights, error_feedback=False)),
            progress,
            smoothing[name].folds,
            facts["calls_of"][name],
            timed=facts["layers_of_time"][name],
        )
        axis = time_axis_of(denoiser, run.examples[name], run.latest[name])
        quantized[name] = replace(quantized[name], facts={**quantized[name].facts, "time_axis": axis})
        if work is not None:
            ranges.save(work / f"{name}.{RANGE_TABLE}")
    facts = {"model": model_facts(pipeline.denoisers, pipeline), "calibration": facts | search_cost(quantized.values())}
    return QuantizedModel(quantized, simulated(pipeline, quantized), recipe, facts)


def simulated(pipeline: Pipeline, quantized: Mapping[str, QuantizedDenoiser]) -> Pipeline:
    """The pipeline with simulated networks as its denoisers."""
    return with_denoisers(pipeline, {name: item.network for name, item in quantized.items()})


def in_float32(pipeline: Pipeline) -> Pipeline:
    """The pipeline itself where its denoiser computes in float32, else one with a float32 copy of the denoiser."""
    if placement(pipeline.denoiser)[1] == torch.float32:
        return pipeline
    return with_denoisers(pipeline, {pipeline.component: copy.deepcopy(pipeline.denoiser).float()})


def quantize_module(
    module: nn.Module,
    calibration_batches: Iterable[Any],
    recipe: Recipe | str | Path = "w8a8",
    *,
    timestep: str | Callable[..., Any] | None = None,
    progress: bool = False,
) -> QuantizedModel:
    """Quantize any network that a sampling loop of your own calls (score-based networks too).

    Args:
        module: the float network; left as it is.
        calibration_batches: each a (args, kwargs) of one call, as your loop makes them; all are held in memory.
        recipe: as in `quantize`; its calibration section is not used, since the calls are given.
        timestep: the name of the argument that holds the time-step, or a callable (args, kwargs) -> time-step;
            None keeps the statistics in one band.
        progress: show progress bars on stderr.
    """
    recipe = load_recipe(recipe)
    require_no_adapters(module, type(module).__name__)
    require_unfused(module, type(module).__name__)
    require_finite_weights(module, type(module).__name__)
    make_plan(module, recipe.keep_float)
    calls = list(calls_of_batches(module, calibration_batches, timestep))
    denoiser, _ = quantize_network(module, calls, time_span(calls), recipe, progress)
    facts = {
        "model": model_facts({BARE: module}, None),
        "calibration": {"calls": len(calls), "source": "calls given by the caller", **search_cost([denoiser])},
    }
    return QuantizedModel({BARE: denoiser}, None, recipe, facts)


def quantize_network(
    network: nn.Module,
    calls: Sequence[TimedCall],
    span: tuple[float, float],
    recipe: Recipe,
    progress: bool = False,
    along: Sequence[TimedCall] = (),
) -> tuple[QuantizedDenoiser, RangeTable]:
    """Plan, observe, choose ranges, rewrite: a network of which the calibration calls are given.

    span: the lowest and highest time-step that the bands cover. along: calls at time-steps all along that span, on
    which the layers are watched that follow the time-step alone.
    """
    layers = planned(make_plan(network, recipe.keep_float, min_channels=recipe.min_channels))
    edges = band_edges(recipe.ranges.bands, *span)
    timed = set(layers_of_time(network, along[0][0], along[-1][0], layers)) if along else set()

    def watched(names: Sequence[str], smoothing: Mapping[str, Tensor] | None = None) -> dict[str, LayerStatistics]:
        of_pictures = [name for name in names if name not in timed]
        of_time = [name for name in names if name in timed]
        found = observe(network, of_pictures, calls, edges, progress, smoothing)
        return found | (observe(network, of_time, along, edges, progress, smoothing) if of_time else {})

    statistics = watched(layers)
    largest = {name: item.channel_largest.amax(0) for name, item in statistics.items()}
    smoothing = smoothing_of(network, largest, calls[0][0], recipe.smoothing)
    if smoothing.factors:  # their ranges are those of the smoothed inputs
        statistics |= watched(list(smoothing.factors), smoothing.factors)
    pictures = 1 if calls[0][1] is None else len(calls[0][1])
    denoiser, ranges = round_network(
        network,
        statistics,
        [call for call, _ in calls],
        recipe,
        progress,
        smoothing.folds,
        pictures=pictures,
        timed=timed,
        along=[call for call, _ in along],
    )
    if recipe.arithmetic == "qdq":
        rounded = round_outputs(denoiser.network, calls, recipe.ranges, progress)
        denoiser = replace(denoiser, network=rounded)
    if recipe.attention_products:
        rounded = quantize_products(denoiser.network, calls, recipe.ranges, progress)
        denoiser = replace(denoiser, network=rounded, facts={**denoiser.facts, **product_facts(network, rounded)})
    return denoiser, ranges


def round_network(
    network: nn.Module,
    statistics: Mapping[str, LayerStatistics],
    calls: Sequence[Call],
    recipe: Recipe,
    progress: bool = False,
    folds: Folds | None = None,
    limit: int | None = None,
    pictures: int = 1,
    timed: Collection[str] = (),
    along: Sequence[Call] = (),
    shares: Mapping[str, float] | None = None,
) -> tuple[QuantizedDenoiser, RangeTable]:
    """Choose ranges by the statistics of the inputs of layers, round, leave the most sensitive in float, and rewrite.

    calls: some that the network was calibrated on; the first becomes the example. folds: which layers take in the
    smoothing that the statistics tell of. limit: how many calls may be made to find the sensitive layers. pictures:
    how many each call is of, for the count of what that cost. timed: the layers that follow the time-step alone.
    along: calls to round those with error feedback by. shares: of the output's squared error by layer, where they are
    known already.
    """
    made = 0
    ranges = choose_ranges(statistics, recipe.ranges, shown=progress)
    macs = count_macs(network, calls[0])
    plan = make_plan(network, recipe.keep_float, statistics, macs, recipe.min_channels)
    following = linear_layers(network, timed, planned(plan)) if recipe.time_in_float else {}
    plan = leave_out(plan, reasons_of(following))
    layers = quantize_layers(network, plan, ranges, recipe.weights, progress)
    weight_only = weight_only_forms(network, list(following)[1:])
    whole_range = replace(recipe.weights, portable=False, bits=8)
    if recipe.weights.error_feedback:
        round_again(network, layers, calls, recipe.weights, progress)
        round_again(network, weight_only, along, whole_range, progress)
    if recipe.float_share:
        if shares is None:
            shares, made = shares_within(network, layers, calls, limit, progress)
        plan = leave_out(plan, best_in_float(shares, macs, recipe.float_share))
    left = [name for name in (*layers, *following) if name not in {*planned(plan), *weight_only}]
    if recipe.weights.error_feedback:
        sensitive = weight_only_forms(network, [name for name in left if name in layers])
        round_again(network, sensitive, calls, whole_range, progress)
        weight_only |= sensitive
    layers = {name: layers[name] for name in planned(plan)}
    quantized = with_layers(network, {**half_forms(network, left), **weight_only, **layers})
    smoothing = {name: item.smoothing for name, item in statistics.items() if item.smoothing is not None}
    smoothing = {name: factors for name, factors in smoothing.items() if name in layers}
    folds = {key: names for key, names in (folds or {}).items() if not {key, *names} & {*left, *weight_only}}
    fold(quantized, folds, smoothing)
    facts = {"activation_ranges": range_facts(ranges), "float_by_method": float_by_method(network)}
    facts |= {
        "sensitivity_calls": made * pictures,
        "smoothed": list(smoothing),
        "folded": {key: list(names) for key, names in folds.items()},
    }
    return QuantizedDenoiser(quantized, plan, calls[0], facts), ranges


def linear_layers(network: nn.Module, names: Collection[str], planned: Sequence[str]) -> dict[str, nn.Linear]:
    """Those of `planned` that are in `names` and linear."""
    modules = ((name, network.get_submodule(name)) for name in planned if name in names)
    return {name: module for name, module in modules if isinstance(module, nn.Linear)}


def calls_on(network: nn.Module, calls: Iterable[TimedCall]) -> list[TimedCall]:
    """The calls where the network computes; their time-steps, which tell the bands, stay on the CPU."""
    return [(call_on(network, call), timesteps) for call, timesteps in calls]


def search_cost(denoisers: Iterable[QuantizedDenoiser]) -> dict[str, int]:
    """How many calls were made, beside those of the calibration, to find the sensitive layers."""
    return {"sensitivity_calls": sum(denoiser.facts["sensitivity_calls"] for denoiser in denoisers)}


def calls_along_time(picture_shape: Sequence[int], num_train_timesteps: int) -> list[TimedCall]:
    """Calls at time-steps evenly spaced over all that a sampler may visit, on noise: the picture does not matter."""
    timesteps = torch.linspace(0, num_train_timesteps - 1, min(ALONG, num_train_timesteps)).round().long()
    noise = torch.randn((len(timesteps), *picture_shape), generator=torch.Generator().manual_seed(0))
    size = math.gcd(len(timesteps), OBSERVED_AT_ONCE)  # calls of one shape
    return [(Call((x, t)), t) for x, t in zip(noise.split(size), timesteps.split(size), strict=True)]


def time_span(calls: Sequence[TimedCall]) -> tuple[float, float]:
    """The lowest and highest time-step of some calls; (0, 0), hence one band, if they have none."""
    values = [float(end) for _, t in calls if t is not None for end in (t.min(), t.max())]
    return (min(values), max(values)) if values else (0.0, 0.0)
