"""Image families whose denoiser is a transformer: DiT, PixArt, Sana, Stable Diffusion 3, Flux."""

from typing import Any

from diffusers import (
    AutoencoderDC,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

from families.family import TinyFamily, reproducible
from families.parts import LATENT, PICTURE, vae
from families.text import (
    TOKENS,
    clip_text,
    clip_text_with_projection,
    clip_tokenizer,
    gemma,
    gemma_tokenizer,
    prompts,
    t5,
    t5_tokenizer,
)

WIDTH = 32  # of the text encoders and, as two heads of 16, of the denoisers
HEADS: dict[str, int] = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}


@reproducible
def dit() -> DiTPipeline:
    transformer = DiTTransformer2DModel(out_channels=8, sample_size=LATENT, **HEADS)
    return DiTPipeline(transformer, vae(), DDIMScheduler(clip_sample=False))


@reproducible
def pixart() -> PixArtSigmaPipeline:
    transformer = PixArtTransformer2DModel(
        sample_size=LATENT,
        cross_attention_dim=WIDTH,
        caption_channels=WIDTH,
        interpolation_scale=1,
        **HEADS,
    )
    return PixArtSigmaPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5(WIDTH),
        vae=vae(),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
    )


@reproducible
def sana() -> SanaPipeline:
    transformer = SanaTransformer2DModel(
        in_channels=8,
        out_channels=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=WIDTH,
        caption_channels=WIDTH,
        sample_size=LATENT,
        **HEADS,
    )
    deep_compression = AutoencoderDC(
        latent_channels=8,
        attention_head_dim=8,
        encoder_block_out_channels=(8, 16, 16),
        decoder_block_out_channels=(8, 16, 16),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
    )
    return SanaPipeline(
        tokenizer=gemma_tokenizer(),
        text_encoder=gemma(WIDTH),
        vae=deep_compression,
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )


@reproducible
def sd3() -> StableDiffusion3Pipeline:
    transformer = SD3Transformer2DModel(
        sample_size=LATENT,
        in_channels=4,
        out_channels=4,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=LATENT,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
        **HEADS,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text_with_projection(WIDTH),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_text_with_projection(WIDTH),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(2 * WIDTH),
        tokenizer_3=t5_tokenizer(),
    )


@reproducible
def flux() -> FluxPipeline:
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_single_layers=1,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
        **HEADS,
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64
        ),
        vae=vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(WIDTH),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(WIDTH),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    )


def of_class(batch: int) -> dict[str, Any]:
    """Pictures of one class each, guided."""
    labels = [(207 * index + 3) % 1000 for index in range(batch)]
    return {"class_labels": labels, "guidance_scale": 4.0, "output_type": "np"}


def prompted(batch: int) -> dict[str, Any]:
    """Pictures of a prompt each, of the network's own size."""
    size = {"height": PICTURE, "width": PICTURE}
    return {"prompt": prompts(batch), "guidance_scale": 4.0, "max_sequence_length": TOKENS, "output_type": "np", **size}


def unbinned(batch: int) -> dict[str, Any]:
    """`prompted`, as the prompt is written and without rounding the size to one of the real model's."""
    return {**prompted(batch), "use_resolution_binning": False, "clean_caption": False}


def instructed(batch: int) -> dict[str, Any]:
    """`unbinned` in a size that Sana takes, without the long instruction before the prompt."""
    return {**unbinned(batch), "height": 32, "width": 32, "complex_human_instruction": None}


FAMILIES = (
    TinyFamily("dit", dit, of_class, ("transformer",)),
    TinyFamily("pixart-sigma", pixart, unbinned, ("transformer",)),
    TinyFamily("sana", sana, instructed, ("transformer",)),
    TinyFamily("stable-diffusion-3", sd3, prompted, ("transformer",)),
    TinyFamily("flux", flux, prompted, ("transformer",)),
)
