"""Convolutions on INT8 instructions: the same bits as the simulated layers, or the simulated layers themselves."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ptq4dm.quantization.layers import QuantizedConv
from ptq4dm.quantization.time_bands import TimeBands
from ptq4dm.studies import integer_products
from ptq4dm.studies.integer_products import IntegerConv, exact_sums


@pytest.fixture(autouse=True)
def everywhere() -> Iterator[None]:
    """The INT8 form is tried on every processor: where its sums differ, the layer's own take its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integer_products, "has_instructions", lambda: True)
        yield


def filled(source: nn.Conv2d, seed: int, zero_point: int) -> QuantizedConv:
    generator = torch.Generator().manual_seed(seed)
    layer = QuantizedConv(source).eval()
    layer.weight.copy_(torch.randint(-64, 65, layer.weight.shape, generator=generator))
    layer.weight_scale.data.uniform_(0.001, 0.1, generator=generator)
    layer.input_scale.fill_(0.037)
    layer.input_zero_point.fill_(zero_point)
    if layer.bias is not None:
        layer.bias.normal_(generator=generator)
    return layer


def inputs(layer: QuantizedConv, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.randn(3, layer.in_channels, 9, 7, generator=generator)


@torch.no_grad()
@given(
    st.integers(0, 255),
    st.sampled_from([(4, 6, 1), (3, 5, 1), (8, 8, 8), (6, 4, 2), (1, 1, 1)]),
    st.sampled_from([(1, 1, 0, 1), (3, 1, 1, 1), (3, 2, 1, 1), (3, 1, 2, 2)]),
    st.booleans(),
    st.booleans(),
)
def test_the_bits_are_those_of_the_layer(
    zero_point: int, shape: tuple[int, int, int], geometry: tuple[int, int, int, int], bias: bool, smoothed: bool
):
    (into, out, groups), (taps, stride, padding, dilation) = shape, geometry
    layer = filled(nn.Conv2d(into, out, taps, stride, padding, dilation, groups, bias), zero_point, zero_point)
    if smoothed and groups == 1:
        layer.smoothing = torch.linspace(0.5, 2, into)
    x = inputs(layer)
    wanted = layer(x)
    with integer_products.integer_products([layer]):
        assert torch.equal(layer(x), wanted)
    assert "forward" not in vars(layer)


@torch.no_grad()
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("taps", [1, 3])
def test_the_order_in_memory_is_that_of_the_layer(order: torch.memory_format, taps: int):
    """Norms behind add up in the order of memory, so that their last bits follow from it."""
    layer = filled(nn.Conv2d(8, 6, taps), 0, 3)
    x = inputs(layer).contiguous(memory_format=order)
    wanted = layer(x)
    with integer_products.integer_products([layer]):
        assert layer(x).stride() == wanted.stride()


def test_what_is_not_plain_goes_to_the_layer_itself():
    layer = filled(nn.Conv2d(4, 4, 3), 0, 3)
    x = inputs(layer).double()
    wanted, half = layer(x), layer(x.half())
    with integer_products.integer_products([layer, nn.Identity()]):
        assert torch.equal(layer(x), wanted)  # float64: the exact reference
        assert torch.equal(layer(x.half()), half)
        assert torch.autograd.functional.jacobian(lambda y: layer(y).sum(), x.float()).shape == x.shape


@torch.no_grad()
def test_bands_of_time_steps_have_zero_points_of_their_own():
    layer = filled(nn.Conv2d(4, 4, 3), 0, 3)
    layer.input_scale, layer.input_zero_point = torch.tensor([0.1, 0.02]), torch.tensor([3, 200], dtype=torch.uint8)
    layer.bands = TimeBands("timestep", 1, [500.0])
    x = inputs(layer)
    for index in (torch.tensor(0), torch.tensor(1), torch.tensor([0, 1, 0])):
        layer.bands.index = index
        wanted = layer(x)
        with integer_products.integer_products([layer]):
            assert torch.equal(layer(x), wanted)


@torch.no_grad()
def test_sums_that_saturate_are_refused(monkeypatch: pytest.MonkeyPatch):
    """As on a processor that adds pairs of products in int16: some sum is off by one."""
    layer = filled(nn.Conv2d(4, 4, 3), 0, 3)
    real = torch.ops.onednn.qconv2d_pointwise

    class Off:
        qconv_prepack = staticmethod(torch.ops.onednn.qconv_prepack)

        @staticmethod
        def qconv2d_pointwise(*args: object) -> torch.Tensor:
            sums = real(*args)
            sums[1, 0, 0, 0] += 1
            return sums

    monkeypatch.setattr(torch.ops, "onednn", Off)
    assert exact_sums(layer, 3) is None
    x = inputs(layer)
    assert torch.equal(IntegerConv(layer).forward(x), layer(x))


@torch.no_grad()
def test_without_such_an_operator_the_layer_answers(monkeypatch: pytest.MonkeyPatch):
    layer = filled(nn.Conv2d(4, 4, 3), 0, 3)
    monkeypatch.setattr(torch.ops, "onednn", object())
    x = inputs(layer)
    assert torch.equal(IntegerConv(layer).forward(x), layer(x))


@torch.no_grad()
def test_a_processor_without_the_instructions_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    layer = filled(nn.Conv2d(4, 4, 3), 0, 3)
    monkeypatch.setattr(integer_products, "has_instructions", lambda: False)
    with integer_products.integer_products([layer]):
        assert "forward" not in vars(layer)
