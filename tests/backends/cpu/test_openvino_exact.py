"""INT8 layers on OpenVINO against integer sums in float64: full range, every geometry, with and without VNNI."""

import itertools
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ptq4dm
from ptq4dm.backends.cpu.engine import ExecutedLayer
from ptq4dm.backends.cpu.openvino.engine import compile_model, runner
from ptq4dm.backends.cpu.openvino.executed import executed_layers
from ptq4dm.backends.cpu.openvino.layer import layer_nodes
from ptq4dm.backends.cpu.openvino.run import OpenVINOBackend
from ptq4dm.backends.exactness import ULPS_ALLOWED, ulp, ulp_distance
from ptq4dm.errors import BackendError
from ptq4dm.evaluation.hardware import this_processor
from ptq4dm.numerics import pairs_are_safe
from ptq4dm.pipelines.denoiser import Call, predict
from ptq4dm.pipelines.sampling import seeded_start, trajectory
from ptq4dm.pipelines.schedulers import make_scheduler
from ptq4dm.quantization.layers import QuantizedConv, QuantizedLayer, QuantizedTransposedConv, quantized_form
from ptq4dm.quantization.weights import pairs_cross_taps, quantize_weight
from ptq4dm.zoo import zoo

ov = pytest.importorskip("openvino")
ops = pytest.importorskip("openvino.opset13")
WITHOUT_VNNI = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
HELD = os.environ.get("ONEDNN_MAX_CPU_ISA") is not None
SATURATES = "no VNNI" in this_processor().instructions
"""Whether this run is without VNNI already, by the processor or by a limit."""
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
TRANSPOSED = {
    "transposed 2d": (nn.ConvTranspose2d(33, 19, 4, stride=2, padding=1), (2, 33, 5, 5)),
    "transposed 2d, grouped": (
        nn.ConvTranspose2d(32, 32, 3, stride=2, padding=1, output_padding=1, groups=4),
        (2, 32, 4, 4),
    ),
    "transposed 2d, grouped, odd": (nn.ConvTranspose2d(20, 20, 4, stride=2, padding=1, groups=4), (2, 20, 4, 4)),
    "transposed 2d, depthwise": (nn.ConvTranspose2d(16, 16, 4, stride=2, padding=1, groups=16), (2, 16, 4, 4)),
    "transposed 2d, dilated": (
        nn.ConvTranspose2d(8, 12, (2, 3), stride=(1, 2), padding=(1, 0), output_padding=(0, 1), dilation=(1, 2)),
        (2, 8, 4, 5),
    ),
    "transposed 1d": (nn.ConvTranspose1d(17, 16, 16, stride=8, padding=4), (2, 17, 6)),
    "transposed 1d, long stride": (nn.ConvTranspose1d(16, 8, 2, stride=4, output_padding=1), (2, 16, 6)),
    "transposed 3d": (nn.ConvTranspose3d(8, 8, (1, 2, 2), stride=(1, 2, 2), bias=False), (2, 8, 2, 3, 3)),
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
    layer = quantized_form(source)
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


def portable(source: nn.Module, zero_point: int, seed: int) -> QuantizedLayer:
    """A layer like `source` with heavy-tailed weights as the package rounds them: pairs such as 127 + 1 are in them."""
    layer = quantized(source, zero_point, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(layer.weight.shape, generator=generator) / torch.rand(layer.weight.shape, generator=generator)
    whole, scale = quantize_weight(weight, any_pair=pairs_cross_taps(source))
    layer.weight.copy_(whole), layer.weight_scale.copy_(scale * 0.01)
    return layer


WEIGHTS = {"all up to 64": quantized, "portable": portable}


def integers(shape: tuple[int, ...]) -> Tensor:
    """Full range at random, extremes at random, all 255 and all 0, along the batch."""
    generator = torch.Generator().manual_seed(1)
    anything = torch.randint(0, 256, shape, generator=generator)
    return torch.cat([anything, torch.where(anything > 127, 255, 0), anything[:1] * 0 + 255, anything[:1] * 0])


def exact(layer: QuantizedLayer, q: Tensor) -> tuple[Tensor, Tensor]:
    """(result, product) of the layer in float64 from integers: every sum is below 2**53, so nothing is rounded."""
    centred, weight = (q - int(layer.input_zero_point)).double(), layer.weight.double()
    if isinstance(layer, QuantizedTransposedConv):
        spread = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}[weight.dim()]
        groups = weight.chunk(layer.groups)
        parts = zip(centred.chunk(layer.groups, 1), groups)
        geometry = (None, layer.stride, layer.padding, layer.output_padding, 1, layer.dilation)
        sums = torch.cat([spread(x, part.transpose(0, 1), *geometry) for x, part in parts], 1)
        channel = (1, -1) + (1,) * (weight.dim() - 2)
    elif isinstance(layer, QuantizedConv):
        convolve = F.conv1d if weight.dim() == 3 else F.conv2d
        sums = convolve(centred, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        channel = (1, -1) + (1,) * (weight.dim() - 2)
    else:
        sums, channel = centred @ weight.T, (-1,)
    product = sums * (layer.input_scale * layer.weight_scale).double().view(channel)
    return (product if layer.bias is None else product + layer.bias.double().view(channel)), product


def on_grid(layer: QuantizedLayer, q: Tensor) -> Tensor:
    """The float32 inputs that the integers stand for."""
    return ((q - int(layer.input_zero_point)).double() * layer.input_step().double()).float()


@dataclass(frozen=True)
class Case:
    """One layer as the engine ran it: the integers that went in, what came out, how it was run."""

    layer: QuantizedLayer
    q: Tensor
    y: Tensor
    run: ExecutedLayer


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Case]]:
    """Every layer with every zero point, and once with portable weights: one graph each (preparing takes quadratic
    time, since every input is varied while all layers run)."""
    found: dict[str, list[Case]] = {name: [] for name in (*LAYERS, *TRANSPOSED)}
    settings = [*((zero_point, "all up to 64") for zero_point in ZERO_POINTS), (7, "portable")]
    for (zero_point, kind), group in itertools.product(settings, (LAYERS, TRANSPOSED)):
        layers = [WEIGHTS[kind](source, zero_point, seed=zero_point) for source, _ in group.values()]
        qs = [integers(shape) for _, shape in group.values()]
        inputs = [on_grid(layer, q) for layer, q in zip(layers, qs)]
        module = OpenVINOBackend().prepare(SideBySide(layers), Call((inputs,)))
        assert [run.layer for run in module.ptq4dm_engine.executed] == [
            f"layers.{index}" for index in range(len(group))
        ]
        for name, *each in zip(group, layers, qs, module(inputs), module.ptq4dm_engine.executed, strict=True):
            found[name].append(Case(*each))
    return found


