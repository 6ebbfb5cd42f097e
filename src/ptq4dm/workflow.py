"""The whole job as one paragraph: a pretrained diffusion model in, a faster INT8 model out."""

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from ptq4dm.calibration.batches import calls_of_batches
from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.calibration.collect import collect
from ptq4dm.pipelines.denoiser import Call, placement, require_finite_weights
from ptq4dm.pipelines.pipeline import Pipeline, open_pipeline
from ptq4dm.quantization.facts import calibration_facts, model_facts, range_facts
from ptq4dm.quantization.layers_qdq import round_outputs
from ptq4dm.quantization.macs import count_macs
from ptq4dm.quantization.plan import LayerPlan, float_by_method, make_plan
from ptq4dm.quantization.quantized_model import QuantizedModel, example_call, with_denoiser
from ptq4dm.quantization.rewrite import rewrite
from ptq4dm.ranges.histograms import band_edges
from ptq4dm.ranges.observe import observe
from ptq4dm.ranges.range_table import RangeTable, choose_ranges
from ptq4dm.recipe import Recipe, load_recipe

CALIBRATION_SET = "calibration_set.safetensors"
RANGE_TABLE = "range_table.safetensors"
OBSERVED_AT_ONCE = 16


def quantize(
    model: str | Path | DiffusionPipeline | Pipeline,
    recipe: Recipe | str | Path = "w8a8",
    *,
    calibration_set: CalibrationSet | None = None,
    pictures: Tensor | None = None,
    work: Path | None = None,
    progress: bool = False,
) -> QuantizedModel:
    """Quantize the denoiser of a diffusion pipeline to INT8, without any training.

    Args:
        model: a built-in name (`emoji-32`), a diffusers folder, a hub id, or a pipeline object (left as it is).
        recipe: a preset's name, a TOML file, or a Recipe.
        calibration_set: one collected before, of the same model; else it is collected now.
        pictures: (N, C, H, W) in [-1, 1], for the sources `pictures` and `diffused`.
        work: folder for the calibration set, the ranges and the chunks from which an interrupted run resumes.
        progress: show progress bars on stderr.

    Raises:
        PTQ4DMError: a user error, with the value, what is accepted and the mend.
    """
    recipe = load_recipe(recipe)
    pipeline = in_float32(open_pipeline(model))
    make_plan(pipeline.denoiser, recipe.keep_float)  # a wrong pattern is told before the long work
    if calibration_set is None:
        calibration_set = collect(pipeline, recipe.calibration, work, progress, pictures)
    calibration_set.check_model(pipeline)
    calls = list(calibration_set.calls(OBSERVED_AT_ONCE))
    span = (0.0, float(pipeline.num_train_timesteps))
    network, plan, ranges = quantize_network(pipeline.denoiser, calls, span, recipe, progress)
    if work is not None:
        calibration_set.save(work / CALIBRATION_SET)
        ranges.save(work / RANGE_TABLE)
    facts = {
        "model": model_facts(pipeline.denoiser, pipeline),
        "calibration": calibration_facts(calibration_set, pipeline.num_train_timesteps),
        "activation_ranges": range_facts(ranges),
        "float_by_method": float_by_method(pipeline.denoiser),
    }
    return QuantizedModel(network, with_denoiser(pipeline, network), example_call(pipeline), plan, recipe, facts)


def in_float32(pipeline: Pipeline) -> Pipeline:
    """The pipeline itself where its denoiser computes in float32, else one with a float32 copy of the denoiser."""
    if placement(pipeline.denoiser)[1] == torch.float32:
        return pipeline
    return with_denoiser(pipeline, copy.deepcopy(pipeline.denoiser).float())


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
    require_finite_weights(module, type(module).__name__)
    make_plan(module, recipe.keep_float)
    calls = list(calls_of_batches(module, calibration_batches, timestep))
    network, plan, ranges = quantize_network(module, calls, time_span(calls), recipe, progress)
    facts = {
        "model": model_facts(module, None),
        "calibration": {"calls": len(calls), "source": "calls given by the caller"},
        "activation_ranges": range_facts(ranges),
        "float_by_method": float_by_method(module),
    }
    return QuantizedModel(network, None, calls[0][0], plan, recipe, facts)


def quantize_network(
    network: nn.Module,
    calls: Sequence[tuple[Call, Tensor | None]],
    span: tuple[float, float],
    recipe: Recipe,
    progress: bool = False,
) -> tuple[nn.Module, tuple[LayerPlan, ...], RangeTable]:
    """Plan, observe, choose ranges, rewrite: what is the same for a pipeline's denoiser and a bare module.

    span: the lowest and highest time-step that the bands cover.
    """
    first = make_plan(network, recipe.keep_float, min_channels=recipe.min_channels)
    layers = [layer.name for layer in first if layer.quantized]
    statistics = observe(network, layers, calls, band_edges(recipe.ranges.bands, *span), progress)
    ranges = choose_ranges(statistics, recipe.ranges, shown=progress)
    plan = make_plan(network, recipe.keep_float, statistics, count_macs(network, calls[0][0]), recipe.min_channels)
    quantized = rewrite(network, plan, ranges, recipe.weights, progress)
    if recipe.arithmetic == "qdq":
        quantized = round_outputs(quantized, calls, recipe.ranges, progress)
    return quantized, plan, ranges


def time_span(calls: Sequence[tuple[Call, Tensor | None]]) -> tuple[float, float]:
    """The lowest and highest time-step of some calls; (0, 0), hence one band, if they have none."""
    values = [float(end) for _, t in calls if t is not None for end in (t.min(), t.max())]
    return (min(values), max(values)) if values else (0.0, 0.0)
