"""Audio families: Stable Audio, whose denoiser is a transformer over one axis."""

from typing import Any

from diffusers import (
    AutoencoderOobleck,
    EDMDPMSolverMultistepScheduler,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
)

from families.family import TinyFamily, reproducible
from families.text import prompts, t5, t5_tokenizer

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


def prompted(batch: int) -> dict[str, Any]:
    """Three seconds of sound of a prompt each, guided."""
    return {"prompt": prompts(batch), "guidance_scale": 5.0, "audio_end_in_s": 3.0, "output_type": "pt"}


FAMILIES = (TinyFamily("stable-audio", stable_audio, prompted, ("transformer",)),)
