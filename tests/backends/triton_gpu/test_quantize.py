"""The kernel against the definition in numpy: the same integer for every float, bit for bit."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hard_cases import CHANNELS, ZERO_POINTS, int8
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu.kernels.quantize import quantize, reference


def by_hand(x, step, zero_point):
    """Half to even in float32, as numpy rounds; then the definition's clamp."""
    quotient = np.rint(x.astype(np.float32) / step.astype(np.float32))
    return (np.clip(quotient + (zero_point + 128), 0, 255) - 128).astype(np.int8)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_layout_gives_the_definitions_integers(channels, dtype):
    x = (torch.randn(2, channels, 5, 3, generator=torch.Generator().manual_seed(channels)) * 9).to(dtype)
    step = torch.rand(channels) + 0.01
    for zero_point in ZERO_POINTS:
        expected = by_hand(x.float().movedim(1, -1).numpy(), step.numpy(), zero_point)
        for laid in (x, x.contiguous(memory_format=torch.channels_last), x[:, :, ::2].repeat(1, 1, 2, 1)[:, :, :5]):
            got = quantize(laid.movedim(1, -1), step, int8(zero_point))
            assert got.is_contiguous() and got.dtype == torch.int8
            assert np.array_equal(got, by_hand(laid.float().movedim(1, -1).numpy(), step.numpy(), zero_point))
        assert np.array_equal(quantize(x.movedim(1, -1), step, int8(zero_point)), expected)


def test_ties_go_to_even_and_extremes_are_clamped():
    step, zero_point = torch.tensor(0.25), int8(-28)  # 100 in the definition
    x = torch.tensor([0.125, 0.375, -0.125, -0.375, 1e30, -1e30, float("inf"), -float("inf"), 0.0, -0.0, 1e-40])
    expected = torch.tensor([100, 102, 100, 98, 255, 0, 255, 0, 100, 100, 100]) - 128
    assert torch.equal(quantize(x, step, zero_point).long(), expected)


@given(
    x=arrays(np.float32, 12, elements=st.floats(-(2.0**60), 2.0**60, width=32)),
    scale=st.floats(2.0**-20, 2.0**20, width=32),
    zero_point=st.integers(-128, 127),
)
@settings(max_examples=25)
def test_any_float(x, scale, zero_point):
    step = torch.tensor(scale)
    got = quantize(torch.from_numpy(x), step, int8(zero_point))
    assert torch.equal(got, reference(torch.from_numpy(x), step, int8(zero_point)))


def test_two_corrections_give_the_rounded_quotient_on_a_gpu():
    """The formula of `rounding.quotient` in rational numbers, each product and sum rounded once, as by a GPU's `fma`
    (the interpreter's differs): numpy's float32 quotient, near halves, where a unit would change integers."""
    generator = np.random.default_rng(0)
    for _ in range(1500):
        step = np.float32(generator.uniform(1, 2) * 10.0 ** generator.integers(-29, 30))
        x = np.float32((generator.integers(-290, 290) + generator.choice([0.5, 0.5, generator.uniform()])) * step)
        x = np.nextafter(x, np.float32(generator.choice([-np.inf, np.inf])), dtype=np.float32)
        s, numerator, inverse = Fraction(float(step)), Fraction(float(x)), to_float32(1 / Fraction(float(step)))
        q = to_float32(numerator * inverse)
        for _ in range(2):
            q = to_float32(q + to_float32(numerator - q * s) * inverse)
        assert q == Fraction(float(x / step))


def to_float32(exact):
    """The nearest float32, half to even."""
    if not exact:
        return exact
    unit = Fraction(2) ** (math.frexp(float(abs(exact)))[1] - 24)
    return round(exact / unit) * unit


def test_the_quotient_is_ieees_own():
    """Integers k + 1/2 times a step that is no power of two: one unit off in the quotient would change most of them."""
    step = torch.tensor(0.0371)
    x = (torch.arange(-2000, 2000) / 10 + 0.05) * step
    assert np.array_equal(quantize(x, step, int8(0)), by_hand(x.numpy(), step.numpy(), 0))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4), (1, 1), (2, 3, 4, 5, 6), (7,)])
def test_any_rank_and_nothing_at_all(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    got = quantize(x, torch.tensor(0.1), int8(3))
    assert got.shape == shape and torch.equal(got, reference(x, torch.tensor(0.1), int8(3)))
