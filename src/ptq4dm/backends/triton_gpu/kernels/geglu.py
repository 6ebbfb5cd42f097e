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

from ptq4dm.backends.triton_gpu.kernels.bands import entry_of, launch_by_rows
from ptq4dm.backends.triton_gpu.kernels.quantize import reference as quantize_reference
from ptq4dm.backends.triton_gpu.kernels.rounding import roundings_of, to_integers

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
    found = roundings_of(
        step, zero_point, entry, 1, channels, channel[None, :], (channel < channels)[None, :], PER_CHANNEL, 1
    )  # pyright: ignore[reportGeneralTypeIssues]
    to = q + row[:, None] * channels + channel[None, :]
    tl.store(to, to_integers(value, found[0][0], found[0][1]), mask=there)


def geglu_quantize(x: Tensor, step: Tensor, zero_point: Tensor, band: Tensor | None = None) -> Tensor:
    """(samples, ..., 2 channels) float -> (samples, ..., channels) int8, contiguous.

    step, zero_point, band: as `quantize.quantize` has them, of the channels that come out.
    """
    q = torch.empty((*x.shape[:-1], x.shape[-1] // 2), dtype=torch.int8, device=x.device)
    launch_by_rows(geglu_kernel, x, q, step, zero_point, band, ELEMENTS, num_warps=WARPS)
    return q


def reference(x: Tensor, step: Tensor, zero_point: Tensor) -> Tensor:
    """The same by torch's own operators in float32."""
    value, gate = x.float().chunk(2, dim=-1)
    return quantize_reference(value * F.gelu(gate), step, zero_point)
