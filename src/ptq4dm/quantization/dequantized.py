"""A quantized layer in float: its weights as they were rounded, its inputs not rounded."""

from typing import Any, Final

import torch
from torch import nn

from ptq4dm.quantization.layers import QuantizedConv, QuantizedLayer, QuantizedLinear

FLOATS: Final = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
"""The convolutions of torch, by how many axes they walk over."""


def float_form(layer: QuantizedLayer, dtype: torch.dtype) -> nn.Module:
    """The layer dequantized: the same integers of the weights as floats of `dtype`, inputs unrounded.

    Linear layers and convolutions; transposed convolutions have none.
    """
    scale = layer.weight_scale.detach().double().view(-1, *[1] * (layer.weight.dim() - 1))
    weight = layer.weight.double() * scale
    if layer.smoothing is not None:
        weight = weight / layer.smoothing.double().view(-1, *[1] * (layer.weight.dim() - 2))
    where: dict[str, Any] = {"bias": layer.bias is not None, "dtype": dtype, "device": layer.weight.device}
    if isinstance(layer, QuantizedLinear):
        new: nn.Module = nn.Linear(layer.in_features, layer.out_features, **where)
    else:
        assert isinstance(layer, QuantizedConv)
        window: Any = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
        kind = FLOATS[layer.weight.dim() - 2]
        new = kind(layer.in_channels, layer.out_channels, *window, padding_mode=layer.padding_mode, **where)
    held = {"weight": weight} | ({} if layer.bias is None else {"bias": layer.bias})
    new.load_state_dict({name: tensor.to(dtype) for name, tensor in held.items()})
    return new.requires_grad_(False).eval()
