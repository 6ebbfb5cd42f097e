"""How far an engine's output is from the exact one, in units in the last place of float32."""

import torch
from torch import Tensor

ULPS_ALLOWED = 2.0
"""What rounding may do, in units: half after the scale, half after the bias, and one where the int32 sum exceeds 2**24
and is rounded on its way to float32. A saturated sum is off by thousands."""


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
