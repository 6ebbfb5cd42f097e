"""The arithmetic `qdq`: convolutions whose outputs are rounded to 8 bits as well.

ONNX Runtime's QLinearConv takes and gives 8-bit tensors, so a convolution that shall run in INT8 there needs an
output scale of its own::

    q_y = clamp(round(y / s_y) + z_y, 0, 255)

with y the float output of the layer (`ptq4dm.numerics`). The bias is added to the int32 sums, so it is a multiple of
s_x * s_w (Jacob et al., CVPR 2018, Eq. 11). ONNX Runtime's matrix products (MatMulIntegerToFloat) give float, so
the outputs of linear layers are not rounded: that would cost accuracy and gain nothing.
"""

import copy
from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor, nn

from ptq4dm.numerics import fake_quantize
from ptq4dm.pipelines.denoiser import TimedCall
from ptq4dm.quantization.layers import FixedTypes, QuantizedConv, QuantizedLayer
from ptq4dm.ranges.observe import observe
from ptq4dm.ranges.range_table import choose_ranges
from ptq4dm.recipe import RangeRecipe

NARROW: Final = 8
"""Channels below which a convolution has too few products for INT8 to gain anything (`conv_in`, `conv_out`)."""


INT32_MAX: Final = 2**31 - 1


class OutputQuantized(FixedTypes):
    """A quantized layer whose output is rounded to 8 bits.

    Buffers: `output_scale` float32 (); `output_zero_point` uint8 (). Child: `layer`, with buffers of its own.
    """

    output_scale: Tensor
    output_zero_point: Tensor

    def __init__(self, layer: QuantizedLayer):
        super().__init__()
        self.layer = layer
        self.register_buffer("output_scale", torch.ones(()))
        self.register_buffer("output_zero_point", torch.zeros((), dtype=torch.uint8))

    def forward(self, input: Tensor) -> Tensor:
        """What the layer takes -> what the layer gives, on 256 levels."""
        y = self.layer(input)
        wide = y.to(torch.promote_types(y.dtype, torch.float32))
        scale, zero_point = self.output_scale.to(wide.dtype), self.output_zero_point.to(wide.dtype)
        return fake_quantize(wide, scale, zero_point).to(y.dtype)


class Watched(nn.Module):
    """A layer with an empty module behind it, whose input is the layer's output: where a hook can see it."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer, self.output = layer, nn.Identity()

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output."""
        return self.output(self.layer(input))


def round_outputs(
    network: nn.Module, calls: Iterable[TimedCall], recipe: RangeRecipe, shown: bool = False
) -> nn.Module:
    """A copy of a quantized network in the arithmetic `qdq`: ranges of outputs chosen over `calls` as those of inputs.

    Beside each call stand its time-steps, or None. A layer that is never called keeps a float output. Raises
    CalibrationError when there are no calls or an output is not finite.
    """
    names = rounded_names(network)
    watched = replaced(network, {name: Watched(network.get_submodule(name)) for name in names})
    statistics = observe(watched, [f"{name}.output" for name in names], calls, shown=shown)
    table = choose_ranges(statistics, recipe, shown=shown)
    rounded = with_rounded_outputs(network, [name for name in names if f"{name}.output" in table.ranges])
    for name, chosen in table.ranges.items():
        layer = rounded.get_submodule(name.removesuffix(".output"))
        assert isinstance(layer, OutputQuantized)
        layer.output_scale.fill_(chosen.scale)
        layer.output_zero_point.fill_(chosen.zero_point)
        layer.layer.bias = integer_bias(layer.layer)
    return rounded


def integer_bias(layer: QuantizedLayer) -> Tensor | None:
    """The bias as the nearest multiple of s_x * s_w; as it is where that is no int32."""
    if layer.bias is None:
        return None
    unit = layer.output_scale(torch.float64)
    integers = torch.round(layer.bias.double() / unit)
    return torch.where(integers.abs() <= INT32_MAX, integers * unit, layer.bias.double()).float()


def with_rounded_outputs(network: nn.Module, names: Iterable[str]) -> nn.Module:
    """A copy of a quantized network with an empty OutputQuantized around each named layer, for loading into."""
    wrapped = {}
    for name in names:
        layer = network.get_submodule(name)
        assert isinstance(layer, QuantizedLayer)
        wrapped[name] = OutputQuantized(copy.deepcopy(layer)).to(layer.weight.device)
    return replaced(network, wrapped)


def rounded_names(network: nn.Module) -> list[str]:
    """The quantized layers whose outputs the arithmetic `qdq` rounds."""
    return [
        name for name, module in network.named_modules() if isinstance(module, QuantizedConv) and worth_int8(module)
    ]


def quantized_names(network: nn.Module) -> list[str]:
    """The names of the quantized layers, with rounded outputs or not, each once."""
    modules = dict(network.named_modules())
    inner = {id(module.layer) for module in modules.values() if isinstance(module, OutputQuantized)}
    kinds = QuantizedLayer | OutputQuantized
    return [name for name, module in modules.items() if isinstance(module, kinds) and id(module) not in inner]


def worth_int8(layer: QuantizedConv) -> bool:
    """Whether a convolution is wide enough for INT8, and pairs its input channels within one kernel tap.

    With an odd number of channels a group, ONNX Runtime's int16 pairs cross taps, so that no weights are safe
    without VNNI. Other convolutions run in float, on the same rounded inputs and weights: the same numbers.
    """
    channels = layer.in_channels // layer.groups
    return channels >= NARROW and channels % 2 == 0 and layer.out_channels // layer.groups >= NARROW


def replaced(network: nn.Module, modules: dict[str, nn.Module]) -> nn.Module:
    """A copy of `network` with other modules under some names (all the names that a shared module has)."""
    substitutes = {id(network.get_submodule(name)): module for name, module in modules.items()}
    return copy.deepcopy(network, dict(substitutes))
