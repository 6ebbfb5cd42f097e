"""PTQ4DMConfig(calibrated=...) on float checkpoints: against ptq4dm.quantize by the same recipe, and the files."""

import copy
import json

import pytest
import torch
from diffusers import DiffusionPipeline, PipelineQuantizationConfig, UNet2DModel
from integrations_common import QUICK, call, edit
from safetensors.torch import load_file
from tiny import tiny_pipeline, tiny_unet

import ptq4dm
from ptq4dm.errors import ArtifactError, ModelError, RecipeError
from ptq4dm.quantization.layers import QuantizedLayer
from ptq4dm.quantization.quantized_model import tensor_bytes
from ptq4dm.quantization.weight_only import weight_only_names

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def float_folder(tmp_path_factory):
    """The float pipeline that the artifacts were made of."""
    folder = tmp_path_factory.mktemp("float") / "pipeline"
    tiny_pipeline().save_pretrained(folder)
    return folder


def opened(folder, config, **kwargs):
    mapping = PipelineQuantizationConfig(quant_mapping={"unet": config})
    return DiffusionPipeline.from_pretrained(folder, quantization_config=mapping, **kwargs)


@pytest.mark.parametrize("arithmetic", ["float-out", "qdq"])
def test_without_statistics_it_is_what_quantize_makes_without_them(float_folder, tmp_path, arithmetic):
    recipe = QUICK.replace(arithmetic=arithmetic, weights={"weighted": False, "bias_correction": False})
    model = ptq4dm.quantize(float_folder, recipe)
    found = opened(float_folder, ptq4dm.PTQ4DMConfig(calibrated=model.save(tmp_path / "int8"))).unet.state_dict()
    wanted = model.network.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.fixture(scope="module", params=["float-out", "qdq"])
def of_time(request, float_folder, tmp_path_factory):
    """A model with weight-only layers, rounded as without statistics, and its artifact."""
    plain = {"weighted": False, "bias_correction": False}
    model = ptq4dm.quantize(float_folder, QUICK.replace(arithmetic=request.param, time_in_float=True, weights=plain))
    return model, model.save(tmp_path_factory.mktemp("of_time") / "int8")


def test_layers_with_8_bit_weights_alone_are_the_same_layers(float_folder, of_time, tmp_path):
    model, folder = of_time
    pipeline = opened(float_folder, ptq4dm.PTQ4DMConfig(calibrated=folder))
    names, wanted = weight_only_names(model.network), model.network.state_dict()
    assert len(names) > 4 and weight_only_names(pipeline.unet) == names
    found = pipeline.unet.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())
    assert tensor_bytes(pipeline.unet) == model.int8_bytes
    pipeline.save_pretrained(tmp_path / "saved")
    again = DiffusionPipeline.from_pretrained(tmp_path / "saved").unet
    assert weight_only_names(again) == names and torch.equal(call(again), call(model.network))
    half = opened(float_folder, ptq4dm.PTQ4DMConfig(calibrated=folder), torch_dtype=torch.float16).unet.state_dict()
    assert all(
        torch.equal(half[f"{name}.{key}"], wanted[f"{name}.{key}"]) for name in names for key in ("weight", "bias")
    )


def test_layers_with_8_bit_weights_alone_are_checked(of_time, tmp_path):
    model, folder = of_time
    tiny_unet((8, 24)).save_pretrained(tmp_path / "wide")
    with pytest.raises(ArtifactError, match="was calibrated on another network"):
        UNet2DModel.from_pretrained(tmp_path / "wide", quantization_config=ptq4dm.PTQ4DMConfig(calibrated=folder))
    other = model.save(tmp_path / "other")
    denoisers = json.loads((other / "ptq4dm.json").read_text())["denoisers"]
    denoisers["unet"]["weight_only"] = ["conv_in"]
    edit(other / "ptq4dm.json", denoisers=denoisers)
    tiny_unet().save_pretrained(tmp_path / "float")
    with pytest.raises(ArtifactError, match="'conv_in' has no 8-bit weights"):
        UNet2DModel.from_pretrained(tmp_path / "float", quantization_config=ptq4dm.PTQ4DMConfig(calibrated=other))


