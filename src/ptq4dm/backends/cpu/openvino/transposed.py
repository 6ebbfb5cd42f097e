"""A transposed convolution as one ordinary convolution that computes all its phases, and their interleaving.

OpenVINO's own transposed convolution leaves INT8 where it is grouped, or strides are long, and is slower without VNNI.
Here each output position n + p = s q + r (p padding, s stride, r the phase) gets, with dilated taps w~::

    y[n] = sum over m of x[q - m] w~[r + m s]

an ordinary convolution of stride 1 for each phase r ("sub-pixel convolution": Shi et al., "Is the deconvolution layer
the same as a convolutional layer?", 2016, arXiv 1609.07009). All phases are output channels of one convolution; the
products are the same integers, with some products by 0 added.
"""

import math
from typing import TYPE_CHECKING

from torch import Tensor

from ptq4dm.quantization.layers import QuantizedTransposedConv

if TYPE_CHECKING:
    import openvino as ov


def phase_kernels(layer: QuantizedTransposedConv) -> Tensor:
    """The int8 weights of all phases, (out * phases, in / groups, *taps): the phases of a channel side by side."""
    out, per_group = layer.weight.shape[:2]
    taps = taps_of(layer)
    spread = layer.weight.new_zeros(out, per_group, *[s * m for s, m in zip(layer.stride, taps, strict=True)])
    spread[(..., *[slice(0, span, d) for span, d in zip(spans(layer), layer.dilation, strict=True)])] = layer.weight
    axes = range(len(taps))
    split = spread.reshape(out, per_group, *[part for s, m in zip(layer.stride, taps, strict=True) for part in (m, s)])
    ordered = split.permute(0, *[3 + 2 * axis for axis in axes], 1, *[2 + 2 * axis for axis in axes])
    flipped = ordered.flip([ordered.dim() - 1 - axis for axis in axes])
    return flipped.reshape(out * math.prod(layer.stride), per_group, *taps)


def phase_padding(layer: QuantizedTransposedConv) -> tuple[list[int], list[int]]:
    """Zeros at the begin and the end of the input, so that no output position is missing."""
    begin = [m - 1 for m in taps_of(layer)]
    missing = [max(0, -(-excess // s)) for excess, s in zip(excesses(layer), layer.stride, strict=True)]
    return begin, [pad + more for pad, more in zip(begin, missing, strict=True)]


def interleaved(layer: QuantizedTransposedConv, phases: "ov.Node") -> "ov.Node":
    """(batch, out * phases, *places) -> (batch, out, *places times stride), the padding cut off."""
    import numpy as np
    from openvino import opset13 as ops

    axes = list(range(2, layer.weight.dim()))
    places = ops.gather(ops.shape_of(phases), ops.constant(axes), ops.constant(0))
    strides = ops.constant(np.array(layer.stride, np.int64))
    head = ops.constant(np.array([0, layer.out_channels], np.int64))
    split = ops.reshape(phases, ops.concat([head, strides, places], 0), special_zero=True)
    order = [0, 1, *[position for axis in axes for position in (axis + len(axes), axis)]]
    joined = ops.reshape(
        ops.transpose(split, ops.constant(order)),
        ops.concat([head, ops.multiply(places, strides)], 0),
        special_zero=True,
    )
    begin, end = phase_padding(layer)
    added = zip(layer.stride, begin, end, excesses(layer), strict=True)
    surplus = [s * (after - before) - excess for s, before, after, excess in added]
    stop = [-more if more else np.iinfo(np.int64).max for more in surplus]
    steps = ops.constant([1] * len(axes))
    return ops.slice(joined, ops.constant(list(layer.padding)), ops.constant(stop), steps, ops.constant(axes))


def taps_of(layer: QuantizedTransposedConv) -> list[int]:
    """The taps of one phase, per axis."""
    return [-(-span // s) for span, s in zip(spans(layer), layer.stride, strict=True)]


def spans(layer: QuantizedTransposedConv) -> list[int]:
    """The outputs that one input reaches, per axis."""
    return [(k - 1) * d + 1 for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]


def excesses(layer: QuantizedTransposedConv) -> list[int]:
    """By how many places the outputs asked for pass the end of the interleaved phases, per axis (negative: fall short).

    With L inputs those end at s (L - 1 + taps), the outputs at s (L - 1) + span + output padding - padding.
    """
    each = zip(spans(layer), layer.output_padding, layer.padding, layer.stride, taps_of(layer), strict=True)
    return [span + extra - int(pad) - s * m for span, extra, pad, s, m in each]
