"""One quantized layer as OpenVINO nodes that its CPU plugin runs in INT8, exactly.

The plugin runs a convolution in INT8 when a FakeQuantize of 256 levels feeds it and its weights are INT8 constants
under a Convert and a Multiply. It then computes the output scale from the ranges and the weight scale in float32, and
can miss s_x * s_w by some units in the last place. So the FakeQuantize here puts out the integers q_x - z_x themselves
(input scale 1), and the weights carry the whole output scale s_x * s_w::

    y = conv(FakeQuantize(round(x / s_x)) -> q_x - z_x, q_w * (s_x * s_w)) + bias
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ptq4dm.backends.cpu.openvino.transposed import interleaved, phase_kernels, phase_padding
from ptq4dm.numerics import ACTIVATION_MAX
from ptq4dm.quantization.layers import (
    QuantizedConv,
    QuantizedLayer,
    QuantizedLinear,
    QuantizedTransposedConv,
    SpatialLayer,
)

if TYPE_CHECKING:
    import openvino as ov

LEVELS = ACTIVATION_MAX + 1
TRUE_DIVISION = "nonconvertable_divide_0"
"""OpenVINO's own mark on a division that is not to become a multiplication by the reciprocal (nor part of the
convolution in front of it). A test shows that it is heeded."""


def can_express(layer: QuantizedLayer) -> str | None:
    """Why OpenVINO cannot run this layer in INT8; None if it can."""
    if not isinstance(layer, QuantizedConv):
        return None
    if layer.padding_mode != "zeros":
        return f"padding mode {layer.padding_mode!r}: OpenVINO's INT8 convolution pads with zeros"
    if isinstance(layer.padding, str):
        return f"padding {layer.padding!r}: give it as numbers"
    return None


def layer_nodes(layer: QuantizedLayer, name: str, x: "ov.Output", channels_first: bool = False) -> "ov.Output":
    """Append `layer` to the graph behind `x` and return its output. The multiplying node is called `name`.

    channels_first: run a QuantizedLinear as a 1x1 convolution on (batch, in, height, width).
    """
    multiplied = convolution(layer, x) if isinstance(layer, SpatialLayer) else matmul(layer, x, channels_first)
    multiplied.set_friendly_name(name)
    product = interleaved(layer, multiplied) if isinstance(layer, QuantizedTransposedConv) else multiplied
    if layer.bias is None:
        return product.output(0)
    from openvino import opset13 as ops

    on_axis_1 = isinstance(layer, SpatialLayer) or channels_first
    shape = (1, -1) + (1,) * (product.get_output_partial_shape(0).rank.get_length() - 2) if on_axis_1 else (-1,)
    return ops.add(product, ops.constant(layer.bias.float().numpy().reshape(shape))).output(0)


def convolution(layer: SpatialLayer, x: "ov.Output") -> "ov.Node":
    """The layer's INT8 convolution, without bias. Grouped weights are (groups, out / groups, in / groups, *kernel)."""
    from openvino import opset13 as ops

    if isinstance(layer, QuantizedTransposedConv):
        integers, ones = phase_kernels(layer), [1] * len(layer.stride)
        geometry = (ones, *phase_padding(layer), ones)
    else:
        integers, padding = layer.weight, list(layer.padding)
        geometry = (list(layer.stride), padding, padding, list(layer.dilation))
    if layer.groups == 1:
        return ops.convolution(quantized_input(layer, x), scaled_weight(layer, integers), *geometry)
    grouped = integers.unflatten(0, (layer.groups, -1))
    return ops.group_convolution(quantized_input(layer, x), scaled_weight(layer, grouped, 2), *geometry)


def matmul(layer: QuantizedLayer, x: "ov.Output", channels_first: bool) -> "ov.Node":
    """A linear layer without bias: on the last axis, or on the second as a 1x1 convolution."""
    from openvino import opset13 as ops

    assert isinstance(layer, QuantizedLinear)
    if not channels_first:
        return ops.matmul(quantized_input(layer, x, channels_first), scaled_weight(layer, layer.weight), False, True)
    kernel = scaled_weight(layer, layer.weight[:, :, None, None])
    return ops.convolution(quantized_input(layer, x, channels_first), kernel, [1, 1], [0, 0], [0, 0], [1, 1])


def quantized_input(layer: QuantizedLayer, x: "ov.Output", channels_first: bool = False) -> "ov.Node":
    """round(x / s) in nodes of its own, then a FakeQuantize of step 1 on the integers [-z, 255 - z].

    s is one number or, of a smoothed layer, one for each channel.
    A FakeQuantize of step s computes round(x * (1 / s) + z), and adding z first rounds away the last bits of all
    numbers smaller than z: several times as many integers flip as between float32 and float64. Here the quotient is
    the definition's own and the addition is exact.
    """
    from openvino import opset13 as ops

    zero_point = int(layer.zero_point())
    step = layer.input_step().float()
    step = step.reshape(-1, 1, 1) if channels_first and step.dim() else step
    quotient = ops.divide(x, ops.constant(step.numpy()))
    quotient.get_rt_info()[TRUE_DIVISION] = True
    rounded = ops.round(quotient, "half_to_even")
    low, high = (ops.constant(np.float32(integer)) for integer in (-zero_point, ACTIVATION_MAX - zero_point))
    return ops.fake_quantize(rounded, low, high, low, high, LEVELS)


def scaled_weight(layer: QuantizedLayer, integers: Tensor, leading: int = 1) -> "ov.Node":
    """INT8 constant -> float -> times s_x * s_w per output channel, which the `leading` axes count; a transposed
    convolution has several of them, side by side, for one of the layer's."""
    from openvino import opset13 as ops

    channels = integers.shape[:leading]
    scale = layer.output_scale(torch.float32).repeat_interleave(math.prod(channels) // len(layer.weight_scale))
    scale = scale.numpy().reshape(*channels, *[1] * (integers.dim() - leading))
    return ops.multiply(ops.convert(ops.constant(integers.numpy()), np.float32), ops.constant(scale))
