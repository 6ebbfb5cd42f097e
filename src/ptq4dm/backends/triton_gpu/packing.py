"""Weights as the kernels take them, made once from a quantized layer."""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

LARGEST_DEPTH = (2**31 - 1) // (255 * 127)
"""How many products a sum may have, so that int32 holds it whatever the integers are: 66,311."""


def packed(weight: Tensor) -> Tensor:
    """(out, in, *kernel) as (out, taps, in): the channels of a tap side by side, as the kernels read them."""
    return weight.flatten(2).transpose(1, 2).contiguous()


def tap_sums(weight: Tensor, taps: Sequence[int], most: Sequence[int]) -> Tensor:
    """The sums of the weights that meet an input, for each way in which a window can hang over the picture.

    weight: int8 (out, taps, in). taps and most (`Geometry.most`): of each axis. Returns int32 (patterns, out), where a
    pattern counts, axis by axis, the taps in front of the picture and those behind it, from 0 to `most` each.
    """
    sums = weight.long().sum(2).reshape(-1, *taps)
    rows = [
        sums[:, *(slice(front, count - back) for (front, back), count in zip(hanging, taps))].flatten(1).sum(1)
        for hanging in product(*(product(range(end + 1), repeat=2) for end in most))
    ]
    return torch.stack(rows).int()
