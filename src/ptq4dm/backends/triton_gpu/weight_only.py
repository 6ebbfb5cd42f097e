"""Layers with 8-bit weights and float inputs, where half precision is fast: products on tensor cores, not in float32.

The definition multiplies in float32 (`quantization.weight_only`), which a GPU does at a fraction of its rate in half
precision. Here the weights become scale times integer in the type of the input: at each call, held in 8 bits, or once
for all where speed goes before room.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptq4dm.pipelines.denoiser import HALF
from ptq4dm.quantization.dequantized import dequantized
from ptq4dm.quantization.weight_only import WeightOnlyConv, WeightOnlyLayer


class HalfPrecisionProducts(nn.Module):
    """A layer with 8-bit weights: as it is for float32 inputs, in their own type for those in half precision."""

    def __init__(self, layer: WeightOnlyLayer):
        super().__init__()
        self.layer = layer

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output, in the dtype of its input."""
        layer, dtype = self.layer, input.dtype
        if dtype not in HALF:
            return layer(input)
        scale = layer.weight_scale.view(-1, *[1] * (layer.weight.dim() - 1))
        weight = (layer.weight.to(torch.float32) * scale).to(dtype)
        bias = None if layer.bias is None else layer.bias.to(dtype)
        if not isinstance(layer, WeightOnlyConv):
            return F.linear(input, weight, bias)
        return layer.convolve(input, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def half_precision_forms(network: nn.Module, held: torch.dtype | None = None) -> dict[str, nn.Module]:
    """Such a form for every layer with 8-bit weights and float inputs, by name; held: with weights of that type."""
    layers = {name: module for name, module in network.named_modules() if isinstance(module, WeightOnlyLayer) and name}
    if held is None:
        return {name: HalfPrecisionProducts(copy.deepcopy(layer)) for name, layer in layers.items()}
    return {name: dequantized(layer, held) for name, layer in layers.items()}
