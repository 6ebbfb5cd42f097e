"""One network: plan, observe, choose ranges, round, rewrite."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from ptq4dm.calibration.time_layers import layers_of_time
from ptq4dm.pipelines.denoiser import Call, TimedCall
from ptq4dm.quantization.attention_products import quantize_products
from ptq4dm.quantization.bisection import shares_within
from ptq4dm.quantization.error_feedback import RoundAll, round_all
from ptq4dm.quantization.facts import product_facts, range_facts
from ptq4dm.quantization.folding import Folds, fold
from ptq4dm.quantization.gains import correct_gains
from ptq4dm.quantization.half_layers import half_forms, has_half_form
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.layers_qdq import round_outputs
from ptq4dm.quantization.macs import count_macs
from ptq4dm.quantization.plan import float_by_method, leave_out, make_plan, planned
from ptq4dm.quantization.quantized_model import QuantizedDenoiser
from ptq4dm.quantization.rewrite import quantize_layers, with_layers
from ptq4dm.quantization.sensitivity import best_in_float, best_in_half
from ptq4dm.quantization.smoothing import smoothing_of
from ptq4dm.quantization.time_bands import set_bands
from ptq4dm.quantization.weight_only import WeightOnlyLayer, reasons_of, weight_only_forms
from ptq4dm.ranges.histograms import LayerStatistics, band_edges
from ptq4dm.ranges.observe import observe
from ptq4dm.ranges.range_table import RangeTable, choose_ranges
from ptq4dm.ranges.time_bands import banded_ranges
from ptq4dm.recipe import Recipe


def quantize_network(
    network: nn.Module,
    calls: Sequence[TimedCall],
    span: tuple[float, float],
    recipe: Recipe,
    progress: bool = False,
    along: Sequence[TimedCall] = (),
) -> tuple[QuantizedDenoiser, RangeTable]:
    """Plan, observe, choose ranges, rewrite: a network of which the calibration calls are given.

    span: the lowest and highest time-step that the bands cover. along: calls at time-steps all along that span, for
    the layers that follow the time-step alone: those whose inputs are rounded are watched on them, the weights of the
    others are rounded by them.
    """
    layers = planned(make_plan(network, recipe.keep_float, min_channels=recipe.min_channels))
    edges = band_edges(recipe.ranges.bands, *span)
    timed = set(layers_of_time(network, along[0][0], along[-1][0], layers)) if along else set()
    kept = set(linear_layers(network, timed, layers)) if recipe.time_in_float else set()  # inputs in float: no ranges
    watched_along = timed - kept

    def watched(names: Sequence[str], smoothing: Mapping[str, Tensor] | None = None) -> dict[str, LayerStatistics]:
        of_pictures = [name for name in names if name not in watched_along]
        of_time = [name for name in names if name in watched_along]
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
    rounding: RoundAll = round_all,
    macs: Mapping[str, int] | None = None,
) -> tuple[QuantizedDenoiser, RangeTable]:
    """Choose ranges by the statistics of the inputs of layers, round, leave the most sensitive in float, and rewrite.

    calls: some that the network was calibrated on; the first becomes the example. folds: which layers take in the
    smoothing that the statistics tell of. limit: how many calls may be made to find the sensitive layers. pictures:
    how many each call is of, for the count of what that cost. timed: the layers that follow the time-step alone.
    along: calls to round those with error feedback by. shares: of the output's squared error by layer, where they are
    known already. rounding: what rounds with error feedback. macs: multiply-adds of a row by layer, where they are
    known.
    """
    made = 0
    ranges = choose_ranges(statistics, recipe.ranges, shown=progress)
    macs = count_macs(network, calls[0]) if macs is None else macs
    plan = make_plan(network, recipe.keep_float, statistics, macs, recipe.min_channels)
    following = linear_layers(network, timed, planned(plan)) if recipe.time_in_float else {}
    plan = leave_out(plan, reasons_of(following))
    layers = quantize_layers(network, plan, ranges, recipe.weights, progress)
    weight_only = weight_only_forms(network, list(following)[1:])
    whole_range = replace(recipe.weights, portable=False, bits=8)
    chosen = best_in_float(shares, macs, recipe.float_share) if shares and recipe.float_share else {}
    sensitive: dict[str, WeightOnlyLayer] = {}
    if recipe.weights.error_feedback:
        sensitive = sensitive_forms(network, layers, chosen, shares or {})
        rounding(network, [(layers, recipe.weights), (sensitive, whole_range)], calls, progress)
        rounding(network, [(weight_only, whole_range)], along, progress)
    if recipe.float_share and shares is None:
        shares, made = shares_within(network, layers, calls, limit, progress)
        chosen = best_in_float(shares, macs, recipe.float_share)
        if recipe.weights.error_feedback:
            sensitive = sensitive_forms(network, layers, chosen, shares)
            rounding(network, [(sensitive, whole_range)], calls, progress)
    plan = leave_out(plan, chosen)
    left = [name for name in (*layers, *following) if name not in {*planned(plan), *weight_only}]
    weight_only |= sensitive
    layers = {name: layers[name] for name in planned(plan)}
    gains = correct_gains(network, layers, calls, recipe.weights, progress) if recipe.weights.gain_correction else {}
    quantized = with_layers(network, {**half_forms(network, left), **weight_only, **layers})
    smoothing = {name: item.smoothing for name, item in statistics.items() if item.smoothing is not None}
    smoothing = {name: factors for name, factors in smoothing.items() if name in layers}
    folds = {key: names for key, names in (folds or {}).items() if not {key, *names} & {*left, *weight_only}}
    folded = {key: smoothing[names[0]] for key, names in folds.items()}
    fold(quantized, folds, folded)
    facts = {"activation_ranges": range_facts(ranges, layers), "float_by_method": float_by_method(network)}
    facts |= {
        "sensitivity_calls": made * pictures,
        "gains": gains,
        "smoothed": list(smoothing),
        "folded": {key: list(names) for key, names in folds.items()},
    }
    return QuantizedDenoiser(quantized, plan, calls[0], facts, folded), ranges


def sensitive_forms(
    network: nn.Module, layers: Mapping[str, QuantizedLayer], chosen: Collection[str], shares: Mapping[str, float]
) -> dict[str, WeightOnlyLayer]:
    """The 8-bit forms of the `chosen` of `layers`, to be rounded; not of those that are better held in float16."""
    names = [name for name in layers if name in chosen]
    sizes = {name: layers[name].weight.numel() for name in names if has_half_form(network.get_submodule(name))}
    halves = best_in_half(shares, sizes, sum(parameter.numel() for parameter in network.parameters()))
    return weight_only_forms(network, [name for name in names if name not in halves])


def in_time_bands(
    denoiser: QuantizedDenoiser, ranges: RangeTable, recipe: Recipe, argument: str, progress: bool = False
) -> QuantizedDenoiser:
    """The denoiser, its layers now with a range for each band of time-steps, as the recipe asks; `time_bands` in its
    facts says what that brings. argument: by which the network is told the time-step."""
    layers = {name for name, layer in denoiser.network.named_modules() if isinstance(layer, QuantizedLayer)}
    statistics = {name: item for name, item in ranges.statistics.items() if name in layers}
    own = recipe.activations
    found = banded_ranges(statistics, recipe.ranges, own.time_bands, own.band_gain, shown=progress)
    if found is None:
        return denoiser
    set_bands(denoiser.network, argument, found.cuts, found.ranges)
    facts = {"argument": argument, "cuts": list(found.cuts), "layers": len(found.ranges), "loss": list(found.loss)}
    return replace(denoiser, facts={**denoiser.facts, "time_bands": facts})


def linear_layers(network: nn.Module, names: Collection[str], planned: Sequence[str]) -> dict[str, nn.Linear]:
    """Those of `planned` that are in `names` and linear."""
    modules = ((name, network.get_submodule(name)) for name in planned if name in names)
    return {name: module for name, module in modules if isinstance(module, nn.Linear)}
