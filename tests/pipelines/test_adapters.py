"""Networks with adapters of peft are refused, by name and with the mend; fused and unloaded they are quantized."""

import pytest
import torch
from conditional import tiny_conditional
from diffusers import UNet2DConditionModel
from families import FAMILIES

import ptq4dm
from ptq4dm.errors import ModelError
from ptq4dm.pipelines.adapters import adapter_layers
from ptq4dm.quantization.plan import make_plan

peft = pytest.importorskip("peft")
TARGETS = ["to_q", "to_v", "conv1"]


@torch.no_grad()
def adapted(name: str = "watercolour", **options: object) -> UNet2DConditionModel:
    """With one active adapter that changes the answer."""
    network = tiny_conditional()
    network.add_adapter(peft.LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False, **options), name)
    return network.eval().requires_grad_(False)


def batch() -> tuple[tuple, dict]:
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(2, 4, 8, 8, generator=generator), torch.tensor(500)), {
        "encoder_hidden_states": torch.randn(2, 5, 12, generator=generator)
    }


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize("options", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_active_adapters_are_named_with_the_mend(options):
    network = adapted(**options)
    network.add_adapter(peft.LoraConfig(r=2, target_modules=["to_k"]), "pixels")
    with pytest.raises(ModelError) as caught:
        ptq4dm.quantize_module(network, [batch()])
    message = str(caught.value)
    assert "adapters that are active: pixels, watercolour" in message and "\n" not in message
    assert "pipe.fuse_lora(); pipe.unload_lora_weights()" in message
    assert f"on {len(adapter_layers(network))} layers, the first down_blocks" in message


def test_disabled_or_only_fused_adapters_still_wrap_layers():
    network = adapted()
    network.disable_adapters()
    with pytest.raises(ModelError, match=r"loaded but disabled: watercolour .*pipe\.unload_lora_weights\(\)"):
        ptq4dm.quantize_module(network, [batch()])
    network.enable_adapters()
    network.fuse_lora()
    with pytest.raises(ModelError, match=r"fused but not unloaded: watercolour .*network\.unload_lora\(\)"):
        ptq4dm.quantize_module(network, [batch()])


@torch.no_grad()
def test_a_fused_adapter_is_quantized_with_the_weights():
    args, kwargs = batch()
    network, bare = adapted(), tiny_conditional()
    wanted, without = network(*args, **kwargs).sample, bare(*args, **kwargs).sample
    assert (wanted - without).norm() > 0.2 * wanted.norm()
    network.fuse_lora()
    network.unload_lora()
    model = ptq4dm.quantize_module(network, [batch()])
    found = model.network(*args, **kwargs).sample
    assert (found - wanted).norm() < 0.05 * wanted.norm()
    assert [layer.name for layer in model.plan] == [layer.name for layer in make_plan(bare)]


def test_a_pipeline_is_refused_by_the_name_of_its_denoiser():
    family = FAMILIES["stable-diffusion"]
    pipeline = family.build()
    pipeline.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]), "sketch")
    recipe = ptq4dm.load_recipe("w8a8").replace(calibration={"samples": 2, "steps": 2})
    with pytest.raises(ModelError, match="StableDiffusionPipeline: unet has adapters that are active: sketch"):
        ptq4dm.quantize(pipeline, recipe, conditions=[{"prompt": "a cat"}])
