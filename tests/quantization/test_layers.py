"""Quantized layers against integer sums written out in numpy (int64, no convolution of torch's)."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from ptq4dm.errors import ModelError
from ptq4dm.quantization.layers import QuantizedConv, QuantizedLinear, quantized_form, weight_of


def filled(layer, seed, zero_point=77):
    generator = torch.Generator().manual_seed(seed)
    layer.weight.copy_(torch.randint(-127, 128, layer.weight.shape, generator=generator))
    layer.weight_scale.copy_(torch.rand(layer.weight_scale.shape, generator=generator) + 0.01)
    layer.input_scale.fill_(0.031)
    layer.input_zero_point.fill_(zero_point)
    if layer.bias is not None:
        layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator))
    return layer.double()


def integers(layer, x):
    q = np.rint(x.numpy() / float(layer.input_scale)) + int(layer.input_zero_point)
    return np.clip(q, 0, 255).astype(np.int64) - int(layer.input_zero_point)


def scaled(layer, sums, axis):
    scale = (np.float32(layer.input_scale) * layer.weight_scale.float().numpy()).astype(np.float64)
    shape = [1] * sums.ndim
    shape[axis] = -1
    y = sums * scale.reshape(shape)
    return y if layer.bias is None else y + layer.bias.double().numpy().reshape(shape)


def conv2d_by_hand(q, w, stride, padding, groups):
    q = np.pad(q, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    batch, _, height, width = q.shape
    out, per_group, k, _ = w.shape
    rows, columns = (height - k) // stride + 1, (width - k) // stride + 1
    y = np.zeros((batch, out, rows, columns), dtype=np.int64)
    for o in range(out):
        first = o // (out // groups) * per_group
        for r in range(rows):
            for c in range(columns):
                window = q[:, first : first + per_group, r * stride : r * stride + k, c * stride : c * stride + k]
                y[:, o, r, c] = (window * w[o]).sum(axis=(1, 2, 3))
    return y


@pytest.mark.parametrize(("channels", "out", "kernel", "stride", "padding", "groups"),
                         [(1, 2, 3, 1, 1, 1), (5, 3, 3, 2, 1, 1), (6, 4, 1, 1, 0, 2), (4, 4, 3, 1, 1, 4)])  # fmt: skip
@pytest.mark.parametrize("zero_point", [0, 77, 255])
def test_conv2d(channels, out, kernel, stride, padding, groups, zero_point):
    layer = filled(QuantizedConv(nn.Conv2d(channels, out, kernel, stride, padding, groups=groups)), 1, zero_point)
    x = torch.randn(2, channels, 7, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 3
    sums = conv2d_by_hand(integers(layer, x), layer.weight.numpy().astype(np.int64), stride, padding, groups)
    np.testing.assert_allclose(layer(x).numpy(), scaled(layer, sums, 1), rtol=1e-12, atol=1e-12)


def test_conv1d_and_conv3d_are_their_2d_kin():
    x = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    flat = filled(QuantizedConv(nn.Conv1d(3, 4, 3, padding=1)), 4)
    q, w = integers(flat, x), flat.weight.numpy().astype(np.int64)
    padded = np.pad(q, ((0, 0), (0, 0), (1, 1)))
    sums = np.stack([(padded[:, None, :, i : i + 3] * w[None]).sum(axis=(2, 3)) for i in range(9)], axis=2)
    np.testing.assert_allclose(flat(x).numpy(), scaled(flat, sums, 1), rtol=1e-12, atol=1e-12)
    deep = filled(QuantizedConv(nn.Conv3d(3, 4, (1, 3, 1), padding=(0, 1, 0))), 4)
    assert torch.equal(deep(x[:, :, None, :, None])[:, :, 0, :, 0], flat(x))


TRANSPOSED = {
    "1d": nn.ConvTranspose1d(5, 4, 4, stride=2, padding=1),
    "2d, grouped": nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
    "2d, dilated": nn.ConvTranspose2d(4, 6, (2, 3), stride=(1, 3), padding=(0, 2), dilation=2, bias=False),
    "2d, stride beyond the kernel": nn.ConvTranspose2d(3, 3, 2, stride=4, output_padding=1, groups=3),
    "3d": nn.ConvTranspose3d(4, 3, (1, 2, 2), stride=(1, 2, 2)),
}


@pytest.mark.parametrize("source", TRANSPOSED.values(), ids=TRANSPOSED)
@pytest.mark.parametrize("zero_point", [0, 77, 255])
def test_transposed_convolutions(source, zero_point):
    """Every product of integers added where it belongs, one by one, in int64."""
    layer = filled(quantized_form(source), 1, zero_point)
    axes = len(source.kernel_size)
    x = torch.randn(2, source.in_channels, *(4, 3, 2)[:axes], dtype=torch.float64) * 3
    q, w = integers(layer, x), layer.weight.numpy().astype(np.int64)
    out, per_group = w.shape[:2]
    geometry = (source.stride, source.dilation, source.kernel_size, source.output_padding, x.shape[2:])
    size = [(n - 1) * s + (k - 1) * d + 1 + extra for s, d, k, extra, n in zip(*geometry)]
    sums = np.zeros((2, out, *size), np.int64)
    for place, tap in itertools.product(np.ndindex(*x.shape[2:]), np.ndindex(*source.kernel_size)):
        target = tuple(n * s + k * d for n, s, k, d in zip(place, source.stride, tap, source.dilation))
        for o in range(out):
            first = o // (out // source.groups) * per_group
            spread = q[(slice(None), slice(first, first + per_group), *place)] @ w[(o, slice(None), *tap)]
            sums[(slice(None), o, *target)] += spread
    kept = tuple(slice(p, n - p) for p, n in zip(source.padding, size))
    y = layer(x)
    assert y.shape == source.double()(x).shape
    np.testing.assert_allclose(y.numpy(), scaled(layer, sums[(..., *kept)], 1), rtol=1e-12, atol=1e-12)


def test_the_order_of_weights_is_that_of_the_output_channels():
    """Quantized with a scale an output channel, the float function is kept."""
    source = nn.ConvTranspose2d(6, 4, 3, groups=2)
    layer = quantized_form(source).double()
    limit = weight_of(source).detach().abs().flatten(1).amax(1) / 127
    layer.weight.copy_(torch.round(weight_of(source) / limit.view(-1, 1, 1, 1)))
    layer.weight_scale.copy_(limit)
    layer.bias.copy_(source.bias)
    layer.input_scale.fill_(1.0)
    layer.input_zero_point.fill_(128)
    x = torch.randint(-128, 128, (2, 6, 5, 5)).double()
    assert (layer(x) - source.double()(x)).norm() < 0.01 * source(x).norm()


def test_an_output_size_set_at_each_call_is_refused():
    layer = quantized_form(nn.ConvTranspose1d(4, 4, 4, stride=2))
    with pytest.raises(ModelError, match=r"output_size=\[11\].*keep this layer in float"):
        layer(torch.randn(1, 4, 4), output_size=[11])


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5)])
def test_linear(shape):
    layer = filled(QuantizedLinear(nn.Linear(5, 4)), 5)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    sums = integers(layer, x) @ layer.weight.numpy().astype(np.int64).T
    np.testing.assert_allclose(layer(x).numpy(), scaled(layer, sums, sums.ndim - 1), rtol=1e-12, atol=1e-12)


def test_float32_is_exact_while_the_sums_stay_below_two_to_the_24():
    layer = filled(QuantizedConv(nn.Conv2d(8, 4, 3, bias=False)), 7, 0)
    assert 8 * 9 * 255 * 127 < 2**24
    q = torch.randint(0, 256, (1, 8, 5, 5), generator=torch.Generator().manual_seed(8))
    x = q * layer.input_scale.float()  # on the grid, so that float32 and float64 round to the same integers
    exact = layer(x.double())
    torch.testing.assert_close(layer.float()(x).double(), exact, rtol=2**-23, atol=0)
