"""Tiny random models of real diffusers classes: `from tiny import tiny_pipeline`. No trained weights needed."""

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel


def tiny_unet(
    channels: tuple[int, ...] = (8, 16), size: int = 16, attention: bool = False, seed: int = 0, **config: object
) -> UNet2DModel:
    """A random `UNet2DModel` with residual blocks, a down- and an upsampler, time embedding and attention: in the
    middle, and at the lowest level if `attention`."""
    plain = len(channels) - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet2DModel(
            sample_size=size,
            in_channels=3,
            out_channels=3,
            block_out_channels=channels,
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=8,
            down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D" if attention else "DownBlock2D",),
            up_block_types=("AttnUpBlock2D" if attention else "UpBlock2D",) + ("UpBlock2D",) * plain,
            **config,  # type: ignore[arg-type]
        )
    return network.eval().requires_grad_(False)


def tiny_pipeline(
    channels: tuple[int, ...] = (8, 16), size: int = 16, seed: int = 0, attention: bool = False
) -> DDPMPipeline:
    """A random `DDPMPipeline`: 3 x size x size pictures, 1000 training time-steps, linear betas."""
    pipeline = DDPMPipeline(tiny_unet(channels, size, attention, seed), DDPMScheduler(num_train_timesteps=1000))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
