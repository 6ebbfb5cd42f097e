"""What could not be loaded again is told before the long work, and not saved."""

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from families import FAMILIES
from tiny import tiny_unet
from torch import nn

import ptq4dm
from ptq4dm.errors import ModelError, SavingWarning
from ptq4dm.quantization.ip_adapters import PROJECTIONS
from ptq4dm.quantization.savable import require_savable

RECIPE = ptq4dm.load_recipe("w8a8-minmax").replace(
    smoothing={"enabled": False}, calibration={"samples": 1, "steps": 1, "batch_size": 1}
)


class Own(DiffusionPipeline):
    """A pipeline of the user's, of no class that diffusers could find again."""

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, num_inference_steps=2, generator=None):
        x = torch.randn(1, 3, 16, 16, generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(self.unet(x, t).sample, t, x).prev_sample
        return x


def test_a_pipeline_of_the_users_own_is_quantized_and_not_saved(tmp_path):
    source = Own(tiny_unet((8,)), DDIMScheduler())
    with pytest.warns(SavingWarning, match="can be used now, but not saved: Own is no class of diffusers"):
        model = ptq4dm.quantize(source, RECIPE)
    fast = model.to_pipeline("simulated")
    assert torch.isfinite(fast(generator=torch.Generator().manual_seed(0))).all()
    with pytest.raises(ModelError, match="Own is no class of diffusers"):
        model.save(tmp_path / "int8")
    assert not (tmp_path / "int8").exists()
    with pytest.raises(ModelError, match="Own: unet is quantized already: give the float model"):
        ptq4dm.quantize(fast, RECIPE)


def test_an_ip_adapter_of_another_kind_than_the_plain_one():
    source = FAMILIES["stable-diffusion-ip-adapter"].build()
    pipeline = ptq4dm.Pipeline(source, "adapted", ("unet",))
    require_savable(pipeline)
    source.unet.get_submodule(PROJECTIONS.rstrip("."))[0] = nn.Linear(32, 32)
    with pytest.raises(ModelError, match="adapted: unet: its IP-Adapter is not of the plain kind"):
        require_savable(pipeline)
    transformer = FAMILIES["stable-diffusion-3"].build().transformer
    processor = nn.Module()
    processor.to_k_ip = nn.Linear(4, 4)
    transformer.transformer_blocks[0].attn.processor = processor
    source.unet = transformer
    with pytest.raises(ModelError, match="a SD3Transformer2DModel with an IP-Adapter cannot be loaded"):
        require_savable(pipeline)
