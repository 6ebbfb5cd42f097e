"""Quantized layers: float in, INT8 x INT8 -> int32 inside, float out. Pure torch; they define the arithmetic.

The integers are held as int8 buffers and multiplied in the dtype of the input, in float32 for half precision. float32
holds every integer up to 2**24 exactly and float64 every sum that an int32 can hold, so a layer run in float64 is the
exact reference.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ptq4dm.errors import ModelError
from ptq4dm.numerics import quantize

if TYPE_CHECKING:
    from ptq4dm.quantization.time_bands import TimeBands

CONVOLUTIONS: Final = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}
TRANSPOSED: Final = {
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}
QUANTIZABLE: Final = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
"""The float layers that have an INT8 form."""


class FixedTypes(nn.Module):
    """A module whose tensors keep their types whatever type the network is cast to; they do move to other devices.

    `pipeline.to(torch.float16)` would otherwise round the scales, and nothing would tell.
    """

    keeps_types = True
    """Read where this class is not known: its tensors say nothing of the type that a network computes in."""

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
    float32 (out,) or None; `smoothing` float32 (in,) or None, by which the input is divided and the weights were
    multiplied. `weight_scale` float32 (out,) is a parameter without gradient: some networks ask their first
    parameter for the type to compute in.

    With `bands`, those of its network, scale and zero point are tables (K,), one entry a band of time-steps
    (`quantization.time_bands`); `input_step`, `output_scale` and `zero_point` give those of the call in progress, for
    a call with one t a sample in a shape that broadcasts against the input `x`.
    """

    weight: Tensor
    weight_scale: Tensor
    input_scale: Tensor
    input_zero_point: Tensor
    bias: Tensor | None
    smoothing: Tensor | None
    bands: "TimeBands | None"

    def __init__(self, weight_shape: tuple[int, ...], bias: bool):
        super().__init__()
        out = weight_shape[0]
        self.register_buffer("weight", torch.zeros(weight_shape, dtype=torch.int8))
        self.weight_scale = nn.Parameter(torch.ones(out, dtype=torch.float32), requires_grad=False)
        self.register_buffer("input_scale", torch.ones((), dtype=torch.float32))
        self.register_buffer("input_zero_point", torch.zeros((), dtype=torch.uint8))
        self.register_buffer("bias", torch.zeros(out, dtype=torch.float32) if bias else None)
        self.register_buffer("smoothing", None)
        self.bands = None

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output, in the dtype of its input, which has the name that PyTorch's own layers give it."""
        return self.compute(input.to(torch.promote_types(input.dtype, torch.float32))).to(input.dtype)

    @abstractmethod
    def compute(self, x: Tensor) -> Tensor:
        """The layer in the dtype of `x`, which holds its integers."""

    def centred_input(self, x: Tensor) -> Tensor:
        """q_x - z_x: the integers that enter the products, in the dtype of `x`."""
        zero_point = self.zero_point(x).to(x.dtype)
        return quantize(x, self.input_step(x).to(x.dtype), zero_point) - zero_point

    def zero_point(self, x: Tensor | None = None) -> Tensor:
        """z_x."""
        return self.input_zero_point if self.bands is None else self.bands.pick(self.input_zero_point, x)

    def scale(self, x: Tensor | None = None) -> Tensor:
        """s_x."""
        return self.input_scale if self.bands is None else self.bands.pick(self.input_scale, x)

    def input_step(self, x: Tensor | None = None) -> Tensor:
        """What one integer of the input stands for: s_x, or s_x times the smoothing of each channel, rounded to float32
        once, in a shape that broadcasts against the input."""
        if self.smoothing is None:
            return self.scale(x)
        return self.scale(x).float() * self.per_channel(self.smoothing.float())

    def output_scale(self, dtype: torch.dtype, x: Tensor | None = None) -> Tensor:
        """s_x * s_w per output channel, rounded to float32 once (so that every backend multiplies by the same); (out,),
        or with an input in a shape that broadcasts against the output."""
        weight_scale = self.weight_scale.float()
        return (self.scale(x).float() * (weight_scale if x is None else self.per_channel(weight_scale))).to(dtype)

    def per_channel(self, values: Tensor) -> Tensor:
        """A value a channel in the shape that broadcasts against the layer's input or output."""
        return values.view(-1, *[1] * (self.weight.dim() - 2))


