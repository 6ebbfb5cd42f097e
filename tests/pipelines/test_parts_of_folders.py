"""Folders whose parts come from modules of diffusers' own pipelines, as those of Stable Diffusion do."""

import pytest
import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from families.audio import audio_ldm, stable_audio
from families.stable_diffusion import text_to_image
from transformers import CLIPConfig, CLIPImageProcessor

from ptq4dm.errors import ModelError
from ptq4dm.files import read_json, write_json
from ptq4dm.pipelines.pipeline import open_pipeline


def with_safety_checker():
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**small, "image_size": 16, "patch_size": 8, "projection_dim": 8}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, text_config=small, projection_dim=8))
    pipeline = text_to_image()
    pipeline.register_modules(safety_checker=checker.eval(), feature_extractor=CLIPImageProcessor())
    return pipeline


@pytest.mark.parametrize("make", [with_safety_checker, audio_ldm, stable_audio])
def test_they_open_with_all_their_weights(make, tmp_path):
    source = make()
    source.save_pretrained(tmp_path / "float")
    opened = open_pipeline(tmp_path / "float").source
    assert type(opened) is type(source)
    for name, part in source.components.items():
        found = getattr(opened, name)
        assert type(found) is type(part), name
        if isinstance(part, torch.nn.Module):
            wanted = part.state_dict()
            assert all(torch.equal(tensor, wanted[key]) for key, tensor in found.state_dict().items()), name


def test_other_homes_are_refused(tmp_path):
    stable_audio().save_pretrained(tmp_path / "float")
    index = read_json(tmp_path / "float" / "model_index.json")
    homes = {"os": "only classes of", "os.path": "only classes of", "stable_diffusion": "does not have"}
    for home, message in homes.items():
        write_json(tmp_path / "float" / "model_index.json", {**index, "projection_model": [home, "system"]})
        with pytest.raises(ModelError, match=message):
            open_pipeline(tmp_path / "float")


@pytest.mark.parametrize("part", ["scheduler/scheduler_config", "transformer/config", "tokenizer/tokenizer_config"])
def test_a_config_that_is_no_object_is_named(part, tmp_path):
    """diffusers takes some of them for a repository of the hub, and says that it cannot connect to it."""
    stable_audio().save_pretrained(tmp_path / "float")
    path = tmp_path / "float" / f"{part}.json"
    assert path.exists()
    write_json(path, [])
    with pytest.raises(ModelError, match=f"{part}.json holds a list, not a JSON object; save or download the pipeline"):
        open_pipeline(tmp_path / "float")
