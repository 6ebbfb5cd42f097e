"""Quantized layers with random integers, as networks have them: `from int8_layers import quantized_copy`."""

import copy
from collections.abc import Container

import torch
from torch import nn

from ptq4dm.quantization.layers import QUANTIZABLE, QuantizedLayer
from ptq4dm.quantization.rewrite import quantize_layer, with_layers
from ptq4dm.ranges.search import InputRange
from ptq4dm.recipe import WeightRecipe


def int8_form(layer: nn.Module, scale: float = 0.03, zero_point: int = 77, smoothed: bool = False) -> QuantizedLayer:
    """The quantized form of a float layer, its weights rounded, its input on a grid of `scale`."""
    inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    smoothing = torch.rand(inputs, generator=torch.Generator().manual_seed(3)) + 0.5 if smoothed else None
    return quantize_layer(layer, "layer", InputRange(scale, zero_point, 0.0, 0.0, 0.0), None, WeightRecipe(), smoothing)


def quantized_copy(network: nn.Module, **changes: object) -> nn.Module:
    """A network with every layer that has an INT8 form in it."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    layers = {name: module for name, module in network.named_modules() if type(module) in QUANTIZABLE and name}
    return with_layers(network, {name: int8_form(layer, **changes) for name, layer in layers.items()})


def on_kernels(simulated: nn.Module, keep: Container[str] = ()) -> nn.Module:
    """The network with INT8 kernels for its quantized layers, but those kept by name. Needs Triton."""
    from ptq4dm.backends.triton_gpu.layers import triton_form

    layers = {name: module for name, module in simulated.named_modules() if isinstance(module, QuantizedLayer)}
    return with_layers(simulated, {name: triton_form(layer) for name, layer in layers.items() if name not in keep})
