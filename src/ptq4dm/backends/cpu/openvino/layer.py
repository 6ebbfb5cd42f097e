"""One quantized layer as OpenVINO nodes that its CPU plugin runs in INT8, exactly.

The plugin runs a convolution in INT8 when a FakeQuantize of 256 levels feeds it and its weights are INT8 constants
under a Convert and a Multiply. It then computes the output scale from the ranges and the weight scale in float32, and
can miss s_x * s_w by some units in the last place. So the FakeQuantize here puts out the integers q_x - z_x themselves
(input scale 1), and the weights carry the whole output scale s_x * s_w::

    y = conv(FakeQuantize(x) -> q_x - z_x, q_w * (s_x * s_w)) + bias
"""

from typing import TYPE_CHECKING

import numpy as np
import torch

from ptq4dm.numerics import ACTIVATION_MAX
from ptq4dm.quantization.layers import QuantizedConv, QuantizedLayer, QuantizedLinear

if TYPE_CHECKING:
    import openvino as ov

LEVELS = ACTIVATION_MAX + 1


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
    multiplied = convolution(layer, x) if isinstance(layer, QuantizedConv) else matmul(layer, x, channels_first)
    multiplied.set_friendly_name(name)
    if layer.bias is None:
        return multiplied.output(0)
    from openvino import opset13 as ops

    on_axis_1 = isinstance(layer, QuantizedConv) or channels_first
    shape = (1, -1) + (1,) * (multiplied.get_output_partial_shape(0).rank.get_length() - 2) if on_axis_1 else (-1,)
    return ops.add(multiplied, ops.constant(layer.bias.float().numpy().reshape(shape))).output(0)


def convolution(layer: QuantizedConv, x: "ov.Output") -> "ov.Node":
    """The layer's INT8 convolution, without bias. Grouped weights are (groups, out / groups, in / groups, *kernel)."""
    from openvino import opset13 as ops

    padding = list(layer.padding)
    geometry = (list(layer.stride), padding, padding, list(layer.dilation))
    if layer.groups == 1:
        return ops.convolution(quantized_input(layer, x), scaled_weight(layer, tuple(layer.weight.shape)), *geometry)
    out, per_group, *kernel = layer.weight.shape
    shape = (layer.groups, out // layer.groups, per_group, *kernel)
    return ops.group_convolution(quantized_input(layer, x), scaled_weight(layer, shape), *geometry)


def matmul(layer: QuantizedLayer, x: "ov.Output", channels_first: bool) -> "ov.Node":
    """A linear layer without bias: on the last axis, or on the second as a 1x1 convolution."""
    from openvino import opset13 as ops

    assert isinstance(layer, QuantizedLinear)
    if not channels_first:
        return ops.matmul(quantized_input(layer, x), scaled_weight(layer, tuple(layer.weight.shape)), False, True)
    kernel = scaled_weight(layer, (*layer.weight.shape, 1, 1))
    return ops.convolution(quantized_input(layer, x), kernel, [1, 1], [0, 0], [0, 0], [1, 1])


def quantized_input(layer: QuantizedLayer, x: "ov.Output") -> "ov.Node":
    """FakeQuantize from [-z s, (255 - z) s] to the integers [-z, 255 - z]."""
    from openvino import opset13 as ops

    zero_point, scale = int(layer.input_zero_point), float(layer.input_scale)
    integers = (-zero_point, ACTIVATION_MAX - zero_point)
    bounds = [np.float32(integer * scale) for integer in integers] + [np.float32(integer) for integer in integers]
    return ops.fake_quantize(x, *(ops.constant(bound) for bound in bounds), LEVELS)


def scaled_weight(layer: QuantizedLayer, shape: tuple[int, ...]) -> "ov.Node":
    """INT8 constant of `shape` -> float -> times s_x * s_w per output channel."""
    from openvino import opset13 as ops

    grouped = isinstance(layer, QuantizedConv) and layer.groups > 1
    leading = shape[:2] if grouped else shape[:1]
    scale = layer.output_scale(torch.float32).numpy().reshape(leading + (1,) * (len(shape) - len(leading)))
    return ops.multiply(ops.convert(ops.constant(layer.weight.numpy().reshape(shape)), np.float32), ops.constant(scale))
