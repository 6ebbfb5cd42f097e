"""Smoothed layers of a pipeline's transformer: found while it draws, saved and loaded by diffusers, put on others."""

import json

import pytest
import torch
from diffusers import DiTTransformer2DModel
from families import FAMILIES
from families.proof import RECIPE, call_error, conditions
from outliers import planted
from torch import nn

import ptq4dm
from ptq4dm.errors import ArtifactError
from ptq4dm.quantization.layers import QuantizedLayer

DIT = FAMILIES["dit"]


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
    assert model.facts["calibration"]["calls_made"] == without.facts["calibration"]["calls_made"]
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


def test_ranges_behind_folded_norms_are_refused(folder, tmp_path):
    copied = tmp_path / "folded"
    copied.mkdir()
    facts = json.loads((folder / "ptq4dm.json").read_text())
    facts["denoisers"]["transformer"]["facts"]["folded"] = {"norm_out": ["proj_out_1"]}
    (copied / "ptq4dm.json").write_text(json.dumps(facts))
    build().transformer.save_pretrained(tmp_path / "float")
    with pytest.raises(ArtifactError, match=r"folded into other layers \(norm_out\).*smoothing.enabled = false"):
        DiTTransformer2DModel.from_pretrained(
            tmp_path / "float", quantization_config=ptq4dm.PTQ4DMConfig(calibrated=copied)
        )
