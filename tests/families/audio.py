"""Audio families: Stable Audio, a transformer over one axis, and AudioLDM 2, a UNet on spectrograms."""

from typing import Any

from diffusers import (
    AudioLDM2Pipeline,
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
    AutoencoderOobleck,
    DDIMScheduler,
    EDMDPMSolverMultistepScheduler,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
)
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    GPT2Config,
    GPT2LMHeadModel,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from families.family import TinyFamily, reproducible
from families.parts import vae
from families.text import prompts, roberta_tokenizer, t5, t5_tokenizer

WIDTH = 32


@reproducible
def stable_audio() -> StableAudioPipeline:
    transformer = StableAudioDiTModel(
        sample_size=16,
        in_channels=8,
        out_channels=8,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_attention_heads=1,
        cross_attention_dim=WIDTH,
        time_proj_dim=WIDTH,
        global_states_input_dim=2 * WIDTH,
        cross_attention_input_dim=WIDTH,
    )
    vae = AutoencoderOobleck(
        encoder_hidden_size=8,
        downsampling_ratios=[2, 2],
        channel_multiples=[1, 2],
        decoder_channels=8,
        decoder_input_channels=8,
        sampling_rate=16,
    )
    return StableAudioPipeline(
        vae=vae,
        text_encoder=t5(WIDTH),
        projection_model=StableAudioProjectionModel(WIDTH, WIDTH, min_value=0, max_value=8),
        tokenizer=t5_tokenizer(),
        transformer=transformer,
        scheduler=EDMDPMSolverMultistepScheduler(
            prediction_type="v_prediction",
            sigma_data=1.0,
            sigma_min=0.3,
            sigma_max=500.0,
            sigma_schedule="exponential",
        ),
    )


@reproducible
def audio_ldm() -> AudioLDM2Pipeline:
    streams = (None, WIDTH, WIDTH)  # attention to itself, to the language model's answer, to T5's
    unet = AudioLDM2UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=(streams, streams),
    )
    small = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 2 * WIDTH}
    clap = ClapConfig(
        text_config={"vocab_size": 64, "max_position_embeddings": 32, "projection_dim": WIDTH, **small},
        audio_config={
            "spec_size": 32,
            "patch_size": 4,
            "patch_stride": [4, 4],
            "window_size": 2,
            "num_mel_bins": 16,
            "patch_embeds_hidden_size": 8,
            "hidden_size": 16,
            "depths": [1, 1],
            "num_attention_heads": [1, 1],
            "projection_dim": WIDTH,
        },
        projection_dim=WIDTH,
    )
    vocoder = SpeechT5HifiGanConfig(
        model_in_dim=16,
        sampling_rate=16,
        upsample_initial_channel=16,
        upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
        normalize_before=False,
        initializer_range=0.2,
    )
    language_model = GPT2Config(
        vocab_size=64,
        n_embd=WIDTH,
        n_layer=1,
        n_head=2,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=1,
        max_new_tokens=4,
    )
    return AudioLDM2Pipeline(
        vae=vae(in_channels=1, out_channels=1),
        text_encoder=ClapModel(clap),
        text_encoder_2=t5(WIDTH),
        projection_model=AudioLDM2ProjectionModel(WIDTH, WIDTH, WIDTH),
        language_model=GPT2LMHeadModel(language_model),
        tokenizer=roberta_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        feature_extractor=ClapFeatureExtractor(),
        unet=unet,
        scheduler=DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False),
        vocoder=SpeechT5HifiGan(vocoder),
    )


def prompted(batch: int) -> dict[str, Any]:
    """Three seconds of sound of a prompt each, guided."""
    return {"prompt": prompts(batch), "guidance_scale": 5.0, "audio_end_in_s": 3.0, "output_type": "pt"}


def spoken(batch: int) -> dict[str, Any]:
    """Eight seconds of sound of a prompt each, guided."""
    return {"prompt": prompts(batch), "guidance_scale": 3.5, "audio_length_in_s": 8.0, "output_type": "np"}


FAMILIES = (
    TinyFamily("stable-audio", stable_audio, prompted, ("transformer",)),
    TinyFamily("audioldm-2", audio_ldm, spoken, ("unet",)),
)
