import pytest
import torch
from tiny import tiny_unet
from torch import nn

from ptq4dm.errors import CalibrationError, ModelError
from ptq4dm.files import fingerprint
from ptq4dm.numerics import pairs_are_safe
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.bias import bias_correction
from ptq4dm.quantization.layers import (
    QuantizedConv,
    QuantizedLayer,
    QuantizedLinear,
    out_first,
    phases_of,
    weight_of,
)
from ptq4dm.quantization.plan import make_plan
from ptq4dm.quantization.rewrite import rewrite
from ptq4dm.ranges.observe import observe
from ptq4dm.ranges.range_table import RangeTable, choose_ranges
from ptq4dm.recipe import RangeRecipe, WeightRecipe


def ranges_of(network: nn.Module, *inputs: torch.Tensor) -> RangeTable:
    names = [item.name for item in make_plan(network) if item.quantized]
    return choose_ranges(observe(network, names, [(Call(inputs), None)], shown=False), RangeRecipe())


def quantized(network: nn.Module, *inputs: torch.Tensor, weights: WeightRecipe | None = None) -> nn.Module:
    table = ranges_of(network, *inputs)
    return rewrite(network, make_plan(network, (), table.statistics), table, weights or WeightRecipe())


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@torch.no_grad()
def test_a_copy_close_to_the_original_which_is_untouched():
    network = tiny_unet()
    before = fingerprint(dict(network.state_dict()))
    x, t = torch.randn(4, 3, 16, 16), torch.tensor([10, 300, 600, 990])
    expected = network(x, t).sample
    result = quantized(network, x, t)
    assert fingerprint(dict(network.state_dict())) == before
    assert not any(isinstance(module, QuantizedLayer) for module in network.modules())
    assert not any(type(module) in (nn.Conv2d, nn.Linear) for module in result.modules())
    layers = [module for module in result.modules() if isinstance(module, QuantizedLayer)]
    assert all(bool(pairs_are_safe(layer.weight.int()).all()) and not layer.training for layer in layers)
    error = relative(result(x, t).sample, expected)
    assert 1e-4 < error < 0.05
    assert torch.equal(network(x, t).sample, expected)


