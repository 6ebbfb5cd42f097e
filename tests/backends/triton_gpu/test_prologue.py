"""Layers are timed with the normalisation in front of them: given costs of each operator, and no clock."""

import types

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from int8_layers import quantized_copy
from torch import nn
from torch._dynamo.testing import CompileCounter

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu import choice, operators, prologue
from ptq4dm.backends.triton_gpu.kernels import launching
from ptq4dm.backends.triton_gpu.kernels.launching import Settings
from ptq4dm.backends.triton_gpu.layers import channels_last, triton_form
from ptq4dm.backends.triton_gpu.prologue import Norm, Prologue, norms_of
from ptq4dm.backends.triton_gpu.timings import Timings
from ptq4dm.numerics import quantize
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.layers import QuantizedLayer

CPU, TILE = torch.device("cpu"), Settings(16, 16, 32)


@pytest.fixture(autouse=True)
def no_measured_tiles(monkeypatch):
    monkeypatch.setattr(launching, "MEASURED", {})
    monkeypatch.setattr(choice, "MEASURED", launching.MEASURED)
    monkeypatch.setattr(choice, "ROTATED_BYTES", 1)


class Costs:
    """A timer by what a call runs: the sum of the given costs, of kernels and of torch's functions."""

    def __init__(self, monkeypatch, kernels, floats):
        self.spent = 0.0
        for owner, costs in ((operators, kernels), (F, floats)):
            for name, cost in costs.items():
                monkeypatch.setattr(owner, name, self.counted(getattr(owner, name), cost))

    def counted(self, call, cost):
        def counting(*arguments, **options):
            self.spent += cost
            return call(*arguments, **options)

        return counting

    def __call__(self, call, sets):
        before = self.spent
        call(0)
        return self.spent - before


def chosen(network, call, costs):
    layers = {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLayer)}
    works, timings = choice.works_of(network, layers, call), Timings(None, {})
    _, choices = choice.choose(layers, works, timings, costs, lambda *_: [TILE], False, CPU)
    return {one.layer: (one.int8, one.int8_ms / 1000, one.float_ms / 1000) for one in choices}


@torch.no_grad()
def test_a_normalisation_that_rounds_slowly_keeps_its_convolution_in_float(monkeypatch):
    """Its product alone is faster in INT8, by 1 to 3."""
    network = quantized_copy(nn.Sequential(ResnetBlock2D(in_channels=8, temb_channels=None, groups=4)))
    network.forward = lambda x: network[0](x, None)
    call = Call((torch.randn(2, 8, 3, 4),))
    kernels, floats = {"convolution": 1.0}, {"conv2d": 3.0, "group_norm": 0.5, "silu": 0.5}
    with monkeypatch.context() as patched:
        slow = chosen(network, call, Costs(patched, kernels | {"group_norm_quantize": 5.0}, floats))
    assert slow["0.conv1"] == slow["0.conv2"] == (False, 6.0, pytest.approx(4.0))
    fast = chosen(network, call, Costs(monkeypatch, kernels | {"group_norm_quantize": 1.0}, floats))
    assert fast["0.conv1"] == (True, 2.0, pytest.approx(4.0))


@torch.no_grad()
def test_queries_keys_and_values_share_what_they_read(monkeypatch):
    network = quantized_copy(nn.Sequential(BasicTransformerBlock(8, 2, 4, cross_attention_dim=6)))
    network.forward = lambda x, text: network[0](x, encoder_hidden_states=text)
    call = Call((torch.randn(2, 3, 8), torch.randn(2, 2, 6)))
    kernels = {"linear": 1.0, "layer_norm_quantize": 6.0, "quantize": 0.25}
    times = chosen(network, call, Costs(monkeypatch, kernels, {"linear": 1.0, "layer_norm": 3.0}))
    for name in ("attn1.to_q", "attn1.to_k", "attn1.to_v"):
        int8, taken, _ = times[f"0.{name}"]
        assert taken == pytest.approx(1 + 6 / 3) and not int8
    assert times["0.attn2.to_q"][1] == times["0.ff.net.0.proj"][1] == pytest.approx(1 + 6)
    assert times["0.attn2.to_k"][1] == pytest.approx(1 + 0.25)  # reads the text, which nothing normalises
    assert times["0.attn1.to_q"][2] == pytest.approx(1 + 3 / 3) and times["0.ff.net.2"][1] == pytest.approx(1)


