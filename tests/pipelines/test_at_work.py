"""A pipeline is watched from outside, whatever it does with its own parts."""

import copy

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, EulerDiscreteScheduler
from tiny import tiny_unet

import ptq4dm
from ptq4dm.errors import CalibrationError
from ptq4dm.pipelines.denoisers import watch_run


class TwoSchedules(DDPMPipeline):
    """Steps two latents, the second with a copy of its scheduler, as pipelines of film and sound do."""

    @torch.no_grad()
    def __call__(self, num_inference_steps=3):
        x = y = torch.ones(1, 3, 16, 16)
        self.scheduler.set_timesteps(num_inference_steps)
        self.other = copy.deepcopy(self.scheduler)
        for t in self.scheduler.timesteps:
            noise = self.unet(self.scheduler.scale_model_input(x, t), t).sample
            x = self.scheduler.step(noise, t, x).prev_sample
            y = self.other.step(noise, t, y).prev_sample
        self.drawn = x, y


def test_a_copy_of_a_watched_scheduler_steps_by_itself():
    source = TwoSchedules(tiny_unet((8,)), DDPMScheduler())
    source.scheduler = EulerDiscreteScheduler()  # it counts its steps: two latents by one are too many
    run = watch_run(ptq4dm.Pipeline(source, "two"), {})
    assert [visit.called for visit in run.visits] == 3 * [("unet",), ()]
    assert source.scheduler.step_index == source.other.step_index == 3
    assert torch.equal(*source.drawn)


class WithoutTime(DDPMScheduler):
    """Steps from noise level to noise level, as the scheduler of Karras et al. (2022) does."""

    def step(self, model_output, sigma_hat, sigma_prev):
        return model_output


class Levels(DDPMPipeline):
    """Draws with such a scheduler."""

    def __call__(self):
        self.scheduler.set_timesteps(2)
        self.scheduler.step(self.unet(torch.ones(1, 3, 16, 16), 1).sample, 1.0, 0.5)


def test_a_step_without_a_time_step_is_told():
    source = Levels(tiny_unet((8,)), DDPMScheduler())
    source.scheduler = WithoutTime()
    with pytest.raises(CalibrationError, match=r"without a time-step \(its step takes model_output, sigma_hat, sigma_"):
        watch_run(ptq4dm.Pipeline(source, "levels"), {})
