"""Shapes and numbers chosen to hurt the kernels, and the oracles' common parts."""

import numpy as np
import torch

CHANNELS = (1, 3, 5, 17, 130)
ZERO_POINTS = (-128, -51, 127)


def bytes_of(*shape, seed=0, low=-128):
    """Integers from `low` to 127, a quarter of them at the ends."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(low, 128, shape, generator=generator)
    ends = torch.where(values % 2 == 0, low, 127)
    return torch.where(torch.rand(shape, generator=generator) < 0.25, ends, values).to(torch.int8)


def int8(value):
    return torch.tensor(value, dtype=torch.int8)


def near_a_tie(exact, margin):
    """Where a quotient in float64 is so near to a half that float32 may round it the other way."""
    return np.abs(np.abs(exact - np.floor(exact)) - 0.5) < margin
