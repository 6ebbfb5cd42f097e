"""The operators by torch's own checks: schema, fake implementation against the real one, gradients, dynamic shapes."""

import pytest
import torch
from hard_cases import bytes_of, int8

pytest.importorskip("triton")
from ptq4dm.backends.triton_gpu import operators
from ptq4dm.backends.triton_gpu.geometry import Geometry, geometry_of
from ptq4dm.backends.triton_gpu.packing import tap_sums
from ptq4dm.errors import BackendError

WINDOW = Geometry((1, 3, 3), (1, 2, 1), (0, 1, 1), (1, 1, 2), 2, (0, 1, 0))
STEP, ZERO, ONES = torch.tensor([0.1]), int8(3), torch.ones(6)


def calls():
    q, weight = bytes_of(2, 1, 3, 4, 5), bytes_of(6, 9, 5, seed=1)
    table = tap_sums(weight, WINDOW.taps, WINDOW.most)
    scales = (torch.tensor(0.1), ZERO, ONES)
    x, one = torch.randn(2, 6, 3, 4).half().movedim(1, -1), torch.ones(6)
    matrix = (q, bytes_of(6, 5), torch.ones(6, dtype=torch.int32), *scales)
    modulation = (torch.ones(2, 6), one.expand(2, 6))
    full = (ONES, torch.randn(2, 6), torch.randn(2, 1, 3, 4, 6), torch.tensor([0.5]), ZERO)
    return {
        "quantize": (operators.quantize, (x, STEP, ZERO)),
        "group_norm": (operators.group_norm_quantize, (x, 2, one, one, 1e-5, True, STEP, ZERO, None, None)),
        "group_norm of two": (
            operators.group_norm_and_own_quantize,
            (x, x[..., :4], 5, *(torch.ones(10),) * 2, 1e-5, True, STEP, ZERO, STEP, ZERO),
        ),
        "group_norm for two": (
            operators.group_norm_and_own_quantize, (x, None, 2, one, one, 1e-5, True, STEP, ZERO, STEP, ZERO)
        ),
        "group_norm for three": (
            operators.group_norm_quantize,
            (x, 2, one, one, 1e-5, True, torch.ones(3, 1), ZERO.expand(3).clone(), None, None, None, 3),
        ),
        "layer_norm for three": (
            operators.layer_norm_quantize,
            (x, None, one, 1e-5, torch.ones(3, 1), ZERO.expand(3).clone(), *modulation, None, 3),
        ),
        "layer_norm": (operators.layer_norm_quantize, (x, None, one, 1e-5, STEP, ZERO, *modulation)),
        "gelu": (operators.gelu_quantize, (x, True, STEP, ZERO)),
        "geglu": (operators.geglu_quantize, (x, STEP, ZERO)),
        "linear": (operators.linear, (*matrix, torch.bfloat16, *(None,) * 5)),
        "linear to integers": (operators.linear, (*matrix, torch.float16, *full)),
        "convolution": (
            operators.convolution,
            (q, weight, table, *scales, WINDOW.numbers(), torch.float16, ONES, *(None,) * 4),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", calls())
def test_schema_fake_autograd_and_dynamic_shapes(name):
    operator, arguments = calls()[name]
    torch.library.opcheck(operator, arguments)  # schema, autograd registration, fake tensor, ahead-of-time dispatch


def test_geometry_as_numbers_and_back():
    assert geometry_of(WINDOW.numbers()) == WINDOW


def test_a_call_on_the_cpu_without_the_interpreter_is_refused(monkeypatch):
    monkeypatch.setattr(operators, "INTERPRETED", False)
    with pytest.raises(BackendError, match=r"called on cpu: its kernels run on NVIDIA GPUs; .*\.to\('cuda'\)"):
        operators.quantize(torch.ones(2), STEP, ZERO)