def test_ranges_of_the_run_and_weights_of_the_checkpoint(folder, tmp_path):
    other = tiny_unet(seed=5)  # a fine-tune, say: same layers, other weights
    other.save_pretrained(tmp_path / "other")
    network = UNet2DModel.from_pretrained(
        tmp_path / "other", quantization_config=ptq4dm.PTQ4DMConfig(calibrated=folder)
    )
    saved, source, layers = load_file(folder / "unet" / WEIGHTS), dict(other.named_modules()), 0
    for name, layer in network.named_modules():
        if not isinstance(layer, QuantizedLayer):
            continue
        layers += 1
        assert torch.equal(layer.input_scale, saved[f"{name}.input_scale"])
        assert torch.equal(layer.input_zero_point, saved[f"{name}.input_zero_point"])
        real = layer.weight * layer.weight_scale.view(-1, *[1] * (layer.weight.dim() - 1))
        assert (real - source[name].weight).norm() < 0.02 * source[name].weight.norm()
        assert torch.equal(layer.bias, source[name].bias)
    assert layers == sum(name.endswith(".input_scale") for name in saved) > 0
    wanted = call(other)
    assert (call(network) - wanted).norm() < 0.1 * wanted.norm()


def test_it_is_saved_as_an_artifact(float_folder, folder, tmp_path):
    first = opened(float_folder, ptq4dm.PTQ4DMConfig(calibrated=folder))
    first.save_pretrained(tmp_path / "saved")
    again = DiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert torch.equal(call(again.unet), call(first.unet))
    assert again.unet.hf_quantizer.quantization_config.layers == first.unet.hf_quantizer.quantization_config.layers


def test_half_precision_rounds_the_weights_as_saved(float_folder, folder):
    config = ptq4dm.PTQ4DMConfig(calibrated=folder)
    half = opened(float_folder, config, torch_dtype=torch.float16).unet.state_dict()
    for name, tensor in opened(float_folder, config).unet.state_dict().items():
        quantized = f"{name.rpartition('.')[0]}.input_scale" in half
        assert torch.equal(half[name], tensor if quantized else tensor.half()), name


def test_without_ranges_it_is_refused(float_folder):
    with pytest.raises(RecipeError, match=r"no ranges for a float network: give PTQ4DMConfig\(calibrated=FOLDER\)"):
        opened(float_folder, ptq4dm.PTQ4DMConfig())


def test_folders_without_ranges_are_refused(float_folder, folder, tmp_path):
    with pytest.raises(ArtifactError, match=r"has no ptq4dm\.json, so it is no quantized model"):
        opened(float_folder, ptq4dm.PTQ4DMConfig(calibrated=float_folder))
    DiffusionPipeline.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    with pytest.raises(ArtifactError, match="it was saved by diffusers; open it with DiffusionPipeline"):
        opened(float_folder, ptq4dm.PTQ4DMConfig(calibrated=tmp_path / "saved"))
    with pytest.raises(ModelError, match="is an INT8 model that diffusers saved"):
        ptq4dm.open_pipeline(tmp_path / "saved")
    with pytest.raises(RecipeError, match="has no denoiser 'transformer': accepted are unet"):
        opened(float_folder, ptq4dm.PTQ4DMConfig(calibrated=folder, component="transformer"))


def test_a_damaged_folder_is_refused_in_one_line(float_folder, model, tmp_path):
    folder = model.save(tmp_path / "damaged")
    edit(folder / "ptq4dm.json", denoisers={"unet": None})
    with pytest.raises(ArtifactError, match="is damaged"):
        opened(float_folder, ptq4dm.PTQ4DMConfig(calibrated=folder))


def test_a_checkpoint_of_another_network_is_refused(folder, tmp_path):
    tiny_unet((8, 24)).save_pretrained(tmp_path / "wide")
    with pytest.raises(ArtifactError, match=r"was calibrated on another network: .* has weights of \(16, 8, 3, 3\)"):
        UNet2DModel.from_pretrained(tmp_path / "wide", quantization_config=ptq4dm.PTQ4DMConfig(calibrated=folder))


def test_a_checkpoint_without_some_weights_is_refused(folder, tmp_path):
    network = copy.deepcopy(tiny_unet())
    network.mid_block.attentions[0].to_q = torch.nn.Identity()
    network.save_pretrained(tmp_path / "less")
    with pytest.raises(ModelError, match=r"has no weights for mid_block\.attentions\.0\.to_q"):
        UNet2DModel.from_pretrained(tmp_path / "less", quantization_config=ptq4dm.PTQ4DMConfig(calibrated=folder))


def test_an_artifact_is_not_quantized_again(folder):
    with pytest.warns(UserWarning, match="already has a `quantization_config`"):
        network = UNet2DModel.from_pretrained(
            folder, subfolder="unet", quantization_config=ptq4dm.PTQ4DMConfig(calibrated=folder)
        )
    assert torch.equal(call(network), call(ptq4dm.load(folder).network))
