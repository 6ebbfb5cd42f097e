"""Rewrite a network: a copy in which the planned layers are quantized. The original is not touched."""

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ptq4dm.errors import CalibrationError
from ptq4dm.progress import progress
from ptq4dm.quantization.bias import bias_correction, per_output
from ptq4dm.quantization.layers import QUANTIZABLE, QuantizedLayer, phases_of, quantized_form, weight_of
from ptq4dm.quantization.plan import LayerPlan, layer_names
from ptq4dm.quantization.weights import pairs_cross_taps, quantize_weight
from ptq4dm.ranges.histograms import LayerStatistics
from ptq4dm.ranges.range_table import RangeTable
from ptq4dm.ranges.search import InputRange
from ptq4dm.recipe import WeightRecipe


def rewrite(
    network: nn.Module, plan: Sequence[LayerPlan], ranges: RangeTable, weights: WeightRecipe, shown: bool = False
) -> nn.Module:
    """A copy of `network` with a QuantizedLayer for every layer that the plan quantizes.

    Raises CalibrationError for a planned layer without a range, ModelError for weights that are not finite.
    """
    return with_layers(network, quantize_layers(network, plan, ranges, weights, shown))


def quantize_layers(
    network: nn.Module, plan: Sequence[LayerPlan], ranges: RangeTable, weights: WeightRecipe, shown: bool = False
) -> dict[str, QuantizedLayer]:
    """The quantized form of every layer that the plan quantizes, by name. Raises as `rewrite`."""
    planned = [item.name for item in plan if item.quantized]
    quantized = {}
    with progress("rounding weights", len(planned), shown) as advance:
        for name in planned:
            if name not in ranges.ranges:
                raise CalibrationError(f"layer {name} has no range: plan with the statistics of that table")
            layer = network.get_submodule(name)
            statistics = ranges.statistics[name]
            quantized[name] = quantize_layer(
                layer, name, ranges.ranges[name], statistics, weights, statistics.smoothing
            )
            advance(1)
    return quantized


def with_layers(network: nn.Module, layers: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of `network` with other layers under the names given.

    A module registered under several names becomes one layer under the same names. Training mode, device and
    everything else stay as they are.
    """
    aliases = layer_names(network)
    replaced = {id(network.get_submodule(name)): layer for name, layer in layers.items()}
    result = copy.deepcopy(network, dict(replaced))
    for name, layer in layers.items():
        for alias in aliases[name]:
            owner, _, attribute = alias.rpartition(".")
            setattr(result.get_submodule(owner), attribute, layer)
    return result


def quantize_layer(
    layer: nn.Module,
    name: str,
    chosen: InputRange,
    statistics: LayerStatistics | None,
    recipe: WeightRecipe,
    smoothing: Tensor | None = None,
) -> QuantizedLayer:
    """The quantized form of one convolution or linear layer: weights rounded, ranges set, bias corrected.

    Without statistics all input channels count alike, and the bias is left as it is. smoothing: what the input is
    divided by, (in,); range and statistics are those of the input after that.
    """
    assert isinstance(layer, QUANTIZABLE)  # the plan names no others
    weight = weight_of(layer).detach()
    if smoothing is not None:
        weight = weight * smoothing.to(weight.device).view(-1, *[1] * (weight.dim() - 2))
    new, groups, bias = quantized_form(layer), getattr(layer, "groups", 1), layer.bias
    phases = phases_of(layer)
    corrected = recipe.bias_correction and isinstance(bias, Tensor)
    importance = None
    if recipe.weighted and statistics is not None:
        importance = per_output(error_weight(statistics, corrected, phases), len(weight), groups)
    integers, scale = quantize_weight(weight, recipe.portable, importance, name, pairs_cross_taps(layer), recipe.bits)
    new.to(weight.device)
    new.weight.copy_(integers)
    new.weight_scale.copy_(scale)
    new.smoothing = None if smoothing is None else smoothing.float().to(weight.device)
    new.input_scale.fill_(chosen.scale)
    new.input_zero_point.fill_(chosen.zero_point)
    if isinstance(bias, Tensor):
        new.bias = bias.detach().float().clone()  # the float layer keeps its own
        if corrected and statistics is not None:
            new.bias += bias_correction(weight, integers, scale, statistics.channel_mean(), groups, phases)
    return new.train(layer.training)


def error_weight(statistics: LayerStatistics, corrected: bool, phases: int = 1) -> Tensor:
    """What an error in each input channel's weights costs: E[x**2], or Var[x] where the bias takes the mean back.

    A transposed convolution reaches its outputs by as many sets of taps as its strides multiply to, its `phases`; the
    one bias takes back the mean over them: E[x**2] - E[x]**2 / phases.
    """
    moment = statistics.channel_second_moment()
    return (moment - statistics.channel_mean().square() / phases).clamp(min=0) if corrected else moment
