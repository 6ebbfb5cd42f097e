"""Blocks of DiT against diffusers' own with simulated layers in them."""

import copy

import pytest
import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor2_0
from int8_layers import on_kernels, quantized_copy
from interpreted import quickly_interpreted
from torch import nn

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu.attention import attend_on_kernels
from ptq4dm.backends.triton_gpu.modulated_blocks import ModulatedTransformerBlock, modulate_in_norms
from ptq4dm.backends.triton_gpu.rounded_gates import RoundedActivation, round_in_gates
from ptq4dm.backends.triton_gpu.rounded_norms import RoundedForEach, RoundedNorm, round_in_norms
from ptq4dm.backends.triton_gpu.run import TritonBackend
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.rewrite import with_layers


@pytest.fixture(scope="module", autouse=True)
def quick_interpreter():
    with quickly_interpreted():
        yield


def block(**options):
    options = {"norm_type": "ada_norm_zero", "num_embeds_ada_norm": 10, "activation_fn": "gelu-approximate",
               "norm_elementwise_affine": False, **options}  # fmt: skip
    return BasicTransformerBlock(8, 2, 4, **options)


def simulated_block(apart=False, **options):
    """With its layers of time in float, as recipes have them."""
    network = nn.Sequential(block(**options))
    layers = {n: m for n, m in quantized_copy(network).named_modules()
              if isinstance(m, QuantizedLayer) and "norm1" not in n}  # fmt: skip
    if apart:
        layers["0.attn1.to_k"].input_scale.mul_(2)
    return with_layers(network.eval(), layers)


def modulating_copy(simulated, keep=()):
    network = on_kernels(simulated, keep)
    attend_on_kernels(network)
    round_in_gates(network)
    round_in_norms(network)
    modulate_in_norms(network)
    return network


X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))
CALL = {"timestep": torch.tensor([3, 700]), "class_labels": torch.tensor([1, 2])}


def distance(a, b):
    return float((a - b).norm() / b.norm())


@torch.no_grad()
@pytest.mark.parametrize("apart", [False, True], ids=["alike", "apart"])
@pytest.mark.parametrize("activation", ["gelu-approximate", "gelu", "geglu"])
def test_it_gives_what_diffusers_own_gives(apart, activation):
    torch.manual_seed(0)
    simulated = simulated_block(apart, activation_fn=activation)
    network = modulating_copy(simulated)
    ours = network[0]
    assert type(ours) is ModulatedTransformerBlock and isinstance(ours, BasicTransformerBlock)
    assert type(ours.norm1.norm) is (RoundedForEach if apart else RoundedNorm) and type(ours.norm3) is RoundedNorm
    assert type(ours.ff.net[0]) is RoundedActivation
    expected = simulated[0](X, **CALL)
    assert distance(ours(X, **CALL), expected) < 2e-3 < distance(X, expected)
    half = copy.deepcopy(network).half()[0](X.half(), **CALL)
    own = copy.deepcopy(simulated).half()[0](X.half(), **CALL)
    assert half.dtype == torch.float16
    assert distance(half.float(), expected) < 1.5 * distance(own.float(), expected) + 1e-3


@torch.no_grad()
@pytest.mark.parametrize("keep", [("0.attn1.to_k",), ("0.ff.net.0.proj",), ("0.ff.net.2",)])
def test_a_layer_in_float_gets_floats(keep):
    torch.manual_seed(0)
    simulated = simulated_block(apart=True)
    network = modulating_copy(simulated, keep)
    assert type(network[0]) is ModulatedTransformerBlock
    assert distance(network[0](X, **CALL), simulated[0](X, **CALL)) < 2e-3


@torch.no_grad()
def test_another_processor_and_chunks_change_nothing():
    torch.manual_seed(0)
    simulated = simulated_block(apart=True)
    network = modulating_copy(simulated)
    network[0].attn1.set_processor(AttnProcessor2_0())
    network[0].set_chunk_feed_forward(1, 1)
    assert distance(network[0](X, **CALL), simulated[0](X, **CALL)) < 2e-3


class Louder(AttnProcessor2_0):
    """A processor that takes something of the call."""

    def __call__(self, *args, louder=1.0, **kwargs):
        return louder * super().__call__(*args, **kwargs)


@torch.no_grad()
def test_what_a_call_gives_attention_comes_there():
    torch.manual_seed(0)
    simulated = simulated_block()
    network = modulating_copy(simulated)
    mask = torch.tensor([[[0.0, -1e4, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, -1e4, 0.0]]])
    expected = simulated[0](X, attention_mask=mask, **CALL)
    assert (
        distance(network[0](X, attention_mask=mask, **CALL), expected)
        < 2e-3
        < distance(simulated[0](X, **CALL), expected)
    )
    for one in (simulated, network):
        one[0].attn1.set_processor(Louder())
    loud = {"cross_attention_kwargs": {"louder": 3.0}} | CALL
    assert distance(network[0](X, **loud), simulated[0](X, **loud)) < 2e-3


def test_what_is_of_another_shape_is_left_alone():
    with_text = simulated_block(cross_attention_dim=6)
    hooked = simulated_block()
    hooked[0].norm1.register_forward_hook(lambda *_: None)
    floats = simulated_block()
    placed = simulated_block(positional_embeddings="sinusoidal", num_positional_embeddings=8)
    for network, keep in (
        (with_text, ()),
        (hooked, ()),
        (placed, ()),
        (floats, [name for name, _ in floats.named_modules()]),
    ):
        assert type(modulating_copy(network, keep)[0]) is BasicTransformerBlock


@torch.no_grad()
def test_a_dit_in_half_precision():
    """The whole network: patches in and out, labels, the layers of time in float."""
    torch.manual_seed(0)
    plain = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=2, out_channels=4, num_layers=2, sample_size=4,
        num_embeds_ada_norm=10,
    ).eval()  # fmt: skip
    x, call = torch.randn(2, 2, 4, 4), CALL | {"timestep": torch.tensor([3, 700])}
    layers = {n: m for n, m in quantized_copy(plain).named_modules()
              if isinstance(m, QuantizedLayer) and "blocks" in n and "norm1" not in n}  # fmt: skip
    simulated = with_layers(plain, layers)
    network = TritonBackend().prepare(simulated, None)
    assert all(type(one) is ModulatedTransformerBlock for one in network.transformer_blocks)
    expected = simulated(x, **call).sample
    assert distance(network(x, **call).sample, expected) < 5e-3
    half = network.half()(x.half(), **call).sample
    assert half.dtype == torch.float16 and distance(half.float(), expected) < 0.05
