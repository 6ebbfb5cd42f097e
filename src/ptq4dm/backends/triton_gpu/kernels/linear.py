"""Linear layer in INT8: a matrix product with int32 sums, and what follows it.

    y[m, o] = epilogue(sum_k q[m, k] w[o, k])                          (see `epilogue`)

Both operands lie with k last, as tensor cores read signed bytes. Source: blocked matrix product with grouped tiles
(Tillet, Kung, Cox, "Triton: an intermediate language and compiler for tiled neural network computations", MAPL 2019).
Limit: 2 m k o operations at the INT8 rate, or m k + o k bytes in and the output's bytes out.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ptq4dm.backends.triton_gpu.kernels.bands import entry_of, samples_a_band, several
from ptq4dm.backends.triton_gpu.kernels.epilogue import finish
from ptq4dm.backends.triton_gpu.kernels.launching import GROUPED, Settings, dense, launch, settings_for, tiles
from ptq4dm.backends.triton_gpu.kernels.splitting import launches, places_of, slice_of, workspace_of
from ptq4dm.backends.triton_gpu.kernels.tiles import tile_of


@triton.jit(do_not_specialize=["rows_a_sample", "samples_a_band"])
def linear_kernel(
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
    depth,
    columns,
    rows_a_sample,
    samples_a_band,
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
    """One tile of outputs. EVEN: whether DEPTH divides the depth, so that no step needs a mask along it."""
    row_tile, column_tile = tile_of(tl.program_id(0), tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS), GROUPED)  # pyright: ignore[reportGeneralTypeIssues]
    row = row_tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    in_rows, in_columns = row < rows, column < columns
    there = in_rows[:, None] & in_columns[None, :]
    if workspace is not None and SPLITS == 1:
        sums = tl.load(places_of(workspace, row, column, columns), mask=there, other=0)
    else:
        first, last = slice_of(tl.cdiv(depth, DEPTH), SPLITS)  # pyright: ignore[reportGeneralTypeIssues]
        sums = tl.zeros((ROWS, COLUMNS), dtype=tl.int32)
        for step in range(first, last):
            k = step * DEPTH + tl.arange(0, DEPTH)
            inputs, weights = q + row[:, None] * depth + k[None, :], weight + column[None, :] * depth + k[:, None]
            if EVEN:
                a = tl.load(inputs, mask=in_rows[:, None], other=0)
                b = tl.load(weights, mask=in_columns[None, :], other=0)
            else:
                a = tl.load(inputs, mask=in_rows[:, None] & (k < depth)[None, :], other=0)
                b = tl.load(weights, mask=in_columns[None, :] & (k < depth)[:, None], other=0)
            sums = tl.dot(a, b, sums, out_dtype=tl.int32)
    sample = row // rows_a_sample
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
            None,
            column_tile * COLUMNS,
            columns,
            SEVERAL,
            False,  # pyright: ignore[reportArgumentType]
            PER_CHANNEL,
            SLICES,
        )


def linear(
    q: Tensor,
    weight: Tensor,
    weight_sums: Tensor,
    input_scale: Tensor,
    zero_point: Tensor,
    weight_scale: Tensor,
    dtype: torch.dtype,
    bias: Tensor | None = None,
    embedding: Tensor | None = None,
    residual: Tensor | None = None,
    out_step: Tensor | None = None,
    out_zero_point: Tensor | None = None,
    band: Tensor | None = None,
    settings: Settings | None = None,
) -> Tensor:
    """(samples, ..., in) int8 -> (samples, ..., out) in `dtype`, or int8 where `out_step` is given.

    weight: int8 (out, in). weight_sums: int32 (out,). input_scale: float32 (). zero_point: int8 (), less 128.
    weight_scale, bias: float32 (out,). embedding: (samples, out). residual: of the shape of the output.
    out_step: float32 of one number or (out,), with out_zero_point int8 (). band: as `quantize.quantize` has it, with
    input_scale and zero_point (bands,).
    """
    depth, columns = q.shape[-1], weight.shape[0]
    out = torch.empty((*q.shape[:-1], columns), dtype=torch.int8 if out_step is not None else dtype, device=q.device)
    if not out.numel():
        return out
    q, rows, samples = q.contiguous(), out.numel() // columns, q.shape[0] if q.dim() > 1 else 1
    best = settings or settings_for(rows, columns, depth, 1, q.device)
    programs, workspace = (
        tiles(rows, best.rows) * tiles(columns, best.columns),
        workspace_of(rows, columns, best, q.device),
    )
    for splits in launches(best):
        launch(
            linear_kernel,
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
            depth,
            columns,
            rows // samples,
            samples_a_band(samples, band),
            SEVERAL=several(band),
            PER_CHANNEL=out_step is not None and out_step.numel() > 1,
            ROWS=best.rows,
            COLUMNS=best.columns,
            DEPTH=best.depth,
            EVEN=depth % best.depth == 0,
            SPLITS=splits,
            SLICES=best.slices,
            GROUPED=GROUPED,
            num_warps=best.warps,
            num_stages=best.stages,
        )
    return out


def reference(q: Tensor, weight: Tensor) -> Tensor:
    """The sums, int64: what the kernel must add up exactly."""
    return q.long() @ weight.long().T
