"""Blocks on the way up that join nothing, against diffusers' own with simulated layers in them."""

import copy

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import AttnUpBlock2D, CrossAttnUpBlock2D, UpBlock2D
from int8_layers import on_kernels, quantized_copy
from interpreted import quickly_interpreted
from torch import nn

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu import operators
from ptq4dm.backends.triton_gpu.blocks import FusedResnetBlock2D, fuse, rounded_together
from ptq4dm.backends.triton_gpu.layers import TritonLayer
from ptq4dm.backends.triton_gpu.up_blocks import (
    FusedAttnUpBlock2D,
    FusedCrossAttnUpBlock2D,
    FusedUpBlock2D,
    join_in_kernels,
)
from ptq4dm.errors import BackendError
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.time_bands import TimeBands

SIZES = {"in_channels": 6, "prev_output_channel": 10, "out_channels": 8, "temb_channels": 16}
"""The first residual block reads 10 + 8 channels, the second 8 + 6: with 2 groups each, one lies across the two."""
OPTIONS = {"num_layers": 2, "resnet_groups": 2}
TEXT = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(5))
BLOCKS = {
    "plain": (lambda: UpBlock2D(**SIZES, **OPTIONS), FusedUpBlock2D, {}),
    "attention": (lambda: AttnUpBlock2D(**SIZES, **OPTIONS, attention_head_dim=4), FusedAttnUpBlock2D, {}),
    "attention, upsampled by a residual block": (
        lambda: AttnUpBlock2D(**SIZES, **OPTIONS, attention_head_dim=4, upsample_type="resnet"),
        FusedAttnUpBlock2D,
        {},
    ),
    "scale and shift": (
        lambda: UpBlock2D(**SIZES, **OPTIONS, resnet_time_scale_shift="scale_shift"),
        FusedUpBlock2D,
        {},
    ),
    "text": (
        lambda: CrossAttnUpBlock2D(**SIZES, **OPTIONS, num_attention_heads=2, cross_attention_dim=12, resolution_idx=0),
        FusedCrossAttnUpBlock2D,
        {"encoder_hidden_states": TEXT},
    ),
}


@pytest.fixture(scope="module", autouse=True)
def quick_interpreter():
    with quickly_interpreted():
        yield


def fused_copy(network, keep=()):
    """With INT8 kernels for the quantized layers, and blocks fused."""
    result = on_kernels(network, keep)
    fuse(result)
    join_in_kernels(result)
    return result


def distance(a, b):
    return float((a - b).norm() / b.norm())


def call_of(size=(4, 6)):
    generator = torch.Generator().manual_seed(1)
    h, second, first = (torch.randn(2, channels, *size, generator=generator) for channels in (10, 6, 8))
    return {"hidden_states": h, "res_hidden_states_tuple": (second, first),
            "temb": torch.randn(2, 16, generator=generator)}  # fmt: skip


def joined(monkeypatch):
    """What kernels were told to normalise side by side, as calls come."""
    seen = []
    plain = operators.group_norm_and_own_quantize
    monkeypatch.setattr(
        operators, "group_norm_and_own_quantize",
        lambda x, beside, *rest: seen.append(beside is not None) or plain(x, beside, *rest),
    )  # fmt: skip
    return seen


@torch.no_grad()
@pytest.mark.parametrize("kind", BLOCKS)
def test_it_gives_what_the_block_gives(kind, monkeypatch):
    torch.manual_seed(0)
    build, expected_kind, further = BLOCKS[kind]
    plain = nn.Sequential(build()).eval()
    simulated = quantized_copy(plain)
    fused = fused_copy(simulated)
    assert type(fused[0]) is expected_kind
    names = {name for name, module in fused.named_modules() if isinstance(module, TritonLayer)}
    assert names == {name for name, module in simulated.named_modules() if isinstance(module, QuantizedLayer)}
    seen = joined(monkeypatch)
    expected, got = simulated[0](**call_of(), **further), fused[0](**call_of(), **further)
    assert got.shape == expected.shape and seen == [True, True]
    assert distance(got, expected) < 2e-3 < distance(plain[0](**call_of(), **further), expected)
    half, own = (copy.deepcopy(network).half()[0](**in_half(call_of() | further)) for network in (fused, simulated))
    assert half.dtype == torch.float16 and distance(half.float(), expected) < 1.5 * distance(own.float(), expected)


def in_half(call):
    return {name: tuple(x.half() for x in item) if isinstance(item, tuple) else item.half()
            for name, item in call.items()}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("keep", [("0.resnets.0.conv1",), ("0.resnets.0.conv_shortcut",)])
