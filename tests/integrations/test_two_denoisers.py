"""A pipeline with two denoisers, as diffusers saves, loads and accelerates it."""

import pytest
import torch
from diffusers import DiffusionPipeline, WanTransformer3DModel
from families import FAMILIES, run
from families.proof import RECIPE, conditions

import ptq4dm
from ptq4dm.backends.stand_in import stand_in, stands_in
from ptq4dm.errors import RecipeError
from ptq4dm.integrations import accelerated
from ptq4dm.quantization.layers import QuantizedLayer

FAMILY = FAMILIES["wan-two-stages"]
STAGES = ("transformer", "transformer_2")


@pytest.fixture(scope="module")
def model():
    """Both stages quantized."""
    recipe = RECIPE.replace(float_share=0.0, calibration={"samples": 1, "steps": 2, "batch_size": 1})
    return ptq4dm.quantize(FAMILY.build(), recipe, conditions=conditions(FAMILY))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """The artifact."""
    return model.save(tmp_path_factory.mktemp("two") / "int8")


def opened(folder, **kwargs):
    pipeline = DiffusionPipeline.from_pretrained(folder, **kwargs)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_in_shards_with_a_variant(folder, tmp_path):
    pipeline = opened(folder)
    pipeline.save_pretrained(tmp_path / "again", max_shard_size="20KB", variant="int8")
    for stage in STAGES:
        assert len(list((tmp_path / "again" / stage).glob("*.int8-0000*-of-*.safetensors"))) > 1
    assert torch.equal(run(FAMILY, opened(tmp_path / "again", variant="int8")), run(FAMILY, pipeline))


def test_both_are_accelerated(folder, monkeypatch):
    prepared = []

    def prepare(network, example, backend, arithmetic):
        prepared.append(backend)
        return stand_in(network, network.forward)

    monkeypatch.setattr(accelerated, "prepare", prepare)
    pipeline = opened(folder)
    before = run(FAMILY, pipeline)
    ptq4dm.accelerate(pipeline, "openvino")
    assert prepared == ["openvino"] * 2 and stands_in(pipeline.transformer) and stands_in(pipeline.transformer_2)
    assert pipeline.transformer is not pipeline.transformer_2
    assert torch.equal(run(FAMILY, pipeline), before)


@pytest.mark.parametrize("stage", STAGES)
def test_the_ranges_of_one_are_put_on_a_float_checkpoint(model, folder, tmp_path, stage):
    FAMILY.build().transformer.save_pretrained(tmp_path / "float")
    with pytest.raises(RecipeError, match=r"component=\.\.\.\) names one of transformer, transformer_2"):
        WanTransformer3DModel.from_pretrained(
            tmp_path / "float", quantization_config=ptq4dm.PTQ4DMConfig(calibrated=folder)
        )
    config = ptq4dm.PTQ4DMConfig(calibrated=folder, component=stage)
    network = WanTransformer3DModel.from_pretrained(tmp_path / "float", quantization_config=config)
    scales = {
        name: float(layer.input_scale) for name, layer in network.named_modules() if isinstance(layer, QuantizedLayer)
    }
    wanted = {
        name: float(layer.input_scale)
        for name, layer in model.denoiser(stage).network.named_modules()
        if isinstance(layer, QuantizedLayer)
    }
    assert scales == wanted and len(scales) > 10
