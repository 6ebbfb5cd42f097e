"""Layer normalisation and quantization in one kernel: rows of floats to rows of signed bytes.

    v = (x - mean) / sqrt(var + eps) * weight[c] + bias[c]
    v = v * (1 + scale[n, c]) + shift[n, c]                            where a time embedding scales and shifts
    q = clamp(round(v / s[c]) + z, 0, 255) - 128

A program holds whole rows, so mean and variance are those of two passes over registers. Source: Ba, Kiros, Hinton,
"Layer Normalization", arXiv 1607.06450; scale and shift as in Peebles, Xie, "Scalable Diffusion Models with
Transformers", ICCV 2023 (adaLN). Limit: bytes; x is read once, one byte is written.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ptq4dm.backends.triton_gpu.kernels.bands import entry_of, per_channel, samples_a_band, several
from ptq4dm.backends.triton_gpu.kernels.launching import INTERPRETED, launch, power_of_two, rows_of, tiles
from ptq4dm.backends.triton_gpu.kernels.quantize import reference as quantize_reference
from ptq4dm.backends.triton_gpu.kernels.rounding import roundings_of, to_integers

ELEMENTS, WARPS = 4096, 4
"""Launch: elements of a program (at least one row), and warps that share them."""


@triton.jit(do_not_specialize=["rows_a_sample", "samples_a_band"])
def layer_norm_kernel(
    x,
    weight,
    bias,
    scale,
    shift,
    step,
    zero_point,
    band,
    q,
    rows,
    channels,
    rows_a_sample,
    samples_a_band,
    bands,
    between,
    stride_scale,
    eps,
    SEVERAL: tl.constexpr,
    PER_CHANNEL: tl.constexpr,
    ROUNDINGS: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """ROWS rows; CHANNELS: a power of two, at least the channels. between: how far the integers of two roundings are
    apart."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, CHANNELS)
    ours = channel < channels
    there = (row < rows)[:, None] & ours[None, :]
    at = row[:, None] * channels + channel[None, :]
    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    mean = tl.sum(value, axis=1) / channels
    value = tl.where(there, value - mean[:, None], 0.0)
    variance = tl.sum(value * value, axis=1) / channels
    value *= (1.0 / tl.sqrt_rn(variance + eps))[:, None]
    if weight is not None:
        value *= tl.load(weight + channel, mask=ours, other=0.0).to(tl.float32)[None, :]
    if bias is not None:
        value += tl.load(bias + channel, mask=ours, other=0.0).to(tl.float32)[None, :]
    if scale is not None:
        of = (row // rows_a_sample)[:, None] * stride_scale + channel[None, :]
        value *= 1.0 + tl.load(scale + of, mask=there, other=0.0).to(tl.float32)
        value += tl.load(shift + of, mask=there, other=0.0).to(tl.float32)
    entry = entry_of(band, row // rows_a_sample, samples_a_band, row < rows, SEVERAL)
    if SEVERAL:
        entry = entry[:, None]
    found = roundings_of(  # pyright: ignore[reportGeneralTypeIssues]
        step, zero_point, entry, bands, channels, channel[None, :], ours[None, :], PER_CHANNEL, ROUNDINGS
    )
    to = q + at
    for index in tl.static_range(ROUNDINGS):  # pyright: ignore[reportGeneralTypeIssues]
        tl.store(to, to_integers(value, found[index][0], found[index][1]), mask=there)
        to += between


def layer_norm_quantize(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    step: Tensor,
    zero_point: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    band: Tensor | None = None,
    roundings: int = 1,
) -> Tensor:
    """(samples, ..., channels) float -> int8 of the same shape, contiguous.

    weight, bias: (channels,) or None. scale, shift: (samples, channels), or both None. step, zero_point,
    band: as `quantize.quantize` has them. Of several roundings both tables have one more axis in front, and so has the
    result.
    """
    q = torch.empty(((roundings,) if roundings > 1 else ()) + x.shape, dtype=torch.int8, device=x.device)
    if not q.numel():
        return q
    channels = x.shape[-1]
    rows, wide, samples = x.numel() // channels, power_of_two(channels), x.shape[0] if x.dim() > 1 else 1
    tall = min(power_of_two(rows, 1), max(1, (65536 if INTERPRETED else ELEMENTS) // wide))
    scale, shift = rows_of(scale, shift)
    launch(
        layer_norm_kernel,
        (tiles(rows, tall),),
        x.contiguous(),
        weight,
        bias,
        scale,
        shift,
        step,
        zero_point,
        band,
        q,
        rows,
        channels,
        rows // samples,
        samples_a_band(samples, band),
        zero_point.numel() // roundings,
        x.numel(),
        0 if scale is None else scale.stride(0),
        eps,
        SEVERAL=several(band),
        PER_CHANNEL=per_channel(step if roundings == 1 else step[0], band),
        ROUNDINGS=roundings,
        ROWS=tall,
        CHANNELS=wide,
        num_warps=WARPS,
    )
    return q


def reference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    step: Tensor,
    zero_point: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """The same by torch's own operators in float32."""
    held = [None if tensor is None else tensor.float() for tensor in (weight, bias)]
    y = F.layer_norm(x.float(), x.shape[-1:], held[0], held[1], eps)
    if scale is not None and shift is not None:
        apart = (len(x), *[1] * (x.dim() - 2), -1)
        y = y * (1 + scale.float().view(apart)) + shift.float().view(apart)
    return quantize_reference(y, step, zero_point)
