"""INT8 layers on OpenVINO against integer sums in float64: full range, every geometry, with and without VNNI."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptq4dm.backends.cpu.engine_module import ExecutedLayer
from ptq4dm.backends.cpu.openvino.run import OpenVINOBackend
from ptq4dm.backends.exactness import ulp, ulp_distance
from ptq4dm.errors import BackendError
from ptq4dm.numerics import pairs_are_safe
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.layers import QuantizedConv, QuantizedLayer, QuantizedLinear

pytest.importorskip("openvino")
WITHOUT_VNNI = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
ZERO_POINTS = (0, 128, 255)
LAYERS = {
    **{f"conv2d, {n} channels": (nn.Conv2d(n, 19, 3, padding=1), (2, n, 6, 6)) for n in (1, 3, 5, 17, 32, 130)},
    "conv2d 1x1": (nn.Conv2d(33, 24, 1), (2, 33, 5, 5)),
    "conv2d 1x1 of 3 channels": (nn.Conv2d(3, 16, 1), (2, 3, 5, 5)),
    "conv2d stride 2": (nn.Conv2d(32, 32, 3, stride=2, padding=1), (2, 32, 7, 7)),
    "conv2d 5x3, uneven padding": (nn.Conv2d(6, 9, (5, 3), padding=(2, 0)), (2, 6, 7, 7)),
    "conv2d dilated": (nn.Conv2d(8, 8, 3, padding=2, dilation=2), (2, 8, 7, 7)),
    "conv2d grouped": (nn.Conv2d(32, 32, 3, padding=1, groups=4), (2, 32, 5, 5)),
    "conv2d grouped, odd": (nn.Conv2d(20, 20, 3, padding=1, groups=4), (2, 20, 5, 5)),
    "conv2d depthwise": (nn.Conv2d(32, 32, 3, padding=1, groups=32), (2, 32, 5, 5)),
    "conv2d depthwise, two each": (nn.Conv2d(30, 60, 3, padding=1, groups=30), (2, 30, 5, 5)),
    "conv2d without bias": (nn.Conv2d(16, 16, 3, bias=False), (2, 16, 5, 5)),
    "conv1d": (nn.Conv1d(33, 32, 3, padding=1), (2, 33, 11)),
    "conv1d stride 2": (nn.Conv1d(16, 7, 4, stride=2, padding=1), (2, 16, 11)),
    "linear": (nn.Linear(64, 32), (5, 64)),
    "linear, odd": (nn.Linear(63, 33), (2, 5, 63)),
    "linear, 4d input": (nn.Linear(130, 33), (2, 3, 4, 130)),
    "linear without bias": (nn.Linear(32, 8, bias=False), (5, 32)),
}


class SideBySide(nn.Module):
    """Several layers, each with an input of its own."""

    def __init__(self, layers: list[QuantizedLayer]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [layer(x) for layer, x in zip(self.layers, inputs)]


def quantized(source: nn.Module, zero_point: int, limit: int = 64, seed: int = 0) -> QuantizedLayer:
    """A layer like `source` with random integer weights in [-limit, limit]; the first channel is all `limit`."""
    layer = QuantizedLinear(source) if isinstance(source, nn.Linear) else QuantizedConv(source)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-limit, limit + 1, layer.weight.shape, generator=generator)
    weight[0], weight[1] = limit, -limit
    layer.weight.copy_(weight)
    layer.weight_scale.copy_(torch.rand(len(weight), generator=generator) * 0.01 + 1e-4)
    layer.input_scale.copy_(torch.rand((), generator=generator) * 0.05 + 1e-3)
    layer.input_zero_point.fill_(zero_point)
    if layer.bias is not None:
        layer.bias.copy_(torch.randn(len(weight), generator=generator))
    return layer


def integers(shape: tuple[int, ...]) -> Tensor:
    """Full range at random, extremes at random, all 255 and all 0, along the batch."""
    generator = torch.Generator().manual_seed(1)
    anything = torch.randint(0, 256, shape, generator=generator)
    return torch.cat([anything, torch.where(anything > 127, 255, 0), anything[:1] * 0 + 255, anything[:1] * 0])


def exact(layer: QuantizedLayer, q: Tensor) -> tuple[Tensor, Tensor]:
    """(result, product) of the layer in float64 from integers: every sum is below 2**53, so nothing is rounded."""
    centred, weight = (q - int(layer.input_zero_point)).double(), layer.weight.double()
    if isinstance(layer, QuantizedConv):
        convolve = F.conv1d if weight.dim() == 3 else F.conv2d
        sums = convolve(centred, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        channel = (1, -1) + (1,) * (weight.dim() - 2)
    else:
        sums, channel = centred @ weight.T, (-1,)
    product = sums * (layer.input_scale * layer.weight_scale).double().view(channel)
    return (product if layer.bias is None else product + layer.bias.double().view(channel)), product


def on_grid(layer: QuantizedLayer, q: Tensor) -> Tensor:
    """The float32 inputs that the integers stand for."""
    return ((q - int(layer.input_zero_point)).double() * layer.input_scale.double()).float()


@dataclass(frozen=True)
class Case:
    """One layer as the engine ran it: the integers that went in, what came out, how it was run."""

    layer: QuantizedLayer
    q: Tensor
    y: Tensor
    run: ExecutedLayer


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Case]]:
    """Every layer with every zero point, all in one graph."""
    keys = [(name, zero_point) for name in LAYERS for zero_point in ZERO_POINTS]
    layers = [quantized(LAYERS[name][0], zero_point, seed=zero_point) for name, zero_point in keys]
    qs = [integers(LAYERS[name][1]) for name, _ in keys]
    inputs = [on_grid(layer, q) for layer, q in zip(layers, qs)]
    module = OpenVINOBackend().prepare(SideBySide(layers), Call((inputs,)))
    assert [run.layer for run in module.executed] == [f"layers.{index}" for index in range(len(keys))]
    found = [Case(*each) for each in zip(layers, qs, module(inputs), module.executed)]
    return {name: [case for key, case in zip(keys, found) if key[0] == name] for name in LAYERS}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_exact_in_int8(cases, name):
    for case in cases[name]:
        assert bool(pairs_are_safe(case.layer.weight).all())
        assert case.run.int8, case.run
        result, product = exact(case.layer, case.q)
        assert case.y.shape == result.shape
        assert ulp_distance(case.y, result, product).max() <= 1.0


@pytest.mark.skipif(os.environ.get("ONEDNN_MAX_CPU_ISA") is not None, reason="this run is already held to a processor")
def test_all_of_it_holds_on_a_processor_without_vnni():
    run_in_process("-m", "pytest", __file__, "-q", "-p", "no:cacheprovider", "-k", "exact_in_int8")


REFUSED = """
import sys, torch
from torch import nn
sys.path.insert(0, {tests!r})
from test_openvino_exact import OpenVINOBackend, BackendError, Call, quantized
layer = quantized(nn.Conv2d(32, 32, 3), 0, limit=127)
try:
    OpenVINOBackend().prepare(nn.Sequential(layer), Call((torch.randn(2, 32, 8, 8),)))
