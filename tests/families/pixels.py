"""Unconditional families: DDPM, DDIM and consistency models on pixels, latent diffusion on a VQ autoencoder."""

from typing import Any

from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    LDMPipeline,
    UNet2DModel,
    VQModel,
)

from families.family import TinyFamily, reproducible


def unet(channels: int = 3, size: int = 16, **config: object) -> UNet2DModel:
    """Two levels, with attention on the lower one."""
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **config,  # type: ignore[arg-type]
    )


@reproducible
def ddpm() -> DDPMPipeline:
    return DDPMPipeline(unet(), DDPMScheduler())


@reproducible
def ddim() -> DDIMPipeline:
    return DDIMPipeline(unet(), DDIMScheduler())


@reproducible
def latent_diffusion() -> LDMPipeline:
    vqvae = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=3,
        num_vq_embeddings=32,
        norm_num_groups=4,
    )
    return LDMPipeline(vqvae, unet(size=8), DDIMScheduler())


@reproducible
def consistency() -> ConsistencyModelPipeline:
    return ConsistencyModelPipeline(unet(num_class_embeds=10), CMStochasticIterativeScheduler(num_train_timesteps=40))


def drawn(batch: int) -> dict[str, Any]:
    """Pictures from noise alone."""
    return {"batch_size": batch, "output_type": "np"}


def of_class(batch: int) -> dict[str, Any]:
    """Pictures of one class each."""
    return {**drawn(batch), "class_labels": [(3 * index + 1) % 10 for index in range(batch)]}


FAMILIES = (
    TinyFamily("ddpm", ddpm, drawn, ("unet",)),
    TinyFamily("ddim", ddim, drawn, ("unet",)),
    TinyFamily("latent-diffusion", latent_diffusion, drawn, ("unet",)),
    TinyFamily("consistency-model", consistency, of_class, ("unet",)),
)
