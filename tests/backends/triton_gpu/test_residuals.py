"""Attention and transformers whose last layers add, against diffusers' own with simulated layers in them."""

import copy

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from int8_layers import on_kernels, quantized_copy
from interpreted import quickly_interpreted
from torch import nn

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu import operators
from ptq4dm.backends.triton_gpu.attention import Int8AttnProcessor, attend_on_kernels
from ptq4dm.backends.triton_gpu.residuals import AddingTransformer2DModel, AddingTransformerBlock, add_in_kernels
from ptq4dm.backends.triton_gpu.rounded_gates import round_in_gates
from ptq4dm.backends.triton_gpu.rounded_norms import round_in_norms
from ptq4dm.errors import BackendError


@pytest.fixture(scope="module", autouse=True)
def quick_interpreter():
    with quickly_interpreted():
        yield


def adding_copy(simulated, keep=()):
    network = on_kernels(simulated, keep)
    attend_on_kernels(network)
    round_in_gates(network)
    round_in_norms(network)
    add_in_kernels(network)
    return network


def attention(**options):
    options = {"norm_num_groups": 2, "residual_connection": True, **options}
    return Attention(8, heads=2, dim_head=4, **options)


def block(**options):
    return BasicTransformerBlock(8, 2, 4, **options)


def transformer(linear):
    return Transformer2DModel(
        2, 4, 8, num_layers=1, cross_attention_dim=6, norm_num_groups=2, use_linear_projection=linear
    )


STATES = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(3))
MASK = torch.tensor([[[0.0, -1e4, 0.0]], [[0.0, 0.0, -1e4]]])
TEXT = {"encoder_hidden_states": STATES}
CASES = {  # the module, its input's shape, the rest of the call, what adds, how many sums
    "attention": (attention, (2, 8, 3, 2), {}, Int8AttnProcessor, 1),
    "rescaled": (lambda: attention(rescale_output_factor=2.0**0.5), (2, 8, 3, 2), {}, Int8AttnProcessor, 1),
    "normalised queries and keys": (lambda: attention(qk_norm="layer_norm"), (2, 8, 3, 2), {}, Int8AttnProcessor, 1),
    "other keys, masked": (
        lambda: attention(cross_attention_dim=6, cross_attention_norm="layer_norm", norm_num_groups=None),
        (2, 5, 8),
        TEXT | {"attention_mask": MASK},
        Int8AttnProcessor,
        1,
    ),
    "self-attention": (block, (2, 5, 8), {}, AddingTransformerBlock, 2),
    "cross-attention": (
        lambda: block(cross_attention_dim=6),
        (2, 5, 8),
        TEXT | {"encoder_attention_mask": MASK},
        AddingTransformerBlock,
        3,
    ),
    "cross-attention alone": (
        lambda: block(cross_attention_dim=6, only_cross_attention=True), (2, 5, 8), TEXT, AddingTransformerBlock, 3,
    ),
    "GELU": (lambda: block(activation_fn="gelu"), (2, 5, 8), {}, AddingTransformerBlock, 2),
    "convolution out": (
        lambda: transformer(False), (2, 8, 3, 2), TEXT | {"return_dict": False}, AddingTransformer2DModel, 4,
    ),
    "linear out": (
        lambda: transformer(True), (2, 8, 3, 2), TEXT | {"return_dict": False}, AddingTransformer2DModel, 4,
    ),
}  # fmt: skip


def sums_in_kernels(monkeypatch):
    """One entry for each product that added a residual."""
    seen, plain = [], operators.linear

    def linear(*arguments):
        seen.extend([1] if arguments[9] is not None else [])
        return plain(*arguments)

    monkeypatch.setattr(operators, "linear", linear)
    return seen


def answer(module, x, call):
    y = module(x, **call)
    return y[0] if isinstance(y, tuple) else y


def distance(a, b):
    return float((a - b).norm() / b.norm())


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_it_gives_what_diffusers_own_gives(case, monkeypatch):
    make, shape, call, kind, count = CASES[case]
    torch.manual_seed(0)
    simulated = quantized_copy(nn.Sequential(make()))
    network = adding_copy(simulated)
    assert type(network[0].processor if kind is Int8AttnProcessor else network[0]) is kind
    assert type(simulated[0]) is type(make()) and isinstance(network[0], type(simulated[0]))
    seen, x = sums_in_kernels(monkeypatch), torch.randn(shape)
    expected, got = answer(simulated[0], x, call), answer(network[0], x, call)
    assert got.shape == expected.shape and len(seen) == count
    assert distance(got, expected) < 2e-3
    halves = {name: item.half() if isinstance(item, torch.Tensor) else item for name, item in call.items()}
    half = answer(copy.deepcopy(network).half()[0], x.half(), halves)
    own = answer(copy.deepcopy(simulated).half()[0], x.half(), halves)
    assert half.dtype == torch.float16
    assert distance(half.float(), expected) < 1.5 * distance(own.float(), expected) + 1e-3


@torch.no_grad()
def test_pictures_stay_channels_last():
    network = adding_copy(quantized_copy(nn.Sequential(transformer(False), attention())))
    x = torch.randn(2, 8, 3, 2).contiguous(memory_format=torch.channels_last)
    for y in (network[0](x, **TEXT, return_dict=False)[0], network[1](x)):
        assert y.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
