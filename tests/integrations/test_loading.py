"""diffusers' own from_pretrained and save_pretrained, against the files and against ptq4dm.load."""

import json
import shutil

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from integrations_common import call, drawn, edit
from safetensors.torch import load_file, save_file

import ptq4dm
from ptq4dm.errors import ArtifactError, SimulatedWarning
from ptq4dm.integrations import quantizer
from ptq4dm.quantization.layers import QuantizedConv, QuantizedLayer, QuantizedLinear
from ptq4dm.quantization.layers_qdq import OutputQuantized

WEIGHTS = "diffusion_pytorch_model.safetensors"


def opened(folder, **kwargs):
    return DiffusionPipeline.from_pretrained(folder, **kwargs)


def same_tensors(network, path):
    saved, held = load_file(path), network.state_dict()
    return saved.keys() == held.keys() and all(
        held[name].dtype == saved[name].dtype and torch.equal(held[name], saved[name]) for name in saved
    )


@pytest.fixture
def own(folder, tmp_path):
    """A copy of the artifact to damage."""
    return shutil.copytree(folder, tmp_path / "own")


def test_a_pipeline_draws_bit_for_bit_what_ptq4dm_load_draws(folder):
    pipeline = opened(folder)
    assert type(pipeline) is diffusers.DDPMPipeline
    kinds = {type(module) for module in pipeline.unet.modules()}
    assert {QuantizedConv, QuantizedLinear} <= kinds
    assert same_tensors(pipeline.unet, folder / "unet" / WEIGHTS)
    assert np.array_equal(drawn(pipeline), drawn(ptq4dm.load(folder).to_pipeline("simulated")))


def test_a_model_alone(folder):
    network = UNet2DModel.from_pretrained(folder, subfolder="unet")
    assert torch.equal(call(network), call(ptq4dm.load(folder).network))
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())


def test_the_arithmetic_with_rounded_outputs(qdq_folder, tmp_path):
    network = opened(qdq_folder).unet
    assert any(isinstance(module, OutputQuantized) for module in network.modules())
    assert torch.equal(call(network), call(ptq4dm.load(qdq_folder).network))
    network.save_pretrained(tmp_path / "again")
    assert same_tensors(network, tmp_path / "again" / WEIGHTS)


@pytest.mark.parametrize(
    ("saving", "loading", "file"),
    [
        ({}, {}, WEIGHTS),
        ({"max_shard_size": "20KB"}, {}, "diffusion_pytorch_model-00001-of-00003.safetensors"),
        ({"variant": "int8"}, {"variant": "int8"}, "diffusion_pytorch_model.int8.safetensors"),
        ({"safe_serialization": False}, {"use_safetensors": False}, "diffusion_pytorch_model.bin"),
    ],
)
def test_saved_again_it_is_the_same(folder, tmp_path, saving, loading, file):
    first = opened(folder)
    first.save_pretrained(tmp_path / "again", **saving)
    assert (tmp_path / "again" / "unet" / file).is_file()
    old, new = (json.loads((f / "unet" / "config.json").read_text()) for f in (folder, tmp_path / "again"))
    assert new["quantization_config"] == old["quantization_config"]
    again = opened(tmp_path / "again", **loading)
    assert same_tensors(again.unet, folder / "unet" / WEIGHTS)
    assert np.array_equal(drawn(again), drawn(first))


def test_a_network_that_ptq4dm_made_is_saved_by_diffusers_too(model, tmp_path):
    model.to_pipeline("simulated").save_pretrained(tmp_path / "made")
    assert torch.equal(call(opened(tmp_path / "made").unet), call(model.network))


def test_ptq4dm_load_takes_the_network_that_diffusers_saved(folder, tmp_path):
    UNet2DModel.from_pretrained(folder, subfolder="unet").save_pretrained(tmp_path / "unet")
    shutil.copy(folder / "ptq4dm.json", tmp_path)
    shutil.copy(folder / "model_index.json", tmp_path)
    shutil.copytree(folder / "scheduler", tmp_path / "scheduler")
    assert torch.equal(call(ptq4dm.load(tmp_path).network), call(ptq4dm.load(folder).network))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_float_type_leaves_integers_and_scales_as_they_were_saved(folder, dtype):
    network = opened(folder, torch_dtype=dtype).unet
    saved = load_file(folder / "unet" / WEIGHTS)
    held = dict(network.state_dict())
    layers = [name for name, module in network.named_modules() if isinstance(module, QuantizedLayer)]
    quantized = {f"{name}.{key}" for name in layers for key in network.get_submodule(name).state_dict()}
    for name, tensor in held.items():
        assert torch.equal(tensor, saved[name] if name in quantized else saved[name].to(dtype)), name
    by_hand = ptq4dm.load(folder).network
    for name, parameter in by_hand.named_parameters():
        parameter.data = parameter.data if name in quantized else parameter.data.to(dtype)
    found = call(network, dtype)
    assert found.dtype == dtype and network.dtype == dtype
    assert torch.equal(found, call(by_hand, dtype))
    wanted = call(ptq4dm.load(folder).network)
    assert (found.float() - wanted).norm() / wanted.norm() < 0.05


