"""The matrix product against int64 sums in numpy, its epilogue against float64 and against the simulated layer."""

import itertools

import numpy as np
import pytest
import torch
from hard_cases import CHANNELS, ZERO_POINTS, bytes_of, int8
from torch import nn

pytest.importorskip("triton")
from ptq4dm.backends.exactness import ULPS_ALLOWED, ulp_distance
from ptq4dm.backends.triton_gpu.kernels.launching import Settings
from ptq4dm.backends.triton_gpu.kernels.linear import linear, reference
from ptq4dm.backends.triton_gpu.kernels.quantize import quantize
from ptq4dm.quantization.layers import QuantizedLinear

ONE = torch.tensor(1.0)
SMALL = Settings(16, 16, 32)


def sums_by(q, weight, zero_point, **options):
    """The kernel's int32 sums, read through an epilogue that changes nothing (they are below 2**24)."""
    return linear(q, weight, weight.sum(1).int(), ONE, zero_point, torch.ones(len(weight)), torch.float32, **options)


@pytest.mark.parametrize(("depth", "columns"), itertools.product(CHANNELS, (1, 17, 130)))
def test_sums_are_exact(depth, columns):
    weight, q = bytes_of(columns, depth, seed=1, low=-127), bytes_of(19, depth)
    for zero_point, tile in zip(ZERO_POINTS, (SMALL, None, Settings(16, 64, 32)), strict=True):
        expected = (q.numpy().astype(np.int64) - zero_point) @ weight.numpy().astype(np.int64).T
        assert np.array_equal(sums_by(q, weight, int8(zero_point), settings=tile).numpy(), expected)
    assert np.array_equal(reference(q, weight).numpy(), q.numpy().astype(np.int64) @ weight.numpy().T)


@pytest.mark.parametrize("splits", [3, 8])
def test_steps_split_among_programs_give_the_same(splits):
    """Four steps: slices of unequal size, and of 8 half are empty. The epilogue follows once."""
    q, weight = bytes_of(2, 5, 100), bytes_of(20, 100, seed=1, low=-127)
    more = (torch.randn(20), torch.randn(2, 20), torch.randn(2, 5, 20))
    for rest in (more, (*more, torch.tensor(0.5), int8(4))):
        common = (q, weight, weight.sum(1).int(), torch.tensor(0.01), int8(40), torch.rand(20), torch.float32, *rest)
        whole = linear(*common, settings=Settings(16, 32, 32))
        assert torch.equal(linear(*common, settings=Settings(16, 32, 32, splits=splits)), whole)


def test_the_largest_sums_are_exact():
    """All products 255 * 127: beyond 2**24 the only rounding is that to float32."""
    depth = 8192
    q, weight = torch.full((1, depth), 127, dtype=torch.int8), torch.full((2, depth), 127, dtype=torch.int8)
    weight[1] = -127
    got = sums_by(q, weight, int8(-128))
    assert got.tolist() == [[float(np.float32(255 * 127 * depth)), float(np.float32(-255 * 127 * depth))]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_epilogue(dtype):
    """Against float64, within rounding; time embedding and residual included."""
    generator = torch.Generator().manual_seed(0)
    q, weight, zero_point = bytes_of(3, 7, 33), bytes_of(21, 33, seed=1, low=-127), int8(40)
    scale, bias = torch.rand(21, generator=generator) / 100, torch.randn(21, generator=generator)
    embedding, residual = torch.randn(3, 21).to(dtype), torch.randn(3, 7, 21).to(dtype)
    step = torch.tensor(0.037)
    got = linear(
        q, weight, weight.sum(1).int(), step, zero_point, scale, dtype, bias, embedding, residual, settings=SMALL
    )
    product = (q.double() - 40) @ weight.double().T * (step * scale).double()
    exact = product + bias.double() + embedding.double()[:, None] + residual.double()
    assert got.dtype == dtype and got.shape == (3, 7, 21)
    if dtype == torch.float32:
        largest = product.abs() + bias.abs() + embedding.double().abs()[:, None] + residual.double().abs()
        assert ulp_distance(got, exact, largest).max() <= ULPS_ALLOWED
    else:
        assert torch.allclose(got.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_it_is_the_simulated_layer_to_the_bit():
    """In float32, with sums below 2**24, each operation rounds as torch's does."""
    layer = QuantizedLinear(nn.Linear(130, 17))
    layer.weight.copy_(bytes_of(17, 130, seed=3, low=-127))
    layer.weight_scale.copy_(torch.rand(17, generator=torch.Generator().manual_seed(1)) / 50)
    layer.input_scale.fill_(0.0213)
    layer.input_zero_point.fill_(93)
    layer.bias = torch.randn(17, generator=torch.Generator().manual_seed(2))
    x = torch.randn(11, 130, generator=torch.Generator().manual_seed(4)) * 2
    q = quantize(x, layer.input_scale, int8(93 - 128))
    got = linear(
        q, layer.weight, layer.weight.sum(1).int(), layer.input_scale, int8(93 - 128), layer.weight_scale.detach(),
        torch.float32, layer.bias,
    )  # fmt: skip
    assert torch.equal(got, layer(x))


def test_output_as_integers_of_the_next_layer():
    q, weight, out_step = bytes_of(5, 40), bytes_of(9, 40, seed=1, low=-127), torch.rand(9) + 20
    y = sums_by(q, weight, int8(7)) + 0.25
    got = linear(
        q, weight, weight.sum(1).int(), ONE, int8(7), torch.ones(9), torch.float16, torch.full((9,), 0.25),
        out_step=out_step, out_zero_point=int8(-3),
    )  # fmt: skip
    expected = np.clip(np.rint(y.numpy() / out_step.numpy()) + 125, 0, 255) - 128
    assert got.dtype == torch.int8 and np.array_equal(got.numpy(), expected)
