"""The whole job for a pipeline that draws by conditions: watched at work, calibrated while it draws, then rounded."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from ptq4dm.calibration.cost import calls_left, counting_rows, rows_of
from ptq4dm.calibration.in_pipeline import statistics_in_pipeline
from ptq4dm.calibration.time_bands import argument_of
from ptq4dm.calibration.timesteps import AUTO, resolve_law
from ptq4dm.errors import RecipeError
from ptq4dm.pipelines.conditions import Condition, check_conditions, run_inputs
from ptq4dm.pipelines.denoisers import left_out, not_called, watch_run, with_found
from ptq4dm.pipelines.fused import fused_attentions
from ptq4dm.pipelines.pipeline import Pipeline
from ptq4dm.quantization.facts import model_facts, search_cost
from ptq4dm.quantization.macs import counting_macs
from ptq4dm.quantization.network import in_time_bands, round_network
from ptq4dm.quantization.plan import make_plan, patterns_of, planned
from ptq4dm.quantization.quantized_model import QuantizedModel, simulated
from ptq4dm.quantization.savable import warn_unless_savable
from ptq4dm.quantization.smoothing import smoothing_of, watching_largest
from ptq4dm.quantization.time_axis import time_axis_of
from ptq4dm.ranges.range_table import RANGE_TABLE
from ptq4dm.recipe import Recipe, WeightRecipe


def quantize_at_work(
    pipeline: Pipeline, recipe: Recipe, conditions: Sequence[Condition], work: Path | None, progress: bool
) -> QuantizedModel:
    """Quantize every denoiser of any pipeline, found and watched while the pipeline does its normal work."""
    check_conditions(pipeline.source, conditions)
    if recipe.arithmetic != "float-out":
        raise RecipeError(f"arithmetic = {recipe.arithmetic!r}: a conditional pipeline is quantized to 'float-out'")
    if recipe.calibration.timesteps == AUTO:
        raise RecipeError(
            f"timesteps = {AUTO!r}: only an unconditional model can be drawn from to measure what an error at each "
            "time-step does; choose another law, such as 'ndtc' or 'uniform'"
        )
    resolve_law(recipe.calibration.timesteps, recipe.calibration.law_options)  # told before the pipeline runs
    if recipe.attention_products:
        raise RecipeError("attention_products = true: only unconditional models and bare modules can be calibrated so")
    parts = {name: part for name, part in pipeline.source.components.items() if isinstance(part, nn.Module)}
    with watching_largest(parts) as largest, counting_macs(parts) as counted:
        run = watch_run(pipeline, run_inputs(pipeline.source, [conditions[0]], [0], recipe.calibration.steps) or {})
    stays = left_out(replace(pipeline, components=run.denoisers)) | not_called(pipeline.source, run)
    pipeline = with_found(pipeline, run)
    warn_unless_savable(pipeline)
    for denoiser in pipeline.denoisers.values():
        fused_attentions(denoiser)  # projections of which only some are fused are told before the long work
    axes = {
        name: time_axis_of(denoiser, run.examples[name], run.latest[name])
        for name, denoiser in pipeline.denoisers.items()
    }
    told_by = {name: argument_of(name, run, axis) for name, axis in axes.items() if recipe.activations.time_bands > 1}
    kept = patterns_of(pipeline.denoisers, recipe.keep_float)
    layers = {
        name: planned(make_plan(denoiser, kept[name], min_channels=recipe.min_channels))
        for name, denoiser in pipeline.denoisers.items()
    }
    with counting_rows(pipeline.denoisers) as of_checks:
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
    macs = {name: {key: n // run.rows[name] for key, n in counted[name].items()} for name in pipeline.denoisers}
    of_row = {name: sum(macs[name].values()) for name in macs}
    statistics, facts = statistics_in_pipeline(
        pipeline, run, conditions, recipe.calibration, layers, recipe.ranges.bands, progress, factors, work, of_checks,
        of_row,
    )  # fmt: skip
    quantized, rows_made = {}, dict(facts["rows_made"])
    for index, (name, denoiser) in enumerate(pipeline.denoisers.items()):
        calls = [run.examples[name], run.latest[name]]
        rows, waiting = rows_of(calls), pipeline.components[index:]
        quantized[name], ranges = round_network(
            denoiser,
            statistics[name],
            calls,
            replace(recipe, keep_float=kept[name], weights=at_work(recipe.weights)),
            progress,
            smoothing[name].folds,
            min(facts["calls_of"][name], calls_left(facts["rows_of_running"], rows_made, of_row, waiting, rows)),
            timed=facts["layers_of_time"][name],
            macs=macs[name],
        )
        rows_made[name] += quantized[name].facts["sensitivity_calls"] * rows
        quantized[name] = replace(quantized[name], facts={**quantized[name].facts, "time_axis": axes[name]})
        if name in told_by:
            quantized[name] = in_time_bands(quantized[name], ranges, recipe, told_by[name], progress)
        if work is not None:
            ranges.save(work / f"{name}.{RANGE_TABLE}")
    cost = {**search_cost(quantized.values()), "rows_made": rows_made}
    about = model_facts(pipeline.denoisers, pipeline) | ({"left_in_float": stays} if stays else {})
    facts = {"model": about, "calibration": facts | cost}
    return QuantizedModel(quantized, simulated(pipeline, quantized), recipe, facts)


def at_work(recipe: WeightRecipe) -> WeightRecipe:
    """How weights are rounded where the calibration calls are not kept."""
    return replace(recipe, error_feedback=False, gain_correction=False)
