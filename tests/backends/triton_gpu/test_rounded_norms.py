"""Attention and transformer blocks whose normalisations round, against the same layers rounding for themselves."""

import copy

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from int8_layers import quantized_copy
from interpreted import quickly_interpreted
from torch import nn

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu.layers import triton_form
from ptq4dm.backends.triton_gpu.rounded_gates import RoundedGEGLU, round_in_gates
from ptq4dm.backends.triton_gpu.rounded_norms import RoundedNorm, round_in_norms
from ptq4dm.errors import BackendError
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.rewrite import with_layers


@pytest.fixture(scope="module", autouse=True)
def quick_interpreter():
    with quickly_interpreted():
        yield


def on_kernels(simulated, keep=()):
    layers = {n: m for n, m in simulated.named_modules() if isinstance(m, QuantizedLayer) and n not in keep}
    return with_layers(simulated, {name: triton_form(layer) for name, layer in layers.items()})


def rounded(network):
    return [name for name, module in network.named_modules() if isinstance(module, RoundedNorm)]


def attention():
    return Attention(8, heads=2, dim_head=4, norm_num_groups=2, residual_connection=True)


def block(**options):
    return BasicTransformerBlock(8, 2, 4, **options)


def transformer(linear):
    return Transformer2DModel(
        2, 4, 8, num_layers=1, cross_attention_dim=6, norm_num_groups=2, use_linear_projection=linear
    )


STATES = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(3))
CASES = {
    "attention": (attention, (2, 8, 3, 2), {}, ["0.group_norm"]),
    "self-attention": (block, (2, 5, 8), {}, ["0.norm1", "0.norm3"]),
    "cross-attention": (
        lambda: block(cross_attention_dim=6), (2, 5, 8), {"encoder_hidden_states": STATES},
        ["0.norm1", "0.norm2", "0.norm3"],
    ),
    "convolution in": (
        lambda: transformer(False), (2, 8, 3, 2), {"encoder_hidden_states": STATES, "return_dict": False},
        [f"0.{name}" for name in ("norm", *(f"transformer_blocks.0.norm{index}" for index in (1, 2, 3)))],
    ),
    "linear in": (
        lambda: transformer(True), (2, 8, 3, 2), {"encoder_hidden_states": STATES, "return_dict": False},
        [f"0.{name}" for name in ("norm", *(f"transformer_blocks.0.norm{index}" for index in (1, 2, 3)))],
    ),
}  # fmt: skip


def answer(module, x, call):
    y = module(x, **call)
    return y[0] if isinstance(y, tuple) else y


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_it_gives_what_the_layers_give_that_round_for_themselves(case):
    make, shape, call, names = CASES[case]
    torch.manual_seed(0)
    apart = on_kernels(quantized_copy(nn.Sequential(make())))
    network = copy.deepcopy(apart)
    round_in_norms(network)
    assert rounded(network) == names and not rounded(apart)
    x = torch.randn(shape)
    expected = answer(apart[0], x, call)
    assert torch.allclose(answer(network[0], x, call), expected, rtol=1e-4, atol=1e-4)
    half = copy.deepcopy(network).half()
    halves = {name: item.half() if isinstance(item, torch.Tensor) else item for name, item in call.items()}
    got = answer(half[0], x.half(), halves)
    assert got.dtype == torch.float16 and float((got.float() - expected).norm() / expected.norm()) < 0.02


@torch.no_grad()
def test_a_gate_gives_integers_to_the_layer_behind_it():
    torch.manual_seed(0)
    apart = on_kernels(quantized_copy(nn.Sequential(block())))
    network = copy.deepcopy(apart)
    round_in_gates(network)
    assert isinstance(network[0].ff.net[0], RoundedGEGLU) and network[0].ff.net[2].in_front == (network[0].norm3,)
    x = torch.randn(2, 5, 8)
    expected = apart[0](x)
    assert torch.allclose(network[0](x), expected, rtol=1e-4, atol=1e-4)
    round_in_norms(network)
    assert rounded(network) == ["0.norm1", "0.norm3"]
    assert torch.allclose(network[0](x), expected, rtol=1e-4, atol=1e-4)
    assert network.half()[0](x.half()).dtype == torch.float16
    kept = on_kernels(quantized_copy(nn.Sequential(block())), keep=("0.ff.net.2",))
    hooked = on_kernels(quantized_copy(nn.Sequential(block())))
    hooked[0].ff.net[1].register_forward_hook(lambda *_: None)
    for other in (kept, hooked, on_kernels(quantized_copy(nn.Sequential(block(activation_fn="gelu"))))):
        round_in_gates(other)
        assert not isinstance(other[0].ff.net[0], RoundedGEGLU)


def test_layers_that_round_apart_do_so():
    torch.manual_seed(0)
    simulated = quantized_copy(nn.Sequential(attention(), block()))
    simulated[0].to_k.input_scale.mul_(2)
    simulated[1].attn1.to_v.input_zero_point.add_(1)
    network = on_kernels(simulated)
    round_in_norms(network)
    assert rounded(network) == ["1.norm3"]
    kept = on_kernels(quantized_copy(nn.Sequential(attention())), keep=("0.to_v",))
    round_in_norms(kept)
    hooked = on_kernels(quantized_copy(nn.Sequential(attention())))
    hooked[0].group_norm.register_forward_hook(lambda *_: None)
    round_in_norms(hooked)
    assert rounded(kept) == rounded(hooked) == []


def test_bytes_from_elsewhere_are_refused():
    layer = triton_form(quantized_copy(nn.Sequential(nn.Linear(8, 4)))[0])
    with pytest.raises(BackendError, match="called with int8: it takes floats"):
        layer(torch.zeros(2, 8, dtype=torch.int8))
