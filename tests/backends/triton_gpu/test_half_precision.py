"""The bound in half precision: a layer gives its float32 output on the same input, to one unit in the last place."""

import pytest
import torch
import torch.nn.functional as F
from hard_cases import CHANNELS
from int8_layers import int8_form
from interpreted import quickly_interpreted
from torch import nn

pytest.importorskip("triton")
from ptq4dm.backends.exactness import hard_inputs
from ptq4dm.backends.triton_gpu.layers import channels_last, triton_form

TYPES = (torch.float16, torch.bfloat16)
KINDS = {
    "linear": lambda n: nn.Linear(n, 5),
    "1x1": lambda n: nn.Conv2d(n, 5, 1),
    "3x3": lambda n: nn.Conv2d(n, 5, 3, padding=1),
    "stride 2, no bias": lambda n: nn.Conv2d(n, 5, 3, stride=2, padding=1, bias=False),
    "1d": lambda n: nn.Conv1d(n, 5, 3, padding=1),
    "3d": lambda n: nn.Conv3d(n, 5, (3, 1, 1), padding=(1, 0, 0)),
}


@pytest.fixture(scope="module", autouse=True)
def quick_interpreter():
    with quickly_interpreted():
        yield


def units_apart(a, b):
    """How many numbers of their type lie between, by their bits."""
    a, b = (x.view(torch.int16).int() for x in (a, b))
    a, b = (torch.where(x < 0, -(x & 0x7FFF), x) for x in (a, b))
    return (a - b).abs()


def test_units_are_counted_by_bits():
    for dtype in TYPES:
        one = torch.ones(1, dtype=dtype)
        for count in (1, 3):
            assert units_apart(one, one * (1 + count * torch.finfo(dtype).eps)) == count
            assert units_apart(-one, -one * (1 + count * torch.finfo(dtype).eps)) == count
        assert units_apart(torch.zeros(1, dtype=dtype), -torch.zeros(1, dtype=dtype)) == 0


@torch.no_grad()
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_its_float32_output_to_one_unit(kind, channels):
    torch.manual_seed(channels)
    layer = int8_form(KINDS[kind](channels), smoothed=channels == 17).requires_grad_(False)
    hard = hard_inputs(layer)
    x, kernel = torch.cat([hard[:3], 9 * torch.randn(hard[:1].shape)]), triton_form(layer)
    for dtype in TYPES:
        y = kernel(x.to(dtype))
        assert y.dtype == dtype and units_apart(y, layer(x.to(dtype).float()).to(dtype)).max() <= 1


@torch.no_grad()
@pytest.mark.parametrize("channels", CHANNELS)
def test_a_sum_and_an_enlarged_picture_too(channels):
    """What is added is added in float32: the sum is rounded once, at its end."""
    torch.manual_seed(channels)
    layer = int8_form(nn.Conv2d(channels, 5, 3, padding=1)).requires_grad_(False)
    kernel, hard = triton_form(layer), hard_inputs(layer)[:3]
    for dtype in TYPES:
        x = hard.to(dtype)
        product = channels_last(layer(F.interpolate(x.float(), scale_factor=2.0)))
        embedding, residual = torch.randn(len(x), 5).to(dtype), 3 * torch.randn(product.shape).to(dtype)
        expected = product + embedding.float()[:, None, None] + residual.float()
        got = kernel.product(kernel.integers(channels_last(x)), dtype, embedding, residual, upsample=2)
        assert units_apart(got, expected.to(dtype)).max() <= 1
        twice = product.to(dtype) + embedding[:, None, None] + residual
        assert units_apart(twice, expected.to(dtype)).max() > 1  # what a sum in steps would give


@torch.no_grad()
@pytest.mark.parametrize("channels", CHANNELS)
def test_a_linear_layer_that_adds_too(channels):
    torch.manual_seed(channels)
    layer = int8_form(nn.Linear(channels, 5)).requires_grad_(False)
    kernel, hard = triton_form(layer), hard_inputs(layer)
    for dtype in TYPES:
        x, residual = hard.to(dtype), 3 * torch.randn(len(hard), 5).to(dtype)
        expected = layer(x.float()) + residual.float()
        assert units_apart(kernel.product(kernel.integers(x), dtype, None, residual), expected.to(dtype)).max() <= 1
