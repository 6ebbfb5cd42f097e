"""Change rounded weights one at a time, each to the integer that is best beside all the others.

Error feedback (`error_feedback`) never looks back: a weight is rounded for those before it. Coordinate descent from
where it ends, as in Behdin et al., "QuantEase: Optimization-based Quantization for Language Models", 2023, arXiv
2309.01885, mends what those behind did to it: for one weight of a row, all others fixed, the squared error
e H eᵀ of the output is a parabola, so that the best integer is the one nearest to its vertex.
"""

import torch
from torch import Tensor

from ptq4dm.numerics import PAIR_LIMIT, WEIGHT_MAX

SWEEPS = 3
"""Times that each weight is looked at, at most."""
BLOCK = 128
"""Inputs after which the gradients of the others are brought up to date at once."""


def descended(
    weight: Tensor,
    integers: Tensor,
    second_moment: Tensor,
    channels: int,
    portable: bool,
    largest: int = WEIGHT_MAX,
) -> Tensor:
    """Integers (out, K) float64 of which no row's squared error e H eᵀ, by the H given, is larger than of `integers`.

    e: weight less integers. weight: real weights (out, K) in steps, K = (taps, channels). second_moment: H (K, K), with
    a diagonal above zero. portable: `integers` are safe in pairs, see `numerics.pairs_are_safe`, and so is the result.
    """
    width, found, diagonal = weight.shape[1], integers.clone(), second_moment.diagonal()
    gradient = (weight - found) @ second_moment
    for _ in range(SWEEPS):
        before = found.clone()
        for start in range(0, width, BLOCK):
            end = min(start + BLOCK, width)
            own = gradient[:, start:end].clone()
            for j in range(start, end):
                nearest = (found[:, j] + own[:, j - start] / diagonal[j]).round().clamp(-largest, largest)
                if portable and (other := partner(j, channels)) is not None:
                    nearest = nearest.clamp(-PAIR_LIMIT - found[:, other], PAIR_LIMIT - found[:, other])
                own -= torch.outer(nearest - found[:, j], second_moment[j, start:end])
                found[:, j] = nearest
            gradient -= (found - before)[:, start:end] @ second_moment[start:end]
        if torch.equal(found, before):
            break
    return found


def partner(place: int, channels: int) -> int | None:
    """Where the other of a pair of channels is, of inputs (taps, channels); None for an odd last channel."""
    channel = place % channels
    if channel % 2:
        return place - 1
    return place + 1 if channel + 1 < channels else None
