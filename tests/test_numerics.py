"""The arithmetic against exact rational numbers and its own laws."""

from fractions import Fraction

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptq4dm.numerics import asymmetric_params, dequantize, fake_quantize, pair_up, pairs_are_safe, quantize

finite = st.floats(-100, 100, width=32)


def half_even(value: Fraction) -> int:
    return round(value)  # Python's round of a Fraction is exact, half to even


@given(st.lists(finite, min_size=1, max_size=20), st.integers(-6, 3), st.integers(0, 255))
def test_quantize_equals_exact_rational_arithmetic(values, exponent, zero_point):
    scale = Fraction(2) ** exponent  # a power of two, so that x / scale is exact in float32 as well
    expected = [min(255, max(0, half_even(Fraction(np.float32(v).item()) / scale) + zero_point)) for v in values]
    got = quantize(
        torch.tensor(values, dtype=torch.float32), torch.tensor(float(scale)), torch.tensor(float(zero_point))
    )
    assert got.tolist() == expected


@given(finite, finite)
def test_a_range_holds_zero_exactly_and_its_ends_within_a_step(a, b):
    low, high = torch.tensor(min(a, b), dtype=torch.float64), torch.tensor(max(a, b), dtype=torch.float64)
    scale, zero_point = asymmetric_params(low, high)
    assert scale > 0
    assert 0 <= zero_point <= 255 and zero_point == zero_point.round()
    assert fake_quantize(torch.zeros((), dtype=torch.float64), scale, zero_point) == 0
    for end in (low.clamp(max=0), high.clamp(min=0)):
        assert abs(fake_quantize(end, scale, zero_point) - end) <= scale * (1 + 1e-9)


@given(st.lists(finite, min_size=1, max_size=50))
def test_inside_the_range_the_error_is_at_most_half_a_step_beyond_the_ends(values):
    x = torch.tensor(values, dtype=torch.float64)
    scale, zero_point = asymmetric_params(x.min(), x.max())
    assert (fake_quantize(x, scale, zero_point) - x).abs().max() <= scale * (1 + 1e-9)


def test_a_constant_zero_gets_a_usable_scale():
    scale, zero_point = asymmetric_params(torch.zeros(()), torch.zeros(()))
    assert (scale, zero_point) == (1, 0)


@given(st.integers(0, 255), st.integers(0, 255))
def test_dequantize_then_quantize_returns_the_integer(q, zero_point):
    scale, z = torch.tensor(0.037), torch.tensor(float(zero_point))
    assert quantize(dequantize(torch.tensor(float(q)), scale, z), scale, z) == q


@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 3), st.integers(0, 2**31))
def test_pairs_are_safe_means_that_no_int16_sum_of_two_products_overflows(out, channels, taps, seed):
    generator = np.random.default_rng(seed)
    weight = generator.integers(-127, 128, (out, channels, taps))
    for row, safe in zip(weight, pairs_are_safe(torch.from_numpy(weight)).tolist()):
        padded = np.vstack([row, np.zeros((channels % 2, taps), dtype=row.dtype)])
        worst = 0
        for i in range(0, len(padded), 2):
            for tap in range(taps):
                pair = padded[i : i + 2, tap]
                worst = max(worst, 255 * int(pair[pair > 0].sum()), -255 * int(pair[pair < 0].sum()))
        assert safe == (worst <= 255 * 128)
        assert not safe or worst <= 2**15 - 1


def test_pair_up_puts_adjacent_input_channels_side_by_side():
    weight = torch.arange(2 * 3 * 2).reshape(2, 3, 2)
    pairs = pair_up(weight)
    assert pairs.shape == (2, 2, 2, 2)
    assert torch.equal(pairs[:, 0, 0], weight[:, 0]) and torch.equal(pairs[:, 0, 1], weight[:, 1])
    assert torch.equal(pairs[:, 1, 0], weight[:, 2]) and not pairs[:, 1, 1].any()
