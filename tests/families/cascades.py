"""Cascades: Kandinsky 2.2 as one pipeline, whose prior and decoder are both denoisers, and Stable Cascade's prior.

Stable Cascade's decoder is not here: diffusers 0.42 saves its VQ autoencoder under a name that it cannot load.
"""

from typing import Any

from diffusers import (
    DDPMScheduler,
    DDPMWuerstchenScheduler,
    KandinskyV22CombinedPipeline,
    PriorTransformer,
    StableCascadePriorPipeline,
    StableCascadeUNet,
    UnCLIPScheduler,
    UNet2DConditionModel,
    VQModel,
)

from families.family import TinyFamily, reproducible
from families.parts import LATENT, PICTURE, clip_images, clip_vision
from families.text import TOKENS, clip_text_with_projection, clip_tokenizer, prompts

WIDTH = 32


@reproducible
def kandinsky() -> KandinskyV22CombinedPipeline:
    decoder = UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=4,
        out_channels=8,
        addition_embed_type="image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        resnet_time_scale_shift="scale_shift",
    )
    movq = VQModel(
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(32, 32),
        latent_channels=4,
        num_vq_embeddings=16,
        norm_type="spatial",
    )
    prior = PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        embedding_dim=WIDTH,
        num_embeddings=TOKENS,
    )
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear"}
    return KandinskyV22CombinedPipeline(
        unet=decoder,
        scheduler=DDPMScheduler(variance_type="learned_range", **betas),
        movq=movq,
        prior_prior=prior,
        prior_image_encoder=clip_vision(WIDTH),
        prior_text_encoder=clip_text_with_projection(WIDTH),
        prior_tokenizer=clip_tokenizer(),
        prior_scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
        ),
        prior_image_processor=clip_images(),
    )


@reproducible
def stable_cascade_prior() -> StableCascadePriorPipeline:
    blocks = ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock")
    prior = StableCascadeUNet(
        in_channels=8,
        out_channels=8,
        timestep_ratio_embedding_dim=16,
        conditioning_dim=WIDTH,
        block_out_channels=(16, 32),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(2, 1),  # one level runs its blocks twice, with a convolution between
        block_types_per_layer=(blocks, blocks),
        clip_text_in_channels=WIDTH,
        clip_text_pooled_in_channels=WIDTH,
        clip_image_in_channels=WIDTH,
        switch_level=(False,),
    )
    return StableCascadePriorPipeline(
        tokenizer=clip_tokenizer(),
        text_encoder=clip_text_with_projection(WIDTH),
        prior=prior,
        scheduler=DDPMWuerstchenScheduler(),
        resolution_multiple=4.0,
    )


def prompted(batch: int) -> dict[str, Any]:
    """Pictures of a prompt each, guided in both stages."""
    size = {"height": PICTURE, "width": PICTURE}
    return {"prompt": prompts(batch), "guidance_scale": 4.0, "prior_guidance_scale": 4.0, "output_type": "np", **size}


def embedded(batch: int) -> dict[str, Any]:
    """What Stable Cascade's decoder would paint from: a small picture of eight channels for each prompt."""
    size = {"height": 32, "width": 32}
    return {"prompt": prompts(batch), "guidance_scale": 4.0, "output_type": "pt", **size}


def both_stages(steps: int) -> dict[str, Any]:
    """So many steps of the prior and of the decoder."""
    return {"num_inference_steps": steps, "prior_num_inference_steps": steps}


FAMILIES = (
    TinyFamily("kandinsky-2-2", kandinsky, prompted, ("prior_prior", "unet"), steps=both_stages),
    TinyFamily("stable-cascade-prior", stable_cascade_prior, embedded, ("prior",)),
)
