"""Smoothed layers of a pipeline's transformer: found while it draws, saved and loaded by diffusers, put on others."""

import json

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from families import FAMILIES
from families.proof import RECIPE, call_error, conditions
from outliers import CHANNELS, FACTOR, planted
from torch import nn

import ptq4dm
from ptq4dm.errors import ArtifactError
from ptq4dm.integrations.calibrated import read_calibrated
from ptq4dm.quantization.layers import QuantizedLayer

DIT, SD = FAMILIES["dit"], FAMILIES["stable-diffusion"]


def build():
    """The tiny DiT pipeline with planted outliers."""
    pipeline = DIT.build()
    planted(pipeline.transformer)
    return pipeline


def smoothed(network: nn.Module) -> dict[str, torch.Tensor]:
    """The factors that layers divide their inputs by."""
    layers = {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLayer)}
    return {name: layer.smoothing for name, layer in layers.items() if layer.smoothing is not None}


@pytest.fixture(scope="module")
def model():
    """By a recipe without statistics of the weights' inputs, so that ranges alone make it again."""
    recipe = RECIPE.replace(weights={"weighted": False, "bias_correction": False}, float_share=0.0)
    return ptq4dm.quantize(build(), recipe, conditions=conditions(DIT))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return model.save(tmp_path_factory.mktemp("smoothed") / "int8")


def test_outliers_are_found_by_the_first_run_and_ranges_by_the_others(model):
    off = RECIPE.replace(weights={"weighted": False, "bias_correction": False}, smoothing={"enabled": False})
    pipeline = build()
    without = ptq4dm.quantize(pipeline, off, conditions=conditions(DIT))
    assert len(smoothed(model.network)) >= 8 and not smoothed(without.network)
    assert call_error(pipeline, model, "transformer") < call_error(pipeline, without, "transformer") / 4
    made = [each.facts["calibration"]["calls_made"] for each in (model, without)]
    assert made[0] <= made[1]  # what smoothing asks for beside the runs is taken from them, so that all cost no more
    assert not any(module._forward_pre_hooks for module in pipeline.transformer.modules())


def test_diffusers_loads_and_saves_them(model, folder, tmp_path):
    assert json.loads((folder / "transformer" / "config.json").read_text())["quantization_config"]["smoothed"] is True
    loaded = DiTTransformer2DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float16)
    wanted = smoothed(model.network)
    assert smoothed(loaded).keys() == wanted.keys()
    assert all(torch.equal(found, wanted[name]) for name, found in smoothed(loaded).items())  # float32 as saved
    loaded.save_pretrained(tmp_path / "again")
    again = DiTTransformer2DModel.from_pretrained(tmp_path / "again")
    assert all(torch.equal(found, wanted[name]) for name, found in smoothed(again).items())


def test_ranges_and_factors_are_put_on_a_float_checkpoint(model, folder, tmp_path):
    build().transformer.save_pretrained(tmp_path / "float")
    config = ptq4dm.PTQ4DMConfig(calibrated=folder)
    found = DiTTransformer2DModel.from_pretrained(tmp_path / "float", quantization_config=config).state_dict()
    wanted = model.network.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.fixture(scope="module")
def behind_norms():
    """Stable Diffusion whose norms in front of linear layers have outlier channels."""
    pipeline = SD.build()
    with torch.no_grad():
        for block in pipeline.unet.modules():
            if isinstance(block, BasicTransformerBlock):
                own = block.attn1
                into = (own.to_q, own.to_k, own.to_v), (block.attn2.to_q,), (block.ff.net[0].proj,)
                for norm, layers in zip((block.norm1, block.norm2, block.norm3), into, strict=True):
                    for tensor in (norm.weight, norm.bias):
                        tensor[list(CHANNELS)] *= FACTOR
                    for layer in layers:
                        layer.weight[:, list(CHANNELS)] /= FACTOR
    return pipeline


def test_factors_that_layers_took_in_are_folded_into_the_float_checkpoint_too(behind_norms, tmp_path):
    """Without statistics of the weights' inputs, ranges and factors alone make the same network to the bit."""
    recipe = RECIPE.replace(weights={"weighted": False, "bias_correction": False}, float_share=0.0)
    model = ptq4dm.quantize(behind_norms, recipe, conditions=conditions(SD))
    folds = model.denoiser().facts["folded"]
    assert len(folds) >= 3 and model.denoiser().folded.keys() == folds.keys()
    folder = ptq4dm.load(model.save(tmp_path / "first")).save(tmp_path / "int8")  # a loaded one still knows them
    behind_norms.unet.save_pretrained(tmp_path / "float")
    config = ptq4dm.PTQ4DMConfig(calibrated=folder)
    found = UNet2DConditionModel.from_pretrained(tmp_path / "float", quantization_config=config).state_dict()
    wanted = model.network.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert any(not torch.equal(found[f"{name}.weight"], behind_norms.unet.get_submodule(name).weight) for name in folds)

    other = SD.build().unet
    front = next(iter(folds))
    owner, _, attribute = front.rpartition(".")
    setattr(other.get_submodule(owner), attribute, nn.Identity())
    with pytest.raises(ArtifactError, match=f"calibrated on another network: {front}, which takes in smoothing"):
        read_calibrated(config).check(other)
    (folder / "folded.safetensors").write_bytes(
        (tmp_path / "first" / "folded.safetensors").read_bytes()[:-4] + b"\0abc"
    )
    with pytest.raises(ArtifactError, match=r"folded\.safetensors is not what was saved"):
        ptq4dm.load(folder)
    (folder / "folded.safetensors").unlink()
    with pytest.raises(ArtifactError, match=f"folded into other layers .*{front}.* its file of the factors is missing"):
        read_calibrated(config)
