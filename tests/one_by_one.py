"""Coordinate descent the slow way: of all integers that a weight may be, the one of least error, weight by weight."""

import torch

from ptq4dm.quantization.descent import SWEEPS


def squared_error(weight, integers, second):
    """e H eᵀ of each row, (out,)."""
    error = weight - integers
    return ((error @ second) * error).sum(-1)


def one_by_one(weight, integers, second, channels, portable, largest=127):
    """Each weight of (out, taps x channels) in turn, `SWEEPS` times; of equally good integers the one that is there."""
    found, values = integers.clone(), torch.arange(-largest, largest + 1, dtype=integers.dtype)
    for _ in range(SWEEPS):
        for row in range(len(found)):
            for j in range(found.shape[1]):
                best = float(squared_error(weight[row], found[row], second))
                tried = found[row].repeat(len(values), 1)
                tried[:, j] = values
                for candidate, error in zip(tried, squared_error(weight[row], tried, second).tolist(), strict=True):
                    if error < best * (1 - 1e-12) and not (portable and not safe(candidate, channels)):
                        best, found[row] = error, candidate
    return found


def safe(row, channels):
    """Whether no two channels 2i and 2i+1 of a tap have a sum of one sign beyond 128."""
    for tap in row.view(-1, channels).tolist():
        for first, second in zip(tap[::2], tap[1::2], strict=False):
            if first * second > 0 and abs(first + second) > 128:
                return False
    return True