class Twins(nn.Module):
    """One layer under three names, in two containers, and another that stays in training mode."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.block = nn.Sequential(self.first, nn.SiLU(), nn.Conv1d(3, 3, 3, padding=1))
        self.second = self.first

    def forward(self, x):
        return self.second(self.block(x)) + self.first(x)


@torch.no_grad()
def test_one_module_under_several_names_becomes_one_quantized_layer():
    torch.manual_seed(0)
    network = Twins().eval()
    network.block[2].train()
    x = torch.randn(5, 3, 6)
    result = quantized(network, x)
    assert isinstance(result.first, QuantizedLinear) and isinstance(result.block[2], QuantizedConv)
    assert result.first is result.second is result.block[0]
    assert not result.first.training and result.block[2].training and not result.training
    assert relative(result(x), network(x)) < 0.03


@torch.no_grad()
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2), (4, 6, 8, 8)),
        (nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, bias=False), (4, 6, 8, 8)),
        (nn.Conv1d(5, 4, 3), (4, 5, 16)),
        (nn.Conv3d(3, 4, 2), (2, 3, 5, 5, 5)),
        (nn.ConvTranspose1d(6, 4, 4, stride=2, padding=1, groups=2), (4, 6, 9)),
        (nn.ConvTranspose2d(6, 8, 3, stride=2, padding=1, output_padding=1), (4, 6, 7, 7)),
        (nn.ConvTranspose3d(3, 4, (1, 2, 2), stride=(1, 2, 2), bias=False), (2, 3, 3, 5, 5)),
        (nn.Linear(7, 5, bias=False), (4, 3, 7)),
    ],
)
def test_every_kind_of_layer(layer, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 0.5
    network = nn.Sequential(layer)
    result = quantized(network, x)
    assert relative(result(x), network(x)) < 0.03
    assert (result[0].bias is None) == (layer.bias is None)


@torch.no_grad()
def test_bias_correction_takes_the_mean_error_back():
    generator = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(8, 16, 1, groups=2)
    x = torch.randn(16, 8, 9, 9, generator=generator) + torch.arange(8).view(1, 8, 1, 1)
    rounded = torch.randint(-3, 4, layer.weight.shape, generator=generator, dtype=torch.int8)
    scale = torch.rand(16, generator=generator) * 0.1 + 0.1
    real = rounded.float() * scale.view(-1, 1, 1, 1)
    error = nn.functional.conv2d(x, layer.weight - real, groups=2).double().mean((0, 2, 3))
    shift = bias_correction(layer.weight, rounded, scale, x.double().mean((0, 2, 3)), groups=2)
    assert error.abs().min() > 1e-3
    torch.testing.assert_close(shift.double(), error, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_bias_correction_of_a_transposed_convolution_is_the_mean_over_its_phases():
    """Kernel = stride: every output is of one tap, and nothing lies beyond an edge."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.ConvTranspose2d(8, 6, (2, 3), stride=(2, 3), groups=2)
    x = torch.randn(16, 8, 9, 9, generator=generator) + torch.arange(8).view(1, 8, 1, 1)
    weight = weight_of(layer)
    rounded = torch.randint(-3, 4, weight.shape, generator=generator, dtype=torch.int8)
    scale = torch.rand(6, generator=generator) * 0.1 + 0.1
    real = out_first((weight - rounded.float() * scale.view(-1, 1, 1, 1)), 2)  # back in torch's order
    error = nn.functional.conv_transpose2d(x, real, stride=(2, 3), groups=2).double().mean((0, 2, 3))
    shift = bias_correction(weight, rounded, scale, x.double().mean((0, 2, 3)), 2, phases_of(layer))
    assert error.abs().min() > 1e-3
    torch.testing.assert_close(shift.double(), error, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_transposed_convolution_is_rounded_as_the_convolution_of_the_same_kernels():
    """Scales a channel of output, importance a channel of input: with stride 1 the numbers are those of the convolution
    that it is, its kernels turned round."""
    torch.manual_seed(0)
    layer, x = (
        nn.ConvTranspose2d(6, 8, 3, padding=1, groups=2),
        torch.randn(4, 6, 9, 9) * torch.arange(1, 7).view(6, 1, 1),
    )
    twin = nn.Conv2d(6, 8, 3, padding=1, groups=2)
    for group in range(2):
        turned = layer.weight[3 * group : 3 * group + 3].transpose(0, 1).flip(2, 3)
        twin.weight[4 * group : 4 * group + 4] = turned
    twin.bias.copy_(layer.bias)
    one, other = (quantized(nn.Sequential(item), x)[0] for item in (layer, twin))
    assert torch.equal(one.weight.flip(2, 3), other.weight)
    for name in ("weight_scale", "bias", "input_scale"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_with_bias_correction_the_mean_of_the_output_is_kept():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(64, 32))
    x = torch.randn(4000, 64) * 0.1 + torch.linspace(-3, 3, 64)
    means = {
        correction: (
            quantized(network, x, weights=WeightRecipe(weighted=False, bias_correction=correction))(x) - network(x)
        )
        .mean(0)
        .abs()
        for correction in (True, False)
    }
    assert means[True].mean() < 0.7 * means[False].mean()


def test_a_planned_layer_without_a_range_is_refused():
    network = Twins()
    table = ranges_of(network, torch.randn(2, 3, 6))
    partial = RangeTable({"first": table.ranges["first"]}, table.statistics)
    with pytest.raises(CalibrationError, match=r"layer block\.2 has no range"):
        rewrite(network, make_plan(network), partial, WeightRecipe())


def test_weights_that_are_not_finite_name_the_layer():
    network = Twins()
    table = ranges_of(network, torch.randn(2, 3, 6))
    with torch.no_grad():
        network.block[2].weight[0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"block\.2"):
        rewrite(network, make_plan(network), table, WeightRecipe())
