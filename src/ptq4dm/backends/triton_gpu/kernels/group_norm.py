"""Group normalisation, SiLU and quantization in one kernel: floats in any layout to signed bytes with channels last.

    v = (x - mean_g) / sqrt(var_g + eps) * weight[c] + bias[c]
    v = v * (1 + scale[n, c]) + shift[n, c]                            where a time embedding scales and shifts
    q = clamp(round(v * sigmoid(v) / s[c]) + z, 0, 255) - 128          (SiLU where asked for)

Moments are gathered chunk by chunk and joined by Chan's rule, which stays accurate where the mean of a group is far
above its spread (Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
1979). Source: Wu, He, "Group Normalization", ECCV 2018. Everything is float32 between the load and the integer, so in
half precision fewer numbers are rounded than by separate operators. Limit: bytes; x is read twice (the second time
mostly from the L2 cache), one byte is written.

Two tensors side by side on the channel axis are normalised as one, without being copied together (the skip connections
of a UNet), and the numbers as they come can be rounded too, for the layer that reads them past the normalisation (the
shortcut of a residual block):

    own[n, p, c] = clamp(round(x / s'[c]) + z', 0, 255) - 128

A program takes whole groups of a sample. Where those are too few to fill the card (small batches), a first kernel
gathers the moments of parts of the places, and this one joins them and rounds one part a program.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ptq4dm.backends.triton_gpu.kernels.bands import entry_of, per_channel, samples_a_band, several
from ptq4dm.backends.triton_gpu.kernels.launching import (
    INTERPRETED,
    by_sample,
    launch,
    multiprocessors,
    power_of_two,
    rows_of,
    tiles,
)
from ptq4dm.backends.triton_gpu.kernels.quantize import reference as quantize_reference
from ptq4dm.backends.triton_gpu.kernels.rounding import roundings_of, to_integers

ELEMENTS, WARPS, WIDE = 4096, 4, 32
"""Launch: elements of a chunk, warps that share them, channels of a program: 64 bytes in a row in half precision.
Of two tensors a chunk has half as many: each element holds registers for both (200 a thread, else; 94 with half)."""
WAVES, MOST_PARTS = 2, 32
"""How many programs each multiprocessor should have, and into how many parts places are split at most for that."""


@triton.jit
def numbers_of(x, beside, place, channel, there, split, of_x, of_beside, along_x, along_beside):
    """The float32 numbers (places, groups, channels) of x and, from channel `split` on, of what stands beside it.

    of_x, of_beside: where the sample begins; along_x, along_beside: strides (place, channel).
    """
    wide = place.to(tl.int64)[:, None, None]
    at, ours = of_x + wide * along_x[0] + channel[None, :, :] * along_x[1], there
    if beside is not None:
        ours = there & (channel < split)[None, :, :]
    value = tl.load(x + at, mask=ours, other=0.0).to(tl.float32)
    if beside is not None:
        at = of_beside + wide * along_beside[0] + (channel - split)[None, :, :] * along_beside[1]
        value += tl.load(beside + at, mask=there & (channel >= split)[None, :, :], other=0.0).to(tl.float32)
    return value


@triton.jit
def moments(
    x,
    beside,
    channel,
    ours,
    split,
    of_x,
    of_beside,
    along_x,
    along_beside,
    first,
    last,
    IN_GROUP: tl.constexpr,
    PLACES: tl.constexpr,
):
    """Mean and sum of squares about it of each group over the places from `first` to `last`, chunk by chunk."""
    count = 0.0
    mean = tl.zeros((ours.shape[0],), dtype=tl.float32)
    square = tl.zeros((ours.shape[0],), dtype=tl.float32)
    for start in range(first, last, PLACES):
        place = start + tl.arange(0, PLACES)
        there = (place < last)[:, None, None] & ours[None, :, :]
        value = numbers_of(x, beside, place, channel, there, split, of_x, of_beside, along_x, along_beside)  # pyright: ignore[reportGeneralTypeIssues]
        size = tl.minimum(last - start, PLACES).to(tl.float32) * IN_GROUP
        chunk = tl.sum(tl.sum(value, axis=2), axis=0) / size
        spread = tl.where(there, value - chunk[None, :, None], 0.0)
        away, total = chunk - mean, count + size
        square += tl.sum(tl.sum(spread * spread, axis=2), axis=0) + away * away * (count * size / total)
        mean += away * (size / total)
        count = total
    return mean, square


@triton.jit(do_not_specialize=["places", "part_size", "groups"])
def moments_kernel(
    x,
    beside,
    partial,
    places,
    part_size,
    groups,
    split,
    stride_sample,
    stride_place,
    stride_channel,
    beside_sample,
    beside_place,
    beside_channel,
    IN_GROUP: tl.constexpr,
    PARTS: tl.constexpr,
    PLACES: tl.constexpr,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Moments of GROUPS groups of one sample over one part of its places, to partial (samples, 2, PARTS, groups)."""
    group_tiles, part = tl.cdiv(groups, GROUPS), tl.program_id(1)
    sample = (tl.program_id(0) // group_tiles).to(tl.int64)
    group = tl.program_id(0) % group_tiles * GROUPS + tl.arange(0, GROUPS)
    inner = tl.arange(0, CHANNELS)
    ours = (group < groups)[:, None] & (inner < IN_GROUP)[None, :]
    channel = (group[:, None] * IN_GROUP + inner[None, :]).to(tl.int64)
    of_x, along_x = sample * stride_sample, (stride_place, stride_channel)
    of_beside, along_beside = sample * beside_sample, (beside_place, beside_channel)
    first = part * part_size
    last = tl.minimum(first + part_size, places)
    mean, square = moments(  # pyright: ignore[reportGeneralTypeIssues]
        x, beside, channel, ours, split, of_x, of_beside, along_x, along_beside, first, last, IN_GROUP, PLACES
    )
    to = (sample * 2 * PARTS + part) * groups + group
    tl.store(partial + to, mean, mask=group < groups)
    tl.store(partial + to + PARTS * groups, square, mask=group < groups)


@triton.jit(do_not_specialize=["places", "part_size", "groups", "samples_a_band"])
def group_norm_kernel(
    x,
    beside,
    weight,
    bias,
    scale,
    shift,
    step,
    zero_point,
    band,
    q,
    own,
    own_step,
    own_zero_point,
    partial,
    places,
    part_size,
    channels,
    groups,
    split,
    samples_a_band,
    bands,
    between,
    eps,
    stride_scale,
    stride_sample,
    stride_place,
    stride_channel,
    beside_sample,
    beside_place,
    beside_channel,
    SEVERAL: tl.constexpr,
    IN_GROUP: tl.constexpr,
    SILU: tl.constexpr,
    PER_CHANNEL: tl.constexpr,
    OWN_PER_CHANNEL: tl.constexpr,
    ROUNDINGS: tl.constexpr,
    PARTS: tl.constexpr,
    PLACES: tl.constexpr,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """GROUPS groups of one sample, one of PARTS (a power of two) parts of the places, in chunks of PLACES of them.
    CHANNELS: a power of two, at least IN_GROUP. partial: from `moments_kernel` where there are several parts. between:
    how far the integers of two roundings are apart. Samples and groups share axis 0 of the grid: the others end at
    65,535."""
    group_tiles = tl.cdiv(groups, GROUPS)
    sample = (tl.program_id(0) // group_tiles).to(tl.int64)
    group = tl.program_id(0) % group_tiles * GROUPS + tl.arange(0, GROUPS)
    inner = tl.arange(0, CHANNELS)
    channel = group[:, None] * IN_GROUP + inner[None, :]
    ours = (group < groups)[:, None] & (inner < IN_GROUP)[None, :]
    wide = channel.to(tl.int64)
    of_x, along_x = sample * stride_sample, (stride_place, stride_channel)
    of_beside, along_beside = sample * beside_sample, (beside_place, beside_channel)
    first = tl.program_id(1) * part_size
    last = tl.minimum(first + part_size, places)
    count = places * (1.0 * IN_GROUP)  # not `places.to`: an argument of 1 is a constant, with no methods
    if PARTS == 1:
        mean, square = moments(  # pyright: ignore[reportGeneralTypeIssues]
            x, beside, wide, ours, split, of_x, of_beside, along_x, along_beside, first, last, IN_GROUP, PLACES
        )
    else:
        part = tl.arange(0, PARTS)
        counts = tl.minimum(tl.maximum(places - part * part_size, 0), part_size).to(tl.float32)[:, None] * IN_GROUP
        of = (sample * 2 * PARTS + part)[:, None] * groups + group[None, :]
        means = tl.load(partial + of, mask=(group < groups)[None, :], other=0.0)
        squares = tl.load(partial + of + PARTS * groups, mask=(group < groups)[None, :], other=0.0)
        mean = tl.sum(means * counts, axis=0) / count
        away = means - mean[None, :]
        square = tl.sum(squares + away * away * counts, axis=0)
    inverse = 1.0 / tl.sqrt_rn(square / count + eps)
    factor = inverse[:, None] * tl.load(weight + channel, mask=ours, other=0.0).to(tl.float32)
    added = tl.load(bias + channel, mask=ours, other=0.0).to(tl.float32)
    if scale is not None:
        of_time = sample * stride_scale + channel
        factor_of_time = 1.0 + tl.load(scale + of_time, mask=ours, other=0.0).to(tl.float32)
        factor, added = factor * factor_of_time, added * factor_of_time
        added += tl.load(shift + of_time, mask=ours, other=0.0).to(tl.float32)
    entry = entry_of(band, sample, samples_a_band, True, SEVERAL)
    found = roundings_of(  # pyright: ignore[reportGeneralTypeIssues]
        step, zero_point, entry, bands, channels, channel[None, :, :], ours[None, :, :], PER_CHANNEL, ROUNDINGS
    )
    alone = found
    if own is not None:
        alone = roundings_of(  # pyright: ignore[reportGeneralTypeIssues]
            own_step, own_zero_point, entry, bands, channels, channel[None, :, :], ours[None, :, :], OWN_PER_CHANNEL, 1
        )
    for start in range(first, last, PLACES):
        place = start + tl.arange(0, PLACES)
        there = (place < last)[:, None, None] & ours[None, :, :]
        value = numbers_of(x, beside, place, wide, there, split, of_x, of_beside, along_x, along_beside)  # pyright: ignore[reportGeneralTypeIssues]
        to = (sample * places + place)[:, None, None] * channels + channel[None, :, :]
        if own is not None:
            tl.store(own + to, to_integers(value, alone[0][0], alone[0][1]), mask=there)
        value = (value - mean[None, :, None]) * factor[None, :, :] + added[None, :, :]
        if SILU:
            value = value / (1.0 + tl.exp(tl.minimum(-value, 88.0)))  # beyond that silu is 0 to any integer
        rounded = q + to
        for index in tl.static_range(ROUNDINGS):  # pyright: ignore[reportGeneralTypeIssues]
            tl.store(rounded, to_integers(value, found[index][0], found[index][1]), mask=there)
            rounded += between


def group_norm_quantize(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    step: Tensor,
    zero_point: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    band: Tensor | None = None,
    beside: Tensor | None = None,
    own: tuple[Tensor, Tensor, Tensor] | None = None,
    roundings: int = 1,
    parts: int | None = None,
) -> Tensor:
    """(samples, *spatial, channels) float, of any strides, -> int8 of the same shape, contiguous.

    weight, bias: (channels,). scale, shift: (samples, channels), or both None. step, zero_point, band:
    as `quantize.quantize` has them. beside: (samples, *spatial, more) in the type of x, normalised as if it were
    joined to x on the last axis. own: int8 of the result's shape, in which x (and what stands beside it) is written
    rounded as it is, and step and zero point of that. Of several roundings step and zero_point have one more axis in
    front, and so has the result. parts: into how many parts the places are split, a power of two; chosen if None.
    """
    channels = x.shape[-1] + (0 if beside is None else beside.shape[-1])
    several_times = (roundings,) if roundings > 1 else ()
    q = torch.empty((*several_times, *x.shape[:-1], channels), dtype=torch.int8, device=x.device)
    if not q.numel():
        return q
    way, inside = by_sample(x), channels // groups
    other = way if beside is None else by_sample(beside)
    wide = power_of_two(inside, 1)
    together = min(power_of_two(groups, 1), max(1, WIDE // wide))
    elements = 65536 if INTERPRETED else ELEMENTS if beside is None else ELEMENTS // 2
    chunk = min(power_of_two(way.places), max(1, elements // (together * wide)))
    programs = tiles(groups, together) * way.samples
    parts = parts or parts_for(programs, tiles(way.places, chunk), x.device)
    part_size = tiles(way.places, parts)
    grid, sizes = (programs, parts), {"IN_GROUP": inside, "PARTS": parts}
    sizes |= {"PLACES": chunk, "GROUPS": together, "CHANNELS": wide, "num_warps": WARPS}
    given, strides = (way.tensor, None if beside is None else other.tensor), (*way.strides, *other.strides)
    scale, shift = rows_of(scale, shift)
    partial = None
    if parts > 1:
        partial = torch.empty((way.samples, 2, parts, groups), dtype=torch.float32, device=x.device)
        launch(moments_kernel, grid, *given, partial, way.places, part_size, groups, x.shape[-1], *strides, **sizes)
    launch(
        group_norm_kernel,
        grid,
        *given,
        weight,
        bias,
        scale,
        shift,
        step,
        zero_point,
        band,
        q,
        *(own or (None, None, None)),
        partial,
        way.places,
        part_size,
        channels,
        groups,
        x.shape[-1],
        samples_a_band(way.samples, band),
        zero_point.numel() // roundings,
        q.numel() // roundings,
        eps,
        0 if scale is None else scale.stride(0),
        *strides,
        SEVERAL=several(band),
        SILU=silu,
        PER_CHANNEL=per_channel(step if roundings == 1 else step[0], band),
        ROUNDINGS=roundings,
        OWN_PER_CHANNEL=own is not None and per_channel(own[1], band),
        **sizes,
    )
    return q


def parts_for(programs: int, chunks: int, device: torch.device) -> int:
    """Into how many parts to split the places of a sample: as many as fill the card, one where groups do already."""
    if INTERPRETED:
        return 1
    wanted, parts = WAVES * multiprocessors(device), 1
    while programs * parts < wanted and parts < min(chunks, MOST_PARTS):
        parts *= 2
    return parts


def reference(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    step: Tensor,
    zero_point: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """The same by torch's own operators in float32."""
    y = F.group_norm(x.float().movedim(-1, 1), groups, weight.float(), bias.float(), eps).movedim(1, -1)
    if scale is not None and shift is not None:
        apart = (len(x), *[1] * (x.dim() - 2), -1)
        y = y * (1 + scale.float().view(apart)) + shift.float().view(apart)
    return quantize_reference(F.silu(y) if silu else y, step, zero_point)
