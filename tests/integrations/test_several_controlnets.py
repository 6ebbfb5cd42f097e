"""Several ControlNets in one pipeline stay in float, listed with the reason; the UNet that they steer is quantized."""

import torch
from diffusers import DiffusionPipeline, StableDiffusionControlNetPipeline
from families import FAMILIES
from families.family import result
from families.parts import pictures
from families.proof import RECIPE

import ptq4dm
from ptq4dm.cli.main import main

QUICK = RECIPE.replace(calibration={"samples": 2, "steps": 2})
ONE = FAMILIES["stable-diffusion-controlnet"]


def several():
    """A pipeline with two ControlNets."""
    source = ONE.build()
    nets = [source.controlnet, ONE.build().controlnet]
    with torch.no_grad():
        for parameter in nets[1].parameters():
            parameter.mul_(0.7)
    pipeline = StableDiffusionControlNetPipeline(
        **{**source.components, "controlnet": nets}, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


GIVEN = {"prompt": "a cat", "image": pictures(2), "controlnet_conditioning_scale": [0.8, 0.4]}


def drawn(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "output_type": "np", "generator": torch.Generator().manual_seed(0)}
    return result(pipeline(**GIVEN, **settings))


def test_the_unet_is_quantized_and_all_of_it_saved_and_loaded(tmp_path, capsys):
    pipeline = several()
    before = drawn(pipeline)
    model = ptq4dm.quantize(pipeline, QUICK, conditions=[GIVEN])
    assert list(model.denoisers) == ["unet"]
    fast = model.to_pipeline("simulated")
    wanted = drawn(fast)
    assert 0 < float((wanted - before).norm() / before.norm()) < 0.3
    folder = model.save(tmp_path / "int8")
    assert (folder / "controlnet_1").is_dir()
    for loaded in (ptq4dm.load(folder).to_pipeline("simulated"), DiffusionPipeline.from_pretrained(folder)):
        assert len(loaded.controlnet.nets) == 2 and torch.equal(drawn(loaded), wanted)
    assert main(["inspect", str(folder)]) == 0
    assert "controlnet is in float: MultiControlNetModel has no config of its own" in capsys.readouterr().out
    pipeline.save_pretrained(tmp_path / "float")
    assert torch.equal(drawn(ptq4dm.open_pipeline(tmp_path / "float").source), before)
