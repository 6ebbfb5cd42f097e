"""Quantized layers as ONNX says them: QuantizeLinear, DequantizeLinear, and the float operation between.

Each class runs in torch with the float meaning of its ONNX nodes (so that tracing sees true shapes) and has a
`symbolic` with which torch's exporter writes the nodes. Reference: ONNX operators, QuantizeLinear-13,
DequantizeLinear-13 (https://onnx.ai/onnx/operators/).
"""

from typing import Any

import torch
from torch import Tensor, nn

from ptq4dm.errors import BackendError
from ptq4dm.numerics import fake_quantize
from ptq4dm.quantization.layers import (
    QuantizedConv,
    QuantizedLayer,
    QuantizedLinear,
    QuantizedTransposedConv,
    in_first,
)
from ptq4dm.quantization.layers_qdq import OutputQuantized, quantized_names, replaced


class QuantizeDequantize(torch.autograd.Function):
    """x on the 256 levels of an unsigned 8-bit tensor: QuantizeLinear, DequantizeLinear."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """(any shape) -> the same shape."""
        return fake_quantize(x, scale, zero_point.to(x.dtype))

    @staticmethod
    def symbolic(g: Any, x: Any, scale: Any, zero_point: Any) -> Any:
        """The two nodes; float to float, so the type of `x` holds."""
        integers = g.op("QuantizeLinear", x, scale, zero_point)
        return g.op("DequantizeLinear", integers, scale, zero_point).setType(x.type())


class DequantizeWeight(torch.autograd.Function):
    """INT8 weights as the floats that they stand for, one scale a channel of `axis`: DequantizeLinear."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
        """int8 -> float32, the same shape."""
        shape = [-1 if index == axis else 1 for index in range(weight.dim())]
        return weight.float() * scale.view(shape)

    @staticmethod
    def symbolic(g: Any, weight: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        """The node, of float type."""
        sizes = weight.type().sizes()
        node = g.op("DequantizeLinear", weight, scale, zero_point, axis_i=axis)
        return node.setType(scale.type().with_sizes(sizes))


class QdqLayer(nn.Module):
    """What the ONNX forms of quantized layers hold: the layer's tensors, under the layer's own names."""

    weight: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor
    input_scale: Tensor
    input_zero_point: Tensor
    bias: Tensor | None
    smoothing: Tensor | None

    def __init__(self, source: QuantizedLayer, weight: Tensor):
        super().__init__()
        scale = source.weight_scale.detach().clone()
        self.register_buffer("weight_zero_point", torch.zeros(scale.shape, dtype=torch.int8))
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("weight_scale", scale)
        self.register_buffer("input_scale", source.input_scale.detach().clone())
        self.register_buffer("input_zero_point", source.input_zero_point.detach().clone())
        self.register_buffer("bias", None if source.bias is None else source.bias.detach().clone())
        smoothing = source.smoothing
        ones = (1,) * (source.weight.dim() - 2)
        self.register_buffer("smoothing", None if smoothing is None else smoothing.detach().clone().view(-1, *ones))

    def rounded_input(self, x: Tensor) -> Tensor:
        """x as the layer sees it: of a smoothed layer a Div stands in front."""
        x = x if self.smoothing is None else x / self.smoothing
        return QuantizeDequantize.apply(x, self.input_scale, self.input_zero_point)

    def float_weight(self, axis: int) -> Tensor:
        """The weights as floats."""
        return DequantizeWeight.apply(self.weight, self.weight_scale, self.weight_zero_point, axis)


class QdqConv(QdqLayer):
    """QuantizedConv: Q, DQ on its input, DQ on its weights (axis 0), Conv with a float bias."""

    def __init__(self, source: QuantizedConv):
        super().__init__(source, source.weight)
        self.convolve = source.convolve
        self.stride, self.padding, self.dilation = source.stride, source.padding, source.dilation
        self.groups = source.groups

    def forward(self, input: Tensor) -> Tensor:
        """(batch, in, *spatial) -> (batch, out, *spatial)."""
        x, weight = self.rounded_input(input), self.float_weight(0)
        return self.convolve(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class QdqTransposedConv(QdqLayer):
    """QuantizedTransposedConv: Q, DQ on its input, DQ on its weights (axis 0), their axes exchanged, ConvTranspose."""

    def __init__(self, source: QuantizedTransposedConv):
        super().__init__(source, source.weight)
        self.convolve = source.convolve
        self.stride, self.padding, self.dilation = source.stride, source.padding, source.dilation
        self.output_padding, self.groups = source.output_padding, source.groups

    def forward(self, input: Tensor) -> Tensor:
        """(batch, in, *spatial) -> (batch, out, *spatial)."""
        x, weight = self.rounded_input(input), in_first(self.float_weight(0), self.groups)
        assert not isinstance(self.padding, str)  # torch has none for these layers
        return self.convolve(
            x, weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


class QdqLinear(QdqLayer):
    """QuantizedLinear: Q, DQ on its input, DQ on its weights stored (in, out) (axis 1), MatMul, Add of a float bias."""

    def __init__(self, source: QuantizedLinear):
        super().__init__(source, source.weight.t().contiguous())

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        y = torch.matmul(self.rounded_input(input), self.float_weight(1))
        return y if self.bias is None else y + self.bias


class QdqOutput(nn.Module):
    """OutputQuantized: the layer, then Q, DQ on its output."""

    output_scale: Tensor
    output_zero_point: Tensor

    def __init__(self, source: OutputQuantized):
        super().__init__()
        self.layer = qdq_form(source.layer)
        self.register_buffer("output_scale", source.output_scale.detach().clone())
        self.register_buffer("output_zero_point", source.output_zero_point.detach().clone())

    def forward(self, input: Tensor) -> Tensor:
        """What the layer gives, on 256 levels."""
        return QuantizeDequantize.apply(self.layer(input), self.output_scale, self.output_zero_point)


def qdq_form(layer: nn.Module) -> nn.Module:
    """The ONNX form of a quantized layer. Raises BackendError for one that has none."""
    if isinstance(layer, OutputQuantized):
        return QdqOutput(layer)
    if isinstance(layer, QuantizedConv):
        return QdqConv(layer)
    if isinstance(layer, QuantizedTransposedConv):
        return QdqTransposedConv(layer)
    if isinstance(layer, QuantizedLinear):
        return QdqLinear(layer)
    raise BackendError(
        f"a quantized layer of type {type(layer).__name__} has no ONNX form: use the backend 'simulated'"
    )


def with_qdq_layers(network: nn.Module) -> nn.Module:
    """A copy of a quantized network with the ONNX form of every quantized layer in place."""
    return replaced(network, {name: qdq_form(network.get_submodule(name)) for name in quantized_names(network)})
