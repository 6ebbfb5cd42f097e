"""8-bit weights with float inputs: the definition in float32, tensor cores' own type in half precision."""

import pytest
import torch
from torch import nn

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu.run import TritonBackend
from ptq4dm.backends.triton_gpu.weight_only import HalfPrecisionProducts
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
