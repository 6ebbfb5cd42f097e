"""Layers with a scale for each band of time-steps, against integer sums in numpy; how bands are kept and refused."""

import copy
import json

import diffusers
import numpy as np
import pytest
import torch
from timed import RANGES, TIMES, Timed, band_of, banded, inputs
from tiny import tiny_pipeline

import ptq4dm
from ptq4dm.cli.main import main
from ptq4dm.errors import ArtifactError, BackendError, ModelError, RecipeError
from ptq4dm.integrations import quantizer
from ptq4dm.integrations.calibrated import read_calibrated
from ptq4dm.integrations.config import PTQ4DMConfig
from ptq4dm.quantization.artifact import format_version
from ptq4dm.quantization.time_bands import bands_of, each_band
from ptq4dm.recipe import recipe_from_dict

RECIPE = ptq4dm.load_recipe("w8a8-minmax").replace(
    calibration={"samples": 12, "steps": 6},
    ranges={"bands": 4},
    activations={"time_bands": 3, "band_gain": 1.0},
    weights={"error_feedback": False},
    float_share=0.0,
    keep_float=["up_blocks.*", "mid_block.*"],
)


def conv_by_hand(layer, x, band, smoothing=None):
    """One sample (6, 5, 5) through the convolution of `Timed` in one band: numpy, int64 sums."""
    scale, zero = np.float32(RANGES[band][0]), RANGES[band][1]
    step = scale if smoothing is None else (scale * smoothing.numpy())[:, None, None]
    q = np.clip(np.rint(x / step.astype(np.float64)) + zero, 0, 255).astype(np.int64) - zero
    padded = np.pad(q, ((0, 0), (1, 1), (1, 1)))
    weight = layer.weight.numpy().astype(np.int64)
    sums = np.zeros((8, 5, 5), np.int64)
    for r, c in np.ndindex(3, 3):
        sums += np.einsum("oi,ihw->ohw", weight[:, :, r, c], padded[:, r : r + 5, c : c + 5])
    factor = (scale * layer.weight_scale.float().numpy()).astype(np.float64)[:, None, None]
    return sums * factor + layer.bias.double().numpy()[:, None, None]


@pytest.mark.parametrize("smoothed", [False, True])
def test_each_sample_is_rounded_by_the_scale_of_its_own_time_step(smoothed):
    network = banded(smoothed=smoothed).double()
    x, t = inputs()
    got = network(x.double(), t)[0].numpy()
    for index, time in enumerate(TIMES):
        wanted = conv_by_hand(network.conv, x[index].double().numpy(), band_of(time), network.conv.smoothing)
        np.testing.assert_allclose(got[index], wanted, rtol=1e-12, atol=1e-9)


def test_the_same_time_step_gives_the_same_answer_whatever_was_called_before():
    network = banded()
    x, t = inputs()
    apart = {time: network(x[i : i + 1], t[i])[1] for i, time in enumerate(TIMES)}
    for i in (5, 0, 3, 3, 1, 4, 2, 0):
        assert torch.equal(network(x[i : i + 1], t[i])[1], apart[TIMES[i]])
        assert torch.equal(network(x=x[i : i + 1], t=t[i].float().reshape(1))[1], apart[TIMES[i]])
    together = network(x, t)[1]
    assert torch.allclose(together, torch.cat(list(apart.values())), rtol=1e-6)


def test_a_copy_and_a_half_precision_network_keep_their_bands():
    network = banded()
    x, t = inputs()
    other = copy.deepcopy(network)
    other(x[:1], t[5])  # does not move the first
    assert bands_of(other) is not bands_of(network) and other.conv.bands is bands_of(other)
    assert torch.equal(network.half().conv.input_scale, torch.tensor([scale for scale, _ in RANGES]))
    assert list(each_band(network)) == [0, 1, 2] and list(each_band(Timed())) == [0]


def test_calls_whose_band_cannot_be_told_are_refused():
    network = banded()
    x, t = inputs()
    with pytest.raises(ModelError, match=r"Timed has scales that depend on the time-step and was called with t = None"):
        network(x, None)
    with pytest.raises(ModelError, match=r"t of shape \(6, 5\): give one number, or one a sample"):
        network(x, t[:, None].expand(6, 5))
    with pytest.raises(ModelError, match=r"4 time-steps for a layer's input of shape \(6, 6, 5, 5\)"):
        network(x, t[:4])


@pytest.fixture(scope="module")
def model():
    return ptq4dm.quantize(tiny_pipeline(), RECIPE)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return model.save(tmp_path_factory.mktemp("bands") / "artifact")


def call(network):
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network(x, torch.tensor([3, 300, 700, 990])).sample


