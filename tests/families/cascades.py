"""Cascades, whose prior and decoder are both denoisers: Kandinsky 2.2 and Stable Cascade, each as one pipeline."""

from typing import Any

from diffusers import (
    DDPMScheduler,
    KandinskyV22CombinedPipeline,
    PriorTransformer,
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


def prompted(batch: int) -> dict[str, Any]:
    """Pictures of a prompt each, guided in both stages."""
    size = {"height": PICTURE, "width": PICTURE}
    return {"prompt": prompts(batch), "guidance_scale": 4.0, "prior_guidance_scale": 4.0, "output_type": "np", **size}


def both_stages(steps: int) -> dict[str, Any]:
    """So many steps of the prior and of the decoder."""
    return {"num_inference_steps": steps, "prior_num_inference_steps": steps}


FAMILIES = (TinyFamily("kandinsky-2-2", kandinsky, prompted, ("prior_prior", "unet"), steps=both_stages),)
