"""A gated GELU and quantization in one kernel: rows of floats, values and gates side by side, to rows of signed bytes.

    v = a * g * (1 + erf(g / sqrt(2))) / 2                             a: the first half of a row, g: the second
    q = clamp(round(v / s[c]) + z, 0, 255) - 128

Source: Shazeer, "GLU variants improve transformer", arXiv 2002.05202 (GEGLU). Everything is float32 between the load
and the integer. Limit: bytes; each input is read once, one byte is written for two of them.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ptq4dm.backends.triton_gpu.kernels.bands import entry_of, per_channel, samples_a_band, several
from ptq4dm.backends.triton_gpu.kernels.launching import launch, tile_of, tiles
from ptq4dm.backends.triton_gpu.kernels.quantize import reference as quantize_reference
from ptq4dm.backends.triton_gpu.kernels.rounding import to_integers

ELEMENTS, WARPS = 2048, 4
"""Launch: integers of a program, and warps that share them."""


@triton.jit(do_not_specialize=["rows_a_sample", "samples_a_band"])
def geglu_kernel(
    x,
    step,
    zero_point,
    band,
    q,
    rows,
    channels,
    rows_a_sample,
    samples_a_band,
    SEVERAL: tl.constexpr,
    PER_CHANNEL: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One tile of rows x channels."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    there = (row < rows)[:, None] & (channel < channels)[None, :]
    at = row[:, None] * channels * 2 + channel[None, :]
    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    gate = tl.load(x + at + channels, mask=there, other=0.0).to(tl.float32)
    value = value * (gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476)))
    entry = entry_of(band, row // rows_a_sample, samples_a_band, row < rows, SEVERAL)
    if SEVERAL:
        entry = entry[:, None]
    if PER_CHANNEL:
        unit = tl.load(step + entry * channels + channel[None, :], mask=(channel < channels)[None, :], other=1.0)
    else:
        unit = tl.load(step + entry)
    integer = to_integers(value, unit, tl.load(zero_point + entry).to(tl.int32))
    tl.store(q + row[:, None] * channels + channel[None, :], integer, mask=there)


def geglu_quantize(x: Tensor, step: Tensor, zero_point: Tensor, band: Tensor | None = None) -> Tensor:
    """(samples, ..., 2 channels) float -> (samples, ..., channels) int8, contiguous.

    step, zero_point, band: as `quantize.quantize` has them, of the channels that come out.
    """
    channels = x.shape[-1] // 2
    q = torch.empty((*x.shape[:-1], channels), dtype=torch.int8, device=x.device)
    if not q.numel():
        return q
    rows, samples = q.numel() // channels, x.shape[0] if x.dim() > 1 else 1
    tall, wide = tile_of(rows, channels, ELEMENTS)
    launch(
        geglu_kernel,
        (tiles(rows, tall), tiles(channels, wide)),
        x.contiguous(),
        step,
        zero_point,
        band,
        q,
        rows,
        channels,
        rows // samples,
        samples_a_band(samples, band),
        SEVERAL=several(band),
        PER_CHANNEL=per_channel(step, band),
        ROWS=tall,
        CHANNELS=wide,
        num_warps=WARPS,
    )
    return q


def reference(x: Tensor, step: Tensor, zero_point: Tensor) -> Tensor:
    """The same by torch's own operators in float32."""
    value, gate = x.float().chunk(2, dim=-1)
    return quantize_reference(value * F.gelu(gate), step, zero_point)