def test_a_quantized_pipeline_has_bands_where_the_recipe_asks(model):
    facts = model.denoiser().facts["time_bands"]
    assert facts["argument"] == "timestep" and len(facts["cuts"]) == 2 and facts["loss"][2] < facts["loss"][0]
    layers = [layer for layer in model.network.modules() if getattr(layer, "bands", None) is not None]
    assert facts["layers"] == len(layers) == model.denoiser().facts["time_bands"]["layers"] > 5
    assert any(len(set(layer.input_scale.tolist())) == 3 for layer in layers)
    parts = torch.cat([model.network(x[None], t).sample for x, t in zip(*example())])
    assert torch.allclose(call(model.network), parts, atol=1e-4 * float(parts.abs().max()))


def example():
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([3, 300, 700, 990])


def test_what_is_saved_comes_back_to_the_bit(model, folder, tmp_path, monkeypatch):
    wanted = call(model.network)
    loaded = ptq4dm.load(folder)
    assert torch.equal(call(loaded.network), wanted) and loaded.recipe == model.recipe
    assert (loaded.save(tmp_path / "again") / "ptq4dm.json").read_bytes() == (folder / "ptq4dm.json").read_bytes()
    monkeypatch.setattr(quantizer, "told", {"simulated"})
    network = diffusers.UNet2DModel.from_pretrained(folder, subfolder="unet")
    assert torch.equal(call(network), wanted)
    network.save_pretrained(tmp_path / "unet")
    assert torch.equal(call(diffusers.UNet2DModel.from_pretrained(tmp_path / "unet")), wanted)
    config = json.loads((tmp_path / "unet" / "config.json").read_text())["quantization_config"]
    assert config == json.loads((folder / "unet" / "config.json").read_text())["quantization_config"]
    assert config["format_version"] == 3 and config["time_bands"]["cuts"] == list(bands_of(network).cuts)


def test_an_artifact_without_bands_is_of_the_format_that_it_was():
    assert format_version(Timed()) == 2 and "activations" not in ptq4dm.load_recipe("w8a8").to_dict()
    assert recipe_from_dict(RECIPE.to_dict()).activations == RECIPE.activations


def test_inspect_tells_of_the_bands(folder, capsys):
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert " layers with 3 scales each, by timestep, cut at " in shown and " % of that with one scale" in shown


DAMAGES = {
    "no cuts": {"cuts": []},
    "falling cuts": {"cuts": [500.0, 100.0]},
    "another argument": {"argument": "time"},
    "another layer": {"layers": ["conv_in.nothing"]},
    "no table": "three",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_bands_are_refused_in_one_line(folder, tmp_path, damage):
    own = tmp_path / "own"
    own.mkdir()
    for file in folder.rglob("*"):
        if file.is_file():
            (own / file.relative_to(folder)).parent.mkdir(exist_ok=True, parents=True)
            (own / file.relative_to(folder)).write_bytes(file.read_bytes())
    facts = json.loads((own / "ptq4dm.json").read_text())
    held = facts["denoisers"]["unet"]
    held["time_bands"] = {**held["time_bands"], **damage} if isinstance(damage, dict) else damage
    (own / "ptq4dm.json").write_text(json.dumps(facts))
    with pytest.raises(ArtifactError, match=r"its bands of time-steps are damaged \(.*\): quantize again"):
        ptq4dm.load(own)


def test_what_cannot_have_bands_refuses_them_with_the_mend(model, folder, tmp_path):
    with pytest.raises(BackendError, match=r"the ONNX export holds one scale .* time_bands = 1"):
        model.export_onnx(tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match=r"time-step-dependent scales .* time_bands = 1"):
        read_calibrated(PTQ4DMConfig(folder))
    calls = [((x[None], t), {}) for x, t in zip(*inputs())]
    for timestep, given in ((None, "None"), (lambda args, kwargs: args[1], "a function")):
        with pytest.raises(RecipeError, match=rf"timestep = {given}: give its name, such as timestep='t'"):
            ptq4dm.quantize_module(Timed(), calls, RECIPE.replace(keep_float=(), min_channels=1), timestep=timestep)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activations": {"time_bands": 0}}, "time_bands = 0 should be at least 1"),
        ({"activations": {"time_bands": 30}}, r"time_bands = 30 should be at most \[ranges\] bands = 20"),
        ({"activations": {"band_gain": 0.0}}, "band_gain = 0.0 should be above 0, and at most 1"),
        (
            {"activations": {"time_bands": 2}, "arithmetic": "qdq"},
            "time_bands = 2 goes with arithmetic = 'float-out' only: set it to 1",
        ),
    ],
)
def test_recipes_that_no_run_can_use(changes, message):
    with pytest.raises(RecipeError, match=message):
        ptq4dm.load_recipe(ptq4dm.Recipe().replace(**changes))
