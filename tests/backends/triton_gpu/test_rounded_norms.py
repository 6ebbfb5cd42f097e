"""Attention and transformer blocks whose normalisations round, against the same layers rounding for themselves."""

import copy

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from int8_layers import on_kernels, quantized_copy
from interpreted import quickly_interpreted
from torch import nn

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu.attention import attend_on_kernels
from ptq4dm.backends.triton_gpu.layers import triton_form
from ptq4dm.backends.triton_gpu.rounded_gates import RoundedActivation, round_in_gates
from ptq4dm.backends.triton_gpu.rounded_norms import RoundedForEach, RoundedNorm, behind_norms, round_in_norms
from ptq4dm.errors import BackendError


@pytest.fixture(scope="module", autouse=True)
def quick_interpreter():
    with quickly_interpreted():
        yield


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
    assert isinstance(network[0].ff.net[0], RoundedActivation)
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
    for other in (kept, hooked, on_kernels(quantized_copy(nn.Sequential(block(activation_fn="swiglu"))))):
        round_in_gates(other)
        assert not isinstance(other[0].ff.net[0], RoundedActivation)


def apart_from_one_another(*modules):
    """With layers in them that round apart: each a smoothing of its own, or another scale or zero point."""
    simulated = quantized_copy(nn.Sequential(*modules))
    for index, module in enumerate(simulated):
        attention = module if isinstance(module, Attention) else module.attn1
        attention.to_k.input_scale.mul_(2)
        attention.to_v.input_zero_point.add_(1)
        if index % 2:
            attention.to_v.smoothing = torch.rand(8, generator=torch.Generator().manual_seed(index)) + 0.5
    return simulated


def for_each(network):
    return [name for name, module in network.named_modules() if isinstance(module, RoundedForEach)]


@torch.no_grad()
@pytest.mark.parametrize("which", ["attention", "self-attention", "cross-attention"])
def test_a_normalisation_rounds_for_each_of_queries_keys_and_values(which):
    make, shape, call, names = CASES[which]
    torch.manual_seed(0)
    simulated = apart_from_one_another(make(), make())
    assert behind_norms(simulated) >= {f"{name}.{layer}" for name in ("0", "1") for layer in first_layers(which)}
    network = on_kernels(simulated)
    expected = answer(network[1], answer(network[0], torch.ones(shape).cumsum(1), call), call)
    attend_on_kernels(network)
    round_in_norms(network)
    first = names[0].removeprefix("0.")
    assert for_each(network) == [f"0.{first}", f"1.{first}"]
    assert rounded(network) == [name.replace("0.", f"{index}.") for index in (0, 1) for name in names[1:]]
    got = answer(network[1], answer(network[0], torch.ones(shape).cumsum(1), call), call)
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4)
    copied = copy.deepcopy(network)  # whose normalisations know their own attention
    for one in (copied[0], copied[1]):
        one = one if isinstance(one, Attention) else one.attn1
        one.set_processor(AttnProcessor2_0())  # as an adapter that is loaded later sets it
    got = answer(copied[1], answer(copied[0], torch.ones(shape).cumsum(1), call), call)
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4)
    half = network.half()[0]
    halves = {name: item.half() if isinstance(item, torch.Tensor) else item for name, item in call.items()}
    assert answer(half, torch.ones(shape).cumsum(1).half(), halves).dtype == torch.float16


def first_layers(which):
    return [f"{'' if which == 'attention' else 'attn1.'}to_{letter}" for letter in "qkv"]


def test_what_a_normalisation_cannot_round_for_rounds_for_itself():
    torch.manual_seed(0)
    network = on_kernels(apart_from_one_another(attention(), block()))
    round_in_norms(network)  # with diffusers' own processors, which hand one tensor to all
    assert rounded(network) == ["1.norm3"] and for_each(network) == []
    kept = on_kernels(quantized_copy(nn.Sequential(attention())), keep=("0.to_v",))
    round_in_norms(kept)
    hooked = on_kernels(quantized_copy(nn.Sequential(attention())))
    hooked[0].group_norm.register_forward_hook(lambda *_: None)
    round_in_norms(hooked)
    assert rounded(kept) == rounded(hooked) == []


@torch.no_grad()
def test_tables_of_bands_for_each():
    """A step for all channels beside one for each, with two bands of time-steps."""
    from ptq4dm.backends.triton_gpu.rounded_norms import stacked

    scalar, wide = torch.tensor([0.1, 0.2]), torch.arange(6.0).view(2, 3)
    assert torch.equal(stacked([scalar, scalar]), torch.tensor([[0.1, 0.2], [0.1, 0.2]]))
    assert torch.equal(stacked([scalar, wide]), torch.stack([scalar[:, None].expand(2, 3), wide]))
    assert torch.equal(stacked([torch.tensor([0.5]), torch.tensor([1.0, 2.0])]), torch.tensor([[0.5, 0.5], [1.0, 2.0]]))


def test_bytes_from_elsewhere_are_refused():
    layer = triton_form(quantized_copy(nn.Sequential(nn.Linear(8, 4)))[0])
    with pytest.raises(BackendError, match="called with int8: it takes floats"):
        layer(torch.zeros(2, 8, dtype=torch.int8))
