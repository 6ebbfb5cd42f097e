"""The whole job as one paragraph: a pretrained diffusion model in, a faster INT8 model out."""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from ptq4dm.calibration.batches import calls_of_batches, require_runnable
from ptq4dm.calibration.calibration_set import CalibrationSet
from ptq4dm.calibration.call_errors import error_of
from ptq4dm.calibration.calls import OBSERVED_AT_ONCE, calls_along_time, calls_on, time_span
from ptq4dm.calibration.collect import collect
from ptq4dm.calibration.step_weights import LAW_POWER, weigh_steps
from ptq4dm.calibration.time_bands import TIMESTEP, require_named
from ptq4dm.calibration.timesteps import AUTO
from ptq4dm.conditional_workflow import quantize_at_work
from ptq4dm.errors import CalibrationError, RecipeError
from ptq4dm.pipelines.adapters import require_no_adapters
from ptq4dm.pipelines.conditions import Condition, default_conditions
from ptq4dm.pipelines.denoiser import placement, require_finite_weights, require_float, require_module
from ptq4dm.pipelines.fused import fused_attentions, idle_layers_aside
from ptq4dm.pipelines.pipeline import Pipeline, modes_kept, open_pipeline
from ptq4dm.pipelines.unconditional import why_not_unconditional
from ptq4dm.quantization.facts import calibration_facts, model_facts, search_cost
from ptq4dm.quantization.network import in_time_bands, quantize_network
from ptq4dm.quantization.plan import make_plan
from ptq4dm.quantization.quantized_model import BARE, QuantizedModel, example_call, simulated, with_denoisers
from ptq4dm.quantization.savable import warn_unless_savable
from ptq4dm.ranges.metrics import make_metric
from ptq4dm.ranges.range_table import RANGE_TABLE
from ptq4dm.recipe import Recipe, load_recipe

CALIBRATION_SET = "calibration_set.safetensors"
DRAFT_SAMPLES = 64
"""Calibration samples of the network whose errors tell what one at each time-step does to the picture."""


