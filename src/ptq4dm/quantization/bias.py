"""Bias correction: take back the shift that rounding the weights gives to a layer's mean output.

Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction", ICCV 2019, Section 4.2: the
error of the weights times the mean of the input, which the calibration statistics know per input channel.
"""

import torch
from torch import Tensor


def bias_correction(
    weight: Tensor, integers: Tensor, scale: Tensor, channel_mean: Tensor, groups: int = 1, phases: int = 1
) -> Tensor:
    """(out,) float32 to add to the bias: E[y_float - y_quantized] = sum of (w - s q) E[x_c].

    weight, integers: (out, in / groups, *kernel); scale: (out,); channel_mean: (in,). Padding counts as the mean.
    phases: of a transposed convolution the product of its strides: each output gets one tap in so many.
    """
    real = integers.double() * scale.double().view(-1, *[1] * (weight.dim() - 1))
    error = (weight.detach().double() - real).flatten(2).sum(2) if weight.dim() > 2 else weight.detach().double() - real
    return (error * per_output(channel_mean, weight.shape[0], groups).to(weight.device)).sum(1).div(phases).float()


def per_output(channels: Tensor, out: int, groups: int) -> Tensor:
    """A value per input channel (in,) as each output channel sees it: (out, in / groups)."""
    return torch.repeat_interleave(channels.double().reshape(groups, -1), out // groups, dim=0)
