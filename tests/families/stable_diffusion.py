"""Stable Diffusion 1.x and its kin: text to image, image to image, inpainting, ControlNet, IP-Adapter, LCM; SDXL."""

from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from families.family import TinyFamily, reproducible
from families.parts import LATENT, clip_images, clip_vision, masks, pictures, vae
from families.text import clip_text, clip_text_with_projection, clip_tokenizer, prompts

WIDTH = 32  # of the text encoders

LEVELS: dict[str, Any] = {
    "in_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "attention_head_dim": 2,
    "cross_attention_dim": WIDTH,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
}

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def unet(**config: Any) -> UNet2DConditionModel:
    """Stable Diffusion's UNet with two levels. config: what a family sets otherwise."""
    settings = {"sample_size": LATENT, "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), **LEVELS, **config}
    return UNet2DConditionModel(**settings)


def common(**others: Any) -> dict[str, Any]:
    """The components of every Stable Diffusion 1.x pipeline."""
    parts = {
        "vae": vae(),
        "text_encoder": clip_text(WIDTH),
        "tokenizer": clip_tokenizer(),
        "unet": unet(),
        "scheduler": DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **BETAS),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    return {**parts, **others}


@reproducible
def text_to_image() -> StableDiffusionPipeline:
    return StableDiffusionPipeline(**common(scheduler=PNDMScheduler(skip_prk_steps=True, **BETAS)))


@reproducible
def image_to_image() -> StableDiffusionImg2ImgPipeline:
    return StableDiffusionImg2ImgPipeline(**common())


@reproducible
def inpainting() -> StableDiffusionInpaintPipeline:
    return StableDiffusionInpaintPipeline(**common(unet=unet(in_channels=9)))


@reproducible
def controlnet() -> StableDiffusionControlNetPipeline:
    control = ControlNetModel(conditioning_embedding_out_channels=(8, 16), **LEVELS)
    return StableDiffusionControlNetPipeline(**common(controlnet=control))


@reproducible
def ip_adapter() -> StableDiffusionPipeline:
    parts = common(image_encoder=clip_vision(WIDTH), feature_extractor=clip_images())
    pipeline = StableDiffusionPipeline(**parts)
    load_adapter(pipeline)
    return pipeline


def load_adapter(pipeline: DiffusionPipeline) -> None:
    """Put a random IP-Adapter on the UNet; diffusers does not save one with the pipeline."""
    generator = torch.Generator().manual_seed(7)
    network = pipeline.unet
    projection = {
        "proj.weight": 0.2 * torch.randn(4 * WIDTH, WIDTH, generator=generator),
        "proj.bias": 0.1 * torch.randn(4 * WIDTH, generator=generator),
        "norm.weight": 1 + 0.1 * torch.randn(WIDTH, generator=generator),
        "norm.bias": 0.1 * torch.randn(WIDTH, generator=generator),
    }
    attention = {}
    for index, name in enumerate(network.attn_processors):
        if name.endswith("attn2.processor"):
            inner = network.get_submodule(name.removesuffix(".processor")).to_k.out_features
            attention[f"{index}.to_k_ip.weight"] = 0.3 * torch.randn(inner, WIDTH, generator=generator)
            attention[f"{index}.to_v_ip.weight"] = 0.3 * torch.randn(inner, WIDTH, generator=generator)
    adapter = {"image_proj": projection, "ip_adapter": attention}
    pipeline.load_ip_adapter(adapter, subfolder="", weight_name="", low_cpu_mem_usage=False)
    network.eval().requires_grad_(False)


@reproducible
def latent_consistency() -> LatentConsistencyModelPipeline:
    scheduler = LCMScheduler(clip_sample=False, set_alpha_to_one=False, original_inference_steps=50, **BETAS)
    return LatentConsistencyModelPipeline(**common(unet=unet(time_cond_proj_dim=16), scheduler=scheduler))


@reproducible
def xl() -> StableDiffusionXLPipeline:
    network = unet(
        cross_attention_dim=2 * WIDTH,
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip_text(WIDTH),
        text_encoder_2=clip_text_with_projection(WIDTH),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=network,
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading", **BETAS),
        add_watermarker=False,
    )


def prompted(batch: int) -> dict[str, Any]:
    """Pictures of a prompt each, guided."""
    return {"prompt": prompts(batch), "guidance_scale": 5.0, "output_type": "np"}


def from_picture(batch: int) -> dict[str, Any]:
    """Pictures that start from given ones, at full strength so that no step is skipped."""
    return {**prompted(batch), "image": pictures(batch), "strength": 1.0}


def painted(batch: int) -> dict[str, Any]:
    """Pictures with a part painted anew; the pipeline wants their size."""
    size = {"height": 2 * LATENT, "width": 2 * LATENT}
    return {**prompted(batch), "image": pictures(batch), "mask_image": masks(batch), **size}


def controlled(batch: int) -> dict[str, Any]:
    """Pictures that follow the lines of given ones."""
    return {**prompted(batch), "image": pictures(batch), "controlnet_conditioning_scale": 0.8}


def in_the_manner_of(batch: int) -> dict[str, Any]:
    """Pictures that resemble given ones: in a batch each prompt gets all of them."""
    return {**prompted(batch), "ip_adapter_image": [pictures(batch)]}


FAMILIES = (
    TinyFamily("stable-diffusion", text_to_image, prompted, ("unet",)),
    TinyFamily("stable-diffusion-image-to-image", image_to_image, from_picture, ("unet",)),
    TinyFamily("stable-diffusion-inpainting", inpainting, painted, ("unet",)),
    TinyFamily("stable-diffusion-controlnet", controlnet, controlled, ("unet",), ("controlnet",)),
    TinyFamily("stable-diffusion-ip-adapter", ip_adapter, in_the_manner_of, ("unet",), reattach=load_adapter),
    TinyFamily("latent-consistency", latent_consistency, prompted, ("unet",)),
    TinyFamily("stable-diffusion-xl", xl, prompted, ("unet",)),
)
