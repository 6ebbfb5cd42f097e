"""Pipelines cast latents to the denoiser's dtype: the float32 scales of its first layer must not stand for it."""

import copy

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from families import FAMILIES, run
from families.proof import conditions

import ptq4dm
from ptq4dm.backends.registry import prepare
from ptq4dm.errors import BackendError
from ptq4dm.quantization.half_layers import HalfLinear

RECIPE = ptq4dm.load_recipe("w8a8").replace(
    min_channels=1,
    float_share=0.0,
    keep_float=("down_blocks", "mid_block", "up_blocks"),  # so that the test is quick
    calibration={"samples": 1, "steps": 2, "batch_size": 1},
)


def test_a_quantized_network_has_the_dtype_of_its_float_part(tmp_path):
    family = FAMILIES["stable-diffusion-image-to-image"]
    source = family.build().to(torch.bfloat16)
    model = ptq4dm.quantize(source, RECIPE, conditions=conditions(family))
    pipeline = model.to_pipeline("simulated")
    first = next(pipeline.unet.parameters())
    assert first is pipeline.unet.conv_in.weight_scale and first.dtype == torch.float32
    assert pipeline.unet.dtype == torch.bfloat16
    pipeline.set_progress_bar_config(disable=True)
    drawn = run(family, pipeline)
    assert torch.isfinite(drawn).all()
    again = ptq4dm.load(model.save(tmp_path / "int8")).to_pipeline("simulated")
    again.set_progress_bar_config(disable=True)
    assert again.unet.dtype == again.vae.dtype == again.text_encoder.dtype == torch.bfloat16
    assert torch.equal(run(family, again), drawn)
    for dtype in (torch.float16, torch.float32):
        assert UNet2DConditionModel.from_pretrained(tmp_path / "int8" / "unet", torch_dtype=dtype).dtype == dtype


def test_layers_with_weights_in_float16_do_not_stand_for_the_network(tmp_path):
    """The first parameters of Flux are those of its first layer of time."""
    family = FAMILIES["flux"]
    kept = RECIPE.replace(keep_float=("transformer_blocks", "single_transformer_blocks"), calibration={"steps": 2})
    ptq4dm.quantize(family.build(), kept, conditions=conditions(family)).save(tmp_path / "int8")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "int8", torch_dtype=torch.bfloat16)
    assert isinstance(pipeline.transformer.time_text_embed.timestep_embedder.linear_1, HalfLinear)
    assert pipeline.transformer.dtype == torch.bfloat16
    pipeline.set_progress_bar_config(disable=True)
    assert torch.isfinite(run(family, pipeline, steps=2)).all()


def test_an_engine_says_that_it_computes_in_float32(model):
    half = copy.deepcopy(model.network).to(torch.bfloat16)
    with pytest.raises(BackendError, match=r"is in torch\.bfloat16, and openvino computes in float32: cast it"):
        prepare(half, None, "openvino", "float-out")
    assert prepare(half, None, "simulated", "float-out") is not None
