"""Quantized layers: float in, INT8 x INT8 -> int32 inside, float out. Pure torch; they define the arithmetic.

The integers are held as int8 buffers and multiplied in the dtype of the input, in float32 for half precision. float32
holds every integer up to 2**24 exactly and float64 every sum that an int32 can hold, so a layer run in float64 is the
exact reference.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptq4dm.numerics import quantize

CONVOLUTIONS: Final = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}


class FixedTypes(nn.Module):
    """A module whose tensors keep their types whatever type the network is cast to; they do move to other devices.

    `pipeline.to(torch.float16)` would otherwise round the scales, and nothing would tell.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: tensor.detach() for name, tensor in self.own_tensors().items()}
        super()._apply(fn, recurse)
        for name, tensor in self.own_tensors().items():
            if tensor.dtype != before[name].dtype:
                kept = before[name].to(tensor.device)
                setattr(self, name, nn.Parameter(kept, requires_grad=False) if name in self._parameters else kept)
        return self

    def own_tensors(self) -> dict[str, Tensor]:
        """Buffers and parameters by name, not those of children."""
        return {name: item for name, item in (*self._buffers.items(), *self._parameters.items()) if item is not None}


class QuantizedLayer(FixedTypes, ABC):
    """What every quantized layer holds.

    Buffers: `weight` int8 (out, in / groups, *kernel); `input_scale` float32 (); `input_zero_point` uint8 (); `bias`
    float32 (out,) or None. `weight_scale` float32 (out,) is a parameter without gradient: some networks ask their first
    parameter for the type to compute in.
    """

    weight: Tensor
    weight_scale: Tensor
    input_scale: Tensor
    input_zero_point: Tensor
    bias: Tensor | None

    def __init__(self, weight_shape: tuple[int, ...], bias: bool):
        super().__init__()
        out = weight_shape[0]
        self.register_buffer("weight", torch.zeros(weight_shape, dtype=torch.int8))
        self.weight_scale = nn.Parameter(torch.ones(out, dtype=torch.float32), requires_grad=False)
        self.register_buffer("input_scale", torch.ones((), dtype=torch.float32))
        self.register_buffer("input_zero_point", torch.zeros((), dtype=torch.uint8))
        self.register_buffer("bias", torch.zeros(out, dtype=torch.float32) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, in the dtype of `x`."""
        return self.compute(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)

    @abstractmethod
    def compute(self, x: Tensor) -> Tensor:
        """The layer in the dtype of `x`, which holds its integers."""

    def centred_input(self, x: Tensor) -> Tensor:
        """q_x - z_x: the integers that enter the products, in the dtype of `x`."""
        zero_point = self.input_zero_point.to(x.dtype)
        return quantize(x, self.input_scale.to(x.dtype), zero_point) - zero_point

    def output_scale(self, dtype: torch.dtype) -> Tensor:
        """s_x * s_w per output channel, rounded to float32 once (so that every backend multiplies by the same)."""
        return (self.input_scale.float() * self.weight_scale.float()).to(dtype)


class QuantizedConv(QuantizedLayer):
    """A 1d, 2d or 3d convolution (any stride, padding, dilation, groups) in INT8."""

    def __init__(self, source: nn.Conv1d | nn.Conv2d | nn.Conv3d):
        super().__init__(tuple(source.weight.shape), source.bias is not None)
        self.convolve = next(CONVOLUTIONS[kind] for kind in CONVOLUTIONS if isinstance(source, kind))
        self.in_channels, self.out_channels = source.in_channels, source.out_channels
        self.kernel_size = source.kernel_size
        self.stride: tuple[int, ...] = source.stride
        self.padding, self.dilation = padding_of(source), source.dilation
        self.groups, self.padding_mode = source.groups, source.padding_mode

    def compute(self, x: Tensor) -> Tensor:
        """(batch, in, *spatial) float -> (batch, out, *spatial) float."""
        weight = self.weight.to(x.dtype)
        sums = self.convolve(self.centred_input(x), weight, None, self.stride, self.padding, self.dilation, self.groups)
        channel = (-1,) + (1,) * (weight.dim() - 2)
        y = sums * self.output_scale(x.dtype).view(channel)
        return y if self.bias is None else y + self.bias.to(x.dtype).view(channel)


def padding_of(source: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[int, ...] | str:
    """The padding in numbers; "same" where it is one more on one side, which numbers cannot say."""
    if source.padding == "valid":
        return (0,) * len(source.kernel_size)
    if source.padding != "same":
        return source.padding
    total = [step * (taps - 1) for step, taps in zip(source.dilation, source.kernel_size, strict=True)]
    return "same" if any(both % 2 for both in total) else tuple(both // 2 for both in total)


class QuantizedLinear(QuantizedLayer):
    """A fully connected layer in INT8."""

    def __init__(self, source: nn.Linear):
        super().__init__(tuple(source.weight.shape), source.bias is not None)
        self.in_features, self.out_features = source.in_features, source.out_features

    def compute(self, x: Tensor) -> Tensor:
        """(..., in) float -> (..., out) float."""
        y = F.linear(self.centred_input(x), self.weight.to(x.dtype)) * self.output_scale(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype)
