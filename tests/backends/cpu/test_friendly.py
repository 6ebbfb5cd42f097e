"""The form in which attention is traced computes what the network's own does, whatever its projections hold."""

import pytest
import torch
from diffusers.models.attention_processor import Attention

from ptq4dm.backends.cpu.openvino.friendly import spatial_self_attention
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
