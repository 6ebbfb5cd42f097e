"""Tiny parts that several families share: autoencoders, CLIP's vision tower, pictures."""

import numpy as np
from diffusers import AutoencoderKL
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

LATENT = 8  # height and width of the latents
PICTURE = 2 * LATENT  # the tiny autoencoders halve once


def vae(latent_channels: int = 4, **config: object) -> AutoencoderKL:
    """Stable Diffusion's autoencoder, halving once. config: what a family sets otherwise."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=PICTURE,
        **config,  # type: ignore[arg-type]
    )


def clip_vision(width: int = 32) -> CLIPVisionModelWithProjection:
    """CLIP's vision tower on pictures of 16 x 16."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=PICTURE,
            patch_size=8,
        )
    )


def clip_images() -> CLIPImageProcessor:
    """What makes pictures ready for `clip_vision`."""
    return CLIPImageProcessor(size=PICTURE, crop_size=PICTURE)


def pictures(batch: int, size: int = PICTURE, seed: int = 1) -> list[Image.Image]:
    """So many random RGB pictures."""
    return [Image.fromarray(pixels(seed + index, size), "RGB") for index in range(batch)]


def masks(batch: int, size: int = PICTURE) -> list[Image.Image]:
    """So many masks that ask for the left half to be painted anew."""
    left = np.zeros((size, size), dtype=np.uint8)
    left[:, : size // 2] = 255
    return [Image.fromarray(left, "L") for _ in range(batch)]


def pixels(seed: int, size: int) -> np.ndarray:
    """Random RGB pixels, (size, size, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
