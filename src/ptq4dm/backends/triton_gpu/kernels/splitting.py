"""A tile's steps split among programs, where a product has fewer tiles than the card has multiprocessors.

    sums = sum over slices of the steps, each added up by a program of its own in int32

Sums of integers are the same in any order, so slices are added atomically into a workspace of zeros, and a second
launch of the same kernel takes what stands there to its epilogue. Source: "split-K" of CUTLASS's matrix products.
Cost: four bytes a sum written by each slice and read once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ptq4dm.backends.triton_gpu.kernels.launching import Settings


@triton.jit
def slice_of(steps, SPLITS: tl.constexpr):
    """The first of the steps of this program, and the one behind its last."""
    first, last = 0, steps
    if SPLITS > 1:
        each = tl.cdiv(steps, SPLITS)
        first = tl.program_id(1) * each
        last = tl.minimum(first + each, steps)
    return first, last


@triton.jit
def places_of(workspace, row, column, columns):
    """Where the sums of a tile stand."""
    return workspace + row[:, None] * columns + column[None, :]


def workspace_of(rows: int, columns: int, best: Settings, device: torch.device) -> Tensor | None:
    """Zeros for the sums of a product whose steps are split; None where they are not."""
    return torch.zeros(rows, columns, dtype=torch.int32, device=device) if best.splits > 1 else None


def launches(best: Settings) -> tuple[int, ...]:
    """How many programs share a tile in each launch: one launch adds up and finishes; where steps are split, the first
    adds up slices in the workspace, and the second finishes what stands there."""
    return (1,) if best.splits == 1 else (best.splits, 1)
