"""A much different time axis is told once by networks that diffusers loaded, too, on every backend."""

import json
import warnings

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from integrations_common import call
from tiny import tiny_pipeline

import ptq4dm
from ptq4dm.backends.stand_in import stand_in
from ptq4dm.errors import ArtifactError, TimeAxisWarning
from ptq4dm.integrations import accelerated

FAR = r"UNet2DModel is called at time-step 1200 and was calibrated over 0 to 999"
X = torch.zeros(1, 3, 16, 16)


def told_once(network):
    """It is told of the first far call, and not of the second; near ones are no news."""
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for t in (500, 1200, 1300):
            network(X, torch.tensor(t))
    found = [str(item.message) for item in caught if item.category is TimeAxisWarning]
    assert len(found) == 1 and found[0].startswith(FAR)


def test_a_loaded_network_tells_it_and_saves_it(folder, tmp_path):
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert pipeline.unet.hf_quantizer.quantization_config.time_axis == {"argument": "timestep", "low": 0, "high": 999}
    pipeline.save_pretrained(tmp_path / "again")
    first, again = (json.loads((place / "unet" / "config.json").read_text()) for place in (folder, tmp_path / "again"))
    assert again["quantization_config"] == first["quantization_config"]
    told_once(pipeline.unet)
    told_once(UNet2DModel.from_pretrained(tmp_path / "again", subfolder="unet"))


def test_what_quantize_gave_saves_it_too(model, tmp_path):
    model.to_pipeline("simulated").save_pretrained(tmp_path / "saved")
    told_once(DiffusionPipeline.from_pretrained(tmp_path / "saved").unet)


def test_ranges_on_a_float_checkpoint_bring_it_along(folder, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "float")
    config = ptq4dm.PTQ4DMConfig(calibrated=folder)
    told_once(UNet2DModel.from_pretrained(tmp_path / "float", subfolder="unet", quantization_config=config))


def test_an_accelerated_network_tells_it_and_calls_for_timing_do_not_count(folder, monkeypatch):
    def timed(network, example, backend, arithmetic):
        network(X, torch.tensor(1500))  # warnings are errors here
        return stand_in(network, lambda sample, timestep: sample)

    monkeypatch.setattr(accelerated, "prepare", timed)
    told_once(ptq4dm.accelerate(DiffusionPipeline.from_pretrained(folder), "any").unet)


def test_an_artifact_without_an_axis_tells_nothing(folder, tmp_path):
    DiffusionPipeline.from_pretrained(folder).save_pretrained(tmp_path / "old")
    edited(tmp_path / "old", None)
    network = UNet2DModel.from_pretrained(tmp_path / "old", subfolder="unet")
    with torch.no_grad():
        network(X, torch.tensor(5000))
    assert torch.equal(call(network), call(UNet2DModel.from_pretrained(folder, subfolder="unet")))


@pytest.mark.parametrize(
    ("axis", "told"),
    [
        ({"argument": "timestep", "low": 0}, r"time_axis = \{'argument': 'timestep', 'low': 0\} is no span"),
        ({"argument": "sigma", "low": 0, "high": 1}, "time_axis names 'sigma', which UNet2DModel does not take"),
    ],
)
def test_a_damaged_axis_is_refused(folder, tmp_path, axis, told):
    DiffusionPipeline.from_pretrained(folder).save_pretrained(tmp_path / "damaged")
    edited(tmp_path / "damaged", axis)
    with pytest.raises(ArtifactError, match=told):
        UNet2DModel.from_pretrained(tmp_path / "damaged", subfolder="unet")


def edited(folder, axis):
    """Put another time axis, or none, in a saved config."""
    place = folder / "unet" / "config.json"
    config = json.loads(place.read_text())
    del config["quantization_config"]["time_axis"]
    config["quantization_config"] |= {} if axis is None else {"time_axis": axis}
    place.write_text(json.dumps(config))
