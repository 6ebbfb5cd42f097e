"""Layers with integers for weights in float: the weights as they were rounded, the inputs not rounded."""

from typing import Any, Final

import torch
from torch import Tensor, nn

from ptq4dm.quantization.layers import QuantizedConv, QuantizedLayer, QuantizedLinear
from ptq4dm.quantization.weight_only import WeightOnlyConv, WeightOnlyLayer, WeightOnlyLinear

FLOATS: Final = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
"""The convolutions of torch, by how many axes they walk over."""


def float_form(layer: QuantizedLayer, dtype: torch.dtype) -> nn.Module:
    """The layer dequantized, smoothing taken out: its weights as floats of `dtype`, inputs unrounded.

    Linear layers and convolutions; transposed convolutions have none.
    """
    scale = layer.weight_scale.detach().double().view(-1, *[1] * (layer.weight.dim() - 1))
    weight = layer.weight.double() * scale
    if layer.smoothing is not None:
        weight = weight / layer.smoothing.double().view(-1, *[1] * (layer.weight.dim() - 2))
    return holding(layer, weight, dtype).eval()


def dequantized(layer: WeightOnlyLayer, dtype: torch.dtype) -> nn.Module:
    """The layer with its weights as floats of that type: in half precision the same numbers, and no work at each
    call."""
    scale = layer.weight_scale.detach().view(-1, *[1] * (layer.weight.dim() - 1))
    return holding(layer, layer.weight.to(torch.float32) * scale, dtype).train(layer.training)


def holding(layer: QuantizedLayer | WeightOnlyLayer, weight: Tensor, dtype: torch.dtype) -> nn.Module:
    """torch's own layer of that geometry and bias with these weights, in `dtype`."""
    where: dict[str, Any] = {"bias": layer.bias is not None, "dtype": dtype, "device": layer.weight.device}
    if isinstance(layer, QuantizedLinear | WeightOnlyLinear):
        new: nn.Module = nn.Linear(layer.in_features, layer.out_features, **where)
    else:
        assert isinstance(layer, QuantizedConv | WeightOnlyConv)
        window: Any = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
        where["padding_mode"] = layer.padding_mode if isinstance(layer, QuantizedConv) else "zeros"
        new = FLOATS[layer.weight.dim() - 2](layer.in_channels, layer.out_channels, *window, **where)
    held = {"weight": weight} | ({} if layer.bias is None else {"bias": layer.bias})
    new.load_state_dict({name: tensor.to(dtype) for name, tensor in held.items()})
    return new.requires_grad_(False)
