"""Change rounded weights one at a time, each to the integer that is best beside all the others.

Error feedback (`error_feedback`) never looks back: a weight is rounded for those before it. Coordinate descent from
where it ends, as in Behdin et al., "QuantEase: Optimization-based Quantization for Language Models", 2023, arXiv
2309.01885, mends what those behind did to it: for one weight of a row, all others fixed, the squared error
e H eᵀ of the output is a parabola, so that the best integer is the one nearest to its vertex.
"""

import numpy as np
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
    second = second_moment.numpy()
    width, diagonal = len(second), second.diagonal().copy()
    found = integers.numpy().T.copy()  # one input's weights side by side, as they are looked at
    gradient = second @ (weight.numpy().T - found)
    for _ in range(SWEEPS):
        before = found.copy()
        for start in range(0, width, BLOCK):
            end = min(start + BLOCK, width)
            own = gradient[start:end].copy()
            for j in range(start, end):
                nearest = within(np.rint(found[j] + own[j - start] / diagonal[j]), -largest, largest)
                if portable and (other := partner(j, channels)) is not None:
                    nearest = within(nearest, -PAIR_LIMIT - found[other], PAIR_LIMIT - found[other])
                change = nearest - found[j]
                if change.any():
                    own[j - start + 1 :] -= np.multiply.outer(second[j, j + 1 : end], change)
                    found[j] = nearest
            gradient -= second[start:end].T @ (found - before)[start:end]
        if np.array_equal(found, before):
            break
    return torch.from_numpy(found.T.copy())


def within(values: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """The values, none below `low` nor above `high`."""
    return np.minimum(np.maximum(values, low), high)


def partner(place: int, channels: int) -> int | None:
    """Where the other of a pair of channels is, of inputs (taps, channels); None for an odd last channel."""
    channel = place % channels
    if channel % 2:
        return place - 1
    return place + 1 if channel + 1 < channels else None
