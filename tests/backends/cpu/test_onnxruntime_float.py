"""The FP32 baseline on ONNX Runtime against PyTorch itself."""

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from tiny import tiny_unet
from torch import nn

from ptq4dm.backends.cpu.onnxruntime import compile_float
from ptq4dm.errors import BackendError
from ptq4dm.pipelines.denoiser import Call


@pytest.fixture(scope="module")
def unet():
    return tiny_unet((4, 8), 8)


@pytest.fixture(scope="module")
def compiled(unet):
    return compile_float(unet, Call((torch.randn(1, 3, 8, 8), torch.tensor([5]))))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_equals_pytorch_at_any_batch_and_time_step(unet, compiled, batch):
    x, t = torch.randn(batch, 3, 8, 8), torch.randint(0, 1000, (batch,))
    torch.testing.assert_close(compiled(x, t).sample, unet(x, t).sample, rtol=1e-4, atol=1e-5)
    assert len(compiled.ptq4dm_engine.graphs) == 1


@pytest.mark.parametrize("timestep", [999, torch.tensor(3.5), torch.tensor([7, 700, 70])])
def test_time_step_in_every_form_that_the_network_takes(unet, timestep):
    module = compile_float(unet, Call((torch.randn(3, 3, 8, 8),), {"timestep": timestep}))
    for shift in (0, 13):
        x = torch.randn(3, 3, 8, 8)
        torch.testing.assert_close(
            module(x, timestep + shift).sample, unet(x, timestep + shift).sample, rtol=1e-4, atol=1e-5
        )


def test_the_answer_has_the_form_that_was_asked_for(compiled):
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([1, 2])
    named, plain = compiled(x, timestep=t), compiled(x, t, return_dict=False)
    assert isinstance(named, UNet2DOutput)
    assert isinstance(plain, tuple) and len(plain) == 1
    assert torch.equal(named.sample, plain[0])


def test_another_picture_size_gets_a_graph_of_its_own(unet):
    module = compile_float(unet, Call((torch.randn(2, 3, 8, 8), 5)))
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(module(x, 5).sample, unet(x, 5).sample, rtol=1e-4, atol=1e-5)


class Nested(nn.Module):
    def forward(self, x, *, condition, scale=1.0, flip=False):
        y = x * scale + condition["text"] - condition["more"][0]
        return {"first": -y if flip else y, "second": (y + 1, y + 2)}


def test_nested_conditions_numbers_and_switches():
    network = Nested()
    module = compile_float(
        network, Call((torch.randn(2, 4),), {"condition": {"text": torch.ones(2, 4), "more": [torch.ones(1)]}})
    )
    for kwargs in ({}, {"scale": 3.0}, {"scale": 4.0, "flip": True}, {"flip": False}):
        x, condition = torch.randn(3, 4), {"text": torch.randn(3, 4), "more": [torch.randn(1)]}
        expected, found = network(x, condition=condition, **kwargs), module(x, condition=condition, **kwargs)
        torch.testing.assert_close(found, expected)


def test_a_call_that_does_not_fit_is_named(compiled):
    with pytest.raises(TypeError, match=r"UNet2DModel\.forward.*unexpected keyword argument 'tiemstep'"):
        compiled(torch.randn(1, 3, 8, 8), 3, tiemstep=3)


class Countdown(nn.Module):
    def forward(self, x):
        return x, "text"


def test_an_output_that_is_no_tensor_is_refused():
    with pytest.raises(BackendError, match="Countdown returns Tensor, str"):
        compile_float(Countdown(), Call((torch.randn(2, 2),)))


class ReadsInPython(nn.Module):
    def forward(self, x, timestep):
        return x * timestep.item()


class Branches(nn.Module):
    def forward(self, x, timestep):
        return x if timestep > 500 else -x


class ReadsTwice(nn.Module):
    def forward(self, x, timestep):
        return x * timestep + timestep.item()


class Ignores(nn.Module):
    def forward(self, x, timestep):
        return x + 1


def test_a_time_step_that_tracing_would_hold_fixed_is_refused():
    for network, timestep in ((ReadsInPython(), 3), (Branches(), 700), (ReadsInPython(), 0), (ReadsTwice(), 3)):
        with pytest.raises(BackendError, match=f"{type(network).__name__} reads timestep in Python"):
            compile_float(network, Call((torch.randn(2, 2), torch.tensor(timestep))))


def test_a_network_may_ignore_the_time_step():
    x = torch.randn(3, 2)
    assert torch.equal(compile_float(Ignores(), Call((torch.randn(2, 2), torch.tensor(3))))(x, torch.tensor(9)), x + 1)
