"""Quantize alone: floats in any memory layout to signed bytes with channels last.

    q[n, p, c] = clamp(round(x[n, p, c] / s[c]) + z, 0, 255) - 128

n: sample, p: place, c: channel; s is one number or, of a smoothed layer, one for each channel. Source: the definition,
`ptq4dm.numerics.quantize` (Jacob et al., CVPR 2018, Eq. 1). Limit: bytes; each input is read once, one byte is written.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ptq4dm.backends.triton_gpu.kernels.bands import entry_of, per_channel, samples_a_band, several
from ptq4dm.backends.triton_gpu.kernels.launching import by_sample, launch, tile_of, tiles, walk
from ptq4dm.backends.triton_gpu.kernels.rounding import SHIFT, to_integers
from ptq4dm.numerics import quantize as quantized

ELEMENTS, WARPS = 4096, 4
"""Launch: elements of a program, and warps that share them: 32 a thread."""


@triton.jit(do_not_specialize=["samples_a_band"])
def quantize_kernel(
    x,
    step,
    zero_point,
    band,
    q,
    places,
    channels,
    samples_a_band,
    stride_sample,
    stride_place,
    stride_channel,
    SEVERAL: tl.constexpr,
    PER_CHANNEL: tl.constexpr,
    PLACES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One tile of places x channels of one sample. Samples and places share axis 0 of the grid: the others end at
    65,535."""
    place_tiles = tl.cdiv(places, PLACES)
    sample = (tl.program_id(0) // place_tiles).to(tl.int64)
    place = (tl.program_id(0) % place_tiles).to(tl.int64) * PLACES + tl.arange(0, PLACES)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    there = (place < places)[:, None] & (channel < channels)[None, :]
    at = sample * stride_sample + place[:, None] * stride_place + channel[None, :].to(tl.int64) * stride_channel
    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    entry = entry_of(band, sample, samples_a_band, True, SEVERAL)
    if PER_CHANNEL:
        unit = tl.load(step + entry * channels + channel, mask=channel < channels, other=1.0)[None, :]
    else:
        unit = tl.load(step + entry)
    integer = to_integers(value, unit, tl.load(zero_point + entry).to(tl.int32))
    tl.store(q + (sample * places + place[:, None]) * channels + channel[None, :], integer, mask=there)


def quantize(x: Tensor, step: Tensor, zero_point: Tensor, band: Tensor | None = None) -> Tensor:
    """(batch, *spatial, channels) float, of any strides, -> int8 of the same shape, contiguous.

    step: float32 of one number or (channels,). zero_point: int8 (), less 128. With bands of time-steps both are tables
    of one entry a band, (bands,) or (bands, channels), and band is the call's: integers (1,) or (samples,).
    """
    q = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    if not q.numel():
        return q
    way = by_sample(x) if several(band) else walk(x)
    channels = x.shape[-1]
    long, wide = tile_of(way.places, channels, ELEMENTS)
    grid = (tiles(way.places, long) * way.samples, tiles(channels, wide))
    launch(
        quantize_kernel,
        grid,
        way.tensor,
        step,
        zero_point,
        band,
        q,
        way.places,
        channels,
        samples_a_band(way.samples, band),
        *way.strides,
        SEVERAL=several(band),
        PER_CHANNEL=per_channel(step, band),
        PLACES=long,
        CHANNELS=wide,
        num_warps=WARPS,
    )
    return q


def reference(x: Tensor, step: Tensor, zero_point: Tensor) -> Tensor:
    """The same by the definition itself."""
    return (quantized(x.float(), step, zero_point.float() + SHIFT) - SHIFT).to(torch.int8)
