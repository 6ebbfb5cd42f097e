"""Layers take their input as PyTorch's own do, by position and as `input=`: the same numbers on every backend."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

import ptq4dm
from ptq4dm.errors import BackendWarning
from ptq4dm.quantization.half_layers import half_names
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.layers_qdq import OutputQuantized

RECIPE = ptq4dm.load_recipe("w8a8-minmax")


class Net(nn.Module):
    """Every kind of layer, called in one of the two ways."""

    def __init__(self, keyword):
        super().__init__()
        torch.manual_seed(0)
        self.keyword = keyword
        self.conv, self.up = nn.Conv2d(8, 16, 3, padding=1), nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.norm, self.proj, self.end = nn.GroupNorm(4, 16), nn.Linear(8, 8), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        def of(layer, x):
            return layer(input=x) if self.keyword else layer(x)

        y = of(self.up, of(self.norm, of(self.conv, x)))
        return of(self.end, of(self.proj, y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def quantized(keyword, **changes):
    generator = torch.Generator().manual_seed(1)
    batches = [((torch.randn(4, 8, 6, 6, generator=generator),), {}) for _ in range(2)]
    return ptq4dm.quantize_module(Net(keyword).eval(), batches, RECIPE.replace(**changes))


@torch.no_grad()
@pytest.mark.parametrize(
    ("changes", "kind", "backends"),
    [
        ({"float_share": 0.0}, QuantizedLayer, ("simulated", "openvino")),
        ({"arithmetic": "qdq", "float_share": 0.0}, OutputQuantized, ("simulated", "onnxruntime")),
        ({"float_share": 1.0}, nn.Linear, ("simulated", "openvino")),
    ],
    ids=["int8", "qdq", "half"],
)
def test_a_network_that_calls_its_layers_by_keyword(changes, kind, backends):
    plain, named = quantized(False, **changes), quantized(True, **changes)
    assert any(isinstance(module, kind) for module in named.network.modules())
    assert bool(half_names(named.network)) == (kind is nn.Linear)
    assert named.plan == plain.plan
    x = torch.randn(3, 8, 6, 6, generator=torch.Generator().manual_seed(2))
    assert (plain.network(x) - Net(False)(x)).norm() < 0.05 * Net(False)(x).norm()
    for backend in backends:
        if backend != "simulated":
            pytest.importorskip(backend)
        told = pytest.warns(BackendWarning, match="1 of 4 .*(up)") if backend == "onnxruntime" else nullcontext()
        with told:  # ONNX Runtime runs the transposed convolution in float
            assert torch.equal(named.to_module(backend)(x), plain.to_module(backend)(x)), backend
