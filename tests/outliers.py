"""A tiny real transformer of diffusers with planted outlier channels: `from outliers import planted`."""

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

CHANNELS, FACTOR = (3, 17), 80.0
"""The channels that become outliers, and by how much."""


def tiny_dit(seed: int = 0, layers: int = 2) -> DiTTransformer2DModel:
    """A random DiT, 32 wide, whose modulations are not zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=16, num_layers=layers, sample_size=8, out_channels=8
        )
        for block in network.transformer_blocks:
            nn.init.normal_(block.norm1.linear.bias, std=0.3)
    return network.eval().requires_grad_(False)


def inputs(batch: int = 4, seed: int = 1) -> dict[str, Tensor]:
    """One call of it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 4, 8, 8, generator=generator)
    return {
        "hidden_states": x,
        "timestep": torch.randint(0, 1000, (batch,), generator=generator),
        "class_labels": torch.randint(0, 1000, (batch,), generator=generator),
    }


@torch.no_grad()
def planted(network: DiTTransformer2DModel) -> DiTTransformer2DModel:
    """Multiply some channels of what the modulated norms give, and divide the columns that take them in by the same.

    Before the attention and before the feed-forward: x (1 + scale) + shift. The function stays what it was.
    """
    for block in network.transformer_blocks:
        modulation, width = block.norm1.linear, block.norm1.linear.out_features // 6
        into_attention = (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v)
        for first, consumers in ((0, into_attention), (3, (block.ff.net[0].proj,))):
            for channel in CHANNELS:
                shift, scale = first * width + channel, (first + 1) * width + channel
                for row in (shift, scale):
                    modulation.weight[row] *= FACTOR
                    modulation.bias[row] *= FACTOR
                modulation.bias[scale] += FACTOR - 1
                for consumer in consumers:
                    consumer.weight[:, channel] /= FACTOR
    return network


def relative(one: Tensor, other: Tensor) -> float:
    """‖one - other‖ / ‖other‖."""
    return float((one.double() - other.double()).norm() / other.double().norm())
