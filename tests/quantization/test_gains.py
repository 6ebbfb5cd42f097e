"""The gain of layers against its definition in numpy, and what is left of it afterwards."""

import json

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline, tiny_unet
from torch import nn

import ptq4dm
from ptq4dm.cli.main import main
from ptq4dm.quantization.gains import Answers, by_channel, correct_gains
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.rewrite import quantize_layer
from ptq4dm.ranges.search import InputRange
from ptq4dm.recipe import WeightRecipe, load_recipe

PLAIN = {"error_feedback": False}
QUICK = load_recipe("w8a8").replace(
    calibration={"samples": 16, "steps": 5, "batch_size": 8}, weights=PLAIN, float_share=0.0
)
CUT = InputRange(scale=0.01, zero_point=128, low=-1.28, high=1.27, loss=0.0)
"""Of inputs with standard deviation 1: what is beyond 1.28 is cut, so the gain is far below 0."""
LAYERS = [
    (nn.Linear(6, 4), (400, 6)),
    (nn.Linear(6, 4, bias=False), (40, 10, 6)),
    (nn.Linear(6, 4), (6,)),
    (nn.Conv1d(3, 5, 3, padding=1), (8, 3, 50)),
    (nn.Conv2d(4, 6, 3, stride=2, groups=2), (4, 4, 16, 16)),
    (nn.Conv2d(3, 5, 1, bias=False), (3, 20, 20)),
    (nn.ConvTranspose2d(3, 5, 2, stride=2), (4, 3, 8, 8)),
]


class Alone(nn.Module):
    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def inputs(shape, count=6):
    generator = torch.Generator().manual_seed(1)
    return [ptq4dm.Call((torch.randn(shape, generator=generator) + 0.3,)) for _ in range(count)]


def flat(answer: torch.Tensor, layer: nn.Module) -> np.ndarray:
    """(n, out) float64: the axis of channels is the last of a linear layer, else in front of the spatial ones."""
    axis = answer.dim() - 1 - len(getattr(layer, "kernel_size", ()))
    return np.moveaxis(answer.double().numpy(), axis, -1).reshape(-1, answer.shape[axis])


def gain_of(y: np.ndarray, q: np.ndarray, centred: bool) -> float:
    if centred:
        y, q = y - y.mean(0), q - q.mean(0)
    return float(((q - y) * y).sum() / (y * y).sum())


