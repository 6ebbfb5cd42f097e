"""Fused blocks against diffusers' own with simulated layers in them."""

import copy

import pytest
import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from int8_layers import on_kernels, quantized_copy
from interpreted import quickly_interpreted
from torch import nn

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu.blocks import FusedDownsample2D, FusedResnetBlock2D, FusedUpsample2D, fuse
from ptq4dm.backends.triton_gpu.layers import triton_form
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.rewrite import with_layers

BLOCKS = {
    "plain": {},
    "shortcut": {"out_channels": 12},
    "scale and shift": {"time_embedding_norm": "scale_shift"},
    "no time": {"temb_channels": None},
    "up": {"up": True},
    "down": {"down": True},
    "halved": {"output_scale_factor": 2.0**0.5, "skip_time_act": True},
}


@pytest.fixture(scope="module", autouse=True)
def quick_interpreter():
    with quickly_interpreted():
        yield


def fused_copy(network, keep=()):
    """With INT8 kernels for the quantized layers, and blocks fused."""
    result = on_kernels(network, keep)
    fuse(result)
    return result


def distance(a, b):
    return float((a - b).norm() / b.norm())


@torch.no_grad()
@pytest.mark.parametrize("keep", [(), ("0.conv1",), ("0.conv2", "0.time_emb_proj")], ids=["both", "conv2", "conv1"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_resnet_block(kind, keep):
    torch.manual_seed(0)
    options = {"in_channels": 8, "temb_channels": 16, "groups": 4, **BLOCKS[kind]}
    plain = nn.Sequential(ResnetBlock2D(**options))
    simulated = quantized_copy(plain)
    kept = [name for name in keep if name in dict(plain.named_modules())]
    fused = fused_copy(simulated, kept)
    assert isinstance(fused[0], FusedResnetBlock2D)
    x, temb = torch.randn(2, 8, 4, 6), None if options["temb_channels"] is None else torch.randn(2, 16)
    expected, got = simulated[0](x, temb), fused[0](x, temb)
    assert got.shape == expected.shape
    assert distance(got, expected) < 1e-3 < distance(plain[0](x, temb), expected)
    half = copy.deepcopy(fused).half()[0](x.half(), None if temb is None else temb.half())
    assert half.dtype == torch.float16 and distance(half.float(), expected) < 0.02


@torch.no_grad()
def test_upsampler():
    torch.manual_seed(0)
    simulated = quantized_copy(nn.Sequential(Upsample2D(6, use_conv=True, out_channels=5)))
    fused = fused_copy(simulated)
    assert isinstance(fused[0], FusedUpsample2D)
    x = torch.randn(2, 6, 3, 5)
    assert torch.equal(fused[0](x), simulated[0](x))
    assert torch.equal(fused[0](x, (7, 9)), simulated[0](x, (7, 9)))


@torch.no_grad()
@pytest.mark.parametrize("size", [(4, 6), (5, 3), (2, 2)])
def test_a_downsampler_that_pads_behind(size):
    torch.manual_seed(0)
    simulated = quantized_copy(nn.Sequential(Downsample2D(6, use_conv=True, out_channels=5, padding=0)))
    fused = fused_copy(simulated)
    assert isinstance(fused[0], FusedDownsample2D)
    x = torch.randn(2, 6, *size)
    assert torch.equal(fused[0](x), simulated[0](x))
    hooked = quantized_copy(nn.Sequential(Downsample2D(6, use_conv=True, padding=0)))
    hooked[0].register_forward_hook(lambda *_: None)
    for other in ({"padding": 1}, {"padding": 0, "norm_type": "ln_norm"}):
        padded = quantized_copy(nn.Sequential(Downsample2D(6, use_conv=True, **other)))
        assert isinstance(fused_copy(padded)[0], Downsample2D)
    assert isinstance(fused_copy(hooked)[0], Downsample2D)


def test_what_is_not_of_that_shape_is_left_alone():
    hooked = nn.Sequential(ResnetBlock2D(in_channels=8, temb_channels=None, groups=4))
    hooked[0].norm1.register_forward_hook(lambda *_: None)
    other = nn.Sequential(ResnetBlock2D(in_channels=8, temb_channels=None, groups=4, non_linearity="mish"))
    transposed = nn.Sequential(Upsample2D(8, use_conv_transpose=True))
    for network in (hooked, other, transposed):
        kinds = [type(module) for module in network]
        layers = {n: triton_form(m) for n, m in quantized_copy(network).named_modules()
                  if isinstance(m, QuantizedLayer) and "conv" in n and kinds != [Upsample2D]}  # fmt: skip
        result = with_layers(network, layers)
        fuse(result)
        assert [type(module) for module in result] == kinds
