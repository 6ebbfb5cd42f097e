"""Which tile of a matrix product a program computes."""

import triton
import triton.language as tl


@triton.jit
def tile_of(program, row_tiles, column_tiles, GROUPED: tl.constexpr):
    """The tile (row, column) of a program. `GROUPED` rows of tiles are walked together, column by column, so that
    programs that run at the same time share their operands in the L2 cache."""
    in_group = GROUPED * column_tiles
    first = program // in_group * GROUPED
    height = tl.minimum(row_tiles - first, GROUPED)
    return first + program % in_group % height, program % in_group // height
