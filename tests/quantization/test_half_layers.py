"""Float layers with weights in float16: PyTorch's own result on rounded weights, and artifacts that keep them."""

import copy

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from tiny import tiny_pipeline
from torch import nn

import ptq4dm
from ptq4dm.errors import ArtifactError
from ptq4dm.files import read_json, read_tensors, write_json
from ptq4dm.quantization.half_layers import half_form, half_names
from ptq4dm.quantization.weight_only import FIRST_REASON

pytestmark = pytest.mark.filterwarnings("ignore::ptq4dm.errors.SimulatedWarning")
RECIPE = ptq4dm.load_recipe("w8a8").replace(
    float_share=0.4, weights={"error_feedback": False}, calibration={"samples": 4, "steps": 4, "batch_size": 4}
)
"""Without feedback, sensitive layers are in float16."""


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 5), (3, 6)),
        (nn.Linear(6, 5, bias=False), (2, 4, 6)),
        (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 9)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9, 9)),
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 9, 9)),
        (nn.Conv3d(4, 6, 3, dilation=2, padding="same"), (2, 4, 5, 6, 7)),
    ],
)
@torch.no_grad()
def test_it_is_the_layer_on_rounded_weights(layer, shape):
    x, half = torch.randn(shape), half_form(layer)
    before = layer.weight.clone()
    rounded = copy.deepcopy(layer)
    rounded.weight.copy_(layer.weight.half().float())
    assert torch.equal(half(x), rounded(x)) and half.weight.dtype == torch.float16
    assert torch.equal(layer.weight, before) and layer.weight.dtype == torch.float32
    cast = copy.deepcopy(half).to(torch.bfloat16)
    assert torch.equal(cast.weight, half.weight) and cast(x.bfloat16()).dtype == torch.bfloat16


def test_what_has_no_half_form_stays():
    large = nn.Linear(2, 2)
    with torch.no_grad():
        large.weight.fill_(1e6)
    for layer in (large, nn.ConvTranspose2d(2, 2, 2), nn.Embedding(2, 2)):
        assert half_form(layer) is layer


def test_what_has_no_half_form_is_a_copy_in_the_quantized_network():
    module = nn.Sequential(nn.ConvTranspose2d(8, 8, 2), nn.ConvTranspose2d(8, 8, 2)).eval()
    model = ptq4dm.quantize_module(module, [((torch.randn(2, 8, 4, 4),), {})], RECIPE.replace(float_share=1.0))
    left = [index for index, layer in enumerate(model.network) if type(layer) is nn.ConvTranspose2d]
    assert left and not {id(module[index]) for index in left} & {id(layer) for layer in model.network}


@pytest.fixture(scope="module")
def model():
    return ptq4dm.quantize(tiny_pipeline(), RECIPE)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return model.save(tmp_path_factory.mktemp("half") / "int8")


@torch.no_grad()
def test_an_artifact_keeps_them(model, folder, tmp_path):
    names = half_names(model.network)
    left = {layer.name for layer in model.plan if layer.reason.startswith("sensitive") or layer.reason == FIRST_REASON}
    assert names and left == set(names)
    tensors, _ = read_tensors(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(tensors[f"{name}.weight"].dtype == torch.float16 for name in names)
    x, t = torch.randn(2, *model.pipeline.picture_shape), torch.tensor(400)
    wanted = model.network(x, t).sample
    assert torch.equal(ptq4dm.load(folder).network(x, t).sample, wanted)
    loaded = UNet2DModel.from_pretrained(folder, subfolder="unet")
    assert torch.equal(loaded(x, t).sample, wanted) and half_names(loaded) == names
    loaded.save_pretrained(tmp_path / "again")
    again, _ = read_tensors(tmp_path / "again" / "diffusion_pytorch_model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(again[key].dtype == tensors[key].dtype and torch.equal(again[key], tensors[key]) for key in again)
    assert half_names(DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16).unet) == names


@torch.no_grad()
def test_engines_run_them(model):
    pytest.importorskip("openvino")
    x, t = torch.randn(2, *model.pipeline.picture_shape), torch.tensor(400)
    wanted = model.network(x, t).sample
    assert float((model.to_module("openvino")(x, t).sample - wanted).norm() / wanted.norm()) < 0.01


def test_a_layer_that_is_not_there_is_told(folder, tmp_path):
    for path in ("ptq4dm.json", "unet/config.json"):
        facts = read_json(folder / path)
        (facts["denoisers"]["unet"] if path == "ptq4dm.json" else facts["quantization_config"])["half"] = ["conv_act"]
        (tmp_path / path).parent.mkdir(exist_ok=True)
        write_json(tmp_path / path, facts)
    name = "unet/diffusion_pytorch_model.safetensors"
    (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ArtifactError, match="no layer 'conv_act' for weights in float16"):
        ptq4dm.load(tmp_path)
    with pytest.raises(ArtifactError, match="no layer 'conv_act' for weights in float16"):
        UNet2DModel.from_pretrained(tmp_path, subfolder="unet")
