"""The arithmetic qdq: which outputs are rounded, over which range, and that it survives saving."""

import pytest
import torch
from torch import nn

import ptq4dm
from ptq4dm.errors import CalibrationError
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization.layers import QuantizedConv
from ptq4dm.quantization.layers_qdq import OutputQuantized, integer_bias, round_outputs
from ptq4dm.recipe import RangeRecipe


def small_network():
    return nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 1), nn.Flatten(), nn.Linear(48, 4)
    ).eval()


def batches(count=3):
    generator = torch.Generator().manual_seed(0)
    return [((torch.randn(4, 8, 4, 4, generator=generator) * (1 + i),), {}) for i in range(count)]


@pytest.fixture
def quantized():
    """In the arithmetic float-out."""
    torch.manual_seed(0)
    return ptq4dm.quantize_module(small_network(), batches(), "w8a8-minmax").network


def calls():
    return [(Call(args, kwargs), None) for args, kwargs in batches()]


def test_the_range_is_that_of_all_outputs_seen(quantized):
    rounded = round_outputs(quantized, calls(), RangeRecipe(metric="minmax"))
    outputs = torch.cat([quantized[0](args[0]).flatten() for args, _ in batches()])
    scale = (outputs.max() - outputs.min()) / 255
    torch.testing.assert_close(rounded[0].output_scale, scale, rtol=1e-4, atol=0)
    assert abs(float(rounded[0].output_zero_point) + float(outputs.min() / scale)) <= 0.51


def test_outputs_lie_on_256_levels_next_to_the_float_ones(quantized):
    rounded = round_outputs(quantized, calls(), RangeRecipe(metric="minmax"))
    x = batches()[2][0][0]
    found, plain = rounded[0](x), quantized[0](x)
    levels = found / rounded[0].output_scale + rounded[0].output_zero_point.float()
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    assert (
        float(levels.round().min()) >= 0 and float(levels.round().max()) <= 255 and len(levels.round().unique()) > 100
    )
    assert float((found - plain).abs().max()) <= 0.51 * float(rounded[0].output_scale) + 1e-5


def test_only_wide_convolutions_are_rounded_and_the_network_given_is_left_alone(quantized):
    before = {name: tensor.clone() for name, tensor in quantized.state_dict().items()}
    rounded = round_outputs(quantized, calls(), RangeRecipe())
    assert isinstance(rounded[0], OutputQuantized) and isinstance(quantized[0], QuantizedConv)
    assert not any(isinstance(rounded[index], OutputQuantized) for index in (2, 4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantized.state_dict().items())


def test_the_bias_is_a_multiple_of_the_unit_of_the_sums(quantized):
    layer = quantized[0]
    unit = layer.output_scale(torch.float64)
    integers = integer_bias(layer).double() / unit
    torch.testing.assert_close(integers, integers.round(), rtol=1e-6, atol=1e-3)
    assert bool(((integer_bias(layer).double() - layer.bias.double()).abs() <= 0.501 * unit).all())


def test_a_bias_beyond_int32_stays_as_it_is(quantized):
    layer = quantized[0]
    layer.weight_scale[3] = 1e-13
    assert float(integer_bias(layer)[3]) == float(layer.bias[3])


def test_no_calls_is_an_error(quantized):
    with pytest.raises(CalibrationError, match="no calibration calls"):
        round_outputs(quantized, [], RangeRecipe())


def test_the_recipe_asks_for_it_and_it_is_saved_and_loaded(tmp_path):
    recipe = ptq4dm.load_recipe("w8a8-minmax").replace(arithmetic="qdq")
    model = ptq4dm.quantize_module(small_network(), batches(), recipe)
    assert isinstance(model.network[0], OutputQuantized)
    loaded = ptq4dm.load(model.save(tmp_path / "int8"), module=small_network())
    x = batches()[1][0][0]
    assert torch.equal(loaded.network(x), model.network(x)) and loaded.recipe.arithmetic == "qdq"