except BackendError as error:
    print("refused:", error)
"""


def test_saturating_weights_are_refused_without_vnni():
    printed = run_in_process("-c", REFUSED.format(tests=str(Path(__file__).parent)))
    assert "refused: OpenVINO is not exact on this processor" in printed
    assert "layer '0'" in printed and "backend='simulated'" in printed and "portable = true" in printed


def run_in_process(*arguments: str) -> str:
    """Run Python with oneDNN held to AVX2 and return what it printed; fail with its output if it fails."""
    source = str(Path(__file__).parents[3] / "src")
    environment = {**os.environ, **WITHOUT_VNNI, "PYTHONPATH": source, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_padding_mode_that_int8_cannot_have_is_refused():
    layer = quantized(nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), 3)
    with pytest.raises(BackendError, match=r"layer '0' \(padding mode 'reflect'.*backend='simulated'"):
        OpenVINOBackend().prepare(nn.Sequential(layer), Call((torch.randn(2, 8, 8, 8),)))


def test_ulp_is_the_distance_to_the_next_float32():
    for value in (1.0, 1.5, 0.1, 3e-39, 12345.678, 2.0**24):
        x = torch.tensor(value, dtype=torch.float32)
        gap = (torch.nextafter(x, torch.tensor(torch.inf)).double() - x.double()).item()
        expected = gap if value > torch.finfo(torch.float32).tiny else torch.finfo(torch.float32).tiny * 2**-23
        assert ulp(x.double()).item() == expected


def test_distance_is_taken_at_the_product_where_the_bias_cancels():
    got, exact_value, product = (
        torch.tensor([1.0]),
        torch.tensor([1.0 + 2**-23]).double(),
        torch.tensor([1024.0]).double(),
    )
    assert ulp_distance(got, exact_value, exact_value).item() == 1.0
    assert ulp_distance(got, exact_value, product).item() == 2.0**-10
