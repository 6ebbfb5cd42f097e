"""A tiny random UNet with cross-attention: `from conditional import tiny_conditional`."""

import torch
from diffusers import UNet2DConditionModel


def tiny_conditional() -> UNet2DConditionModel:
    """Self- and cross-attention over 12 channels of text, 8x8 latents, no trained weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=4,
            cross_attention_dim=12,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
    return network.eval().requires_grad_(False)