def test_casting_keeps_the_integers_and_the_scales(folder):
    assert torch.equal(call(opened(folder).to(torch.float16).unet, torch.float16),
                       call(opened(folder, torch_dtype=torch.float16).unet, torch.float16))  # fmt: skip
    for cast in (UNet2DModel.half, UNet2DModel.bfloat16, UNet2DModel.double):
        network = UNet2DModel.from_pretrained(folder, subfolder="unet")
        cast(network)
        saved = load_file(folder / "unet" / WEIGHTS)
        for name, module in network.named_modules():
            if isinstance(module, QuantizedLayer):
                assert all(torch.equal(t, saved[f"{name}.{key}"]) for key, t in module.state_dict().items())
                assert all(t.dtype == saved[f"{name}.{key}"].dtype for key, t in module.state_dict().items())


def test_it_moves_to_another_device_whole(folder):
    pipeline = opened(folder)
    pipeline.to("cpu")
    before = drawn(pipeline)
    assert {tensor.device.type for tensor in pipeline.to("meta").unet.state_dict().values()} == {"meta"}
    assert np.array_equal(before, drawn(opened(folder)))


def test_another_pipeline_class_takes_the_parts_over(folder):
    pipeline = opened(folder)
    for backend in ("simulated", "openvino"):
        other = diffusers.DDIMPipeline.from_pipe(ptq4dm.accelerate(pipeline, backend))
        assert other.unet is pipeline.unet and other.unet.ptq4dm_backend == backend
        assert np.isfinite(drawn(other)).all()


def test_the_simulated_network_is_compiled_whole(folder):
    network = opened(folder).unet
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    assert torch.equal(call(compiled), call(network))


def test_the_note_is_given_once(folder, monkeypatch):
    monkeypatch.setattr(quantizer, "told", set())
    with pytest.warns(SimulatedWarning, match=r"not its speed\. ptq4dm\.accelerate\(pipeline\)") as noted:
        UNet2DModel.from_pretrained(folder, subfolder="unet")
        UNet2DModel.from_pretrained(folder, subfolder="unet")
        opened(folder)
    assert len([note for note in noted if note.category is SimulatedWarning]) == 1


def edit_header(folder, **changes):
    path = folder / "unet" / "config.json"
    header = json.loads(path.read_text())["quantization_config"]
    edit(path, quantization_config={**header, **changes})


def flip_a_bit(folder):
    data = bytearray((folder / "unet" / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / "unet" / WEIGHTS).write_bytes(bytes(data))


def lose_a_tensor(folder):
    tensors = load_file(folder / "unet" / WEIGHTS)
    tensors.pop("conv_out.bias")
    save_file(tensors, folder / "unet" / WEIGHTS, {"format": "pt"})


def change_a_tensor(folder, name, tensor):
    tensors = load_file(folder / "unet" / WEIGHTS)
    save_file({**tensors, name: tensor}, folder / "unet" / WEIGHTS, {"format": "pt"})


LAYER = "mid_block.attentions.0.to_q"
DAMAGES = {
    "is not what was saved": flip_a_bit,
    "format_version = 99, this ptq4dm reads": lambda f: edit_header(f, format_version=99),
    "format_version = None is no version": lambda f: edit_header(f, format_version=None),
    "arithmetic = 'odd'": lambda f: edit_header(f, arithmetic="odd"),
    "layers = None is no list of names": lambda f: edit_header(f, layers=None),
    "has no layer 'encoder'": lambda f: edit_header(f, layers=["encoder"]),
    "'conv_norm_out' of the network is a GroupNorm": lambda f: edit_header(f, layers=["conv_norm_out"]),
    "conv_out.bias is missing": lose_a_tensor,
    "extra is in no layer": lambda f: change_a_tensor(f, "extra", torch.ones(1)),
    "holds scales that are not positive": lambda f: change_a_tensor(f, f"{LAYER}.input_scale", torch.tensor(0.0)),
    "holds NaN or infinite values": lambda f: change_a_tensor(f, "conv_out.bias", torch.full((3,), torch.nan)),
    "input_scale is torch.float16": lambda f: change_a_tensor(f, f"{LAYER}.input_scale", torch.ones(()).half()),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_artifact_is_refused_by_name(own, message):
    DAMAGES[message](own)
    with pytest.raises(ArtifactError) as caught:
        opened(own)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_shard_of_another_save_is_refused(folder, own):
    network = opened(folder).unet
    network.save_pretrained(own / "unet", max_shard_size="20KB")
    (own / "unet" / WEIGHTS).unlink(missing_ok=True)
    shard = own / "unet" / "diffusion_pytorch_model-00002-of-00003.safetensors"
    tensors = load_file(shard)
    first = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[first] = tensors[first] + 1
    save_file(tensors, shard, {"format": "pt", "ptq4dm": "0" * 16})
    with pytest.raises(ArtifactError, match="is not what was saved"):
        opened(own)
