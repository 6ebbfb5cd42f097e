"""Attention processors: a watched run leaves a pipeline's own in place; fused projections are refused."""

import pytest
import torch
from conditional import tiny_conditional
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from families import FAMILIES

import ptq4dm
from ptq4dm.errors import CalibrationError, ModelError
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


def test_fused_projections_are_refused_with_the_mend():
    network = tiny_conditional()
    network.fuse_qkv_projections()
    with pytest.raises(ModelError, match=r"on 8 attention layers, the first .*call pipe\.unfuse_qkv_projections\(\)"):
        ptq4dm.quantize_module(network, [((torch.randn(1, 4, 8, 8), torch.tensor(5), torch.randn(1, 5, 12)), {})])
    pipeline = FAMILIES["stable-diffusion"].build()
    pipeline.fuse_qkv_projections()
    recipe = ptq4dm.load_recipe("w8a8").replace(calibration={"samples": 2, "steps": 2})
    with pytest.raises(ModelError, match="StableDiffusionPipeline: unet has fused projections"):
        ptq4dm.quantize(pipeline, recipe, conditions=[{"prompt": "a cat"}])
    pipeline.unfuse_qkv_projections()  # diffusers leaves the layers in a UNet
    assert any(name.endswith("to_qkv") for name, _ in pipeline.unet.named_modules())
    with pytest.raises(ModelError, match=r"open the pipeline again without pipe\.fuse_qkv_projections\(\)"):
        ptq4dm.quantize(pipeline, recipe, conditions=[{"prompt": "a cat"}])
