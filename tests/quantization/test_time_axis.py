"""Every scheduler and number of steps work on a quantized pipeline; a much different time axis is told once."""

import dataclasses
import warnings
from contextlib import nullcontext

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from families import FAMILIES, run
from families.proof import conditions
from torch import nn

import ptq4dm
from ptq4dm.backends.stand_in import stand_in
from ptq4dm.errors import TimeAxisWarning
from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization import time_axis
from ptq4dm.quantization.quantized_model import QuantizedDenoiser
from ptq4dm.quantization.time_axis import time_axis_of, watch_time

RECIPE = ptq4dm.load_recipe("w8a8").replace(calibration={"samples": 2, "steps": 20, "batch_size": 2})


def quantized(name):
    family = FAMILIES[name]
    return family, ptq4dm.quantize(family.build(), RECIPE, conditions=conditions(family))


@pytest.fixture(scope="module")
def stable_diffusion():
    return quantized("stable-diffusion-image-to-image")


@pytest.fixture(scope="module")
def flow_matching():
    return quantized("stable-diffusion-3")


@pytest.mark.parametrize(
    "kind",
    [
        DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler,
        HeunDiscreteScheduler, LCMScheduler, UniPCMultistepScheduler,
    ],
)  # fmt: skip
@pytest.mark.parametrize("steps", [2, 3])
def test_schedulers_of_stable_diffusion(stable_diffusion, kind, steps):
    family, model = stable_diffusion
    pipeline = model.to_pipeline("simulated")
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    drawn = run(family, pipeline, steps=steps)
    assert torch.isfinite(drawn).all()


@pytest.mark.parametrize("kind", [FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler])
def test_schedulers_of_a_flow_matching_pipeline(flow_matching, kind):
    family, model = flow_matching
    pipeline = model.to_pipeline("simulated")
    pipeline.scheduler = kind.from_config({"shift": 3.0})
    pipeline.set_progress_bar_config(disable=True)
    for steps in (2, 5):
        assert torch.isfinite(run(family, pipeline, steps=steps)).all()


def test_the_axis_is_that_of_the_networks_own_argument(stable_diffusion, flow_matching, tmp_path):
    axis = stable_diffusion[1].denoiser().facts["time_axis"]
    assert axis == {"argument": "timestep", "low": 1.0, "high": 951.0}
    assert flow_matching[1].denoiser().facts["time_axis"]["high"] == 1000.0
    stable_diffusion[1].save(tmp_path / "int8")
    pipeline = ptq4dm.load(tmp_path / "int8").to_pipeline("simulated")
    noted = r"UNet2DConditionModel is called at time-step 1100 and was calibrated over 1 to 951"
    call = stable_diffusion[1].denoiser().example
    with pytest.warns(TimeAxisWarning, match=noted), torch.no_grad():
        pipeline.unet(call.args[0], torch.tensor(1100.0), **call.kwargs)


@pytest.mark.filterwarnings("ignore::ptq4dm.errors.SimulatedWarning")
def test_a_conditional_pipeline_that_diffusers_loaded_tells_it(stable_diffusion, tmp_path):
    pytest.importorskip("openvino")
    family, model = stable_diffusion
    pipeline = DiffusionPipeline.from_pretrained(model.save(tmp_path / "int8"))
    pipeline.set_progress_bar_config(disable=True)
    for total in (1000, 4000), (1000, 4000):
        near, far = (DDIMScheduler.from_config(pipeline.scheduler.config, num_train_timesteps=each) for each in total)
        pipeline.scheduler = near
        run(family, pipeline)  # warnings are errors here
        pipeline.scheduler = far
        with pytest.warns(TimeAxisWarning, match="and was calibrated over 1 to 951"):
            run(family, pipeline)
        ptq4dm.accelerate(pipeline, "openvino")