def test_a_layer_in_float_gets_both_joined(keep, monkeypatch):
    torch.manual_seed(0)
    simulated = quantized_copy(nn.Sequential(UpBlock2D(**SIZES, **OPTIONS)))
    seen = joined(monkeypatch)
    assert distance(fused_copy(simulated, keep)[0](**call_of()), simulated[0](**call_of())) < 2e-3
    assert seen == [True]  # the other residual block


@torch.no_grad()
def test_types_that_differ_are_joined_as_torch_joins_them():
    torch.manual_seed(0)
    simulated = quantized_copy(nn.Sequential(UpBlock2D(**SIZES, **OPTIONS)))
    call = call_of()
    call["res_hidden_states_tuple"] = tuple(x.half() for x in call["res_hidden_states_tuple"])
    assert distance(fused_copy(simulated)[0](**call), simulated[0](**call)) < 2e-3


@torch.no_grad()
def test_freeu_is_set_on_it_as_on_any_block():
    torch.manual_seed(0)
    simulated = quantized_copy(nn.Sequential(UpBlock2D(**SIZES, **OPTIONS, resolution_idx=0)))
    fused = fused_copy(simulated)

    def answer(network):
        return network[0](**call_of())  # FreeU writes into what it is given

    before = answer(fused)
    for network in (simulated, fused):
        for name, value in {"s1": 0.9, "s2": 0.2, "b1": 1.5, "b2": 1.6}.items():
            setattr(network[0], name, value)
    expected = answer(simulated)
    assert distance(answer(fused), expected) < 2e-3 < distance(before, expected)
    kept = fused_copy(simulated)  # set before the network was prepared
    assert distance(answer(kept), expected) < 2e-3
    for name in ("s1", "s2", "b1", "b2"):
        setattr(kept[0], name, None)
    assert torch.equal(answer(kept), before)


@torch.no_grad()
def test_a_block_of_attention_knows_neither_freeu_nor_sizes():
    torch.manual_seed(0)
    simulated = quantized_copy(nn.Sequential(BLOCKS["attention"][0]()))
    fused = fused_copy(simulated)
    for network in (simulated, fused):
        network[0].resolution_idx = 0
        for name in ("s1", "s2", "b1", "b2"):
            setattr(network[0], name, 1.5)
    call = call_of() | {"upsample_size": (9, 13)}
    assert distance(fused[0](**call), simulated[0](**call)) < 2e-3


def test_it_has_attentions_where_the_block_has_them():
    """Scales of LoRA that are given by place ask for them by hasattr."""
    for kind in BLOCKS:
        plain = quantized_copy(nn.Sequential(BLOCKS[kind][0]()))
        for name in ("attentions", "has_cross_attention"):
            assert hasattr(fused_copy(plain)[0], name) == hasattr(plain[0], name)


@torch.no_grad()
def test_skips_that_do_not_fit_are_refused():
    fused = fused_copy(quantized_copy(nn.Sequential(UpBlock2D(**SIZES, **OPTIONS))))
    call = call_of()
    second, first = call["res_hidden_states_tuple"]
    for wrong in (first[:1], first[:, :, :3]):
        with pytest.raises(BackendError, match="cannot be joined: all but their channels must agree"):
            fused[0](**call | {"res_hidden_states_tuple": (second, wrong)})


def test_layers_of_other_bands_or_watched_ones_are_not_rounded_for_together():
    fused = fused_copy(quantized_copy(nn.Sequential(UpBlock2D(**SIZES, **OPTIONS))))
    first, second = fused[0].resnets
    assert rounded_together(first) == (first.conv1, first.conv_shortcut)
    first.conv1.bands = TimeBands("timestep", 1, [500.0])
    assert rounded_together(first) is None
    second.conv_shortcut.register_forward_hook(lambda *_: None)
    assert rounded_together(second) is None


@torch.no_grad()
def test_sizes_that_do_not_halve_evenly():
    torch.manual_seed(0)
    simulated = quantized_copy(nn.Sequential(UpBlock2D(**SIZES, **OPTIONS)))
    call = call_of((3, 5)) | {"upsample_size": (5, 9)}
    expected = simulated[0](**call)
    assert expected.shape[2:] == (5, 9)
    assert distance(fused_copy(simulated)[0](**call), expected) < 2e-3


def test_what_is_watched_or_has_no_layer_in_int8_is_left_alone():
    hooked = quantized_copy(nn.Sequential(UpBlock2D(**SIZES, **OPTIONS)))
    hooked[0].register_forward_hook(lambda *_: None)
    fused = fused_copy(hooked)
    assert type(fused[0]) is UpBlock2D and type(fused[0].resnets[0]) is FusedResnetBlock2D
    plain = nn.Sequential(UpBlock2D(**SIZES, **OPTIONS))
    join_in_kernels(plain)
    assert type(plain[0]) is UpBlock2D and type(plain[0].resnets[0]) is ResnetBlock2D
