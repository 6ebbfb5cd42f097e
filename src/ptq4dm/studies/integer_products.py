"""The convolutions of a simulated network on INT8 instructions of the processor: the same numbers, in less time.

A simulated convolution holds integers in float32 and multiplies them as such, exactly up to sums of 2**24. Where the
processor adds INT8 products in int32 (VNNI, AMX), PyTorch's own INT8 convolution gives the very same sums several times
as fast. All before and after it is the simulated layer's own arithmetic, in the same order, so that a study measures
the same bits with or without it; elsewhere (other processors, types or devices) the layer answers as ever.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from ptq4dm.evaluation.hardware import this_processor, usable_flags
from ptq4dm.numerics import ACTIVATION_MAX, quantize
from ptq4dm.pipelines.forwards import replaced_forward
from ptq4dm.quantization.layers import QuantizedConv

ADDS_IN_INT32: Final = {"avx512_vnni", "avx_vnni", "amx_int8"}
"""Instructions without which pairs of products are added in int16, which may overflow."""
PROBE: Final = 5
"""Width of the input on which a layer's INT8 form is compared with its exact one."""

Sums = Callable[[Tensor], Tensor]
"""Sums of products (batch, out, h, w), float32, of the integers of an input, uint8 (batch, in, h, w)."""


@contextmanager
def integer_products(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While open, the INT8 convolutions among `modules` answer by INT8 instructions where these are exact."""
    found = [module for module in modules if isinstance(module, QuantizedConv) and fits(module)]
    held = [IntegerConv(layer) for layer in found] if has_instructions() else []
    with ExitStack() as stack:
        for item in held:
            stack.enter_context(replaced_forward(item.layer, item.forward))
        yield


class IntegerConv:
    """A simulated 2d convolution; its weights are laid out for INT8 instructions once for each zero point."""

    def __init__(self, layer: QuantizedConv):
        self.layer = layer
        self.float_forward = layer.forward
        self.packed: dict[int, Sums | None] = {}

    def forward(self, input: Tensor) -> Tensor:
        """What the layer answers."""
        layer = self.layer
        zero_point = layer.zero_point(input)
        plain = input.dtype == torch.float32 and input.device.type == "cpu" and input.dim() == 4
        sums = self.sums(int(zero_point)) if plain and zero_point.numel() == 1 and not input.requires_grad else None
        if sums is None:
            return self.float_forward(input)
        integers = quantize(input, layer.input_step(input), zero_point.float())
        answer = sums(integers.to(torch.uint8))
        y = torch.empty(answer.shape, memory_format=order_of(integers))
        torch.mul(answer, layer.output_scale(input.dtype, input), out=y)
        return y if layer.bias is None else y.add_(layer.per_channel(layer.bias))

    def sums(self, zero_point: int) -> Sums | None:
        """What adds the products for a zero point; None where that cannot be done exactly."""
        if zero_point not in self.packed:
            self.packed[zero_point] = exact_sums(self.layer, zero_point)
        return self.packed[zero_point]


def order_of(x: Tensor) -> torch.memory_format:
    """In which order a convolution lays out what it makes of `x`: that of `x`. Norms add up in the order of memory."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def fits(layer: QuantizedConv) -> bool:
    """Whether a convolution is two-dimensional, its padding told in numbers, and does not answer so already."""
    set_on = getattr(vars(layer).get("forward"), "__self__", None)
    return layer.weight.dim() == 4 and not isinstance(layer.padding, str) and not isinstance(set_on, IntegerConv)


@functools.cache
def has_instructions() -> bool:
    """Whether this processor adds INT8 products in int32, and nothing keeps oneDNN from it."""
    found = this_processor()
    return bool(ADDS_IN_INT32 & usable_flags(found.flags, found.isa_cap))


def exact_sums(layer: QuantizedConv, zero_point: int) -> Sums | None:
    """PyTorch's INT8 convolution with the weights of a layer; None where there is none of it, or where it differs from
    the exact sums on integers of all sizes."""
    operators: Any = torch.ops.onednn
    geometry = [list(layer.stride), list(layer.padding), list(layer.dilation)]
    ones, zeros = torch.ones(layer.out_channels), torch.zeros(layer.out_channels, dtype=torch.int32)
    try:
        weight = operators.qconv_prepack(layer.weight, ones, 1.0, zero_point, *geometry, layer.groups, None)
    except (AttributeError, RuntimeError):
        return None

    def sums(integers: Tensor) -> Tensor:
        side_by_side = integers.contiguous(memory_format=torch.channels_last)
        options = (layer.groups, 1.0, 0, torch.float32, "none", [], "")
        return operators.qconv2d_pointwise(
            side_by_side, 1.0, zero_point, weight, ones, zeros, None, *geometry, *options
        )

    shape = (2, layer.in_channels, PROBE + layer.weight.shape[2], PROBE + layer.weight.shape[3])
    probe = torch.randint(ACTIVATION_MAX + 1, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    probe[1] = ACTIVATION_MAX
    exact = layer.sums(probe.double() - zero_point)
    try:
        return sums if torch.equal(sums(probe).double(), exact.float().double()) else None
    except RuntimeError:
        return None