@pytest.mark.parametrize(("source", "shape"), LAYERS)
@pytest.mark.parametrize("bias_correction", [True, False])
@torch.no_grad()
def test_what_is_left_of_gain_and_mean(source, shape, bias_correction):
    """g as numpy finds it; afterwards the layer has none, and the mean of the error is gone (or as it was)."""
    calls = inputs(shape)
    layer = quantize_layer(source, "layer", CUT, None, WeightRecipe(bias_correction=bias_correction))
    y = np.concatenate([flat(source(call.args[0]), source) for call in calls])
    before = np.concatenate([flat(layer(call.args[0]), source) for call in calls])
    centred = source.bias is not None
    recipe = WeightRecipe(bias_correction=bias_correction)
    gains = correct_gains(Alone(source), {"layer": layer}, calls, recipe)
    wanted = gain_of(y, before, centred)
    assert gains == {"layer": pytest.approx(wanted, rel=1e-4)} and wanted < -0.01
    after = np.concatenate([flat(layer(call.args[0]), source) for call in calls])
    assert abs(gain_of(y, after, centred)) < 1e-4
    if centred:
        kept = y.mean(0) if bias_correction else before.mean(0)
        np.testing.assert_allclose(after.mean(0), kept, atol=1e-5)
    else:
        np.testing.assert_allclose(after, before / (1 + wanted), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_nothing_but_scales_and_biases_changes():
    pipeline = tiny_pipeline()
    model, plain = (
        ptq4dm.quantize(pipeline, QUICK.replace(weights={"gain_correction": wanted})) for wanted in (True, False)
    )
    gains = model.denoiser().facts["gains"]
    layers = {name: item for name, item in model.network.named_modules() if isinstance(item, QuantizedLayer)}
    assert gains.keys() == layers.keys() and plain.denoiser().facts["gains"] == {}
    assert all(0 < abs(gain) < 0.01 for gain in gains.values())
    for name, layer in layers.items():
        other = plain.network.get_submodule(name)
        assert torch.equal(layer.weight, other.weight) and torch.equal(layer.input_scale, other.input_scale)
        torch.testing.assert_close(layer.weight_scale, other.weight_scale / (1 + gains[name]))


def test_a_layer_that_is_not_called_or_always_answers_the_same():
    source = nn.Linear(4, 3)
    layer = quantize_layer(source, "layer", CUT, None, WeightRecipe())
    scale = layer.weight_scale.clone()
    network = Alone(source)
    network.idle = nn.Linear(4, 3)
    idle = quantize_layer(network.idle, "idle", CUT, None, WeightRecipe())
    calls = [ptq4dm.Call((torch.full((500, 4), value),)) for value in (1.7, 1.7)]  # beyond the range: it errs
    assert correct_gains(network, {"layer": layer, "idle": idle}, calls, WeightRecipe()) == {"layer": 0.0}
    assert torch.equal(layer.weight_scale, scale)
    torch.testing.assert_close(layer(*calls[0].args), source(*calls[0].args))  # the bias takes it back
    assert not any(module._forward_hooks for module in network.modules())
    assert correct_gains(network, {"layer": layer}, [], WeightRecipe()) == {}


@pytest.mark.parametrize("seed", range(20))
def test_rounding_of_sums_is_no_gain(seed):
    """Answers that are always the same, with an error that is too, in numbers that sums do not hold exactly."""
    y, d = torch.randn(2, 16, generator=torch.Generator().manual_seed(seed))
    item = Answers(0, *torch.zeros(4, 16, dtype=torch.float64))
    for _ in range(7):
        item.add(y.expand(1001, 16), d.expand(1001, 16))
    assert item.gain(centred=True) == 0.0
    assert item.gain(centred=False) == pytest.approx(float((y * d).sum() / (y * y).sum()), rel=1e-4)


def test_answers_lie_channel_last():
    x = torch.arange(2 * 3 * 4).float().view(2, 3, 4)
    assert torch.equal(by_channel(x, nn.Linear(4, 4)), x.view(6, 4))
    assert torch.equal(by_channel(x, nn.Conv1d(3, 3, 1)), x.transpose(1, 2).reshape(8, 3))
    assert torch.equal(by_channel(x[0], nn.Conv1d(3, 3, 1)), x[0].T)
    assert by_channel(x[0, 0], nn.Linear(4, 4)).shape == (1, 4)


@pytest.mark.parametrize("changes", [{"arithmetic": "qdq"}, {"activations": {"time_bands": 3}}])
def test_other_forms_have_it_too(changes):
    model = ptq4dm.quantize(tiny_pipeline(), QUICK.replace(**changes))
    assert len(model.denoiser().facts["gains"]) > 10


def test_bare_modules_and_files(tmp_path, capsys):
    calls = [((torch.randn(2, 3, 16, 16), torch.tensor([t, t])), {}) for t in (1, 500, 900)]
    network = tiny_unet()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    model = ptq4dm.quantize_module(network, calls, QUICK, timestep="timestep")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert model.denoiser().facts["gains"]
    folder = ptq4dm.quantize(tiny_pipeline(), QUICK).save(tmp_path / "artifact")
    read = ptq4dm.load(folder)
    assert main(["inspect", str(folder)]) == 0
    gains = read.denoiser().facts["gains"]
    assert f"gain of {len(gains)} layers taken back" in capsys.readouterr().out
    assert main(["inspect", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gains"] == gains


def test_presets_of_others_do_not_have_it():
    assert not any(load_recipe(name).weights.gain_correction for name in ("w8a8-paper", "w8a8-minmax"))
    assert all(load_recipe(name).weights.gain_correction for name in ("w8a8", "w8a8-fast", "w8a8-quick"))
