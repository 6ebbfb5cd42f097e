"""Video families: Stable Video Diffusion, CogVideoX, Wan and the two-stage Wan 2.2."""

from typing import Any

from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLTemporalDecoder,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from families.family import TinyFamily, reproducible
from families.parts import LATENT, PICTURE, pictures
from families.text import TOKENS, prompts, t5, t5_tokenizer, umt5

WIDTH = 32
FRAMES = 5  # three in the latents of CogVideoX and Wan
TWO_HEADS: dict[str, int] = {"num_attention_heads": 2, "attention_head_dim": 16}


@reproducible
def stable_video() -> StableVideoDiffusionPipeline:
    unet = UNetSpatioTemporalConditionModel(
        sample_size=LATENT,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=(32, 64),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=3 * 8,
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        num_attention_heads=(2, 4),
        num_frames=2,
    )
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 2, block_out_channels=(32, 32), sample_size=PICTURE
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_type="continuous",
        timestep_spacing="leading",
        steps_offset=1,
    )
    # the pipeline makes pictures of 224 x 224 for this tower, whatever its size
    tower = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=224,
        patch_size=56,
    )
    return StableVideoDiffusionPipeline(
        vae, CLIPVisionModelWithProjection(tower), unet, scheduler, CLIPImageProcessor(size=224, crop_size=224)
    )


@reproducible
def cogvideox() -> CogVideoXPipeline:
    transformer = CogVideoXTransformer3DModel(
        in_channels=4,
        out_channels=4,
        time_embed_dim=WIDTH,
        text_embed_dim=WIDTH,
        num_layers=2,
        sample_width=LATENT,
        sample_height=LATENT,
        sample_frames=FRAMES,
        temporal_compression_ratio=2,
        max_text_seq_length=TOKENS,
        **TWO_HEADS,
    )
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 2,
        up_block_types=("CogVideoXUpBlock3D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        temporal_compression_ratio=2,
        sample_height=PICTURE,
        sample_width=PICTURE,
    )
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    return CogVideoXPipeline(t5_tokenizer(), t5(WIDTH), vae, transformer, scheduler)


def wan_transformer() -> WanTransformer3DModel:
    """Two blocks on patches of 2 x 2."""
    return WanTransformer3DModel(
        in_channels=8,
        out_channels=8,
        text_dim=WIDTH,
        freq_dim=WIDTH,
        ffn_dim=2 * WIDTH,
        num_layers=2,
        rope_max_seq_len=32,
        **TWO_HEADS,
    )


def wan_parts() -> dict[str, Any]:
    """What Wan's pipelines share."""
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=8,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.1 * (index - 4) for index in range(8)],
        latents_std=[1.0 + 0.1 * index for index in range(8)],
        scale_factor_temporal=2,
        scale_factor_spatial=2,
    )
    return {
        "tokenizer": t5_tokenizer(),
        "text_encoder": umt5(WIDTH),
        "vae": vae,
        "scheduler": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    }


@reproducible
def wan() -> WanPipeline:
    return WanPipeline(transformer=wan_transformer(), **wan_parts())


@reproducible
def wan_two_stages() -> WanPipeline:
    stages = {"transformer": wan_transformer(), "transformer_2": wan_transformer()}
    return WanPipeline(**stages, boundary_ratio=0.8, **wan_parts())


def from_picture(batch: int) -> dict[str, Any]:
    """Short films that start from a picture each; the pipeline wants a multiple of eight as size."""
    size = {"height": PICTURE, "width": PICTURE}
    return {"image": pictures(batch), "num_frames": 2, "decode_chunk_size": 2, "output_type": "np", **size}


def prompted(batch: int) -> dict[str, Any]:
    """Short films of a prompt each, guided."""
    size = {"height": PICTURE, "width": PICTURE, "num_frames": FRAMES}
    return {"prompt": prompts(batch), "guidance_scale": 5.0, "max_sequence_length": TOKENS, "output_type": "np", **size}


FAMILIES = (
    TinyFamily("stable-video-diffusion", stable_video, from_picture, ("unet",)),
    TinyFamily("cogvideox", cogvideox, prompted, ("transformer",)),
    TinyFamily("wan", wan, prompted, ("transformer",)),
    TinyFamily("wan-two-stages", wan_two_stages, prompted, ("transformer", "transformer_2")),
)
