"""Coordinate descent on rounded weights: against trying every integer, and what it may never do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_by_one import one_by_one, safe, squared_error

from ptq4dm.quantization import descent
from ptq4dm.quantization.descent import descended


def positive_definite(width, seed, rank=3):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(rank, width, generator=generator, dtype=torch.float64)
    return rows.T @ rows + 0.2 * torch.eye(width, dtype=torch.float64)


def start(weight, channels, portable, largest):
    """Integers that are safe where they must be: nearest ones, of a pair beyond the limit each half."""
    found = weight.round().clamp(-largest, largest)
    if portable:
        for row in found:
            if not safe(row, channels):
                row.copy_((row / 2).trunc())
    return found


@pytest.mark.parametrize("portable", [True, False])
@pytest.mark.parametrize(("channels", "taps", "largest"), [(4, 1, 127), (3, 2, 127), (1, 5, 127), (6, 1, 7)])
def test_each_weight_becomes_the_best_integer_beside_the_others(channels, taps, largest, portable, monkeypatch):
    monkeypatch.setattr(descent, "BLOCK", 4)  # the last block is a part of one
    torch.manual_seed(channels)
    weight = 70 * torch.randn(3, channels * taps, dtype=torch.float64)
    second = positive_definite(channels * taps, taps)
    begun = start(weight, channels, portable, largest)
    before = begun.clone()
    found = descended(weight, begun, second, channels, portable, largest)
    assert torch.equal(found, one_by_one(weight, begun, second, channels, portable, largest))
    assert torch.equal(begun, before) and not torch.equal(found, begun)
    for row in range(3):  # each by itself: whose memory is that of the weights seen the other way round
        one = begun[row : row + 1].clone()
        alone = descended(weight[row : row + 1], one, second, channels, portable, largest)
        assert torch.equal(one, before[row : row + 1]) and torch.equal(alone, found[row : row + 1])


@given(
    channels=st.integers(1, 7),
    taps=st.integers(1, 4),
    size=st.sampled_from([1.0, 60.0, 1000.0]),
    seed=st.integers(0, 999),
    portable=st.booleans(),
)
@settings(max_examples=60)
def test_no_row_becomes_worse_and_pairs_stay_safe(channels, taps, size, seed, portable):
    generator = torch.Generator().manual_seed(seed)
    weight = size * torch.randn(3, channels * taps, generator=generator, dtype=torch.float64)
    second = positive_definite(channels * taps, seed)
    begun = start(weight, channels, portable, 127)
    found = descended(weight, begun, second, channels, portable)
    assert bool((squared_error(weight, found, second) <= squared_error(weight, begun, second) * (1 + 1e-9)).all())
    assert torch.equal(found, found.round()) and float(found.abs().max()) <= 127
    assert not portable or all(safe(row, channels) for row in found)


def test_what_one_weight_cannot_mend_is_left():
    """Nearest integers of independent inputs are the best."""
    torch.manual_seed(0)
    weight = 30 * torch.randn(4, 12, dtype=torch.float64)
    second = torch.diag(torch.rand(12, dtype=torch.float64) + 0.1)
    assert torch.equal(descended(weight, weight.round(), second, 12, False), weight.round())
