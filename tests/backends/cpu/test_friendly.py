"""The forms in which attention and normalisation are traced compute what the network's own do."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from ptq4dm.backends.cpu.openvino import compile_float
from ptq4dm.backends.cpu.openvino.friendly import group_norm, linear_of_rows, spatial_self_attention
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
    [((), 1), ((12,), 2), ((1, 1), 2), ((32, 32), 2), ((8, 8), 2), ((4, 6, 5), 2), ((7, 17), 4)],  # 17 at once
)
@torch.no_grad()
def test_group_normalisation(space, farther, affine):
    """As near to float64 as PyTorch's own is, though the mean of a group is several times its spread."""
    norm = nn.GroupNorm(4, 8, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(32, 8, *space) + torch.randn(32, 8, *[1] * len(space)) + 4
    exact = copy.deepcopy(norm).double()(x.double())
    own, got = ((y.double() - exact).norm() for y in (norm(x), group_norm(norm, x)))
    assert got <= farther * own


@pytest.mark.parametrize("form", [lambda layer: layer, half_form, lambda layer: weight_only_form(layer, "it")])
@pytest.mark.parametrize("width", [1, 6, 37, 96])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_linear_layers_of_rows(width, bias, form):
    layer = form(nn.Linear(width, 5, bias))
    x = torch.randn(3, width)
    torch.testing.assert_close(linear_of_rows(layer, x), layer(x))
    torch.testing.assert_close(linear_of_rows(layer, x[None]), layer(x)[None])


@torch.no_grad()
def test_linear_layers_of_rows_are_as_near_as_pytorchs_on_the_engine():
    """The engine's own sum of 1,024 products is off by more."""
    pytest.importorskip("openvino")

    class Beside(nn.Module):
        """A map, and a row beside it."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1024, 256)

        def forward(self, x, row):
            return x + self.linear(row)[:, :, None]

    network = Beside().eval()
    x, row = torch.zeros(8, 256, 1), torch.randn(8, 1024)
    exact = copy.deepcopy(network).double()(x.double(), row.double())
    own, got = (
        (y.double() - exact).norm() for y in (network(x, row), compile_float(network, Call((x, row)), True)(x, row))
    )
    assert got <= 1.2 * own
