"""GELU and quantization in one kernel: floats to signed bytes.

    v = x * (1 + erf(x / sqrt(2))) / 2, or as tanh approximates it: x / (1 + exp(-2 sqrt(2 / pi) (x + 0.044715 x**3)))
    q = clamp(round(v / s[c]) + z, 0, 255) - 128

Source: Hendrycks, Gimpel, "Gaussian error linear units", arXiv 1606.08415 (its (1 + tanh(u)) / 2 is sigmoid(2 u)).
Everything is float32 between the load and the integer. Limit: bytes; each input is read once, one byte is written.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ptq4dm.backends.triton_gpu.kernels.bands import entry_of, launch_by_rows
from ptq4dm.backends.triton_gpu.kernels.quantize import reference as quantize_reference
from ptq4dm.backends.triton_gpu.kernels.rounding import roundings_of, to_integers

ELEMENTS, WARPS = 4096, 4
"""Launch: integers of a program, and warps that share them."""


@triton.jit(do_not_specialize=["rows_a_sample", "samples_a_band"])
def gelu_kernel(
    x,
    step,
    zero_point,
    band,
    q,
    rows,
    channels,
    rows_a_sample,
    samples_a_band,
    TANH: tl.constexpr,
    SEVERAL: tl.constexpr,
    PER_CHANNEL: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One tile of rows x channels."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    there = (row < rows)[:, None] & (channel < channels)[None, :]
    at = row[:, None] * channels + channel[None, :]
    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    if TANH:
        twice = 1.5957691216057308 * (value + 0.044715 * value * value * value)
        value = value / (1.0 + tl.exp(tl.minimum(-twice, 88.0)))  # beyond that GELU is 0 to any integer
    else:
        value = value * 0.5 * (1.0 + tl.erf(value * 0.7071067811865476))
    entry = entry_of(band, row // rows_a_sample, samples_a_band, row < rows, SEVERAL)
    if SEVERAL:
        entry = entry[:, None]
    found = roundings_of(
        step, zero_point, entry, 1, channels, channel[None, :], (channel < channels)[None, :], PER_CHANNEL, 1
    )  # pyright: ignore[reportGeneralTypeIssues]
    tl.store(q + at, to_integers(value, found[0][0], found[0][1]), mask=there)


def gelu_quantize(x: Tensor, tanh: bool, step: Tensor, zero_point: Tensor, band: Tensor | None = None) -> Tensor:
    """(samples, ..., channels) float -> int8 of the same shape, contiguous.

    tanh: whether GELU is approximated by it. step, zero_point, band: as `quantize.quantize` has them.
    """
    q = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    launch_by_rows(gelu_kernel, x, q, step, zero_point, band, ELEMENTS, TANH=tanh, num_warps=WARPS)
    return q


def reference(x: Tensor, tanh: bool, step: Tensor, zero_point: Tensor) -> Tensor:
    """The same by torch's own operators in float32."""
    return quantize_reference(F.gelu(x.float(), approximate="tanh" if tanh else "none"), step, zero_point)
