"""The float form of a quantized layer, against its integers multiplied in float64."""

import pytest
import torch
from int8_layers import int8_form
from torch import nn

from ptq4dm.quantization.dequantized import float_form


@torch.no_grad()
@pytest.mark.parametrize(
    ("source", "shape"),
    [
        (nn.Conv2d(6, 5, 3, 2, 1), (2, 6, 5, 5)),
        (nn.Conv1d(4, 3, 1), (1, 4, 5)),
        (nn.Conv2d(6, 4, 3, padding=1, groups=2), (2, 6, 5, 7)),
        (nn.Linear(7, 3, bias=False), (2, 7)),
    ],
)
def test_the_float_form_is_the_layer_with_its_rounded_weights_and_unrounded_inputs(source, shape):
    layer = int8_form(source, smoothed=getattr(source, "groups", 1) == 1)  # grouped layers are not smoothed
    form = float_form(layer, torch.float32)
    x = torch.randn(shape)
    step = layer.input_step()
    apart = step if x.dim() == 2 else step.view(-1, *[1] * (x.dim() - 2))
    unrounded, weight = x.double() / apart, layer.weight.double()  # what enters if nothing is rounded
    if isinstance(source, nn.Linear):
        sums = unrounded @ weight.T
    else:
        sums = layer.convolve(unrounded, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    channel = (1, -1) + (1,) * (x.dim() - 2)
    exact = sums * layer.output_scale(torch.float64).view(channel)
    exact = exact if layer.bias is None else exact + layer.bias.double().view(channel)
    assert torch.allclose(form(x).double(), exact, rtol=1e-4, atol=1e-5)
    assert form.weight.dtype == torch.float32 and float_form(layer, torch.float16).weight.dtype == torch.float16
