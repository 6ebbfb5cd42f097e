"""How far an engine's output is from the exact one, in units in the last place of float32."""

import torch
from torch import Tensor

from ptq4dm.numerics import ACTIVATION_MAX, dequantize
from ptq4dm.quantization.layers import QuantizedLayer, QuantizedTransposedConv, SpatialLayer

ULPS_ALLOWED = 2.0
"""What rounding may do, in units: half after the scale, half after the bias, and one where the int32 sum exceeds 2**24
and is rounded on its way to float32. A saturated sum is off by thousands."""
SIDE = 5
"""Height and width of a test input: room for a padded corner, an edge and an interior point."""


def ulp(magnitude: Tensor) -> Tensor:
    """The distance between neighbouring float32 numbers at `magnitude`, as float64. At 1.0 it is 2**-23."""
    magnitude = magnitude.double().abs().clamp(min=torch.finfo(torch.float32).tiny)
    return torch.ldexp(torch.ones_like(magnitude), torch.frexp(magnitude).exponent - 24)


def ulp_distance(got: Tensor, exact: Tensor, product: Tensor) -> Tensor:
    """|got - exact| in float32 units in the last place, element by element, float64.

    got: the engine's output, float32. exact: the result in float64. product: the scaled integer sum before the bias,
    float64; the unit is taken at the larger of |product| and |exact|, since a bias can cancel most of a product.
    """
    return (got.double() - exact).abs() / ulp(torch.maximum(product.abs(), exact.abs()))


def hard_inputs(layer: QuantizedLayer) -> Tensor:
    """Float inputs that are integers of the layer's grid: all 255, 0 or 255 at random, and anything at random."""
    channels, spatial = layer.weight.shape[1], ()
    if isinstance(layer, SpatialLayer):
        side = SIDE if isinstance(layer, QuantizedTransposedConv) else SIDE * max(layer.stride)
        channels, spatial = layer.in_channels, (side,) * (layer.weight.dim() - 2)
    generator = torch.Generator().manual_seed(0)
    anything = torch.randint(0, ACTIVATION_MAX + 1, (2, channels, *spatial), generator=generator)
    extremes = torch.where(anything > ACTIVATION_MAX // 2, ACTIVATION_MAX, 0)
    integers = torch.cat([torch.full_like(anything[:1], ACTIVATION_MAX), extremes, anything]).double()
    return dequantize(integers, layer.input_step().double(), layer.zero_point().double()).float()


def distance(layer: QuantizedLayer, x: Tensor, y: Tensor) -> float:
    """How far `y` is from the layer's exact output for `x`, in float32 units in the last place; inf if not finite."""
    exact = layer(x.double())
    axis = (1, -1) + (1,) * (exact.dim() - 2)
    product = exact if layer.bias is None else exact - layer.bias.double().reshape(axis)
    worst = ulp_distance(y, exact, product).max()
    return float(worst) if torch.isfinite(worst) else float("inf")