def test_what_stands_in_front_is_found():
    attention = Attention(8, heads=2, dim_head=4, norm_num_groups=2, residual_connection=True)
    resnet = ResnetBlock2D(in_channels=8, out_channels=12, temb_channels=None, groups=4)
    network = nn.Sequential(attention, BasicTransformerBlock(8, 2, 4), resnet)
    of_attention, of_block = Norm(2, readers=3), Norm(0, readers=3)
    assert norms_of(network) == {
        **{f"0.to_{name}": of_attention for name in "qkv"},
        **{f"1.attn1.to_{name}": of_block for name in "qkv"},
        "1.ff.net.0.proj": Norm(0),
        "2.conv1": Norm(4, silu=True),
        "2.conv2": Norm(4, silu=True),
    }


CASES = {
    "group_norm_silu": (Norm(4, silu=True), nn.Conv2d(8, 3, 3), (2, 8, 3, 4)),
    "group_norm of tokens": (Norm(2), nn.Linear(8, 3), (2, 5, 8)),
    "group_norm": (Norm(2), nn.Conv2d(8, 3, 1), (2, 8, 3, 4)),
    "layer_norm": (Norm(0), nn.Linear(8, 3), (2, 5, 8)),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", CASES)
def test_both_sides_normalise_alike(kind):
    """By torch's own modules, in float64."""
    norm, layer, shape = CASES[kind]
    kernel, x = triton_form(quantized_copy(nn.Sequential(layer))[0]), torch.randn(shape)
    front = Prologue(norm, kernel, x)
    convolved = isinstance(layer, nn.Conv2d)
    own = nn.GroupNorm(norm.groups, 8) if norm.groups else nn.LayerNorm(8)
    own.load_state_dict({"weight": front.weight, "bias": front.bias})
    y = x.double() if convolved or not norm.groups else x.double().movedim(-1, 1)
    y = own.double()(y)
    y = y if convolved or not norm.groups else y.movedim(1, -1)
    y = F.silu(y) if norm.silu else y
    assert torch.allclose(front.floats(x).double(), y, atol=1e-5)
    step, zero = float(kernel.step), int(kernel.zero_point) + 128
    exact = quantize(y, torch.tensor(step).double(), torch.tensor(zero).double()) - 128
    got = front.integers(channels_last(x) if convolved else x)
    off = (got.double() - (channels_last(exact) if convolved else exact)).abs()
    assert off.max() <= 1 and off.mean() < 0.02  # a step where float32 rounds another way


@torch.no_grad()
def test_one_compiled_normalisation_does_for_all_pictures_of_a_network():
    """torch compiles a function eight times at most, and then runs it as it is."""
    torch._dynamo.reset()
    counter = CompileCounter()
    fast = torch.compile(prologue.group_norm_silu, dynamic=True, fullgraph=True, backend=counter)
    for channels, side in ((8, 8), (16, 4), (24, 4), (32, 2), (40, 6), (48, 8), (56, 3), (64, 4), (72, 5), (80, 2)):
        x = torch.randn(2, channels, side, side).contiguous(memory_format=torch.channels_last)
        one = torch.ones(channels)
        assert torch.allclose(fast(x, one, one, 4), F.silu(F.group_norm(x, 4, one, one)), atol=1e-6)
    assert counter.frame_count <= 2


def test_it_is_compiled_on_a_gpu_and_as_it_is_where_that_fails(monkeypatch):
    def failing(*arguments):
        raise RuntimeError("no compiler")

    there, calls = types.SimpleNamespace(device=torch.device("cuda", 0)), []
    monkeypatch.setattr(prologue, "compiled", lambda normalise: failing)
    assert prologue.fastest(prologue.layer_norm, there) is prologue.layer_norm
    fast = lambda *arguments: calls.append(arguments)  # noqa: E731
    monkeypatch.setattr(prologue, "compiled", lambda normalise: fast)
    assert prologue.fastest(prologue.layer_norm, there, 1) is fast and calls == [(there, 1)]
    assert prologue.fastest(prologue.layer_norm, torch.zeros(1)) is prologue.layer_norm
