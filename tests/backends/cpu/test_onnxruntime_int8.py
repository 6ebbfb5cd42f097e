"""INT8 on ONNX Runtime: exact on each kind of layer, honest about what ran, refused where it would saturate."""

import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from randomized import randomized
from tiny import tiny_unet
from torch import nn

from ptq4dm.backends.cpu.onnxruntime.run import OnnxRuntimeBackend
from ptq4dm.backends.cpu.onnxruntime.self_check import check_exact
from ptq4dm.backends.exactness import ulp_distance
from ptq4dm.errors import BackendError, BackendWarning, MissingDependencyError
from ptq4dm.numerics import asymmetric_params
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.layers import QuantizedConv, QuantizedLayer, QuantizedLinear
from ptq4dm.quantization.layers_qdq import OutputQuantized, integer_bias, rounded_names

LAYERS = {
    "conv2d": (nn.Conv2d(16, 24, 3, padding=1), (16, 9, 9)),
    "strided": (nn.Conv2d(16, 8, 3, stride=2, padding=1, bias=False), (16, 9, 9)),
    "pointwise": (nn.Conv2d(32, 16, 1), (32, 4, 4)),
    "dilated": (nn.Conv2d(16, 8, 3, dilation=2), (16, 9, 9)),
    "grouped": (nn.Conv2d(32, 16, 3, groups=2, padding=1), (32, 5, 5)),
    "conv1d": (nn.Conv1d(16, 8, 3, padding=1), (16, 12)),
    "linear": (nn.Linear(33, 8), (33,)),
    "tokens": (nn.Linear(16, 24), (5, 16)),
    "wide": (nn.Linear(512, 48), (512,)),
}
FLOAT = {
    "three channels": (nn.Conv2d(3, 16, 3, padding=1), (3, 8, 8)),
    "odd channels": (nn.Conv2d(17, 16, 3, padding=1), (17, 6, 6)),
    "depthwise": (nn.Conv2d(16, 16, 3, groups=16, padding=1), (16, 6, 6)),
}


def with_output(layer, x):
    """The layer with its output rounded over the range that `x` gives."""
    y = layer(x)
    rounded = OutputQuantized(layer)
    scale, zero_point = asymmetric_params(y.min(), y.max())
    rounded.output_scale.copy_(scale)
    rounded.output_zero_point.copy_(zero_point.to(torch.uint8))
    return rounded


def exact_output(layer, q_x):
    """The layer's float64 output from integers: float64 sums of whole numbers are exact below 2**53."""
    centred, weight = q_x.double() - float(layer.input_zero_point), layer.weight.double()
    if isinstance(layer, QuantizedLinear):
        sums, channel = F.linear(centred, weight), (-1,)
    else:
        convolve = {3: F.conv1d, 4: F.conv2d}[weight.dim()]
        sums = convolve(centred, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        channel = (-1,) + (1,) * (weight.dim() - 2)
    scale = (layer.input_scale * layer.weight_scale).double().view(channel)
    return sums * scale + (0 if layer.bias is None else layer.bias.double().view(channel))


@pytest.mark.parametrize("kind", [*LAYERS, *FLOAT])
def test_each_kind_of_layer_is_exact_over_the_full_range(kind):
    source, shape = (LAYERS | FLOAT)[kind]
    layer = randomized(source, limit=64)
    q_x = torch.randint(0, 256, (4, *shape), generator=torch.Generator().manual_seed(2))
    q_x[1], q_x[2] = 255, 0
    q_x[3] = (91 + 40 * torch.randn(shape, generator=torch.Generator().manual_seed(3))).round().clamp(0, 255)
    x = (q_x - 91) * layer.input_scale
    whole = nn.Sequential(with_output(layer, x) if kind in LAYERS and isinstance(layer, QuantizedConv) else layer)
    with nullcontext() if kind in LAYERS else pytest.warns(BackendWarning, match=r"1 of 1 quantized layers .*\(0\)"):
        module = OnnxRuntimeBackend().prepare(whole, Call((x[:2],)))
    found, expected = module(x).double(), exact_output(layer, q_x)
    (ran,) = module.ptq4dm_engine.executed
    assert ran.int8 == (kind in LAYERS) and ran.layer == "0"
    if isinstance(whole[0], OutputQuantized):
        step, zero_point = float(whole[0].output_scale), float(whole[0].output_zero_point)
        expected = (torch.clamp(torch.round(expected / step) + zero_point, 0, 255) - zero_point) * step
        assert ran.type == "QLinearConv"
        assert float((found - expected).abs().max()) <= 1.001 * step
        assert float(((found - expected).abs() > 0.5 * step).double().mean()) < 0.01
    elif ran.int8:
        product = expected if layer.bias is None else expected - layer.bias.double()
        assert ran.type == "MatMulIntegerToFloat" and float(ulp_distance(found, expected, product).max()) <= 1
    else:
        torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-5)


