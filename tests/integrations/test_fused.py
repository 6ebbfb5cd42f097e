"""Fused projections are quantized as the layers that they are, saved, and fused again by both loaders."""

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from families import FAMILIES, run
from families.proof import RECIPE, call_error, conditions
from torch import nn

import ptq4dm
from ptq4dm.errors import ArtifactError, ModelError
from ptq4dm.integrations.calibrated import read_calibrated
from ptq4dm.pipelines.fused import fuse_again, fused_attentions
from ptq4dm.quantization.layers import QuantizedLinear

QUICK = RECIPE.replace(
    calibration={"samples": 2, "steps": 2}, weights={"weighted": False, "bias_correction": False}, float_share=0.0
)
SD = FAMILIES["stable-diffusion"]


def fused(name):
    """The pipeline of a family with fused projections, and its denoiser's component."""
    pipeline = FAMILIES[name].build()
    (component,) = FAMILIES[name].denoisers
    if component == "unet":
        pipeline.fuse_qkv_projections()  # those of the VAE too
    else:
        getattr(pipeline, component).fuse_qkv_projections()
    return pipeline, component


def layers_called(network: nn.Module, *endings: str) -> list[nn.Module]:
    return [module for name, module in network.named_modules() if name.endswith(endings)]


@pytest.mark.parametrize("name", ["stable-diffusion", "flux", "wan"])
def test_it_is_calibrated_quantized_saved_and_loaded(name, tmp_path):
    family = FAMILIES[name]
    pipeline, component = fused(name)
    before, singles = run(family, pipeline), len(layers_called(getattr(pipeline, component), "to_k"))
    model = ptq4dm.quantize(pipeline, QUICK, conditions=conditions(family))
    quantized, found = model.network, layers_called(model.network, "to_qkv", "to_kv", "to_added_qkv")
    assert len(found) >= singles and all(isinstance(layer, QuantizedLinear) for layer in found)
    assert not layers_called(quantized, "to_k", "to_v", "add_k_proj")
    assert not any("never called" in layer.reason and ".to_" in layer.name for layer in model.plan)
    assert 0 < call_error(pipeline, model, component) < 0.2
    assert torch.equal(run(family, pipeline), before)  # the user's own has all its layers
    assert len(layers_called(getattr(pipeline, component), "to_k")) == singles

    folder, drawn = model.save(tmp_path / "int8"), run(family, model.to_pipeline("simulated"))
    assert torch.equal(run(family, ptq4dm.load(folder).to_pipeline("simulated")), drawn)
    loaded = DiffusionPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    again = getattr(loaded, component)
    assert fused_attentions(again) == fused_attentions(quantized) != []
    example = model.denoiser().example
    assert example is not None
    with torch.no_grad():
        wanted, got = (
            network(*example.args, **{**example.kwargs, "return_dict": False})[0] for network in (quantized, again)
        )
    assert torch.equal(wanted, got)
    loaded.save_pretrained(tmp_path / "again")
    for part in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "again" / component / part).stat().st_size > 0
    second = DiffusionPipeline.from_pretrained(tmp_path / "again")
    assert all(
        torch.equal(tensor, quantized.state_dict()[key])
        for key, tensor in getattr(second, component).state_dict().items()
    )
    for method in ("fuse_qkv_projections", "unfuse_qkv_projections"):
        with pytest.raises(ModelError, match="are quantized and cannot be fused or unfused"):
            getattr(again, method)()


def test_real_int8_and_ranges_on_a_float_checkpoint(tmp_path):
    pytest.importorskip("openvino")
    pipeline, _ = fused("stable-diffusion")
    model = ptq4dm.quantize(pipeline, QUICK, conditions=conditions(SD))
    wanted = run(SD, model.to_pipeline("simulated"))
    fast = model.to_pipeline("openvino")
    got = run(SD, fast)
    assert float((got - wanted).norm() / wanted.norm()) < 0.02
    assert sum(layer.int8 for layer in fast.unet.ptq4dm_engine.executed) == sum(layer.quantized for layer in model.plan)
    config = ptq4dm.PTQ4DMConfig(calibrated=model.save(tmp_path / "int8"))
    SD.build().unet.save_pretrained(tmp_path / "float")
    found = UNet2DConditionModel.from_pretrained(tmp_path / "float", quantization_config=config).state_dict()
    expected = model.network.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
    assert read_calibrated(config).fused == fused_attentions(model.network)


def test_one_that_was_unfused_again_is_as_if_it_never_was():
    """diffusers leaves the fused layers in a UNet."""
    pipeline, _ = fused("stable-diffusion")
    pipeline.unfuse_qkv_projections()
    assert layers_called(pipeline.unet, "to_qkv") and not fused_attentions(pipeline.unet)
    found, wanted = (
        ptq4dm.quantize(each, QUICK, conditions=conditions(SD)).network.state_dict() for each in (pipeline, SD.build())
    )
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_what_could_not_be_fused_again_is_refused():
    pipeline, _ = fused("stable-diffusion")
    other = SD.build().unet
    front = next(name for name, _ in other.named_modules() if name.endswith("attn1"))
    with pytest.raises(ArtifactError, match=r"here: its projections were fused on 1 attention layers, and this"):
        fuse_again(other, [front], "here")
    pipeline.unet.get_submodule(front).set_processor(SD.build().unet.get_submodule(front).processor)
    with pytest.raises(ModelError, match=f"calls the fused projections of .* and not those of {front}"):
        ptq4dm.quantize(pipeline, QUICK, conditions=conditions(SD))
