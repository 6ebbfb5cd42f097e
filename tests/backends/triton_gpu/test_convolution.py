"""The implicit matrix product against int64 loops in numpy: kernels, strides, padding, odd pictures, all channels."""

import itertools

import numpy as np
import pytest
import torch
from hard_cases import CHANNELS, bytes_of, int8
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu.geometry import Geometry
from ptq4dm.backends.triton_gpu.kernels.convolution import convolution, reference
from ptq4dm.backends.triton_gpu.kernels.launching import Settings
from ptq4dm.backends.triton_gpu.packing import packed, tap_sums

ONE = torch.tensor(1.0)
SMALL = Settings(16, 16, 32)


def plane(kernel, stride=1, padding=0, dilation=1, upsample=1):
    return Geometry((1, kernel, kernel), (1, stride, stride), (0, padding, padding), (1, dilation, dilation), upsample)


def sums_by(q, weight, zero_point, geometry, **options):
    """The kernel's sums (below 2**24), by an epilogue that changes nothing. weight: (out, in, *kernel)."""
    ready = packed(weight)
    table = tap_sums(ready, geometry.taps, geometry.most)
    out = torch.ones(len(weight))
    return convolution(q, ready, table, ONE, int8(zero_point), out, geometry, torch.float32, **options)


def by_hand(q, weight, zero_point, geometry):
    """int64 sums, place by place; what lies outside the picture adds nothing."""
    centred = q.numpy().astype(np.int64) - zero_point
    centred = centred.repeat(geometry.upsample, 2).repeat(geometry.upsample, 3)
    weight = weight.numpy().astype(np.int64)
    size, out_size = centred.shape[1:4], geometry.out_size(q.shape[1:4])
    y = np.zeros((len(q), *out_size, len(weight)), dtype=np.int64)
    for place in np.ndindex(*out_size):
        for tap in np.ndindex(*geometry.taps):
            at = [
                p * s - pad + t * d
                for p, s, pad, t, d in zip(
                    place, geometry.stride, geometry.padding, tap, geometry.dilation, strict=True
                )
            ]
            if all(0 <= a < n for a, n in zip(at, size, strict=True)):
                y[(slice(None), *place)] += centred[(slice(None), *at)] @ weight[(slice(None), slice(None), *tap)].T
    return y


@pytest.mark.parametrize(("channels", "out"), [*itertools.product(CHANNELS, (3,)), (3, 130), (17, 1)])
@pytest.mark.parametrize("geometry", [plane(3, 1, 1), plane(3, 2, 1), plane(1, 1), plane(1, 2)], ids=str)
def test_sums_are_exact(channels, out, geometry):
    q = bytes_of(2, 1, 5, 3, channels)
    weight = bytes_of(out, channels, *geometry.taps, seed=1, low=-127)
    got = sums_by(q, weight, 77, geometry, settings=SMALL if channels == 17 else None)
    assert np.array_equal(got.numpy(), by_hand(q, weight, 77, geometry))


@pytest.mark.parametrize("zero_point", [-128, -1, 0, 127])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 1), (7, 9)])
def test_padding_is_the_zero_point_on_every_picture(size, zero_point):
    q, weight = bytes_of(1, 1, *size, 5), bytes_of(4, 5, 1, 3, 3, seed=1, low=-127)
    for geometry in (plane(3, 1, 1), plane(3, 1, 2, 2), plane(3, 2, 1)):
        got = sums_by(q, weight, zero_point, geometry)
        assert np.array_equal(got.numpy(), by_hand(q, weight, zero_point, geometry))


def test_an_upsampled_picture_is_read_through_the_index():
    q = bytes_of(2, 1, 3, 5, 17)
    for geometry in (plane(3, 1, 1, upsample=2), plane(1, upsample=2), plane(3, 2, 1, upsample=3)):
        weight = bytes_of(6, 17, *geometry.taps, seed=1, low=-127)
        got = sums_by(q, weight, -9, geometry)
        assert np.array_equal(got.numpy(), by_hand(q, weight, -9, geometry))


@given(
    taps=st.tuples(*[st.integers(1, 3)] * 3),
    stride=st.tuples(*[st.integers(1, 3)] * 3),
    padding=st.tuples(*[st.integers(0, 3)] * 3),
    dilation=st.tuples(*[st.integers(1, 3)] * 3),
    size=st.tuples(*[st.integers(1, 4)] * 3),
    zero_point=st.integers(-128, 127),
)
@settings(max_examples=15)
def test_any_window_in_three_axes(taps, stride, padding, dilation, size, zero_point):
    geometry = Geometry(taps, stride, padding, dilation)
    if min(geometry.out_size(size)) < 1:
        return
    q, weight = bytes_of(2, *size, 3), bytes_of(5, 3, *taps, seed=1, low=-127)
    expected = by_hand(q, weight, zero_point, geometry)
    assert np.array_equal(sums_by(q, weight, zero_point, geometry).numpy(), expected)
    assert np.array_equal(reference(q, packed(weight), int8(zero_point), geometry).numpy(), expected)


def test_the_epilogue_by_sample_and_place():
    """Embedding by sample, residual by place, several tiles; integers of the next layer."""
    geometry, generator = plane(3, 1, 1), torch.Generator().manual_seed(0)
    q, weight = bytes_of(3, 1, 4, 5, 8), bytes_of(37, 8, 1, 3, 3, seed=1, low=-127)
    ready, table = packed(weight), tap_sums(packed(weight), geometry.taps, geometry.most)
    scale, bias = torch.rand(37, generator=generator) / 50, torch.randn(37, generator=generator)
    embedding, residual = torch.randn(3, 37), torch.randn(3, 1, 4, 5, 37)
    common = (q, ready, table, torch.tensor(0.02), int8(30), scale, geometry, torch.float32, bias, embedding, residual)
    got = convolution(*common, settings=SMALL)
    unit = (torch.tensor(0.02) * scale).numpy().astype(np.float64)
    exact = by_hand(q, weight, 30, geometry) * unit + bias.double().numpy()
    exact = exact + embedding.double().numpy()[:, None, None, None] + residual.double().numpy()
    np.testing.assert_allclose(got.numpy(), exact, rtol=0, atol=3 * np.abs(exact).max() * 2.0**-23)
    rounded = convolution(*common, out_step=torch.tensor(0.05), out_zero_point=int8(5), settings=SMALL)
    expected = np.clip(np.rint(got.numpy() / np.float32(0.05)) + 133, 0, 255) - 128
    assert rounded.dtype == torch.int8 and np.array_equal(rounded.numpy(), expected)


def test_steps_split_among_programs_give_the_same():
    """18 steps among four programs, a padded border, a smaller picture read through the index."""
    for geometry in (plane(3, 1, 1), plane(3, 2, 1, upsample=2)):
        q, weight = bytes_of(1, 1, 4, 3, 40), bytes_of(5, 40, 1, 3, 3, seed=1, low=-127)
        got = sums_by(q, weight, 77, geometry, settings=Settings(64, 16, 32, splits=4))
        assert np.array_equal(got.numpy(), by_hand(q, weight, 77, geometry))


def test_no_pictures_give_no_outputs():
    q, weight = bytes_of(0, 1, 4, 4, 8), bytes_of(3, 8, 1, 3, 3)
    assert sums_by(q, weight, 0, plane(3, 2, 1)).shape == (0, 1, 2, 2, 3)
