"""Denoisers are found by watching a pipeline at work."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, LDMPipeline, StableDiffusionControlNetPipeline, VQModel
from diffusers.schedulers import DDPMScheduler
from families import FAMILIES
from tiny import tiny_unet
from torch import nn

import ptq4dm
from ptq4dm.errors import CalibrationError, ModelError
from ptq4dm.pipelines.at_work import Enough, run_watched
from ptq4dm.pipelines.denoisers import Notes, left_out, linear_inputs, not_called, watch_run, with_found
from ptq4dm.quantization.time_axis import time_axis_of


def latent_pipeline():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vqvae = VQModel(block_out_channels=(8,), norm_num_groups=4, latent_channels=3, num_vq_embeddings=8)
    return LDMPipeline(vqvae.eval(), tiny_unet(), DDIMScheduler())


def test_a_latent_pipeline_has_one_denoiser_called_once_a_step():
    source = latent_pipeline()
    run = watch_run(ptq4dm.open_pipeline(source), {"num_inference_steps": 4, "batch_size": 2})
    assert run.denoisers == ("unet",)
    expected = DDIMScheduler()
    expected.set_timesteps(4)
    assert [visit.timestep for visit in run.visits] == expected.timesteps.tolist()
    assert all(visit.called == ("unet",) for visit in run.visits)
    x_t, t = run.examples["unet"].args
    assert x_t.shape == (2, 3, 16, 16) and int(t) == int(expected.timesteps[0])


def test_the_decoder_never_runs_and_nothing_is_left_behind():
    source = latent_pipeline()
    decoded = []
    source.vqvae.decoder.register_forward_hook(lambda *_: decoded.append(1))
    before = {name: set(vars(part)) for name, part in source.components.items()}
    watch_run(ptq4dm.open_pipeline(source), {"num_inference_steps": 2})
    assert not decoded
    assert {name: set(vars(part)) for name, part in source.components.items()} == before
    assert not source.unet._forward_pre_hooks
    source.set_progress_bar_config(disable=True)
    source(num_inference_steps=2, output_type="np")
    assert decoded


def test_hooks_are_gone_after_a_failure():
    source = latent_pipeline()
    with pytest.raises(CalibrationError, match=r"LDMPipeline does not take .*\['batch_size'\]"):
        run_watched(source, {"batch_size": "two"}, Notes())
    assert not source.unet._forward_pre_hooks and "step" not in vars(source.scheduler)


class Staged(DDPMPipeline):
    """Two stages by time-step, and an encoder that is called before and between them."""

    def __init__(self, encoder, first, second, scheduler):
        super(DDPMPipeline, self).__init__()
        self.register_modules(encoder=encoder, first=first, second=second, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, num_inference_steps=6, generator=None):
        x = torch.randn(1, 3, 16, 16, generator=generator)
        for _ in range(2):
            self.encoder(x)
            self.scheduler.set_timesteps(num_inference_steps)
            for t in self.scheduler.timesteps:
                network = self.first if t > 500 else self.second
                x = self.scheduler.step(network(x, t).sample, t, x).prev_sample
        return x


def test_two_stages_are_two_denoisers_and_an_encoder_between_runs_is_none():
    staged = Staged(torch.nn.Linear(16, 16), tiny_unet(seed=1), tiny_unet(seed=2), DDPMScheduler())
    run = watch_run(ptq4dm.open_pipeline(staged), {"num_inference_steps": 6})
    assert run.denoisers == ("first", "second")
    assert [visit.called for visit in run.visits] == 2 * (2 * [("first",)] + 4 * [("second",)])  # 830, 664 | 498 ...
    found = with_found(ptq4dm.open_pipeline(staged), run)
    assert found.components == ("first", "second") and found.denoisers["second"] is staged.second
    with pytest.raises(ModelError, match="has several denoisers"):
        _ = found.denoiser


def test_a_part_called_before_the_last_one_is_known_from_the_first_step_on():
    """A ControlNet, called before its UNet: whether it belongs to the first step only the second one tells."""
    family = FAMILIES["stable-diffusion-controlnet"]
    pipeline = ptq4dm.open_pipeline(family.build())
    run = watch_run(pipeline, {**family.inputs(1), "num_inference_steps": 4})
    visited = [visit.timestep for visit in run.visits]
    assert set(run.denoisers) == {"unet", "controlnet"} and len(visited) == 4
    for name in run.denoisers:
        first, last = run.examples[name], run.latest[name]
        axis = time_axis_of(pipeline.source.components[name], first, last)
        assert axis == {"argument": "timestep", "low": min(visited), "high": max(visited)}


def test_a_second_stage_that_is_never_called_is_listed_with_the_reason():
    staged = Staged(torch.nn.Linear(16, 16), tiny_unet(seed=1), tiny_unet(seed=2), DDPMScheduler())
    pipeline = ptq4dm.open_pipeline(staged)
    told = not_called(staged, watch_run(pipeline, {"num_inference_steps": 1}))  # at time-step 0
    assert list(told) == ["first"]
    assert "a UNet2DModel as second is, and the first calibration run, of 2 steps, never called it" in told["first"]
    assert not not_called(staged, watch_run(pipeline, {"num_inference_steps": 6}))


def test_a_run_without_a_step_is_told():
    family = FAMILIES["stable-diffusion-image-to-image"]
    inputs = {**family.inputs(1), "num_inference_steps": 2, "strength": 0.1}
    with pytest.raises(ModelError, match=r"made no scheduler step on the calibration inputs .*: ask for more steps"):
        watch_run(ptq4dm.open_pipeline(family.build()), inputs)


def test_a_pipeline_without_a_denoiser():
    class Idle(LDMPipeline):
        def __call__(self, num_inference_steps=2):
            self.scheduler.set_timesteps(num_inference_steps)
            for t in self.scheduler.timesteps:
                self.scheduler.step(torch.zeros(1, 3, 4, 4), t, torch.zeros(1, 3, 4, 4))

    source = latent_pipeline()
    with pytest.raises(ModelError, match="made 2 scheduler steps and called no module for them"):
        watch_run(ptq4dm.open_pipeline(Idle(source.vqvae, source.unet, source.scheduler)), {})


def test_weights_that_are_not_finite_are_told_by_name():
    source = latent_pipeline()
    pipeline = ptq4dm.open_pipeline(source)
    run = watch_run(pipeline, {"num_inference_steps": 2})
    next(source.unet.parameters()).data[0] = float("nan")
    with pytest.raises(ModelError, match=r"LDMPipeline: unet\.conv_in\.weight"):
        with_found(pipeline, run)


def test_enough_is_no_error_of_the_pipeline():
    class Watcher(Notes):
        def stepped(self, scheduler, timestep):
            super().stepped(scheduler, timestep)
            if len(self.visits) == 2:
                raise Enough

    watcher = Watcher()
    run_watched(latent_pipeline(), {"num_inference_steps": 50}, watcher)
    assert len(watcher.visits) == 2


def test_inputs_of_linear_layers_are_noted_however_they_are_called():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Linear(3, 3)

        def forward(self, x, keyword):
            return self.proj(input=x) if keyword else self.proj(x)

    part, notes, rows = Part(), Notes(), torch.arange(6.0).view(2, 3)
    with linear_inputs(SimpleNamespace(components={"unet": part}), notes):
        part(rows, False)
        part(rows + 1, True)
        part(torch.zeros(257, 3), False)  # tokens laid flat
        part(torch.zeros(2, 5, 3), False)  # tokens
    noted = [x for _, x in notes.inputs["unet"]["proj"]]
    assert len(noted) == 2 and torch.equal(noted[0], rows) and torch.equal(noted[1], rows + 1)


def test_what_has_no_config_is_left_out_and_alone_refused():
    source = FAMILIES["stable-diffusion-controlnet"].build()
    nets = [source.controlnet, source.controlnet]
    several = StableDiffusionControlNetPipeline(
        **{**source.components, "controlnet": nets}, requires_safety_checker=False
    )
    pipeline = ptq4dm.Pipeline(several, "several", ("unet", "controlnet"))
    assert left_out(pipeline) == {
        "controlnet": "MultiControlNetModel has no config of its own, by which a quantized one is loaded again"
    }
    with pytest.raises(ModelError, match="several: controlnet is a MultiControlNetModel, which has no config"):
        left_out(dataclasses.replace(pipeline, components=("controlnet",)))