class SpatialLayer(QuantizedLayer):
    """What convolutions and transposed convolutions (1d, 2d, 3d; any stride, padding, dilation, groups) have in common:
    (batch, in, *spatial) float -> (batch, out, *spatial) float."""

    def __init__(self, source: _ConvNd):
        super().__init__(tuple(weight_of(source).shape), source.bias is not None)
        self.in_channels, self.out_channels = source.in_channels, source.out_channels
        self.kernel_size: tuple[int, ...] = source.kernel_size
        self.stride: tuple[int, ...] = source.stride
        self.padding, self.dilation = padding_of(source), source.dilation
        self.groups, self.padding_mode = source.groups, source.padding_mode

    @abstractmethod
    def sums(self, centred: Tensor) -> Tensor:
        """The sums of products of integers, (batch, out, *spatial)."""

    def compute(self, x: Tensor) -> Tensor:
        """The sums on the scale of the output, and the bias."""
        y = self.sums(self.centred_input(x)) * self.output_scale(x.dtype, x)
        return y if self.bias is None else y + self.per_channel(self.bias.to(x.dtype))


class QuantizedConv(SpatialLayer):
    """A convolution in INT8."""

    def __init__(self, source: nn.Conv1d | nn.Conv2d | nn.Conv3d):
        super().__init__(source)
        self.convolve = next(CONVOLUTIONS[kind] for kind in CONVOLUTIONS if isinstance(source, kind))

    def sums(self, centred: Tensor) -> Tensor:
        """Sums over the window of each output."""
        weight = self.weight.to(centred.dtype)
        return self.convolve(centred, weight, None, self.stride, self.padding, self.dilation, self.groups)


class QuantizedTransposedConv(SpatialLayer):
    """A transposed convolution in INT8. Its weights lie (out, in / groups, *kernel) as those of all other layers."""

    def __init__(self, source: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        super().__init__(source)
        self.convolve = next(TRANSPOSED[kind] for kind in TRANSPOSED if isinstance(source, kind))
        self.output_padding: tuple[int, ...] = source.output_padding

    def forward(self, input: Tensor, output_size: object = None) -> Tensor:
        """The output, in the dtype of the input. Raises ModelError for an output size that is set at each call."""
        if output_size is not None:
            raise ModelError(
                f"a quantized transposed convolution was called with output_size={output_size}: its size is fixed by "
                "output_padding; keep this layer in float (keep_float)"
            )
        return super().forward(input)

    def sums(self, centred: Tensor) -> Tensor:
        """Every input spread over the window of its outputs."""
        weight = in_first(self.weight.to(centred.dtype), self.groups)
        assert not isinstance(self.padding, str)  # torch has none for these layers
        return self.convolve(
            centred, weight, None, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a float layer as (out, in / groups, *kernel), in which torch keeps all but the transposed."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return out_first(weight, layer.groups) if isinstance(layer, _ConvNd) and layer.transposed else weight


def phases_of(layer: nn.Module) -> int:
    """How many sets of taps the outputs of a float layer are reached by: of a transposed convolution the product of
    its strides, else 1."""
    return math.prod(layer.stride) if isinstance(layer, _ConvNd) and layer.transposed else 1


def out_first(weight: Tensor, groups: int) -> Tensor:
    """(in, out / groups, *kernel), as torch keeps that of a transposed convolution, as (out, in / groups, *kernel)."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


def in_first(weight: Tensor, groups: int) -> Tensor:
    """(out, in / groups, *kernel) as (in, out / groups, *kernel): `out_first` undone, which is the same exchange."""
    return out_first(weight, groups)


def padding_of(source: _ConvNd) -> tuple[int, ...] | str:
    """The padding in numbers; "same" where it is one more on one side, which numbers cannot say."""
    if source.padding == "valid":
        return (0,) * len(source.kernel_size)
    if not isinstance(source.padding, str):
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
        y = F.linear(self.centred_input(x), self.weight.to(x.dtype)) * self.output_scale(x.dtype, x)
        return y if self.bias is None else y + self.bias.to(x.dtype)


def quantized_form(source: nn.Module) -> QuantizedLayer:
    """The quantized form of a float layer of one of the QUANTIZABLE classes, empty: to be filled."""
    if isinstance(source, nn.Linear):
        return QuantizedLinear(source)
    if isinstance(source, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return QuantizedTransposedConv(source)
    assert isinstance(source, nn.Conv1d | nn.Conv2d | nn.Conv3d)  # QUANTIZABLE has no others
    return QuantizedConv(source)
