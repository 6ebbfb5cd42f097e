"""Layers on the kernels against the simulated ones: the same float32 numbers to the bit, the same in half precision."""

import pytest
import torch
from int8_layers import int8_form
from torch import nn

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu.layers import TritonConv, TritonLinear, triton_form, why_not
from ptq4dm.errors import BackendError

CASES = {
    "linear": (nn.Linear(17, 5), (3, 4, 17)),
    "linear, no bias": (nn.Linear(130, 3, bias=False), (2, 130)),
    "linear, one row": (nn.Linear(5, 3), (5,)),
    "1x1": (nn.Conv2d(17, 5, 1), (2, 17, 5, 3)),
    "1x1, padded": (nn.Conv2d(5, 6, 1, padding=1), (2, 5, 2, 3)),
    "3x3": (nn.Conv2d(5, 7, 3, padding=1), (2, 5, 5, 3)),
    "3x3, one channel, one place": (nn.Conv2d(1, 3, 3, padding=1), (1, 1, 1, 1)),
    "stride 2": (nn.Conv2d(8, 3, 3, stride=2), (2, 8, 7, 6)),
    "dilated, uneven": (nn.Conv2d(3, 4, (3, 2), (1, 2), (2, 1), (2, 1), bias=False), (1, 3, 5, 6)),
    "padding in words": (nn.Conv2d(4, 4, 3, padding="same"), (1, 4, 5, 4)),
    "1d": (nn.Conv1d(6, 4, 3, padding=1), (2, 6, 9)),
    "1d, 1": (nn.Conv1d(6, 4, 1), (2, 6, 9)),
    "3d": (nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0)), (2, 3, 3, 2, 4)),
    "3d, 3x3x3": (nn.Conv3d(2, 3, 3, padding=1, stride=(1, 2, 2)), (1, 2, 3, 4, 4)),
}


@torch.no_grad()
@pytest.mark.parametrize("smoothed", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_it_gives_what_the_simulated_layer_gives(case, smoothed):
    source, shape = CASES[case]
    torch.manual_seed(0)
    layer = int8_form(source, smoothed=smoothed).requires_grad_(False)
    x = torch.randn(shape) * 3
    kernel = triton_form(layer)
    assert isinstance(kernel, TritonLinear if isinstance(source, nn.Linear) else TritonConv)
    assert torch.equal(kernel(x), layer(x))
    assert torch.equal(kernel(x.half()), layer(x.half()))
    got, expected = kernel(x.bfloat16()), layer(x.bfloat16())  # the interpreter cuts float32 to bfloat16, a GPU rounds
    assert got.dtype == torch.bfloat16 and torch.allclose(got, expected, rtol=2.0**-7, atol=1e-6)


@torch.no_grad()
def test_its_output_lies_channels_last_and_takes_any_layout():
    layer = int8_form(nn.Conv2d(6, 5, 3, padding=1))
    kernel, x = triton_form(layer), torch.randn(2, 6, 4, 3)
    y = kernel(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(kernel(x.contiguous(memory_format=torch.channels_last)), y)
    assert torch.equal(kernel(x.expand(2, 6, 4, 3)[:, :, ::2]), layer(x[:, :, ::2]))


def test_wrong_inputs_are_refused_as_torch_refuses_them():
    conv = triton_form(int8_form(nn.Conv2d(4, 8, 3, bias=False)))
    linear = triton_form(int8_form(nn.Linear(6, 5)))
    for width in (1, 5, 7):
        with pytest.raises(BackendError, match=f"an INT8 layer for 6 channels was called with {width}"):
            linear(torch.randn(2, width))
    with pytest.raises(BackendError, match="an INT8 layer for 4 channels was called with 9"):
        conv(torch.randn(2, 9, 6, 6))
    with pytest.raises(BackendError, match=r"1x3x3 taps was called on a picture of 1x2x5 .* smaller than its window"):
        conv(torch.randn(2, 4, 2, 5))
    with pytest.raises(BackendError, match=r"a convolution of 2 axes was called with \(4, 6\)"):
        conv(torch.randn(4, 6))
    one = torch.randn(4, 6, 5)
    assert torch.equal(conv(one), conv(one[None])[0])


def test_what_a_product_cannot_add_is_refused():
    linear, x = triton_form(int8_form(nn.Linear(6, 5))), torch.randn(2, 4, 6)
    q = linear.integers(x)
    for more, name in (((None, torch.randn(1, 4, 5)), "residual"), ((torch.randn(1, 5), None), "embedding")):
        with pytest.raises(BackendError, match=rf"output of \(2, 4, 5\) takes in {name} .*, not \(1, "):
            linear.product(q, x.dtype, *more)


def test_steps_are_held_to_what_kernels_divide_by():
    layer = int8_form(nn.Linear(6, 5))
    for scale, held in ((1e-38, 1e-30), (1e38, 1e35), (0.5, 0.5)):
        layer.input_scale.fill_(scale)
        assert triton_form(layer).step.item() == pytest.approx(held)


def test_integers_that_lie_apart_are_read_as_they_are():
    """Of a normalisation whose result a feed-forward takes in chunks."""
    linear, x = triton_form(int8_form(nn.Linear(6, 5))), torch.randn(2, 4, 6)
    q = linear.integers(x)
    assert torch.equal(linear.product(q[:, 1:3], x.dtype), linear(x)[:, 1:3])


def test_it_holds_int8_weights_only_and_keeps_its_scales_when_cast():
    layer = int8_form(nn.Conv2d(130, 64, 3, padding=1))
    kernel = triton_form(layer).to(torch.float16)
    tensors = kernel.state_dict()
    assert {name for name, item in tensors.items() if item.numel() > 10000} == {"weight"}
    assert tensors["weight"].dtype == torch.int8 and tensors["weight"].numel() == layer.weight.numel()
    assert {item.dtype for item in tensors.values()} == {torch.int8, torch.int32, torch.float32}
    held = sum(item.numel() * item.element_size() for item in tensors.values())
    assert held < 0.55 * 2 * layer.weight.numel()  # of the same layer in float16


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (nn.Conv2d(8, 8, 3, groups=2), "2 groups"),
        (nn.Conv2d(8, 8, 2, padding="same"), "padding 'same'"),
        (nn.ConvTranspose2d(8, 8, 2), "QuantizedTransposedConv has no INT8 kernel"),
        (nn.Linear(70000, 1), "70000 products a sum: int32 holds 66311"),
    ],
)
def test_what_has_no_kernel_is_said(source, reason):
    layer = int8_form(source) if not isinstance(source, nn.Linear) else None
    if layer is None:
        from ptq4dm.quantization.layers import quantized_form

        layer = quantized_form(source)
    assert reason in (why_not(layer) or "")
    assert why_not(int8_form(nn.Conv2d(8, 8, 3))) is None