@pytest.mark.parametrize("name", [*LAYERS, *TRANSPOSED])
def test_every_layer_is_exact_in_int8(cases, name):
    for case in cases[name]:
        assert bool(pairs_are_safe(case.layer.weight).all())
        assert case.run.int8, case.run
        result, product = exact(case.layer, case.q)
        assert case.y.shape == result.shape
        assert ulp_distance(case.y, result, product).max() <= 1.0


@pytest.mark.skipif(HELD or SATURATES, reason="this run is without VNNI, or held to a processor, already")
def test_all_of_it_holds_on_a_processor_without_vnni():
    """And weights that saturate there are refused: both in one process, with oneDNN held to AVX2."""
    chosen = ["-k", "exact_in_int8 or without_vnni_saturating or real_activations"]
    command = [sys.executable, "-m", "pytest", __file__, "-p", "no:cacheprovider", *chosen]
    environment = {**os.environ, **WITHOUT_VNNI, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(LAYERS) + len(TRANSPOSED) + 2} passed" in done.stdout and "skipped" not in done.stdout


@pytest.mark.skipif(not SATURATES, reason="the test above runs it in a process of its own")
def test_without_vnni_saturating_weights_are_refused():
    layer = quantized(nn.Conv2d(32, 32, 3), 0, limit=127)
    with pytest.raises(BackendError, match="OpenVINO is not exact on this processor") as caught:
        OpenVINOBackend().prepare(nn.Sequential(layer), Call((torch.randn(2, 32, 8, 8),)))
    for part in ("layer '0'", "backend='simulated'", "portable = true"):
        assert part in str(caught.value)


