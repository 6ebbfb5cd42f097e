"""Is the engine exact on this processor? Asked of the model's own layers, on the worst inputs there are."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ptq4dm.backends.cpu.openvino.engine import compile_model, processor, runner
from ptq4dm.backends.cpu.openvino.executed import executed_layers
from ptq4dm.backends.cpu.openvino.layer import layer_nodes
from ptq4dm.backends.exactness import ULPS_ALLOWED, distance, hard_inputs
from ptq4dm.errors import BackendError
from ptq4dm.numerics import pair_up
from ptq4dm.quantization.layers import QuantizedLayer, QuantizedTransposedConv, SpatialLayer

if TYPE_CHECKING:
    import openvino as ov


def self_check(layers: dict[str, QuantizedLayer]) -> None:
    """Run one layer of each kind, the one nearest to saturation, and compare with float64.

    Raises BackendError that names the layer and the processor if the engine is off by more than its rounding.
    """
    for name, off in distances(representatives(layers)).items():
        if off > ULPS_ALLOWED:
            raise BackendError(
                f"OpenVINO is not exact on this processor ({processor()}): layer {name!r} is {off:.3g} float32 "
                f"units off (up to {ULPS_ALLOWED:g} is rounding); its INT8 sums saturate. "
                "Use backend='simulated', keep the layer in float, or, if the recipe said portable = false, quantize "
                "again with portable = true"
            )


def representatives(layers: dict[str, QuantizedLayer]) -> dict[str, QuantizedLayer]:
    """One layer of each kind: the one whose pairs of weights make the largest int16 sums."""
    chosen: dict[tuple, tuple[float, str]] = {}
    for name, layer in layers.items():
        candidate = (largest_pair_sum(layer), name)
        chosen[kind(layer)] = max(chosen.get(kind(layer), candidate), candidate)
    return {name: layers[name] for _, name in chosen.values()}


def kind(layer: QuantizedLayer) -> tuple:
    """What decides which kernel an engine takes: type, geometry, and whether channels fill its vectors."""
    inputs, outputs = layer.weight.shape[1], layer.weight.shape[0]
    plain = (int(layer.zero_point()) == 0, layer.smoothing is None)
    channels = (inputs % 2, inputs < 4, inputs % 16 == 0, outputs % 16 == 0, *plain)
    if isinstance(layer, SpatialLayer):
        more = layer.output_padding if isinstance(layer, QuantizedTransposedConv) else ()
        geometry = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, more)
        return (type(layer), geometry, layer.groups if layer.groups == 1 else (inputs, outputs), channels)
    return (type(layer), channels)


def largest_pair_sum(layer: QuantizedLayer) -> float:
    """The largest same-signed sum of two weights that an engine adds: adjacent ones, or any two in odd groups."""
    weight = layer.weight.int()
    if isinstance(layer, SpatialLayer) and layer.groups > 1 and weight.shape[1] % 2:
        top = min(2, weight[0].numel())
        return float(max((sign * weight).flatten(1).topk(top).values.clamp(min=0).sum(1).max() for sign in (1, -1)))
    pairs = pair_up(weight)
    return float(torch.maximum(pairs.clamp(min=0).sum(2).max(), -pairs.clamp(max=0).sum(2).min()))


@torch.no_grad()
def distances(layers: dict[str, QuantizedLayer]) -> dict[str, float]:
    """The largest distance of the engine from float64 for each layer, in float32 units in the last place."""
    if not layers:
        return {}
    inputs = {name: hard_inputs(layer) for name, layer in layers.items()}
    compiled = compile_model(side_by_side(layers, inputs.values()))
    for run in executed_layers(compiled, layers):
        if not run.int8:
            raise BackendError(f"OpenVINO runs layer {run.layer!r} as {run.primitive or run.type}, not in INT8")
    outputs = runner(compiled)(tuple(inputs.values()))
    return {name: distance(layers[name], x, y) for (name, x), y in zip(inputs.items(), outputs, strict=True)}


def side_by_side(layers: dict[str, QuantizedLayer], inputs: Iterable[Tensor]) -> "ov.Model":
    """One graph that holds each layer by itself: input i -> layer i -> output i."""
    import openvino as ov
    from openvino import opset13 as ops

    parameters = [ops.parameter(list(x.shape), np.float32) for x in inputs]
    results = [
        ops.result(layer_nodes(layer, name, parameter.output(0)))
        for (name, layer), parameter in zip(layers.items(), parameters, strict=True)
    ]
    return ov.Model(results, parameters)  # type: ignore[reportGeneralTypeIssues]  # openvino's own stubs disagree
