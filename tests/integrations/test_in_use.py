"""A conditional pipeline loaded by diffusers: attention processors, callbacks, offloading, and real INT8 in place."""

import accelerate
import diffusers
import pytest
import torch
from conditional import tiny_conditional
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor

import ptq4dm
from ptq4dm.errors import ModelError
from ptq4dm.quantization.layers import QuantizedLinear

ABSENT = dict.fromkeys(("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A StableDiffusionPipeline whose UNet was quantized as a bare module and put back."""
    generator = torch.Generator().manual_seed(0)
    batches = [
        (
            (torch.randn(4, 4, 8, 8, generator=generator), torch.tensor(t)),
            {"encoder_hidden_states": torch.randn(4, 5, 12, generator=generator)},
        )
        for t in (10, 500, 990)
    ]
    unet = ptq4dm.quantize_module(tiny_conditional(), batches, "w8a8-minmax").to_module("simulated")
    pipeline = diffusers.StableDiffusionPipeline(
        unet=unet, scheduler=diffusers.DDIMScheduler(), requires_safety_checker=False, **ABSENT
    )
    folder = tmp_path_factory.mktemp("sd") / "int8"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def pipeline(folder):
    return DiffusionPipeline.from_pretrained(folder, **ABSENT)


def latents(pipeline, **kwargs):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    text, none = torch.randn(2, 1, 5, 12, generator=generator)
    return pipeline(
        prompt_embeds=text, negative_prompt_embeds=none, num_inference_steps=3, height=64, width=64,
        generator=torch.Generator().manual_seed(4), output_type="latent", **kwargs,
    ).images  # fmt: skip


def test_it_is_quantized_and_draws(pipeline, folder):
    assert isinstance(pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k, QuantizedLinear)
    assert torch.isfinite(latents(pipeline)).all()
    assert torch.equal(latents(pipeline), latents(DiffusionPipeline.from_pretrained(folder, **ABSENT)))


def test_attention_processors(pipeline):
    called = []

    class Counted(AttnProcessor):
        """Plain attention that counts its calls."""

        def __call__(self, *args, **kwargs):
            called.append(1)
            return super().__call__(*args, **kwargs)

    before = latents(pipeline)
    pipeline.unet.set_attn_processor(Counted())
    after = latents(pipeline)
    assert len(called) == 3 * len(pipeline.unet.attn_processors)
    assert (after - before).norm() < 0.02 * before.norm()


def test_fusing_projections_is_refused(pipeline):
    with pytest.raises(ModelError, match="are quantized and cannot be fused"):
        pipeline.fuse_qkv_projections()


def test_callbacks(pipeline):
    seen = []

    def note(pipe, step, timestep, values):
        seen.append((step, int(timestep), values["latents"].shape))
        return {"latents": values["latents"] * 0} if step == 2 else values

    found = latents(pipeline, callback_on_step_end=note)
    assert [step for step, _, _ in seen] == [0, 1, 2] and not found.any()


def test_offloading_layer_by_layer_gives_the_same(pipeline):
    before = latents(pipeline)
    accelerate.cpu_offload(pipeline.unet, execution_device=torch.device("cpu"), offload_buffers=True)
    assert {buffer.device.type for buffer in pipeline.unet.buffers()} == {"meta"}
    assert torch.equal(latents(pipeline), before)
    with pytest.raises(ModelError, match="unet is being offloaded: accelerate the pipeline before"):
        ptq4dm.accelerate(pipeline)


def test_model_offloading_hooks_give_the_same(pipeline):
    before = latents(pipeline)
    accelerate.cpu_offload_with_hook(pipeline.unet, execution_device=torch.device("cpu"))
    assert torch.equal(latents(pipeline), before)


def test_the_pipelines_own_offloading_gives_the_same(pipeline):
    before = latents(pipeline)
    pipeline.enable_model_cpu_offload(device="cpu")
    assert type(pipeline.unet._hf_hook) is accelerate.hooks.CpuOffload
    assert torch.equal(latents(pipeline), before)
    pipeline.remove_all_hooks()
    pipeline.enable_sequential_cpu_offload(device="cpu")
    assert {parameter.device.type for parameter in pipeline.unet.parameters()} == {"meta"}
    assert "meta" not in {buffer.device.type for buffer in pipeline.unet.buffers()}  # the integers stay


def test_real_int8_learns_its_inputs_from_the_first_picture(pipeline):
    before = latents(pipeline)
    fast = ptq4dm.accelerate(pipeline, "openvino")
    assert type(fast.unet) is diffusers.UNet2DConditionModel
    after = latents(fast)
    assert not torch.equal(after, before) and (after - before).norm() < 0.02 * before.norm()
    assert any(layer.int8 for layer in fast.unet.ptq4dm_engine.executed)