def test_a_run_of_little_strength_and_lone_calls_are_no_other_axis(stable_diffusion):
    """Warnings are errors here."""
    family, model = stable_diffusion
    call = model.denoiser().example
    for t in (1.0, 10.0, 0.0):
        alone = model.to_module("simulated")
        with torch.no_grad():
            alone(call.args[0], torch.tensor(t), **call.kwargs)
    little = dataclasses.replace(family, inputs=lambda batch: {**family.inputs(batch), "strength": 0.06})
    visited = []
    pipeline = model.to_pipeline("simulated")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.register_forward_pre_hook(lambda module, args: visited.append(float(args[1])))
    assert torch.isfinite(run(little, pipeline, steps=100)).all()
    assert len(visited) >= 5 and max(visited) < 96  # all in the lowest tenth


class Net(nn.Module):
    def forward(self, x, t=None, *, scale=1.0):
        return scale * x


@pytest.mark.parametrize(
    ("times", "told"),
    [
        ((1000.0, 500.0, 1.0), ""),
        ((1090.0, -80.0), ""),  # within a tenth of the span
        ((1000.0, 1200.0), "is called at time-step 1200 and was calibrated over 0 to 1000"),
        ((1000.0, -101.0), "is called at time-step -101"),
        ((1.0,), ""),
        ((1.0, 0.5, 1.0, 0.5, 0.25), ""),  # a few calls may be anything
        ((3.0, 2.0, 1.0, 0.0), ""),  # the last training steps
        ((40.0, 1.5, 1.0, 0.5, 0.25, 0.0), ""),
        ((1.0, 0.75, 0.5, 0.25), "is called at the time-steps 1, 0.75, 0.5, 0.25 and was calibrated over 0 to 1000"),
    ],
)
def test_what_is_told_and_once(times, told):
    net, x = Net(), torch.zeros(2, 3)
    axis = time_axis_of(net, Call((x,), {"t": torch.tensor([1000.0, 900.0])}), Call((x, torch.tensor(0.0))))
    assert axis == {"argument": "t", "low": 0.0, "high": 1000.0}
    watch_time(net, axis)
    watch_time(net, axis)
    assert len(net._forward_pre_hooks) == 1
    with pytest.warns(TimeAxisWarning, match=told) if told else nullcontext():
        for t in times:
            net(x, t=torch.tensor(t))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if told:
            net(x, torch.tensor([5000.0]))  # once


def test_a_run_of_one_step_has_no_axis():
    call = Call((torch.zeros(2, 3), torch.tensor(5.0)))
    assert time_axis_of(Net(), call, call) is None
    watch_time(net := Net(), None)
    net(torch.zeros(1), 5.0)


def test_calls_that_a_backend_is_timed_with_do_not_count(monkeypatch):
    """Else the user's first time-steps would not be the first."""

    def timed(network, example, backend, arithmetic):
        network(torch.zeros(2, 3), torch.tensor(900.0))
        return stand_in(network, lambda x, t: x)

    monkeypatch.setattr("ptq4dm.backends.registry.prepare", timed)
    denoiser = QuantizedDenoiser(Net(), (), facts={"time_axis": {"argument": "t", "low": 0, "high": 1000}})
    module = denoiser.to_module("auto", "float-out")
    with pytest.warns(TimeAxisWarning, match="Net is called at the time-steps 1, 0.8, 0.6, 0.4"):
        for t in (1.0, 0.8, 0.6, 0.4):
            module(torch.zeros(2, 3), torch.tensor(t))


def test_a_time_step_on_a_gpu_is_read_seldom(monkeypatch):
    read, right = [], time_axis.time_of
    monkeypatch.setattr(time_axis, "on_gpu", lambda value: torch.is_tensor(value))
    monkeypatch.setattr(time_axis, "time_of", lambda value: read.append(value) or right(value))
    network = nn.Identity()
    network.forward = lambda x, t: x
    watch_time(network, {"argument": "t", "low": 0.0, "high": 999.0})
    for index in range(64):
        network(torch.zeros(1), torch.tensor(999 - 15 * index))
    assert len(read) == time_axis.FEW + 64 // time_axis.SELDOM
    for index in range(10):
        network(torch.zeros(1), 900 - index)  # a number of the host costs nothing
    assert len(read) == time_axis.FEW + 64 // time_axis.SELDOM + 10
    with pytest.warns(TimeAxisWarning, match="time-step 5000"):
        for _ in range(time_axis.SELDOM):
            network(torch.zeros(1), torch.tensor(5000))
