"""The forms in which attention and normalisation are traced compute what the network's own do."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from ptq4dm.backends.cpu.openvino import compile_float
from ptq4dm.backends.cpu.openvino.friendly import LinearInParts, group_norm, spatial_self_attention, within
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.half_layers import half_form
from ptq4dm.quantization.weight_only import weight_only_form


@pytest.mark.parametrize("form", [lambda layer: layer, half_form, lambda layer: weight_only_form(layer, "it")])
@torch.no_grad()
def test_attention_over_space(form):
    torch.manual_seed(0)
    attention = Attention(8, heads=2, dim_head=4, norm_num_groups=4, bias=True, residual_connection=True).eval()
    attention.to_q, attention.to_out[0] = form(attention.to_q), form(attention.to_out[0])
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(spatial_self_attention(attention, x), attention(x))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("space", "farther"),
    [((12,), 2), ((1, 1), 2), ((32, 32), 2), ((8, 8), 2), ((4, 6, 5), 2), ((7, 17), 4)],  # 17 at once
)
@torch.no_grad()
def test_group_normalisation(space, farther, affine):
    """At most twice as far from float64 as PyTorch's own, though the mean of a group is several times its spread."""
    norm = nn.GroupNorm(4, 8, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(32, 8, *space) + torch.randn(32, 8, *[1] * len(space)) + 4
    exact = copy.deepcopy(norm).double()(x.double())
    own, got = ((y.double() - exact).norm() for y in (norm(x), group_norm(norm, x)))
    assert got <= farther * own


@torch.no_grad()
def test_group_normalisation_on_the_engine():
    pytest.importorskip("openvino")
    network = nn.Sequential(nn.GroupNorm(8, 32), nn.SiLU()).eval()
    x = torch.randn(4, 32, 32, 32) + torch.randn(4, 32, 1, 1) + 4
    exact = copy.deepcopy(network).double()(x.double())
    own, got = ((y.double() - exact).norm() for y in (network(x), compile_float(network, Call((x,)), True)(x)))
    assert got <= 2 * own


@pytest.mark.parametrize("form", [lambda layer: layer, half_form, lambda layer: weight_only_form(layer, "it")])
@pytest.mark.parametrize("width", [1, 6, 37, 82, 96])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_linear_layers_of_rows(width, bias, form):
    layer = form(nn.Linear(width, 5, bias))
    x = torch.randn(3, width)
    for samples, rows in ((3, x), (2, x), (3, x[None])):
        torch.testing.assert_close(within(LinearInParts(samples), layer, rows), layer(rows))


class Doubled(nn.Linear):
    """A linear layer with something of its own."""

    def forward(self, input):
        return 2 * super().forward(input)


class Beside(nn.Module):
    """A map, and rows beside it: one a sample, and as many again."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear

    def forward(self, x, row):
        return x + self.linear(row)[:, :, None], self.linear(torch.cat([row, row]))


@torch.no_grad()
def test_a_linear_layer_with_something_of_its_own_keeps_it():
    pytest.importorskip("openvino")
    network = Beside(Doubled(64, 8)).eval()
    x, row = torch.randn(2, 8, 3), torch.randn(2, 64)
    for got, wanted in zip(compile_float(network, Call((x, row)), True)(x, row), network(x, row), strict=True):
        torch.testing.assert_close(got, wanted)


@torch.no_grad()
def test_linear_layers_of_rows_are_as_near_as_pytorchs_on_the_engine():
    """The engine's own sum of 1,024 products, as on more rows than samples, is off by more."""
    pytest.importorskip("openvino")
    network = Beside(nn.Linear(1024, 256)).eval()
    x, row = torch.zeros(8, 256, 1), torch.randn(8, 1024)
    exact, _ = copy.deepcopy(network).double()(x.double(), row.double())
    module = compile_float(network, Call((x, row)), True)
    own, got = ((y[0].double() - exact).norm() for y in (network(x, row), module(x, row)))
    assert got <= 1.2 * own
