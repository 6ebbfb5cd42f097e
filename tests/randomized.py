"""A quantized layer of random integers, for tests of what runs it."""

import torch
from torch import nn

from ptq4dm.quantization.layers import QuantizedLayer, quantized_form


def randomized(source: nn.Module, limit: int = 127, seed: int = 0) -> QuantizedLayer:
    """The layer `source` with random integer weights up to `limit` (64: every pair is safe), a random scale a channel,
    and a zero point off centre."""
    generator = torch.Generator().manual_seed(seed)
    layer = quantized_form(source)
    layer.weight.copy_(torch.randint(-limit, limit + 1, layer.weight.shape, generator=generator))
    layer.weight_scale.copy_(torch.rand(layer.weight_scale.shape, generator=generator) * 0.01 + 0.001)
    layer.input_scale.fill_(0.03)
    layer.input_zero_point.fill_(91)
    if layer.bias is not None:
        layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator))
    return layer.requires_grad_(False)
