"""8-bit weights with float inputs: the definition in float32, tensor cores' own type in half precision."""

import pytest
import torch
from torch import nn

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu.run import TritonBackend
from ptq4dm.backends.triton_gpu.weight_only import HalfPrecisionProducts, half_precision_forms
from ptq4dm.quantization.rewrite import with_layers
from ptq4dm.quantization.weight_only import weight_only_form


@torch.no_grad()
@pytest.mark.parametrize(
    ("source", "shape"),
    [
        (nn.Linear(33, 7), (2, 33)),
        (nn.Conv2d(6, 5, 3, 2, 1, bias=False), (2, 6, 5, 5)),
        (nn.Conv1d(6, 4, 1), (2, 6, 5)),
    ],
)
def test_it_is_the_definition_but_for_half_precision(source, shape):
    plain = nn.Sequential(source, nn.SiLU())
    network = with_layers(plain, {"0": weight_only_form(source, "0")})
    prepared = TritonBackend().prepare(network, None)
    assert isinstance(prepared[0], HalfPrecisionProducts) and prepared[0].layer is not network[0]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exact = network(x)
    assert torch.equal(prepared(x), exact)
    for dtype in (torch.float16, torch.bfloat16):
        got = prepared.to(dtype)(x.to(dtype))
        assert got.dtype == dtype and (got.float() - exact).norm() < 4 * torch.finfo(dtype).eps * exact.norm()
    held = prepared.state_dict()["0.layer.weight"]
    assert held.dtype == torch.int8 and held.shape == source.weight.shape


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("source", "shape"),
    [
        (nn.Linear(33, 7), (2, 33)),
        (nn.Conv2d(6, 4, 3, padding="same", groups=2, bias=False), (2, 6, 5, 5)),
        (nn.Conv1d(6, 4, 2, 2, dilation=2), (2, 6, 7)),
    ],
)
def test_weights_made_floats_once_give_the_same_numbers_as_at_each_call(source, shape, dtype):
    network = nn.Sequential(weight_only_form(source, "0"))
    at_each_call, once = (half_precision_forms(network, held)["0"] for held in (None, dtype))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert type(once) is type(source) and once.weight.dtype == dtype
    assert torch.equal(once(x), at_each_call(x))
