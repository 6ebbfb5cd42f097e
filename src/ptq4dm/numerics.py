"""The arithmetic of a quantized layer, as pure functions: the definition that every backend must meet.

An activation x is quantized per tensor, asymmetric, to unsigned 8 bit (Jacob et al., "Quantization and Training
of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, Eq. 1)::

    q_x = clamp(round(x / s_x) + z_x, 0, 255)

a weight per output channel, symmetric, to signed 8 bit: ``q_w = clamp(round(w / s_w), -127, 127)``.
A layer multiplies integers, sums them in int32 and returns float::

    y = s_x * s_w * sum((q_x - z_x) * q_w) + bias

Rounding is half to even. Padding adds the value 0.0, which is the integer z_x exactly.
A smoothed layer divides input channel j by s_x s_j instead, and its weights are w s_j (`quantization.smoothing`).
"""

import torch
from torch import Tensor

ACTIVATION_MIN, ACTIVATION_MAX = 0, 255
WEIGHT_MAX = 127
PAIR_LIMIT = 128
"""Bound on the same-signed sum of two adjacent weights: 255 * 128 < 2**15, so no int16 pair sum can saturate."""


def quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, low: int = ACTIVATION_MIN, high: int = ACTIVATION_MAX
) -> Tensor:
    """Round `x` to integers, kept in its dtype. `scale` broadcasts against `x`, `zero_point` against x / scale."""
    return (x / scale).round_().add_(zero_point).clamp_(low, high)


def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """The real numbers that the integers `q` stand for: scale * (q - zero_point)."""
    return (q - zero_point) * scale


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, low: int = ACTIVATION_MIN, high: int = ACTIVATION_MAX
) -> Tensor:
    """Quantize, then dequantize: `x` as a quantized layer sees it."""
    return quantize(x, scale, zero_point, low, high).sub_(zero_point).mul_(scale)  # `dequantize` in place


def asymmetric_params(low: Tensor, high: Tensor, levels: int = ACTIVATION_MAX) -> tuple[Tensor, Tensor]:
    """Scale and zero point (both in the dtype of `low`) of the range [low, high], widened to hold 0.

    A range of no width (a constant activation of 0) gets scale 1, never 0.
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    width = high - low
    scale = torch.where(width > 0, width / levels, torch.ones_like(width))
    zero_point = torch.clamp(torch.round(-low / scale), 0, levels)
    return scale, zero_point


def pairs_are_safe(weight: Tensor) -> Tensor:
    """Per output channel: whether no int16 sum of two adjacent products can saturate.

    `weight` holds integers, (out, in, ...). Engines without VNNI add the products of the input channels
    2i and 2i+1 in int16; an odd last channel is paired with zero.
    """
    flat = pair_up(weight)
    positive = flat.clamp(min=0).sum(2).amax(dim=(1, 2))
    negative = flat.clamp(max=0).sum(2).amin(dim=(1, 2))
    return (positive <= PAIR_LIMIT) & (negative >= -PAIR_LIMIT)


def pair_up(weight: Tensor) -> Tensor:
    """(out, in, ...) as (out, pairs, 2, taps): input channels 2i and 2i+1 side by side, zero-padded if odd."""
    flat = weight.reshape(weight.shape[0], weight.shape[1], -1)
    if flat.shape[1] % 2:
        flat = torch.cat([flat, flat.new_zeros(flat.shape[0], 1, flat.shape[2])], dim=1)
    return flat.reshape(flat.shape[0], -1, 2, flat.shape[2])