def test_every_layer_of_the_built_in_model_is_exact_on_real_activations():
    """The inputs that its layers get on a DDIM trajectory, linear layers as the 1x1 convolutions they run as, too."""
    model, pipeline = ptq4dm.load(zoo.int8_folder("emoji-32")), ptq4dm.open_pipeline("emoji-32")
    layers = {name: m for name, m in model.network.named_modules() if isinstance(m, QuantizedLayer)}
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _, x, name=name: seen[name].append(x[0]))
    x_T, generators = seeded_start(pipeline.picture_shape, [5])
    for step in trajectory(pipeline.denoiser, make_scheduler("ddim", pipeline.scheduler.config), 3, x_T, generators):
        predict(model.network, step.x_t, step.timestep)
    for channels_first in (False, True):
        chosen = {n: m for n, m in layers.items() if not channels_first or seen[n][0].dim() == 3}
        inputs = [torch.cat(seen[name]) for name in chosen]
        if channels_first:
            inputs = [x.movedim(-1, 1).unsqueeze(-1) for x in inputs]
        parameters = [ops.parameter(list(x.shape), np.float32) for x in inputs]
        nodes = [layer_nodes(m, n, p.output(0), channels_first) for (n, m), p in zip(chosen.items(), parameters)]
        compiled = compile_model(ov.Model([ops.result(node) for node in nodes], parameters))
        assert len(inputs) > 10 and all(run.int8 for run in executed_layers(compiled, chosen))
        for (name, layer), x, y in zip(chosen.items(), inputs, runner(compiled)(tuple(inputs))):
            if channels_first:
                x, y = (each.squeeze(-1).movedim(1, -1) for each in (x, y))
            q = torch.clamp(torch.round(x / layer.input_step()) + int(layer.input_zero_point), 0, 255)
            assert ulp_distance(y, *exact(layer, q)).max() <= 1.0, name


def test_smoothed_layers_are_exact_and_upsampling_in_front_is_done_as_it_stands():
    """Inputs divided by another number in each channel: the same integers must come of it."""
    sources = [(nn.Linear(64, 32), (2, 3, 64)), (nn.Conv2d(33, 24, 1), (2, 33, 4, 4)), (nn.Conv1d(8, 8, 1), (2, 8, 5))]
    layers, qs = [quantized(source, 77) for source, _ in sources], [integers(shape) for _, shape in sources]
    for layer in layers:
        layer.smoothing = torch.exp2(torch.linspace(-6, 6, layer.weight.shape[1]))
    inputs = [on_grid(layer, q) for layer, q in zip(layers, qs)]
    module = OpenVINOBackend().prepare(SideBySide(layers), Call((inputs,)))
    assert all(run.int8 for run in module.ptq4dm_engine.executed)
    for layer, q, y in zip(layers, qs, module(inputs)):
        assert ulp_distance(y, *exact(layer, q)).max() <= 1.0
    network = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), layers[1])
    enlarged = OpenVINOBackend().prepare(network, Call((inputs[1],)))(inputs[1])
    assert ulp_distance(enlarged, *exact(layers[1], network[0](qs[1].float()))).max() <= 1.0


def test_sums_beyond_float32_are_one_rounding_farther_and_no_more():
    """Beyond 2**24 an int32 sum is rounded on its way to float32: 2 units are allowed there, and 1 is not enough."""
    source = nn.Conv2d(512, 8, 3)
    layer, q = quantized(source, 0), integers((1, 512, 3, 3))
    x = on_grid(layer, q)
    result, product = exact(layer, q)
    assert (product / (layer.input_scale * layer.weight_scale).double().view(1, -1, 1, 1)).abs().max() > 2**24
    module = OpenVINOBackend().prepare(nn.Sequential(layer), Call((x,)))
    assert ulp_distance(module(x), result, product).max() <= ULPS_ALLOWED


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