def quantize(
    model: str | Path | DiffusionPipeline | Pipeline,
    recipe: Recipe | str | Path = "w8a8",
    *,
    conditions: Sequence[Condition] | None = None,
    calibration_set: CalibrationSet | None = None,
    pictures: Tensor | None = None,
    work: str | Path | None = None,
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
    recipe = settled(recipe)
    with modes_kept(model):
        pipeline = open_pipeline(model)
        with idle_layers_aside(pipeline.source.components.values()):
            place = None if work is None else Path(work)
            return quantize_opened(pipeline, recipe, conditions, calibration_set, pictures, place, progress)


def settled(recipe: Recipe | str | Path) -> Recipe:
    """`load_recipe`, and a metric that is not accepted is told before the long work. Raises RecipeError."""
    recipe = load_recipe(recipe)
    make_metric(recipe.ranges.metric, recipe.ranges.metric_options)
    return recipe


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
    if not isinstance(calibration_set, CalibrationSet | None):
        raise CalibrationError(
            f"calibration_set is a {type(calibration_set).__name__}: give ptq4dm.CalibrationSet.load(path), or leave "
            "it out"
        )
    if calibration_set is not None and pictures is not None:
        raise CalibrationError("pictures are given beside a calibration set, which needs none: leave them out")
    warn_unless_savable(pipeline)
    pipeline = in_float32(pipeline)
    make_plan(pipeline.denoiser, recipe.keep_float)  # a wrong pattern is told before the long work
    measured: dict[str, Any] = {}
    if calibration_set is None:
        followed = recipe
        if recipe.calibration.timesteps == AUTO:
            measured, followed = measured_law(pipeline, recipe, work, progress)
        calibration_set = collect(pipeline, followed.calibration, work, progress, pictures)
    calibration_set.check_model(pipeline)
    calls = calls_on(pipeline.denoiser, calibration_set.calls(OBSERVED_AT_ONCE))
    span = (0.0, float(pipeline.num_train_timesteps))
    along = calls_on(pipeline.denoiser, calls_along_time(pipeline.picture_shape, pipeline.num_train_timesteps))
    denoiser, ranges = quantize_network(pipeline.denoiser, calls, span, recipe, progress, along)
    axis = {"argument": TIMESTEP, "low": 0.0, "high": span[1] - 1}
    denoiser = replace(denoiser, example=example_call(pipeline), facts={**denoiser.facts, "time_axis": axis})
    denoiser = in_time_bands(denoiser, ranges, recipe, TIMESTEP, progress)
    if work is not None:
        calibration_set.save(work / CALIBRATION_SET)
        ranges.save(work / RANGE_TABLE)
    facts = {
        "model": model_facts(pipeline.denoisers, pipeline),
        "calibration": calibration_facts(calibration_set, pipeline.num_train_timesteps) | search_cost([denoiser]),
    }
    if measured:
        facts["calibration"] |= {"law": AUTO, "law_options": {}, "step_weights": measured}
    quantized = {pipeline.component: denoiser}
    return QuantizedModel(quantized, simulated(pipeline, quantized), recipe, facts)


def measured_law(
    pipeline: Pipeline, recipe: Recipe, work: Path | None, progress: bool
) -> tuple[dict[str, Any], Recipe]:
    """What an error at each time-step does to the picture, as JSON data, and the recipe with the law that follows.

    The errors are those of a draft: rounded as the recipe says, but on few samples at uniform time-steps.
    """
    own = recipe.calibration
    if own.law_options:
        raise RecipeError(f"timesteps = {AUTO!r} takes no law_options, got {sorted(own.law_options)}: leave them out")
    uniform = {"timesteps": "uniform", "law_options": {}, "source": "denoising"}
    draft = recipe.replace(
        calibration={**uniform, "samples": min(DRAFT_SAMPLES, own.samples)},
        weights={"error_feedback": False},
        float_share=0.0,
        arithmetic="float-out",
        attention_products=False,
    )
    drafted = collect(pipeline, draft.calibration, work, progress)
    total = pipeline.num_train_timesteps
    along = calls_on(pipeline.denoiser, calls_along_time(pipeline.picture_shape, total))
    calls = calls_on(pipeline.denoiser, drafted.calls(OBSERVED_AT_ONCE))
    rounded, _ = quantize_network(pipeline.denoiser, calls, (0.0, float(total)), draft, progress, along)
    weights = weigh_steps(pipeline, own, error_of(rounded.network), draft.to_dict(), work, progress)
    facts = {"power": LAW_POWER, "draft_calls": drafted.facts["calls_made"], **weights.to_dict()}
    followed = {"timesteps": "weighted", "law_options": weights.law_options(LAW_POWER)}
    return facts, recipe.replace(calibration=followed)


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

    Raises:
        PTQ4DMError: as `quantize`; a batch that the network cannot be run on is named.
    """
    require_module(module)
    recipe = settled(recipe)
    if recipe.calibration.timesteps == AUTO:
        raise RecipeError(
            f"timesteps = {AUTO!r}: a bare module is calibrated on the calls that you give, so no law of time-steps "
            "is measured for it: leave it out of the recipe"
        )
    require_float(module, type(module).__name__)
    require_no_adapters(module, type(module).__name__)
    require_finite_weights(module, type(module).__name__)
    fused_attentions(module)
    argument = require_named(timestep) if recipe.activations.time_bands > 1 else ""
    with idle_layers_aside([module]):
        make_plan(module, recipe.keep_float)
        calls = list(calls_of_batches(module, calibration_batches, timestep))
        require_runnable(module, calls)
        denoiser, ranges = quantize_network(module, calls, time_span(calls), recipe, progress)
        denoiser = in_time_bands(denoiser, ranges, recipe, argument, progress)
        facts = {
            "model": model_facts({BARE: module}, None),
            "calibration": {"calls": len(calls), "source": "calls given by the caller", **search_cost([denoiser])},
        }
    return QuantizedModel({BARE: denoiser}, None, recipe, facts)