@pytest.mark.parametrize("other", [AttnProcessor2_0, AttnProcessor])
def test_a_processor_that_is_set_later_is_asked(other, monkeypatch):
    torch.manual_seed(0)
    simulated = quantized_copy(nn.Sequential(block(cross_attention_dim=6)))
    network, x = adding_copy(simulated), torch.randn(2, 5, 8)
    network[0].attn1.set_processor(other())
    seen = sums_in_kernels(monkeypatch)
    assert distance(network[0](x, **TEXT), simulated[0](x, **TEXT)) < 2e-3
    assert len(seen) == 2


@torch.no_grad()
def test_a_call_that_asks_for_more_goes_diffusers_own_way(monkeypatch):
    torch.manual_seed(0)
    simulated = quantized_copy(nn.Sequential(block(cross_attention_dim=6)))
    network, x, seen = adding_copy(simulated), torch.randn(2, 5, 8), sums_in_kernels(monkeypatch)
    call = TEXT | {"cross_attention_kwargs": {"temb": None}}
    assert distance(network[0](x, **call), simulated[0](x, **call)) < 2e-3
    for one in (simulated, network):
        one[0].set_chunk_feed_forward(1, 1)
    assert distance(network[0](x, **TEXT), simulated[0](x, **TEXT)) < 2e-3
    assert not seen


@torch.no_grad()
def test_what_watches_an_attention_or_a_feed_forward_later_sees_what_it_would_see():
    torch.manual_seed(0)
    simulated = quantized_copy(nn.Sequential(block(cross_attention_dim=6)))
    network, x, seen = adding_copy(simulated), torch.randn(2, 5, 8), {}
    for one in (simulated, network):
        outputs = seen[one is network] = []
        for watched in (one[0].attn1, one[0].attn2, one[0].ff):
            watched.register_forward_hook(lambda module, args, output, outputs=outputs: outputs.append(output))
    assert distance(network[0](x, **TEXT), simulated[0](x, **TEXT)) < 2e-3
    assert len(seen[True]) == 3
    assert all(distance(got, expected) < 2e-3 for got, expected in zip(seen[True], seen[False], strict=True))


@torch.no_grad()
def test_states_and_residuals_of_other_samples():
    """diffusers refuses states of another number of samples; a residual that fits no product is added as torch adds."""
    torch.manual_seed(0)
    simulated = quantized_copy(nn.Sequential(attention(residual_connection=False, norm_num_groups=None)))
    network, x = adding_copy(simulated), torch.randn(2, 5, 8)
    past = torch.randn(1, 5, 8)
    assert distance(network[0](x, added=past), simulated[0](x) + past) < 2e-3
    crossed = adding_copy(quantized_copy(nn.Sequential(block(cross_attention_dim=6))))
    with pytest.raises(BackendError, match="attention of 2 samples was called with the states of 1"):
        crossed[0](x, encoder_hidden_states=STATES[:1])


@torch.no_grad()
def test_types_that_differ_are_added_as_torch_adds_them():
    torch.manual_seed(0)
    simulated = quantized_copy(nn.Sequential(attention(residual_connection=False, norm_num_groups=None)))
    network, x, past = adding_copy(simulated), torch.randn(2, 5, 8).half(), torch.randn(2, 5, 8)
    expected = simulated[0](x) + past
    got = network[0](x, added=past)
    assert got.dtype == torch.float32 and distance(got, expected) < 2e-3


def test_what_is_of_another_shape_or_watched_is_left_alone():
    hooked = quantized_copy(nn.Sequential(attention(), block()))
    hooked[0].register_forward_hook(lambda *_: None)
    hooked[1].register_forward_hook(lambda *_: None)
    kept = quantized_copy(nn.Sequential(attention(), block()))
    outer = adding_copy(hooked)
    assert type(outer[0].processor) is AttnProcessor2_0 and type(outer[1]) is BasicTransformerBlock
    floats = adding_copy(kept, keep=[name for name, _ in kept.named_modules() if name != "1.ff.net.0.proj"])
    assert type(floats[0].processor) is AttnProcessor2_0 and type(floats[1]) is BasicTransformerBlock
    assert type(adding_copy(kept)[0].processor) is Int8AttnProcessor
    rescaled = quantized_copy(nn.Sequential(attention(residual_connection=False, rescale_output_factor=2.0)))
    assert type(adding_copy(rescaled)[0].processor) is AttnProcessor2_0
    watched = quantized_copy(nn.Sequential(attention()))
    kernels = on_kernels(watched)
    kernels[0].to_q.register_forward_hook(lambda *_: None)
    attend_on_kernels(kernels)
    assert type(kernels[0].processor) is AttnProcessor2_0
    placed = quantized_copy(nn.Sequential(block(positional_embeddings="sinusoidal", num_positional_embeddings=8)))
    assert type(adding_copy(placed)[0]) is BasicTransformerBlock
    for options in ({"norm_type": "ada_norm", "num_embeds_ada_norm": 5}, {"final_dropout": True}):
        assert type(adding_copy(quantized_copy(nn.Sequential(block(**options))))[0]) is BasicTransformerBlock
