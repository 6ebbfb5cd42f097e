"""Convolution in INT8: an implicit matrix product over channels-last data, with int32 sums.

    y[n, p, o] = epilogue(sum_{tap, c} q[n, p stride - padding + tap dilation, c] w[o, tap, c])

Rows are places of the output, columns output channels; the depth runs over taps and, within each, over channels: no
column matrix is ever written. Padding adds the real number 0.0, the integer z: no load is made there, the products
are left out, and with them z times their weights, by a table of the sums of the weights that did meet an input: one row
for each number of taps that hang over the picture's front and back (`packing.tap_sums`). So padding is exact for every
zero point and costs no second pass. A nearest-neighbour upsampled picture is read through the index and never written.
Source: implicit GEMM (Chetlur et al., "cuDNN: efficient primitives for deep learning", arXiv 1410.0759), the zero point
as in Jacob et al., CVPR 2018, Sec. 2.3. Limit: 2 * places * taps * in * out operations at the INT8 rate.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ptq4dm.backends.triton_gpu.geometry import Geometry
from ptq4dm.backends.triton_gpu.kernels.bands import entry_of, samples_a_band, several
from ptq4dm.backends.triton_gpu.kernels.epilogue import finish
from ptq4dm.backends.triton_gpu.kernels.launching import GROUPED, Settings, dense, launch, settings_for, tiles
from ptq4dm.backends.triton_gpu.kernels.splitting import launches, places_of, slice_of, workspace_of
from ptq4dm.backends.triton_gpu.kernels.tiles import tile_of


@triton.jit
def overhang(start, size, TAPS: tl.constexpr, DILATION: tl.constexpr, MOST: tl.constexpr):
    """Which row of one axis of the table: taps in front of the picture, and behind it, of the window at `start`."""
    front = tl.maximum((DILATION - 1 - start) // DILATION, 0)
    last = start + (TAPS - 1) * DILATION
    back = tl.maximum((last - size + DILATION) // DILATION, 0)
    return tl.minimum(front, MOST) * (MOST + 1) + tl.minimum(back, MOST)


@triton.jit
def within(place, size):
    """Whether places are from 0 to `size` - 1, in one comparison: as unsigned numbers those below 0 are large."""
    return place.to(tl.uint32, bitcast=True) < size


@triton.jit(do_not_specialize=["height", "width", "out_height", "out_width", "samples_a_band"])
def convolution_kernel(
    q,
    weight,
    weight_sums,
    input_scale,
    zero_point,
    weight_scale,
    bias,
    embedding,
    residual,
    out,
    out_step,
    out_zero_point,
    band,
    workspace,
    rows,
    channels,
    columns,
    samples_a_band,
    depth,
    height,
    width,
    out_depth,
    out_height,
    out_width,
    TAPS_D: tl.constexpr,
    TAPS_H: tl.constexpr,
    TAPS_W: tl.constexpr,
    STRIDE_D: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PADDING_D: tl.constexpr,
    PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr,
    DILATION_D: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    MOST_D: tl.constexpr,
    MOST_H: tl.constexpr,
    MOST_W: tl.constexpr,
    UPSAMPLE: tl.constexpr,
    SEVERAL: tl.constexpr,
    PER_CHANNEL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    EVEN: tl.constexpr,
    SPLITS: tl.constexpr,
    SLICES: tl.constexpr,
    GROUPED: tl.constexpr,
):
    """One tile of outputs. MOST: taps that can hang over an end; EVEN: whether DEPTH divides the channels."""
    row_tile, column_tile = tile_of(tl.program_id(0), tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS), GROUPED)  # pyright: ignore[reportGeneralTypeIssues]
    row = row_tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    in_rows, in_columns = row < rows, column < columns
    places = out_depth * out_height * out_width
    sample, place = row // places, (row % places).to(tl.int32)
    start_d = place // (out_height * out_width) * STRIDE_D - PADDING_D
    start_h = place // out_width % out_height * STRIDE_H - PADDING_H
    start_w = place % out_width * STRIDE_W - PADDING_W
    tall, wide = height * UPSAMPLE, width * UPSAMPLE
    blocks = tl.cdiv(channels, DEPTH)
    pictures = q + sample * (depth * height * width) * channels  # 64 bits once, 32 at each step: a picture has fewer
    kernels = weight + column * (TAPS_D * TAPS_H * TAPS_W * channels)
    there = in_rows[:, None] & in_columns[None, :]
    if workspace is not None and SPLITS == 1:
        sums = tl.load(places_of(workspace, row, column, columns), mask=there, other=0)
    else:
        first, last = slice_of(TAPS_D * TAPS_H * TAPS_W * blocks, SPLITS)  # pyright: ignore[reportGeneralTypeIssues]
        sums = tl.zeros((ROWS, COLUMNS), dtype=tl.int32)
        for step in range(first, last):
            tap, k = step // blocks, step % blocks * DEPTH + tl.arange(0, DEPTH)
            d = start_d + tap // (TAPS_H * TAPS_W) * DILATION_D
            h = start_h + tap // TAPS_W % TAPS_H * DILATION_H
            w = start_w + tap % TAPS_W * DILATION_W
            inside = in_rows
            if MOST_D > 0:
                inside &= within(d, depth)
            if MOST_H > 0:
                inside &= within(h, tall)
            if MOST_W > 0:
                inside &= within(w, wide)
            at = (d * height + h // UPSAMPLE) * width + w // UPSAMPLE
            inputs = pictures[:, None] + ((at * channels)[:, None] + k[None, :])
            weights = kernels[None, :] + (tap * channels + k)[:, None]
            if EVEN:
                a = tl.load(inputs, mask=inside[:, None], other=0)
                b = tl.load(weights, mask=in_columns[None, :], other=0)
            else:
                a = tl.load(inputs, mask=inside[:, None] & (k < channels)[None, :], other=0)
                b = tl.load(weights, mask=in_columns[None, :] & (k < channels)[:, None], other=0)
            sums = tl.dot(a, b, sums, out_dtype=tl.int32)
    pattern = overhang(start_d, depth, TAPS_D, DILATION_D, MOST_D)
    pattern = pattern * ((MOST_H + 1) * (MOST_H + 1)) + overhang(start_h, tall, TAPS_H, DILATION_H, MOST_H)
    pattern = pattern * ((MOST_W + 1) * (MOST_W + 1)) + overhang(start_w, wide, TAPS_W, DILATION_W, MOST_W)
    if SPLITS > 1:
        tl.atomic_add(places_of(workspace, row, column, columns), sums, mask=there, sem="relaxed")
    else:
        finish(
            sums,
            weight_sums,
            input_scale,
            zero_point,
            weight_scale,
            bias,
            embedding,
            residual,
            out,
            out_step,
            out_zero_point,
            row_tile,
            in_rows,
            sample.to(tl.int32),
            entry_of(band, sample, samples_a_band, in_rows, SEVERAL),
            pattern,
            column_tile * COLUMNS,
            columns,
            SEVERAL,
            MOST_D + MOST_H + MOST_W > 0,
            PER_CHANNEL,
            SLICES,
        )


def convolution(
    q: Tensor,
    weight: Tensor,
    weight_sums: Tensor,
    input_scale: Tensor,
    zero_point: Tensor,
    weight_scale: Tensor,
    geometry: Geometry,
    dtype: torch.dtype,
    bias: Tensor | None = None,
    embedding: Tensor | None = None,
    residual: Tensor | None = None,
    out_step: Tensor | None = None,
    out_zero_point: Tensor | None = None,
    band: Tensor | None = None,
    settings: Settings | None = None,
) -> Tensor:
    """(samples, depth, height, width, in) int8 -> (samples, *out, out) in `dtype`, int8 where `out_step` is given.

    weight: int8 (out, taps, in). weight_sums: int32 (patterns, out), as `packing.tap_sums` makes it. The rest as
    `linear.linear` has it.
    """
    columns, channels = weight.shape[0], q.shape[-1]
    size, out_size = q.shape[1:4], geometry.out_size(q.shape[1:4])
    kind = torch.int8 if out_step is not None else dtype
    out = torch.empty((q.shape[0], *out_size, columns), dtype=kind, device=q.device)
    if not out.numel():
        return out
    q, rows = q.contiguous(), out.numel() // columns
    best = settings or settings_for(rows, columns, channels, weight.shape[1], q.device)
    programs, workspace = (
        tiles(rows, best.rows) * tiles(columns, best.columns),
        workspace_of(rows, columns, best, q.device),
    )
    for splits in launches(best):
        launch(
            convolution_kernel,
            (programs, splits),
            q,
            weight,
            weight_sums,
            input_scale,
            zero_point,
            weight_scale,
            bias,
            dense(embedding),
            dense(residual),
            out,
            out_step,
            out_zero_point,
            band,
            workspace,
            rows,
            channels,
            columns,
            samples_a_band(q.shape[0], band),
            *size,
            *out_size,
            *geometry.taps,
            *geometry.stride,
            *geometry.padding,
            *geometry.dilation,
            *geometry.most,
            UPSAMPLE=geometry.upsample,
            SEVERAL=several(band),
            PER_CHANNEL=out_step is not None and out_step.numel() > 1,
            ROWS=best.rows,
            COLUMNS=best.columns,
            DEPTH=best.depth,
            EVEN=channels % best.depth == 0,
            SPLITS=splits,
            SLICES=best.slices,
            GROUPED=GROUPED,
            num_warps=best.warps,
            num_stages=best.stages,
        )
    return out


def reference(q: Tensor, weight: Tensor, zero_point: Tensor, geometry: Geometry) -> Tensor:
    """sum (q - z) w in float64, which holds them exactly: what the kernel's integers must be.

    Arguments as of `convolution`.
    """
    centred = (q.double() - zero_point.double()).movedim(-1, 1)
    centred = F.interpolate(centred, scale_factor=(1, geometry.upsample, geometry.upsample), mode="nearest")
    _, below, right = geometry.behind
    centred = F.pad(centred, (0, right, 0, below))
    kernel = weight.double().transpose(1, 2).reshape(weight.shape[0], weight.shape[2], *geometry.taps)
    return F.conv3d(centred, kernel, None, geometry.stride, geometry.padding, geometry.dilation).movedim(1, -1)