@pytest.fixture(scope="module")
def network():
    """A tiny UNet in the arithmetic qdq, of random integers."""
    unet = tiny_unet((8, 16), 8)
    for name, module in list(unet.named_modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            layer = randomized(module, limit=64)
            if isinstance(layer, QuantizedConv) and name in {*CONVS}:
                layer = OutputQuantized(layer)
                layer.output_scale.fill_(0.1)
                layer.output_zero_point.fill_(128)
                layer.layer.bias = integer_bias(layer.layer)
            owner, _, attribute = name.rpartition(".")
            setattr(unet.get_submodule(owner), attribute, layer)
    return unet


CONVS = [
    name
    for name, module in tiny_unet((8, 16), 8).named_modules()
    if isinstance(module, nn.Conv2d) and name not in ("conv_in", "conv_out")
]


@pytest.fixture(scope="module")
def module(network):
    with pytest.warns(
        BackendWarning, match=r"^ONNX Runtime does not show 2 of \d+ quantized layers .*conv_in, conv_out"
    ):
        return OnnxRuntimeBackend().prepare(network, Call((torch.randn(2, 3, 8, 8), torch.tensor([5, 6]))))


def test_every_wide_layer_of_a_network_really_runs_in_int8(network, module):
    ran = {item.layer: item for item in module.ptq4dm_engine.executed}
    layers = {name for name, item in network.named_modules() if isinstance(item, QuantizedLayer)}
    assert set(ran) == {name.removesuffix(".layer") for name in layers}
    assert {name for name, item in ran.items() if not item.int8} == {"conv_in", "conv_out"}
    assert all(ran[name].type == "QLinearConv" for name in CONVS)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_network_equals_its_simulated_twin(network, module, batch):
    x, t = torch.randn(batch, 3, 8, 8), torch.randint(0, 1000, (batch,))
    found, expected = module(x, t).sample, network(x, t).sample
    flips = network.double()(x.double(), t).sample.float() - expected
    network.float()
    distance = float((found - expected).norm() / expected.norm())
    assert distance <= 2 * float(flips.norm() / expected.norm()) + 1e-4


def saturating(probes):
    """An engine without VNNI: the products of two adjacent inputs are added in int16, as `vpmaddubsw` does."""
    outputs = []
    for probe in probes:
        inner = probe.layer.layer if isinstance(probe.layer, OutputQuantized) else probe.layer
        zero_point, weight = int(inner.input_zero_point), inner.weight.numpy().astype(np.int64)
        q = np.clip(np.round(probe.x.numpy() / float(inner.input_scale)) + zero_point, 0, 255).astype(np.int64)
        if isinstance(inner, QuantizedConv):  # 1x1 only
            q, weight = np.moveaxis(q, 1, -1), weight[:, :, 0, 0]
        pairs = q[..., 0::2, None] * weight.T[0::2] + q[..., 1::2, None] * weight.T[1::2]
        sums = np.clip(pairs, -(2**15), 2**15 - 1).sum(-2) - zero_point * weight.sum(1)
        y = sums * inner.output_scale(torch.float64).numpy() + (
            0 if inner.bias is None else inner.bias.double().numpy()
        )
        if isinstance(probe.layer, OutputQuantized):
            step, zero = float(probe.layer.output_scale), float(probe.layer.output_zero_point)
            y = (np.clip(np.round(y / step) + zero, 0, 255) - zero) * step
        outputs.append(torch.from_numpy(np.moveaxis(y, -1, 1) if isinstance(inner, QuantizedConv) else y))
    return outputs


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), rounded=st.booleans(), excess=st.sampled_from([-1, 0, 2, 20, 100]))
def test_the_self_check_tells_safe_weights_from_one_unsafe_pair(seed, rounded, excess):
    """One pair of weights sums to 128 + excess; all others are far from the limit."""
    layer = randomized(nn.Conv2d(16, 8, 1) if rounded else nn.Linear(16, 8), limit=40, seed=seed)
    row, pair = seed % 8, 2 * (seed % 7)
    layer.weight[row, pair] = 64
    layer.weight[row, pair + 1] = min(127, 64 + excess)
    whole = nn.Sequential(with_output(layer, torch.randn(4, 16, 3, 3)) if rounded else layer)
    if excess <= 0:
        check_exact(whole, ["0"], saturating)
    else:
        with pytest.raises(BackendError, match=r"not exact on this processor: 1 of 1 layers.*\(0\).*portable = true"):
            check_exact(whole, ["0"], saturating)


def test_narrow_and_odd_convolutions_keep_float_outputs():
    kinds = {kind: randomized(source, limit=64) for kind, (source, _) in (LAYERS | FLOAT).items()}
    names = rounded_names(nn.ModuleDict(kinds))
    assert set(names) == {kind for kind in LAYERS if isinstance(kinds[kind], QuantizedConv)}


def test_a_missing_engine_is_told_with_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    backend = OnnxRuntimeBackend()
    assert backend.unavailable() == "onnxruntime is not installed: pip install 'ptq4dm[onnxruntime]'"
    with pytest.raises(MissingDependencyError, match=r"pip install 'ptq4dm\[onnxruntime\]'"):
        backend.prepare(nn.Sequential(randomized(nn.Linear(4, 4), limit=64)), Call((torch.randn(2, 4),)))
