"""Attention processors: a watched run leaves a pipeline's own in place."""

import pytest
import torch
from conditional import tiny_conditional
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

import ptq4dm
from ptq4dm.errors import CalibrationError
from ptq4dm.pipelines.at_work import Enough, run_watched
from ptq4dm.pipelines.denoisers import Notes, watch_run


class Swaps(DDPMPipeline):
    """Sets processors of its own while it runs, as perturbed-attention guidance does."""

    def __init__(self, unet, vae, scheduler):
        super(DDPMPipeline, self).__init__()
        self.register_modules(unet=unet, vae=vae, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, num_inference_steps=2, fail=False):
        own = self.unet.attn_processors
        self.unet.set_attn_processor(AttnProcessor())
        if fail:
            raise ValueError("no such thing")
        x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 12)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(self.unet(x, t, text).sample, t, x).prev_sample
        self.vae.decode(x)
        self.unet.set_attn_processor(own)


class Stops(Notes):
    def stepped(self, scheduler, timestep):
        raise Enough


def swapping() -> Swaps:
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    return Swaps(tiny_conditional(), vae.eval(), DDPMScheduler())


def test_a_run_that_ends_early_leaves_the_processors_as_they_were():
    source = swapping()
    source.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.set_processor(AttnProcessor())
    before = source.unet.attn_processors
    assert {type(processor) for processor in before.values()} == {AttnProcessor, AttnProcessor2_0}
    watch_run(ptq4dm.open_pipeline(source), {"num_inference_steps": 2})
    assert source.unet.attn_processors == before  # the same objects: they compare by identity
    run_watched(source, {}, Stops())
    assert source.unet.attn_processors == before
    with pytest.raises(CalibrationError, match="no such thing"):
        run_watched(source, {"fail": True}, Notes())
    assert source.unet.attn_processors == before
