"""What follows the int32 sums of a layer, fused into its kernel.

    y = s_x s_w[c] * (sum - z * t[c]) + bias[c] + e[n, c] + r[m, c]

sum: of the stored integers times weights; z t: what the zero point adds to it, t being the sum of the weights that met
an input (those that met padding took part in nothing); s_x and z: one
entry of a table where scales depend on the time-step; e: a time embedding, one row a sample; r: a residual. s_x s_w is
rounded to float32 once, as `QuantizedLayer.output_scale`. The sums are exact; each float32 operation rounds once, as
torch's do (kernels are compiled without joining products and sums). y is stored in the type of the output, or as
integers (`rounding.to_integers`) for a next layer in INT8.

A tile is finished slice by slice: all of it at once would need more registers than a thread has (seen in the compiler's
report: 1,520 bytes of stack for 128 x 256 outputs).
"""

import triton
import triton.language as tl

from ptq4dm.backends.triton_gpu.kernels.rounding import to_integers


@triton.jit
def halves(tile):
    """A tile (rows, columns) as its left and its right half."""
    return tl.split(tl.permute(tl.reshape(tile, (tile.shape[0], 2, tile.shape[1] // 2)), (0, 2, 1)))


@triton.jit
def finish_slice(
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
    row_in_tile,
    in_rows,
    sample,
    entry,
    pattern,
    first_column,
    columns,
    SEVERAL: tl.constexpr,
    PATTERNS: tl.constexpr,
    PER_CHANNEL: tl.constexpr,
):
    """Finish the columns from `first_column` on. residual and out point to the first row of the tile."""
    column = first_column + tl.arange(0, sums.shape[1])
    in_columns = column < columns
    there = in_rows[:, None] & in_columns[None, :]
    at = row_in_tile[:, None] * columns + column[None, :]
    met = tl.load(weight_sums + column, mask=in_columns, other=0)[None, :]
    if PATTERNS:  # few windows hang over: the others need no row of their own
        hanging = there & (pattern > 0)[:, None]
        own = weight_sums + pattern[:, None] * columns + column[None, :]
        met = tl.load(own, mask=hanging, other=tl.broadcast_to(met, own.shape))
    if SEVERAL:
        entry = entry[:, None]
    scale = tl.load(input_scale + entry) * tl.load(weight_scale + column, mask=in_columns, other=0.0)[None, :]
    y = (sums - tl.load(zero_point + entry).to(tl.int32) * met).to(tl.float32) * scale
    if bias is not None:
        y += tl.load(bias + column, mask=in_columns, other=0.0)[None, :]
    if embedding is not None:
        y += tl.load(embedding + sample[:, None] * columns + column[None, :], mask=there, other=0.0).to(tl.float32)
    if residual is not None:
        y += tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
    if out_step is not None:
        if PER_CHANNEL:
            unit = tl.load(out_step + column, mask=in_columns, other=1.0)[None, :]
        else:
            unit = tl.load(out_step)
        tl.store(out + at, to_integers(y, unit, tl.load(out_zero_point).to(tl.int32)), mask=there)
    else:
        tl.store(out + at, y.to(out.dtype.element_ty), mask=there)


@triton.jit
def finish(
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
    sample,
    entry,
    pattern,
    first_column,
    columns,
    SEVERAL: tl.constexpr,
    PATTERNS: tl.constexpr,
    PER_CHANNEL: tl.constexpr,
    SLICES: tl.constexpr,
):
    """Finish a tile of rows `row_tile` * ROWS on and columns `first_column` on, in 1, 2 or 4 slices.

    sample: of each row. entry: of the input's scale and zero point (`bands`), one, or where the call has SEVERAL bands
    of each row. pattern: of each row, its row of `weight_sums`; PATTERNS: whether there are several.
    """
    ROWS: tl.constexpr = sums.shape[0]
    WIDTH: tl.constexpr = sums.shape[1] // SLICES
    row_in_tile = tl.arange(0, ROWS)
    behind = row_tile.to(tl.int64) * ROWS * columns
    out += behind
    if residual is not None:
        residual += behind
    if SLICES == 1:
        parts = (sums,)
    elif SLICES == 2:
        parts = halves(sums)
    else:
        left, right = halves(sums)  # pyright: ignore[reportGeneralTypeIssues]
        parts = halves(left) + halves(right)
    for index in tl.static_range(SLICES):  # pyright: ignore[reportGeneralTypeIssues]
        finish_slice(
            parts[index],
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
            row_in_tile,
            in_rows,
            sample,
            entry,
            pattern,
            first_column + index * WIDTH,
            columns,
            SEVERAL,
            PATTERNS,
            PER_CHANNEL,
        )
