"""Quantized layers on the kernels: INT8 weights only, float in and float out as any layer of torch.

A layer can also be run in its two parts, so that a network's block puts a normalisation in front and an addition
behind: `integers` (or a normalisation that gives integers), then `product`. Both parts take and give channels last.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn

from ptq4dm.backends.triton_gpu import operators
from ptq4dm.backends.triton_gpu.geometry import Geometry
from ptq4dm.backends.triton_gpu.kernels.rounding import SHIFT
from ptq4dm.backends.triton_gpu.packing import LARGEST_DEPTH, packed, tap_sums
from ptq4dm.errors import BackendError
from ptq4dm.quantization.layers import FixedTypes, QuantizedConv, QuantizedLayer, QuantizedLinear
from ptq4dm.quantization.time_bands import TimeBands


class TypeOfNetwork(nn.Module):
    """Cast with the network around it: it knows in which type its floats are where only integers come by."""

    numbers: Tensor

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.register_buffer("numbers", torch.empty(0, dtype=dtype), persistent=False)


class TritonLayer(FixedTypes, ABC):
    """What the layers below hold.

    Buffers: `weight` int8, as the kernels read it; `weight_sums` int32 (`packing.tap_sums`); `step` float32, what an
    integer of the input stands for, one number or (in,); `input_scale` float32 (); `zero_point` int8 (), less 128;
    `bias` float32 (out,) or None. `weight_scale` float32 (out,) is a parameter, as in `QuantizedLayer`.

    With `bands`, those of its network, `step` (bands,) or (bands, in), `input_scale` and `zero_point` (bands,) are
    tables, in which the kernels find the entry of the call in progress.
    """

    weight: Tensor
    weight_sums: Tensor
    weight_scale: Tensor
    step: Tensor
    input_scale: Tensor
    zero_point: Tensor
    bias: Tensor | None
    bands: TimeBands | None
    in_front: tuple[TypeOfNetwork, ...] = ()
    """The type of what rounds this layer's input, where something does (`rounded_norms`, `rounded_gates`). In a tuple:
    it is no child of this."""

    def __init__(self, source: QuantizedLayer, weight: Tensor, weight_sums: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("weight_sums", weight_sums)
        self.weight_scale = nn.Parameter(source.weight_scale.detach().float().clone(), requires_grad=False)
        self.register_buffer("step", step_of(source))
        self.register_buffer("input_scale", source.input_scale.float().clone())
        self.register_buffer("zero_point", (source.input_zero_point.int() - SHIFT).to(torch.int8))
        self.register_buffer("bias", None if source.bias is None else source.bias.detach().float().clone())
        self.smoothed, self.bands = source.smoothing is not None, source.bands

    @abstractmethod
    def forward(self, input: Tensor) -> Tensor:
        """The layer's output, in the dtype of its input."""

    @abstractmethod
    def product(
        self, q: Tensor, dtype: torch.dtype, embedding: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """Integers (samples, *spatial, in) -> (samples, *out, out).

        embedding: (samples, out), added to every place of a sample. residual: of the shape of the output.
        """

    @property
    def product_kind(self) -> tuple[int, int, int]:
        """(columns, channels, taps) of the product, by which tiles are kept (`launching.MEASURED`)."""
        return self.weight.shape[0], self.weight.shape[-1], self.weight.shape[1] if self.weight.dim() == 3 else 1

    def integers(self, x: Tensor) -> Tensor:
        """(samples, *spatial, in) float -> int8; integers are taken as they are."""
        return x if x.dtype == torch.int8 else operators.quantize(x, self.step, self.zero_point, band_on(self.bands, x))

    def out_type(self, input: Tensor) -> torch.dtype:
        """The type of the input, or that of what rounded it. Raises BackendError for other bytes."""
        if input.dtype != torch.int8:
            return input.dtype
        if not self.in_front:
            raise BackendError("a layer of the triton backend was called with int8: it takes floats, and rounds them")
        return self.in_front[0].numbers.dtype

    def times(self, q: Tensor, dtype: torch.dtype, embedding: Tensor | None, residual: Tensor | None) -> Tensor:
        """The product as a linear layer on the last axis."""
        return operators.linear(
            q,
            self.weight,
            self.weight_sums,
            self.input_scale,
            self.zero_point,
            self.weight_scale,
            dtype,
            self.bias,
            embedding,
            residual,
            None,
            None,
            band_on(self.bands, q),
        )


class TritonLinear(TritonLayer):
    """A linear layer: (..., in) -> (..., out)."""

    def __init__(self, source: QuantizedLinear):
        super().__init__(source, source.weight.clone(), source.weight.sum(1).int())
        self.in_features, self.out_features = source.in_features, source.out_features

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output, in the dtype of its input."""
        return self.product(self.integers(input), self.out_type(input))

    def product(
        self, q: Tensor, dtype: torch.dtype, embedding: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """Integers (..., in) -> (..., out)."""
        return self.times(q, dtype, embedding, residual)


class TritonConv(TritonLayer):
    """A convolution of one, two or three axes, without groups: (batch, in, *spatial) -> (batch, out, *spatial)."""

    def __init__(self, source: QuantizedConv):
        assert not isinstance(source.padding, str)  # `why_not` has looked
        taps, stride, padding, dilation = (
            three(numbers, missing)
            for numbers, missing in (
                (source.weight.shape[2:], 1),
                (source.stride, 1),
                (source.padding, 0),
                (source.dilation, 1),
            )
        )
        geometry, weight = Geometry(taps, stride, padding, dilation), packed(source.weight)
        sums = tap_sums(weight, taps, geometry.most)
        pointwise = geometry.pointwise
        super().__init__(source, weight.flatten(1) if pointwise else weight, sums[0] if pointwise else sums)
        self.geometry, self.axes, self.pointwise = geometry, source.weight.dim() - 2, pointwise
        self.in_channels, self.out_channels = source.in_channels, source.out_channels

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output, in the dtype of its input, channels last in memory; one sample may lack its axis."""
        if input.dim() == self.axes + 1:
            return self.forward(input[None])[0]
        if input.dim() != self.axes + 2:
            raise BackendError(f"a convolution of {self.axes} axes was called with {tuple(input.shape)}")
        return channels_second(self.product(self.integers(channels_last(input)), self.out_type(input)))

    def product(
        self,
        q: Tensor,
        dtype: torch.dtype,
        embedding: Tensor | None = None,
        residual: Tensor | None = None,
        upsample: int = 1,
    ) -> Tensor:
        """As `TritonLayer.product`; upsample: how often each place of the input is repeated along height and width."""
        if self.pointwise and upsample == 1:
            return self.times(q, dtype, embedding, residual)
        y = operators.convolution(
            in_three_axes(q, self.axes),
            self.weight[:, None] if self.pointwise else self.weight,
            self.weight_sums[None] if self.pointwise else self.weight_sums,
            self.input_scale,
            self.zero_point,
            self.weight_scale,
            replace(self.geometry, upsample=upsample).numbers(),
            dtype,
            self.bias,
            embedding,
            None if residual is None else in_three_axes(residual, self.axes),
            None,
            None,
            band_on(self.bands, q),
        )
        return y.reshape(y.shape[0], *y.shape[4 - self.axes :])


def in_three_axes(x: Tensor, axes: int) -> Tensor:
    """(batch, *spatial, channels) of so many axes as (batch, depth, height, width, channels)."""
    return x.reshape(x.shape[0], *(1,) * (3 - axes), *x.shape[1:])


def padded_behind(conv: TritonConv, amount: int) -> TritonConv:
    """The same layer with so many more zeros behind height and width: another table of what its windows meet."""
    geometry = replace(conv.geometry, behind=(0, amount, amount))
    padded = copy.copy(conv)
    padded._buffers = {**conv._buffers, "weight_sums": tap_sums(conv.weight, geometry.taps, geometry.most)}
    padded.geometry = geometry
    return padded


def channels_last(x: Tensor) -> Tensor:
    """(batch, channels, *spatial) as (batch, *spatial, channels), a view."""
    return x.movedim(1, -1)


def channels_second(x: Tensor) -> Tensor:
    """`channels_last` undone."""
    return x.movedim(-1, 1)


def tokens(x: Tensor) -> Tensor:
    """(batch, channels, height, width) as (batch, places, channels), which stays as it is."""
    return x.flatten(2).transpose(1, 2) if x.dim() == 4 else x


def plus(layer: nn.Module, x: Tensor, residual: Tensor | None) -> Tensor:
    """layer(x) + residual, (batch, places, channels) each or, of the residual, as a picture; in one kernel in INT8."""
    residual = None if residual is None else tokens(residual)
    if not isinstance(layer, TritonLayer):
        return layer(x) if residual is None else layer(x) + residual
    q, dtype, shape = layer.integers(x), layer.out_type(x), (*x.shape[:-1], layer.weight.shape[0])
    if residual is None or (residual.dtype == dtype and residual.shape == shape):
        return layer.product(q, dtype, residual=residual)
    return layer.product(q, dtype) + residual  # as torch promotes and broadcasts


def three(numbers: tuple[int, ...] | torch.Size, missing: int) -> tuple[int, int, int]:
    """The numbers of a convolution's axes, those that it lacks in front."""
    d, h, w = (*(missing,) * (3 - len(numbers)), *numbers)
    return d, h, w


def band_on(bands: TimeBands | None, x: Tensor) -> Tensor | None:
    """The band of the call in progress where `x` is, one number or one a sample; None where a scale is one for all
    time-steps."""
    return None if bands is None else bands.index_on(x.device).reshape(-1)


def step_of(layer: QuantizedLayer) -> Tensor:
    """What an integer of the input stands for, one number or (in,); with bands (bands,) or (bands, in).

    Held to what `rounding.to_integers` divides by; no activation of a network that works is beyond it.
    """
    scale = layer.input_scale.float().clamp(1e-30, 1e35)
    if layer.smoothing is None:
        return scale.reshape(-1).clone()
    return scale[..., None] * layer.smoothing.float()


def why_not(layer: QuantizedLayer) -> str | None:
    """Why there is no INT8 kernel for a quantized layer; None if there is."""
    depth = layer.weight[0].numel()
    if not isinstance(layer, QuantizedLinear | QuantizedConv):
        return f"{type(layer).__name__} has no INT8 kernel"
    if isinstance(layer, QuantizedConv):
        if layer.groups > 1:
            return f"{layer.groups} groups: the INT8 convolution takes one"
        if isinstance(layer.padding, str):
            return f"padding {layer.padding!r}: give it as numbers"
    if depth > LARGEST_DEPTH:
        return f"{depth} products a sum: int32 holds {LARGEST_DEPTH} whatever they are"
    return None


def triton_form(layer: QuantizedLayer) -> TritonLayer:
    """The layer on the kernels; `why_not` must have said None."""
    if isinstance(layer, QuantizedLinear):
        return TritonLinear(layer)
    assert isinstance(layer, QuantizedConv)
    return TritonConv(layer)
