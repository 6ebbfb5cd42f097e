"""Probes: inputs on which an engine that is not exact shows it, and the right answers.

An engine without VNNI adds the products of two adjacent input channels in int16, where 255 * w1 + 255 * w2 may not
fit. A sum of many products would hide one lost sum, so the pair probe lights a single pair of channels at a single
place: each output is then one pair sum, and the right answers come from the weights alone.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptq4dm.numerics import ACTIVATION_MAX, PAIR_LIMIT, pair_up
from ptq4dm.quantization.layers import QuantizedConv, QuantizedLayer, QuantizedLinear
from ptq4dm.quantization.layers_qdq import OutputQuantized

PAIRS = 32
"""How many pairs of channels the pair probe lights: those with the largest sums."""
PAIR_STEP = 8.0
"""Output step of the pair probe, in units of the integer sums: the outputs show the surroundings of the int16 limit
only, where a sum that is too large by one weight unit (255) is 16 steps away from the one that saturated."""
FLOAT_ULPS = 8
"""What a float output may differ by: roundings of the product with the scale and of the sum with the bias."""


@dataclass(frozen=True)
class Probe:
    """One layer with an input. layer: a network of its own; x: the input; expected: the exact output, float64;
    allowed: how far from it an exact engine may be (rounding only), elementwise."""

    name: str
    layer: nn.Module
    x: Tensor
    expected: Tensor
    allowed: Tensor

    def steps_off(self, found: Tensor) -> float:
        """The worst distance of an engine's output from the exact one, in units of what is allowed."""
        return float(((found.double() - self.expected).abs() / self.allowed).max())


def probes_of(name: str, layer: nn.Module, seed: int = 0) -> tuple[Probe, Probe]:
    """The full-range probe and the pair probe of a quantized layer."""
    return full_range_probe(name, layer, seed), pair_probe(name, layer)


@torch.no_grad()
def full_range_probe(name: str, layer: nn.Module, seed: int = 0) -> Probe:
    """The layer as it is, on integers drawn over all of 0..255, and on those that make one output largest."""
    inner = inner_layer(layer)
    generator = torch.Generator().manual_seed(seed)
    shape = input_shape(inner)
    integers = torch.randint(0, ACTIVATION_MAX + 1, (2, *shape), generator=generator)
    channel = int(inner.weight.float().flatten(1).clamp(min=0).sum(1).argmax())
    lit = worst_input(inner, channel)
    integers[1] = ACTIVATION_MAX * (
        lit if isinstance(inner, QuantizedLinear) else lit.view(-1, *[1] * (len(shape) - 1))
    )
    x = (integers - int(inner.input_zero_point)) * inner.input_step()
    return Probe(name, layer, x, (expected := layer(x.double())), allowed_error(layer, expected))


@torch.no_grad()
def pair_probe(name: str, layer: nn.Module) -> Probe:
    """The layer's weights alone (no zero point, no stride), on one pair of adjacent channels at a time.

    With rounded outputs, a bias moves the int16 limit, on the side where a channel's largest pair is, to the middle
    of the 256 levels.
    """
    inner = copy.deepcopy(inner_layer(layer))
    inner.input_zero_point.zero_()
    inner.input_scale.fill_(1.0)
    inner.smoothing = None
    inner.weight_scale.fill_(1.0)
    inner.bias = None
    channels = inner.weight.shape[1]
    pairs = pair_up(inner.weight.float())  # (out, pairs, 2, taps)
    worst = pairs.sum(2).abs().amax(dim=(0, 2)).topk(min(PAIRS, pairs.shape[1])).indices.tolist()
    groups = inner.groups if isinstance(inner, QuantizedConv) else 1
    lit = torch.zeros(len(worst), channels)
    for row, pair in enumerate(worst):
        lit[row, 2 * pair : 2 * pair + 2] = ACTIVATION_MAX
    x = lit.repeat(1, groups)
    if isinstance(inner, QuantizedConv):
        spread = inner.weight.dim() - 2
        inner.stride = (1,) * spread
        inner.padding = tuple(d * (k - 1) for d, k in zip(inner.dilation, inner.kernel_size, strict=True))
        x = x.view(*x.shape, *[1] * spread)
    if not isinstance(layer, OutputQuantized):
        expected = inner(x.double())
        return Probe(name, inner, x, expected, allowed_error(inner, expected))
    sums = pairs[:, worst].sum(2).flatten(1)
    side = torch.sign(sums.gather(1, sums.abs().argmax(1, keepdim=True)).squeeze(1))
    inner.bias = -side * ACTIVATION_MAX * PAIR_LIMIT
    rounded = OutputQuantized(inner)
    rounded.output_scale.fill_(PAIR_STEP)
    rounded.output_zero_point.fill_(128)
    expected = rounded(x.double())
    return Probe(name, rounded, x, expected, allowed_error(rounded, expected))


def allowed_error(layer: nn.Module, expected: Tensor) -> Tensor:
    """One output step for a rounded output; some units in the last place for a float one."""
    if isinstance(layer, OutputQuantized):
        return torch.full_like(expected, 1.001 * float(layer.output_scale))
    inner = inner_layer(layer)
    bias = torch.zeros(1) if inner.bias is None else inner.bias
    size = expected.abs() + 2 * float(bias.abs().max()) + float(inner.output_scale(torch.float32).max())
    return FLOAT_ULPS * torch.finfo(torch.float32).eps * size


def inner_layer(layer: nn.Module) -> QuantizedLayer:
    """The quantized layer itself, without the rounding of its output."""
    inner = layer.layer if isinstance(layer, OutputQuantized) else layer
    assert isinstance(inner, QuantizedLayer)
    return inner


def input_shape(layer: QuantizedLayer) -> tuple[int, ...]:
    """A small input for a layer, without the batch: large enough for its kernel, and for one step more."""
    if isinstance(layer, QuantizedLinear):
        return (3, layer.in_features)
    assert isinstance(layer, QuantizedConv)
    spans = [d * (k - 1) + 1 + s for d, k, s in zip(layer.dilation, layer.kernel_size, layer.stride, strict=True)]
    return (layer.in_channels, *[max(4, span) for span in spans])


def worst_input(layer: QuantizedLayer, channel: int) -> Tensor:
    """(in,) of 0 and 1: which inputs to light so that one output channel becomes largest."""
    weight = layer.weight.float()
    lit = (weight[channel].reshape(weight.shape[1], -1).sum(1) > 0).long()
    return lit.repeat(layer.groups if isinstance(layer, QuantizedConv) else 1)
